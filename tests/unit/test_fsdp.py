"""Weights divided over two processes by FSDP2: the gradients of undivided ones, and trainings that go on after a kill.

On a CPU with gloo; accelerate, which drives it on GPUs, has no FSDP for CPUs.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

GRADIENTS = """
import json, random, sys
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from selfcontrast.training.engine import _TokenLogps
from selfcontrast.world.checkpoint import build_model

torch.set_num_threads(1)
rank, port, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
rng = random.Random(0)
prompts = [[rng.randrange(50) for _ in range(n)] for n in (5, 2, 7)]
responses = [[[rng.randrange(50) for _ in range(rng.randint(1, 6))] for _ in range(3)] for _ in prompts]
found = {}
for sharing in ("prefix", "packed", "chosen", "none"):
    whole, divided = (_TokenLogps(build_model(n_layers=2, width=32, n_heads=2, max_length=64, seed=0)) for _ in "12")
    for layer in divided.model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(divided, mesh=mesh)
    shards = [tuple(p.to_local().shape) for p in divided.parameters()]
    assert all(s[0] * 2 == p.shape[0] for s, p in zip(shards, whole.parameters()) if p.shape[0] % 2 == 0)
    for model in (whole, divided):
        model(prompts, responses, sharing).sum().backward()
    pairs = [(p.grad, q.grad.full_tensor()) for p, q in zip(whole.parameters(), divided.parameters())]
    largest = max(p.abs().max().item() for p, _ in pairs)
    found[sharing] = [largest, max((p - q).abs().max().item() for p, q in pairs) / largest]
if rank == 0:
    open(out, "w").write(json.dumps(found))
dist.barrier()
dist.destroy_process_group()
"""


RESUMING = """
import json, os, random, sys
from pathlib import Path

import torch

rank, port, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
os.environ |= {"MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"}
from accelerate import Accelerator
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from selfcontrast.objectives import dpo
from selfcontrast.training.engine import Engine, _TokenLogps
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.preference import Objective, train_preference
from selfcontrast.training.state import Checkpoints
from selfcontrast.world.checkpoint import build_model

torch.set_num_threads(1)
rng = random.Random(0)
drawn = lambda n: [rng.randrange(50) for _ in range(n)]
groups = [TokenGroup(drawn(5), [drawn(3), drawn(4), drawn(6)], [-9.0, -12.0, -20.0]) for _ in range(6)]
settings = {"lr": 1e-2, "batch": 2, "shape": "cosine", "warmup": 0.3, "clip": 1.0, "ema": 0.9}


class Divided(Engine):
    _kind = "FSDP"
    steps_left = None

    def __init__(self, seed):
        self.accelerator = Accelerator(cpu=True)
        self.model, self.clip, self._tokens = build_model(n_layers=2, width=32, n_heads=2, max_length=64, seed=seed), 1.0, 0
        self.model.eval()
        self._wrapped = _TokenLogps(self.model)
        mesh = init_device_mesh("cpu", (2,))
        for layer in self.model.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(self._wrapped, mesh=mesh)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0)

    def step(self, lr):
        if self.steps_left == 0:
            raise KeyboardInterrupt
        self.steps_left = self.steps_left and self.steps_left - 1
        return super().step(lr)


def train(seed, killed_in_step=None, resumed=True):
    engine = Divided(seed)
    engine.steps_left = killed_in_step
    store = Checkpoints(out.parent / ".state", "one", every_s=-1) if resumed else None
    objective = Objective(dpo, dpo.Params(beta=0.1))
    history = train_preference(engine, groups, objective, settings, n_steps=6, seed=0, store=store)
    return [p.detach().full_tensor() for p in engine.parameters], history


expected, history = train(0, resumed=False)
try:
    train(0, killed_in_step=4)
except KeyboardInterrupt:
    pass
Accelerator(cpu=True).wait_for_everyone()
files = sorted(p.name for p in (out.parent / ".state").iterdir())
found, resumed_history = train(5)
other, _ = train(5, resumed=False)
if rank == 0:
    same = lambda weights: all(torch.equal(p, q) for p, q in zip(weights, expected, strict=True))
    out.write_text(json.dumps([files, same(found), same(other), resumed_history == history]))
Accelerator(cpu=True).wait_for_everyone()
torch.distributed.destroy_process_group()
"""


def run(script: str, out: Path) -> Any:
    """Return what two processes found, which get their number, a port and the path where the first one writes it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free_port = probe.getsockname()[1]
    root = Path(__file__).resolve().parents[2]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(rank), str(free_port), str(out)],
            cwd=root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    errors = [p.communicate(timeout=120)[1] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], errors
    return json.loads(out.read_text())


def test_divided_weights_have_the_same_gradients(tmp_path: Path) -> None:
    found = run(GRADIENTS, tmp_path / "found.json")
    assert found.keys() == {"prefix", "packed", "chosen", "none"}
    for largest, error in found.values():
        assert largest > 0.1
        assert error < 1e-6  # of the largest gradient, in float32


def test_divided_training_that_is_killed_goes_on_bit_for_bit(tmp_path: Path) -> None:
    """Every process writes what it holds; the second run starts from other weights, which alone end elsewhere."""
    files, same, unresumed_same, history_same = run(RESUMING, tmp_path / "found.json")
    assert files == ["state.json", "step-4.1-of-2.safetensors", "step-4.2-of-2.safetensors"]
    assert same
    assert history_same
    assert not unresumed_same
