"""Training under DeepSpeed's ZeRO on two processes of a CPU is that of one process; run where DeepSpeed is installed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from selfcontrast.config import parse_study
from selfcontrast.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import json, os, random, sys
import torch

torch.set_num_threads(1)
rank, stage, tokens, out = int(os.environ.get("RANK", -1)), int(sys.argv[1]), int(sys.argv[2]) or None, sys.argv[3]
from selfcontrast.objectives import dpo
from selfcontrast.training.deepspeed import DeepSpeedEngine
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.preference import Execution, Objective, train_preference
from selfcontrast.world.checkpoint import build_model

if stage:
    # accelerate knows DeepSpeed on GPUs alone: what it would have found there.
    import deepspeed
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    Accelerator(mixed_precision="no")
    deepspeed.init_distributed(dist_backend="gloo")
    for state in (PartialState, AcceleratorState):
        state._shared_state.update(num_processes=2, process_index=rank, local_process_index=rank, backend="gloo")
rng = random.Random(0)
drawn = lambda n: [rng.randrange(50) for _ in range(n)]
groups = [TokenGroup(drawn(5), [drawn(3), drawn(4), drawn(6)], [-9.0, -12.0, -20.0]) for _ in range(6)]
settings = {"lr": 1e-3, "batch": 4, "shape": "cosine", "warmup": 0.3, "clip": 0.5, "ema": None}
engine = (DeepSpeedEngine if stage else Engine)(build_model(n_layers=2, width=32, n_heads=2, max_length=64, seed=0), clip=0.5)
objective, execution = Objective(dpo, dpo.Params(beta=0.1)), Execution("prefix", tokens=tokens)
history = train_preference(engine, groups, objective, settings, n_steps=6, seed=0, execution=execution)
weights = engine.save_weights()
if rank < 1:
    sums = {name: [float(w.sum()), float(w.abs().sum())] for name, w in weights.items()}
    open(out, "w").write(json.dumps([[[h["loss"], h["grad_norm"]] for h in history], sums]))
"""


def train(folder: Path, *, stage: int, tokens: int) -> Any:
    """Return losses and gradient norms, and the sums of each weight and of its magnitude; stage 0 is one process without ZeRO."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    out = folder / f"stage{stage}.json"
    shared = {"DS_ACCELERATOR": "cpu", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": str(stage)}
    shared |= {"ACCELERATE_DEEPSPEED_ZERO3_SAVE_16BIT_MODEL": "true", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "1"}
    settings = [{**shared, "RANK": r, "LOCAL_RANK": r} for r in ("0", "1")] if stage else [{}]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(stage), str(tokens), str(out)],
            cwd=ROOT,
            env={**os.environ, **mine},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine in settings
    ]
    errors = [p.communicate(timeout=300)[1][-3000:] for p in processes]
    assert not any(p.returncode for p in processes), errors
    return json.loads(out.read_text())


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed (pip install deepspeed)")
@pytest.mark.parametrize("tokens", [0, 12], ids=["whole groups", "two passes"])
@pytest.mark.parametrize("stage", [2, 3])
def test_zero_takes_the_steps_of_one_process(stage: int, tokens: int, tmp_path: Path) -> None:
    expected_steps, expected = train(tmp_path, stage=0, tokens=tokens)
    steps, found = train(tmp_path, stage=stage, tokens=tokens)
    assert expected_steps[0] == pytest.approx(steps[0], rel=1e-5)
    assert max(norm for _, norm in expected_steps) > 0.5, "no gradient is clipped"
    for mine, theirs in zip(steps, expected_steps, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-4)
    assert found.keys() == expected.keys()
    for name, sums in expected.items():
        assert found[name] == pytest.approx(sums, rel=1e-4, abs=1e-3)


def test_an_average_of_weights_that_deepspeed_holds_is_refused() -> None:
    raw: dict[str, Any] = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text(encoding="utf-8"))
    raw["name"] = "smoke"
    raw["models"]["pocket"] |= {"gpus": 2, "execution": {"strategy": "zero2"}}
    parse_study(raw, where="here")
    raw["training"]["ema"] = 0.9
    with pytest.raises(ConfigError, match=r"training\.ema: `strategy: zero2`"):
        parse_study(raw, where="here")
