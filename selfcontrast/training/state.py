"""What an interrupted training goes on from: weights, optimiser, averages and history, as safetensors and JSON."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

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

    Every process writes what it alone holds, one file for each; where all hold everything the first one writes. Then
    `state.json` is replaced, which says which files count: a kill at any moment leaves the state before or the new one.

    Attributes:
        folder: of the files; on several machines one that all of them see.
        key: identifies the training: spec, inputs and seed. A state of another one is not taken up.
        every_s: seconds between two states.
    """

    folder: Path
    key: str
    every_s: float = 600.0
    _last: float = field(default_factory=time.monotonic, repr=False)

    def is_due(self, engine: Engine) -> bool:
        """Return whether it is time for a state: the same on all processes that write one."""
        late = time.monotonic() - self._last > self.every_s
        return late if engine.shard[1] == 1 else engine.largest(int(late)) > 0

    def save(self, engine: Engine, average: MovingAverage | None, history: list[dict[str, float]]) -> None:
        """Write the state behind the last step of ``history``."""
        shard, shards = engine.shard
        if engine.rank == shard:
            tensors = {f"weight.{i}": _held(p) for i, p in enumerate(engine.parameters)}
            for i, parameter in enumerate(engine.parameters):
                for name, value in engine.optimiser.state[parameter].items():
                    tensors[f"optimiser.{i}.{name}"] = _held(torch.as_tensor(value))
            if average is not None:
                tensors |= {f"average.{i}": _held(v) for i, v in enumerate(average.values)}
            with artifacts.atomic(self.folder / _file(len(history), shard, shards)) as path:
                save_file({k: v.contiguous() for k, v in tensors.items()}, path)
        if shards > 1:
            engine.wait()
        if engine.rank == 0:
            text = json.dumps({"key": self.key, "processes": shards, "history": history})
            with artifacts.atomic(self.folder / "state.json") as path:
                path.write_text(text, encoding="utf-8")
            for old in self.folder.glob("*.safetensors"):
                if not old.name.startswith(f"{_step(len(history))}."):
                    old.unlink()
        self._last = time.monotonic()

    def restore(self, engine: Engine, average: MovingAverage | None) -> list[dict[str, float]]:
        """Put the stored state in place and return its history; [] if there is none of this training."""
        path = self.folder / "state.json"
        if not path.exists():
            return []
        stored, (shard, shards) = artifacts.read_json(path), engine.shard
        if (stored["key"], stored["processes"]) != (self.key, shards):
            log.warning(
                "the state in %s is of a training with other settings, inputs or processes; starting anew", self.folder
            )
            return []
        history: list[dict[str, float]] = stored["history"]
        tensors = load_file(self.folder / _file(len(history), shard, shards), device=str(engine.model.device))
        with torch.no_grad():
            for i, parameter in enumerate(engine.parameters):
                _held(parameter).copy_(tensors[f"weight.{i}"])
                engine.optimiser.state[parameter] = _of(tensors, f"optimiser.{i}.", parameter)
                if average is not None:
                    _held(average.values[i]).copy_(tensors[f"average.{i}"])
        return history


def _step(n_steps: int) -> str:
    return f"step-{n_steps}"


def _file(n_steps: int, shard: int, shards: int) -> str:
    return f"{_step(n_steps)}.{shard + 1}-of-{shards}.safetensors"


def _held(tensor: Tensor) -> Tensor:
    """Return what this process holds of a tensor, which FSDP divides."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).detach()


def _of(tensors: dict[str, Tensor], prefix: str, parameter: nn.Parameter) -> dict[str, Tensor]:
    """Return the optimiser's tensors for a parameter, divided as the parameter is; the count of steps is not."""
    found = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    if isinstance(parameter, DTensor):
        divided = partial(
            DTensor.from_local,
            device_mesh=parameter.device_mesh,
            placements=parameter.placements,
            shape=parameter.shape,
            stride=parameter.stride(),
        )
        return {name: divided(value) if value.dim() else value for name, value in found.items()}
    return found
