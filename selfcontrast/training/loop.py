"""One optimisation loop for supervised and preference training: seeded batches, AdamW, schedule, clipping."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

PROGRESS_S = 20
"""Seconds between two lines of progress in the log."""


@dataclass(frozen=True)
class Schedule:
    """How many steps are taken, with which batches and learning rates.

    Attributes:
        n_steps: optimiser steps.
        batch: items (prompts) a step.
        lr: peak learning rate.
        shape: learning rate after warm-up: ``constant``, or down to 0 as ``linear`` or ``cosine``.
        warmup: share of the steps over which the learning rate rises from 0.
        clip: largest norm of the gradient.
    """

    n_steps: int
    batch: int
    lr: float
    shape: Literal["constant", "linear", "cosine"]
    warmup: float
    clip: float

    def lr_at(self, step: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        n_warmup = round(self.warmup * self.n_steps)
        if step < n_warmup:
            return self.lr * (step + 1) / n_warmup
        done = (step - n_warmup) / max(1, self.n_steps - n_warmup)
        factors = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.lr * factors[self.shape]


def seeded_batches(n_items: int, *, batch: int, n_steps: int, seed: int) -> Iterator[list[int]]:
    """Yield ``n_steps`` batches of indices; every epoch is a new permutation, the last short batch of one is kept."""
    rng = random.Random(seed)
    steps = 0
    while steps < n_steps:
        order = rng.sample(range(n_items), n_items)
        for i in range(0, n_items, batch):
            if steps == n_steps:
                return
            yield order[i : i + batch]
            steps += 1


def optimise(
    model: PreTrainedModel,
    schedule: Schedule,
    batches: Iterator[list[int]],
    loss_of: Callable[[Sequence[int]], tuple[Tensor, dict[str, float]]],
) -> list[dict[str, float]]:
    """Train ``model`` in place and return one record for each step: loss, gradient norm, learning rate, figures.

    Args:
        loss_of: returns the mean loss of a batch of item indices, and figures to record.

    Raises:
        FloatingPointError: the loss or its gradient is not finite.
    """
    model.eval()  # dropout stays off: the reference and the policy must be the same function at step 0
    optimiser = torch.optim.AdamW(model.parameters(), lr=schedule.lr, weight_decay=0.0)
    history = []
    last_line = time.monotonic()
    for step, items in enumerate(batches):
        lr = schedule.lr_at(step)
        for group in optimiser.param_groups:
            group["lr"] = lr
        loss, figures = loss_of(items)
        if not torch.isfinite(loss):
            raise FloatingPointError(f"loss is {loss.item()} at step {step}; lower the learning rate")
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), schedule.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"the gradient is not finite at step {step}; lower the learning rate")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        history.append({"step": step, "loss": loss.item(), "grad_norm": norm.item(), "lr": lr, **figures})
        if time.monotonic() - last_line > PROGRESS_S:
            log.info("step %d of %d, loss %.4f", step + 1, schedule.n_steps, history[-1]["loss"])
            last_line = time.monotonic()
    return history
