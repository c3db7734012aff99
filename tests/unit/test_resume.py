"""A training that is interrupted and taken up again ends with the bits of one that was not; moving averages by hand."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from selfcontrast.training import state
from selfcontrast.training.adapters import add_adapters
from selfcontrast.training.engine import Engine
from selfcontrast.training.loop import Schedule, optimise
from selfcontrast.training.preference import train_preference
from selfcontrast.training.sft import Example, train_sft
from selfcontrast.training.state import Checkpoints, MovingAverage

SETTINGS: dict[str, Any] = {"lr": 1e-2, "batch": 2, "shape": "cosine", "warmup": 0.3, "clip": 1.0, "ema": None}
LORA = {"r": 2, "alpha": 4, "targets": "all-linear", "quantise": "none"}
N_STEPS = 6

pytestmark = pytest.mark.usefixtures("one_thread", "fresh_accelerate")

Train = Callable[..., tuple[dict[str, Tensor], list[dict[str, float]]]]


class Killed(BaseException):
    """What ends a training from outside."""


@pytest.fixture
def train(
    llama: Any, ragged_groups: Any, objective_of: Any, weights: Any, monkeypatch: pytest.MonkeyPatch, request: Any
) -> Train:
    """Train a fresh model for six steps; return its weights and the history."""

    def run(
        store: Checkpoints | None,
        *,
        killed_in_step: int | None = None,
        seed: int = 0,
        ema: float | None = None,
        kind: str = "preference",
        dtype: torch.dtype = torch.float64,
        lora: bool = False,
    ) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        model = llama(seed=seed).to(dtype)
        if lora:
            torch.manual_seed(seed)
            add_adapters(model, LORA)
        engine = Engine(model)
        settings = {**SETTINGS, "ema": ema}
        steps = 0
        actual = Engine.step

        def step(self: Engine, lr: float) -> float:
            nonlocal steps
            if steps == killed_in_step:
                raise Killed
            steps += 1
            return actual(self, lr)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", step)
            length: dict[str, int] = {"n_steps": N_STEPS, "seed": 0}
            if kind == "sft":
                examples = [Example(g.prompt_ids, list(g.responses[:1])) for g in ragged_groups()]
                history = train_sft(engine, examples, settings, store=store, **length)
            else:
                history = train_preference(
                    engine, ragged_groups(), objective_of("dpo"), settings, store=store, **length
                )
        return weights(model), history

    return run


def folder_of(tmp_path: Path, *, key: str = "one") -> Checkpoints:
    """Return a store that keeps the state of every step but the last."""
    return Checkpoints(tmp_path / "run" / ".state", key, every_s=-1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"ema": 0.9},
        {"kind": "sft", "ema": 0.5},
        {"dtype": torch.float32, "ema": 0.9},
        {"lora": True, "ema": 0.9},
    ],
    ids=str,
)
@pytest.mark.parametrize("killed_in_step", [1, 4])
def test_interrupted_and_resumed_equals_uninterrupted_bit_for_bit(
    train: Train, tmp_path: Path, options: dict[str, Any], killed_in_step: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed within a step, behind the state of the one before.

    The second process starts from other weights, so that what it ends with can only come from the state (frozen weights, which
    adapters leave as they are, come from the checkpoint).
    """
    caplog.set_level(logging.INFO)
    expected, expected_history = train(None, **options)
    with pytest.raises(Killed):
        train(folder_of(tmp_path), killed_in_step=killed_in_step, **options)
    other = 0 if options.get("lora") else 5
    found, history = train(folder_of(tmp_path), seed=other, **options)
    assert history == expected_history
    assert [h["step"] for h in history] == list(range(N_STEPS))
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert f"going on behind step {killed_in_step} of {N_STEPS}" in caplog.text


def test_killed_twice_is_no_different(train: Train, tmp_path: Path) -> None:
    expected, expected_history = train(None, ema=0.9)
    for killed_in_step in (2, 3):
        with pytest.raises(Killed):
            train(folder_of(tmp_path), killed_in_step=killed_in_step, ema=0.9)
    found, history = train(folder_of(tmp_path), ema=0.9)
    assert history == expected_history
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_state_matters(train: Train, tmp_path: Path) -> None:
    """The negative control: a second process without the optimiser's state ends elsewhere."""
    expected, _ = train(None)
    with pytest.raises(Killed):
        train(folder_of(tmp_path), killed_in_step=3)
    path = tmp_path / "run" / ".state" / "step-3.1-of-1.safetensors"
    tensors = state.load_file(path)
    state.save_file({k: v * 0 if "exp_avg" in k else v for k, v in tensors.items()}, path)
    found, _ = train(folder_of(tmp_path))
    assert any(not torch.equal(found[name], expected[name]) for name in expected)


def test_state_of_another_training_is_not_taken_up_and_the_log_says_so(
    train: Train, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected, expected_history = train(None)
    with pytest.raises(Killed):
        train(folder_of(tmp_path, key="other"), killed_in_step=3)
    found, history = train(folder_of(tmp_path), seed=0)
    assert history == expected_history
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    (record,) = [r for r in caplog.records if r.levelno == logging.WARNING and r.name.startswith("selfcontrast")]
    assert "is of a training with other settings, inputs or processes; starting anew" in record.getMessage()


def test_state_holds_no_pickle(train: Train, tmp_path: Path) -> None:
    """Two files, one of safetensors and one of JSON; nothing else is left in the folder of the training."""
    with pytest.raises(Killed):
        train(folder_of(tmp_path), killed_in_step=3, ema=0.9)
    run = tmp_path / "run"
    assert sorted(p.relative_to(run).as_posix() for p in run.rglob("*")) == [
        ".state",
        ".state/state.json",
        ".state/step-3.1-of-1.safetensors",
    ]
    stored = json.loads((run / ".state" / "state.json").read_text())
    assert stored["key"] == "one"
    assert [h["step"] for h in stored["history"]] == [0, 1, 2]
    header = (run / ".state" / "step-3.1-of-1.safetensors").read_bytes()
    size = int.from_bytes(header[:8], "little")
    names = json.loads(header[8 : 8 + size]).keys() - {"__metadata__"}
    assert {n.split(".")[0] for n in names} == {"weight", "optimiser", "average"}


def test_state_that_is_killed_while_it_is_written_leaves_the_one_before(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, expected_history = train(None)
    writes = 0
    actual = state.save_file

    def save_file(tensors: Any, path: Path) -> None:
        nonlocal writes
        writes += 1
        actual(tensors, path)
        if writes == 3:
            path.write_bytes(path.read_bytes()[:100])
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(state, "save_file", save_file)
        with pytest.raises(Killed):
            train(folder_of(tmp_path))
    stored = json.loads((tmp_path / "run" / ".state" / "state.json").read_text())
    assert len(stored["history"]) == 2
    found, history = train(folder_of(tmp_path), seed=5)
    assert history == expected_history
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_state_is_written_no_more_often_than_asked_for(train: Train, tmp_path: Path) -> None:
    store = Checkpoints(tmp_path / ".state", "one", every_s=3600)
    train(store)
    assert not store.folder.exists()


def test_state_behind_the_last_step_is_not_written(train: Train, tmp_path: Path) -> None:
    """The step removes the folder when it has saved the model."""
    store = folder_of(tmp_path)
    train(store)
    assert len(json.loads((store.folder / "state.json").read_text())["history"]) == N_STEPS - 1


# Moving averages


def test_moving_average_by_hand() -> None:
    """Decay 0.9, weights 1, 2, 4: 0.9 * 1 + 0.1 * 2 = 1.1, then 0.9 * 1.1 + 0.1 * 4 = 1.39."""
    weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    average = MovingAverage([weight], 0.9)
    for value, expected in ((2.0, 1.1), (4.0, 1.39)):
        with torch.no_grad():
            weight.fill_(value)
        average.update()
        assert average.values[0].item() == pytest.approx(expected)
        assert weight.item() == value
    average.apply()
    assert weight.item() == pytest.approx(1.39)


class Toy(nn.Module):
    """One weight, in place of a language model."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))

    @property
    def device(self) -> torch.device:
        return self.weight.device


@pytest.mark.parametrize("ema", [None, 0.5])
def test_training_ends_with_the_average_of_its_weights_and_trains_without_it(ema: float | None) -> None:
    """Gradient 1 in each of three steps: Adam takes the learning rate off each time, 1, 0.9, 0.8, 0.7.

    With decay 0.5 the average goes 1, 0.95, 0.875, 0.7875; the gradients are those of the weights, not of the average.
    """
    model = Toy()
    engine = Engine(model)  # type: ignore[arg-type]
    seen = []

    def accumulate(items: Any) -> dict[str, float]:
        seen.append(model.weight.item())
        engine.backward(model.weight.sum())
        return {"loss": 0.0}

    schedule = Schedule(n_steps=3, batch=1, lr=0.1, shape="constant", warmup=0.0)
    optimise(engine, schedule, iter([[0]] * 3), accumulate, ema=ema)
    assert seen == pytest.approx([1, 0.9, 0.8])
    assert model.weight.item() == pytest.approx(0.7 if ema is None else 0.7875)
