"""What a training says while it runs: speed and memory of each step, and everything to a tracker of one's choice.

``speed.jsonl`` is volatile, like run.json: no step reads it, and it is no part of a manifest.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from selfcontrast.errors import InputError
from selfcontrast.training.engine import Engine

PEAK_FLOPS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40": 181e12,
    "RTX 4090": 165e12,
    "A10": 125e12,
    "V100": 125e12,
    "L4": 121e12,
}
"""Dense 16-bit operations a second, from the vendor's data sheets, by a part of the device's name; first match counts."""


class Monitor:
    """Takes note of every step of one training, on the first process."""

    def __init__(self, engine: Engine, folder: Path, *, n_steps: int, track: str = "none") -> None:
        """Begin.

        Args:
            folder: where ``speed.jsonl`` goes, and what a tracker writes.
            track: ``none``, ``tensorboard``, ``trackio`` or ``wandb``; its package must be installed, and its account set up
                by environment variables.
        """
        if track != "none" and find_spec(track) is None:
            raise InputError(
                f"`track: {track}` needs the package {track}, which is not installed",
                remedy=f"pip install {track}, or set models.<id>.execution.track to none",
            )
        self._engine = engine
        self._is_first = engine.rank == 0
        self._path = folder / "speed.jsonl"
        self._bar = tqdm(total=n_steps, disable=not (self._is_first and sys.stderr.isatty()), unit="step")
        # 6 operations for each weight and token: forward 2, backward 4.
        self._flops = 6.0 * sum(p.numel() for p in engine.model.parameters())
        self._peak = peak_flops()
        self._tracker = _tracker(track, folder) if self._is_first and track != "none" else None
        if self._is_first:
            self._path.unlink(missing_ok=True)
        self._last = time.perf_counter()

    def note(self, record: dict[str, float]) -> None:
        """Take note of a step that has just ended; ``record`` is its line of the history."""
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        tokens = self._engine.total([self._engine.take_tokens()])[0]
        if not self._is_first:
            return
        speed: dict[str, Any] = {
            "step": record["step"],
            "seconds": round(seconds, 4),
            "tokens_per_s": round(tokens / seconds, 1),
            "flops_utilisation": None,
            "peak_gpu_mb": None,
        }
        if self._peak is not None:
            speed["flops_utilisation"] = round(self._flops * tokens / seconds / self._peak / self._engine.world, 4)
            speed["peak_gpu_mb"] = torch.cuda.max_memory_allocated() // 2**20
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(speed) + "\n")
        self._bar.update()
        self._bar.set_postfix(loss=f"{record['loss']:.4f}", tokens_per_s=speed["tokens_per_s"])
        if self._tracker is not None:
            figures = {k: v for k, v in {**record, **speed}.items() if k != "step" and v is not None}
            self._tracker.log(figures, step=int(record["step"]))

    def close(self) -> None:
        """End the progress bar and the tracker's run."""
        self._bar.close()
        if self._tracker is not None:
            self._tracker.finish()


def peak_flops() -> float | None:
    """Return the dense operations a second of this process's GPU; None for the CPU and GPUs that are not known."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    return next((peak for part, peak in PEAK_FLOPS.items() if part in name), None)


def _tracker(track: str, folder: Path) -> Any:
    """Return accelerate's tracker of that name; the run is called after the arm and the seed."""
    from accelerate import tracking

    run = "/".join(folder.parts[-4:])
    if track == "tensorboard":
        made = tracking.TensorBoardTracker(run_name=run.replace("/", "-"), logging_dir=folder / "tensorboard")
    else:
        kinds = {"wandb": tracking.WandBTracker, "trackio": tracking.TrackioTracker}
        made = kinds[track](run_name="selfcontrast", name=run)
    made.start()
    return made
