"""A step that was interrupted does only what is missing, and writes the bytes of one that was not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from selfcontrast import artifacts, cli, cuts
from selfcontrast.scorers import cosine

N_PROMPTS, N_RESPONSES = 5, 4
DONE = 2
"""Batches that are finished before the interruption."""


class InterruptedRunError(Exception):
    """Stands for a kill."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a small policy, encoded prompts, a pool, answers of two arms, and questions of two turns."""
    from selfcontrast.checkpoints import save_checkpoint
    from selfcontrast.world.checkpoint import build_model, build_tokenizer

    folder = tmp_path_factory.mktemp("interrupted")
    model = build_model(n_layers=1, width=32, n_heads=2, max_length=128, seed=0)
    save_checkpoint(folder / "sft/model", model, build_tokenizer(max_length=128))
    seal(folder / "sft", "model")
    ids = [f"p{i}" for i in range(N_PROMPTS)]
    prompts = {
        "prompt_id": ids,
        "prompt": [f"question {i}" for i in range(N_PROMPTS)],
        "prompt_ids": [[1, *range(7, 10 + i)] for i in range(N_PROMPTS)],
        "target": [f"target {i}" for i in range(N_PROMPTS)],
        "target_ids": [[20, 21 + i, 2] for i in range(N_PROMPTS)],
    }
    for split in ("pool", "test"):
        artifacts.write_table(folder / f"prompts/{split}.parquet", prompts)
    seal(folder / "prompts", "pool.parquet", "test.parquet")
    for name in ("pool", "arm0", "arm1"):
        rows = [(p, j) for p in ids for j in range(N_RESPONSES)]
        responses = {
            "prompt_id": [p for p, _ in rows],
            "response_id": [f"sft.{j}" for _, j in rows],
            "text": [f"answer {j} of {name} to {p}" for p, j in rows],
            "response_ids": [[30 + j, 40 + k % 7, 2] for k, (_, j) in enumerate(rows)],
            "finish": ["stop"] * len(rows),
        }
        artifacts.write_table(folder / f"{name}/responses.parquet", responses)
        seal(folder / name, "responses.parquet")
    questions = [{"question_id": i, "category": "writing", "turns": ["Where is Tom?", "And why?"]} for i in range(6)]
    (folder / "questions.jsonl").write_text("".join(f"{json.dumps(q)}\n" for q in questions), encoding="utf-8")
    artifacts.write_json(folder / "policy.json", {"dtype": "float32", "trust_remote_code": False})
    return folder


def seal(folder: Path, *names: str) -> None:
    outputs = {name: artifacts.sha256(folder / name) for name in names}
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs, "report": {}})


class ReadsOneWord:
    """Stands for an embedding model that reads the first word of a text alone."""

    longest = 1

    def cut(self, texts: list[str]) -> dict[str, bytes]:
        return {t: b for t, b in zip(texts, self.read(texts), strict=True) if len(t.split()) > self.longest}

    def read(self, texts: list[str]) -> list[bytes]:
        return [t.split()[0].encode() for t in texts]


def embedder(params: cosine.Params) -> cosine.Embedder:
    """Return vectors that follow from the lengths of texts."""

    def embed(texts: Any) -> np.ndarray:
        angles = np.array([len(t) for t in texts], float)
        return np.stack([np.cos(angles), np.sin(angles)], 1)

    return cosine.Embedder(embed, ReadsOneWord())  # type: ignore[arg-type]


LOADING = {"dtype": "float32", "trust_remote_code": False}
REFERENCE = {**LOADING, "training": {"precision": "weights", "lora": None}}
COSINE = {"kind": "cosine", "params": {"package": "none"}}
GRADIENT = {**LOADING, "pool": "sft", "prompts": N_PROMPTS, "negatives": N_RESPONSES, "seed": 3}
ANSWER = {"layout": "mt_bench", "max_new_tokens": 5, "temperature": 1.0, "top_p": 1.0, "batch_responses": 2, "seed": 1}
ARMS = {"arms": ["arm0", "arm1"], "seeds": [0]}

CASES: dict[str, tuple[dict[str, Any], str]] = {
    "answer": (ANSWER, "generation.sample_batch"),
    "score": (COSINE, "scorers.cosine.similarities"),
    "score_arms": ({**COSINE, **ARMS}, "scorers.cosine.similarities"),
    "ref_logps": (REFERENCE, "logprobs.token_logps"),
    "gradient_noise": (GRADIENT, "gradient_noise.pair_gradients"),
}
"""The spec of each step, and what it calls once for each batch."""


def flags_of(root: Path) -> SimpleNamespace:
    """Return the flags of all steps together."""
    return SimpleNamespace(
        threads=1,
        prompts=root / "prompts/manifest.json",
        split="test",
        pool=root / "pool/manifest.json",
        responses=root / "pool/manifest.json",
        answers=[root / "arm0/manifest.json", root / "arm1/manifest.json"],
        reward=None,
        fetched=None,
        reference=root / "sft/manifest.json",
        policy=root / "sft/manifest.json",
        policy_spec=root / "policy.json",
        shard="1-of-1",
        questions=root / "questions.jsonl",
        template="tokenizer",
        max_length=128,
        seed=0,
        stream="trained",
        gpus=0,
    )


@pytest.mark.parametrize("name", CASES)
def test_an_interrupted_step_makes_only_the_missing_batches(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an interruption N batches run; with one behind the second, N - 2 are left, and no batch runs twice."""
    spec, called = CASES[name]
    monkeypatch.setattr(cosine, "load", embedder)
    monkeypatch.setattr(cosine, "BLOCK_TEXTS", 6)
    work = importlib.import_module(f"selfcontrast.steps.{name}")
    if name == "ref_logps":
        monkeypatch.setattr(work, "TOKENS_PER_BATCH", 20)
    module = importlib.import_module(f"selfcontrast.{called.rpartition('.')[0]}")
    function = getattr(module, called.rpartition(".")[2])
    calls, most = 0, 10**6

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if calls == most:
            raise InterruptedRunError
        calls += 1
        return function(*args, **kwargs)

    monkeypatch.setattr(module, called.rpartition(".")[2], counted)

    def run(out: str) -> dict[str, bytes]:
        nonlocal calls
        calls = 0
        step = cli.Step(spec, tmp_path / out / "manifest.json")
        step.folder.mkdir(parents=True, exist_ok=True)
        work.work(flags_of(root), step)
        written = {p.relative_to(step.folder).as_posix(): p.read_bytes() for p in step.folder.rglob("*") if p.is_file()}
        return {**written, "report": json.dumps(step.report).encode()}

    whole, n_batches = run("whole"), calls
    assert n_batches > DONE + 1
    most = DONE
    with pytest.raises(InterruptedRunError):
        run("killed")
    most = 10**6
    assert run("killed") == whole  # all outputs, and no chunk is left
    assert calls == n_batches - DONE
    if name in ("score", "score_arms"):  # every text is cut, and all answers to a prompt begin with the same word
        report = json.loads(whole["report"])
        n_answers = N_PROMPTS * N_RESPONSES * (2 if name == "score_arms" else 1)
        found = {key: n for key, n in report.items() if key.startswith(cuts.PREFIXES)}
        assert found == {
            cuts.TARGETS_BY_EMBEDDER: N_PROMPTS,
            cuts.ANSWERS_BY_EMBEDDER: n_answers,
            cuts.TIED_BY_EMBEDDER: n_answers,
        }
