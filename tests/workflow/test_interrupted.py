"""A job that samples and is killed goes on behind its last finished batch, and ends in the same bytes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from selfcontrast import artifacts
from selfcontrast.seeds import derive_seed

pytestmark = [pytest.mark.workflow, pytest.mark.slow]

N_PROMPTS = 24
BATCHES = 12
MODEL = {"dtype": "float32", "trust_remote_code": False}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prompts, and a policy that is large and long-winded enough for a batch to take a moment."""
    from selfcontrast.checkpoints import save_checkpoint
    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("inputs")
    policy, prompts = folder / "hh/sft", folder / "hh/prompts"
    model = build_model(n_layers=3, width=128, n_heads=4, max_length=128, seed=0)
    save_checkpoint(policy / "model", model, build_tokenizer(max_length=128))
    artifacts.write_json(policy / "manifest.json", {"outputs": {"model": artifacts.sha256(policy / "model")}})
    ids = [[1, *(derive_seed(0, i, k) % 140 + 7 for k in range(4 + i % 9))] for i in range(N_PROMPTS)]
    columns = {"prompt_id": [f"p{i}" for i in range(N_PROMPTS)], "prompt_ids": ids, "rejected": [["no"]] * N_PROMPTS}
    outputs = {}
    for split in ("pool", "test"):
        artifacts.write_table(prompts / f"{split}.parquet", columns)
        outputs[f"{split}.parquet"] = artifacts.sha256(prompts / f"{split}.parquet")
    artifacts.write_json(prompts / "manifest.json", {"outputs": outputs})
    sizes = {"max_new_tokens": 96, "batch_responses": 64}
    pool = {"kind": "policy", "params": {"n_responses": 32, **sizes}, "template": "tokenizer", "pool": "sft", "seed": 5}
    artifacts.write_json(folder / "pool.json", {**MODEL, **pool})
    artifacts.write_json(folder / "policy.json", MODEL)
    answers = {"samples": 32, "temperature": 1.0, "top_p": 1.0, "seed": 6, **sizes}
    artifacts.write_json(folder / "answers.json", answers)
    return folder


def command(step: str, inputs: Path, out: Path) -> list[str]:
    own = {
        "generate_shard": ["--spec", f"{inputs}/pool.json", "--shard", "1-of-1"],
        "respond": [
            *("--spec", f"{inputs}/answers.json", "--policy-spec", f"{inputs}/policy.json", "--split", "test"),
            *("--template", "tokenizer", "--seed", "0", "--stream", "trained"),
        ],
    }
    shared = ["--prompts", f"{inputs}/hh/prompts/manifest.json", "--policy", f"{inputs}/hh/sft/manifest.json"]
    return [sys.executable, "-m", f"selfcontrast.steps.{step}", *own[step], *shared, "--out", f"{out}/manifest.json"]


def finished_chunks(out: Path) -> dict[str, int]:
    """Return the finished batches by name, with the time at which each was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in out.glob(".chunks/*/batch-*/manifest.json")}


@pytest.mark.parametrize(("step", "table"), [("generate_shard", "shard.parquet"), ("respond", "responses.parquet")])
def test_killed_job_samples_only_what_is_missing(step: str, table: str, inputs: Path, tmp_path: Path) -> None:
    """SIGKILL once three of twelve batches are stored; one stored batch is damaged before the job runs again."""
    whole = subprocess.run(
        command(step, inputs, tmp_path / "whole"), cwd=ROOT, text=True, capture_output=True, check=True
    )
    assert "before an interruption" not in whole.stderr
    out = tmp_path / "killed"
    job = subprocess.Popen(command(step, inputs, out), cwd=ROOT, stderr=subprocess.DEVNULL)
    while len(finished_chunks(out)) < 3 and job.poll() is None:
        time.sleep(0.005)
    job.kill()
    job.wait()
    before = finished_chunks(out)
    assert 3 <= len(before) < BATCHES
    assert not (out / "manifest.json").exists() and not (out / table).exists()
    damaged = next(out.glob(f".chunks/*/{min(before)}/chunk.parquet"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    again = subprocess.run(command(step, inputs, out), cwd=ROOT, text=True, capture_output=True, check=True)
    assert f"{len(before) - 1} of {BATCHES} batches were sampled before an interruption" in again.stderr
    assert f"{min(before)} is damaged and made again" in again.stderr
    for name in (table, "manifest.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (out / ".chunks").exists()
