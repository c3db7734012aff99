"""What a training says of its speed, and which steps its trackers see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from selfcontrast.errors import InputError
from selfcontrast.training import monitor as module
from selfcontrast.training.engine import Engine
from selfcontrast.training.monitor import Monitor
from selfcontrast.training.sft import Example, train_sft

TRAINING = {"lr": 1e-3, "batch": 2, "shape": "constant", "warmup": 0.0}
EXAMPLES = [Example([3, 4], [[5, 2]]), Example([6], [[7, 8, 2]])]


def run(engine: Engine, monitor: Monitor) -> list[dict[str, float]]:
    return train_sft(engine, EXAMPLES, TRAINING, n_steps=3, seed=0, monitor=monitor)


def test_every_step_has_a_line_with_its_tokens_a_second(llama: Any, tmp_path: Path) -> None:
    """Prompts of 2 and 1 tokens, responses of 2 and 3: 8 tokens a step."""
    engine = Engine(llama())
    run(engine, Monitor(engine, tmp_path, n_steps=3))
    lines = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert line["seconds"] > 0
        # `seconds` has four decimals.
        assert line["tokens_per_s"] * line["seconds"] == pytest.approx(8, rel=0.2)
        assert line["flops_utilisation"] is None
    assert engine.take_tokens() == 0


def test_a_second_run_starts_its_file_anew(llama: Any, tmp_path: Path) -> None:
    for _ in range(2):
        engine = Engine(llama())
        run(engine, Monitor(engine, tmp_path, n_steps=3))
    assert len((tmp_path / "speed.jsonl").read_text().splitlines()) == 3


def test_utilisation_is_useful_operations_of_those_the_device_could_do(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """6 operations for each weight and token, on a device of 1e9 operations a second."""
    monkeypatch.setattr(module, "peak_flops", lambda: 1e9)
    engine = Engine(llama())
    run(engine, Monitor(engine, tmp_path, n_steps=3))
    weights = sum(p.numel() for p in engine.model.parameters())
    for line in map(json.loads, (tmp_path / "speed.jsonl").read_text().splitlines()):
        # The file has four decimals of each.
        assert line["flops_utilisation"] == pytest.approx(6 * weights * line["tokens_per_s"] / 1e9, rel=0.05, abs=1e-4)


def test_a_tracker_sees_every_step(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    class Tracker:
        def log(self, figures: dict[str, float], step: int) -> None:
            seen.append((step, figures))

        def finish(self) -> None:
            seen.append("finished")

    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "_tracker", lambda track, folder: Tracker())
    engine = Engine(llama())
    history = run(engine, Monitor(engine, tmp_path, n_steps=3, track="wandb"))
    assert [s[0] for s in seen[:-1]] == [0, 1, 2]
    assert seen[-1] == "finished"
    for record, (_, figures) in zip(history, seen[:-1], strict=True):
        assert figures["loss"] == record["loss"]
        assert {"lr", "grad_norm", "tokens_per_s"} <= figures.keys()
        assert "peak_gpu_mb" not in figures  # there is none to tell


def test_a_tracker_that_is_not_installed_is_named(llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="`track: trackio` needs the package trackio"):
        Monitor(Engine(llama()), tmp_path, n_steps=1, track="trackio")
