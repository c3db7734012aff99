"""What an interrupted training goes on from: weights, optimiser, averages and history, as safetensors and JSON."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from selfcontrast import artifacts

if TYPE_CHECKING:
    from selfcontrast.training.engine import Engine

log = logging.getLogger(__name__)


class MovingAverage:
    """Exponential moving average of weights, in their own precision."""

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        """Start from the weights as they are."""
        self.parameters = list(parameters)
        self.decay = decay
        self.values = [p.detach().clone() for p in self.parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        torch._foreach_lerp_(self.values, [p.detach() for p in self.parameters], 1 - self.decay)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the place of the weights."""
        for parameter, value in zip(self.parameters, self.values, strict=True):
            parameter.copy_(value)


@dataclass
class Checkpoints:
    """One state of a training in a folder, written again every so often; the last one counts.

    Attributes:
        folder: written as a whole or not at all.
        key: identifies the training: spec, inputs and seed. A state of another one is not taken up.
        every_s: seconds between two states.
    """

    folder: Path
    key: str
    every_s: float = 600.0

    def save(self, engine: Engine, average: MovingAverage | None, history: list[dict[str, float]]) -> None:
        """Write the state behind the last step of ``history``."""
        if engine.rank != 0:
            return
        tensors = {f"weight.{i}": p.detach() for i, p in enumerate(engine.parameters)}
        for i, parameter in enumerate(engine.parameters):
            for name, value in engine.optimiser.state[parameter].items():
                tensors[f"optimiser.{i}.{name}"] = torch.as_tensor(value)
        if average is not None:
            tensors |= {f"average.{i}": v for i, v in enumerate(average.values)}
        with artifacts.atomic(self.folder) as partial:
            partial.mkdir()
            save_file({k: v.contiguous() for k, v in tensors.items()}, partial / "state.safetensors")
            text = json.dumps({"key": self.key, "history": history})
            (partial / "state.json").write_text(text, encoding="utf-8")

    def restore(self, engine: Engine, average: MovingAverage | None) -> list[dict[str, float]]:
        """Put the stored state in place and return its history; [] if there is none of this training."""
        path = self.folder / "state.json"
        if not path.exists():
            return []
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["key"] != self.key:
            log.warning("the state in %s is of a training with other settings or inputs; starting anew", self.folder)
            return []
        tensors = load_file(self.folder / "state.safetensors", device=str(engine.model.device))
        with torch.no_grad():
            for i, parameter in enumerate(engine.parameters):
                parameter.copy_(tensors[f"weight.{i}"])
                engine.optimiser.state[parameter] = _of(tensors, f"optimiser.{i}.")
                if average is not None:
                    average.values[i].copy_(tensors[f"average.{i}"])
        history: list[dict[str, float]] = stored["history"]
        return history


def _of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
