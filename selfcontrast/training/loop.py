"""One optimisation loop for supervised and preference training: seeded batches, AdamW, schedule, clipping."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from selfcontrast.finite import NotFiniteError, name_of_model, require_finite
from selfcontrast.training.state import MovingAverage

if TYPE_CHECKING:
    from selfcontrast.training.engine import Engine
    from selfcontrast.training.monitor import Monitor
    from selfcontrast.training.state import Checkpoints

log = logging.getLogger(__name__)

PROGRESS_S = 20
"""Seconds between two lines of progress in the log."""

SHOWN = 5
"""Losses of the last steps, and prompts of a batch, that a message shows."""


@dataclass(frozen=True)
class Schedule:
    """How many steps are taken, with which batches and learning rates.

    Attributes:
        n_steps: optimiser steps.
        batch: items (prompts) a step.
        lr: peak learning rate.
        shape: learning rate after warm-up: ``constant``, or down to 0 as ``linear`` or ``cosine``.
        warmup: share of the steps over which the learning rate rises from 0.
    """

    n_steps: int
    batch: int
    lr: float
    shape: Literal["constant", "linear", "cosine"]
    warmup: float

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
    if n_items < 1:
        raise ValueError("there is nothing to train on")
    rng = random.Random(seed)
    steps = 0
    while steps < n_steps:
        order = rng.sample(range(n_items), n_items)
        for i in range(0, n_items, batch):
            if steps == n_steps:
                return
            yield order[i : i + batch]
            steps += 1


Accumulate = Callable[[Sequence[int]], dict[str, float]]
"""Adds the gradient of a batch of item indices and returns its mean ``loss`` and other figures."""


def name_batch(prompt_ids: Sequence[str]) -> str:
    """Return what the prompts of a batch are called in messages."""
    named = list(dict.fromkeys(filter(None, prompt_ids)))
    return f"prompts {', '.join(named[:SHOWN])}{', ...' if len(named) > SHOWN else ''}" if named else ""


def at_step(error: NotFiniteError, step: int, losses: Sequence[float]) -> NotFiniteError:
    """Return the error of a training with its step, counted from 0, and with what can be done there.

    Before the first step nothing has been learned: no learning rate is to blame, and none helps.

    Args:
        losses: of the steps before.
    """
    if step == 0:
        return error.but(when="at step 0, before anything was learned")
    shown = ", ".join(f"{loss:.4g}" for loss in losses[-SHOWN:])
    remedy = f"if the loss rose before, the training diverged: lower the learning rate; else, {error.remedy}"
    return error.but(when=f"at step {step}, behind losses of {shown}", remedy=remedy)


def optimise(
    engine: Engine,
    schedule: Schedule,
    batches: Iterator[list[int]],
    accumulate: Accumulate,
    *,
    name_of: Callable[[int], str] = str,
    ema: float | None = None,
    store: Checkpoints | None = None,
    monitor: Monitor | None = None,
) -> list[dict[str, float]]:
    """Train the engine's model in place and return one record for each step: loss, gradient norm, learning rate, figures.

    Args:
        name_of: name of an item, for messages.
        ema: where given, the model ends with the exponential moving average of its weights with this decay.
        store: where the state is kept for a run that is interrupted; a state that is there is taken up.
        monitor: is told of every step.

    Raises:
        NotFiniteError: the loss, a figure beside it or the gradient is not finite; the weights are those before this step.
    """
    average = MovingAverage(engine.parameters, ema) if ema is not None else None
    history = store.restore(engine, average) if store is not None else []
    if history:
        log.info("going on behind step %d of %d", len(history), schedule.n_steps)
    last_line = time.monotonic()
    for step, items in enumerate(batches):
        if step < len(history):
            continue
        lr = schedule.lr_at(step)
        try:
            figures = accumulate(items)
            names = list(figures)
            require_finite(figures.values(), "the figure of a batch", names.__getitem__)
            norm = engine.step(lr)
        except NotFiniteError as error:
            named = error if error.of else error.but(of=name_batch([name_of(i) for i in items]))
            named = named.but(model=name_of_model(engine.model))
            raise at_step(named, step, [record["loss"] for record in history]) from None
        if average is not None:
            average.update()
        history.append({"step": step, **figures, "grad_norm": norm, "lr": lr})
        if monitor is not None:
            monitor.note(history[-1])
        if time.monotonic() - last_line > PROGRESS_S:
            log.info("step %d of %d, loss %.4f", step + 1, schedule.n_steps, history[-1]["loss"])
            last_line = time.monotonic()
        if store is not None and step + 1 < schedule.n_steps and store.is_due(engine):
            store.save(engine, average, history)
    if monitor is not None:
        monitor.close()
    if average is not None:
        average.apply()
    return history
