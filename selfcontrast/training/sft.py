"""Supervised fine-tuning on the responses alone: the prompt, all earlier turns included, is context.

Source: arXiv 2404.00604, section 3 (last turn only). The loss is the mean over the response tokens of the whole batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from selfcontrast.finite import require_finite
from selfcontrast.logprobs import Sharing
from selfcontrast.training.engine import Engine
from selfcontrast.training.loop import Schedule, optimise, seeded_batches
from selfcontrast.training.monitor import Monitor
from selfcontrast.training.state import Checkpoints


@dataclass(frozen=True)
class Example:
    """One prompt and the responses that are trained on, EOS included, as token ids; one response, as a rule.

    Attributes:
        prompt_id: name of the prompt, for messages.
    """

    prompt_ids: list[int]
    responses: list[list[int]]
    prompt_id: str = ""

    @property
    def n_tokens(self) -> int:
        """Return the tokens of the responses."""
        return sum(len(r) for r in self.responses)


def accumulate_sft(engine: Engine, examples: Sequence[Example], *, tokens: int | None = None) -> dict[str, float]:
    """Add the gradient of the mean negative log-likelihood of a response token, in nats, and return it as ``loss``.

    Args:
        examples: the whole batch; every process takes its share.
        tokens: tokens that run together, padding counted; None runs the batch at once.

    Raises:
        NotFiniteError: a log-probability is not finite.
    """
    total = sum(e.n_tokens for e in examples)
    mine = list(examples[engine.rank :: engine.world])
    # A process without an example takes part in the collective operations with one that weighs nothing.
    weight = 1.0 if mine else 0.0
    parts = _parts(mine or [examples[0]], tokens)
    weights = [weight] * len(parts)
    n_parts = engine.largest(len(parts))
    weights += [0.0] * (n_parts - len(parts))
    parts += [parts[0]] * (n_parts - len(parts))
    # One response to a prompt gains nothing from running the prompt apart.
    sharing: Sharing = "prefix" if any(len(e.responses) > 1 for e in examples) else "chosen"
    loss = 0.0
    for i, (part, factor) in enumerate(zip(parts, weights, strict=True)):
        with engine.adding_up(i + 1 == n_parts):
            logps = engine.token_logps([e.prompt_ids for e in part], [e.responses for e in part], sharing=sharing)
            share = -factor * logps.values.sum() / total
            engine.backward(share)
        if not math.isfinite(share.item()):
            names = [f"prompt {e.prompt_id}" for e in part for _ in e.responses]
            require_finite(logps.sums().tolist(), "the log-probability of a response", names.__getitem__)
        loss += share.item()
    return {"loss": engine.total([loss])[0]}


def train_sft(
    engine: Engine,
    examples: Sequence[Example],
    training: dict[str, Any],
    *,
    n_steps: int,
    seed: int,
    tokens: int | None = None,
    store: Checkpoints | None = None,
    monitor: Monitor | None = None,
) -> list[dict[str, float]]:
    """Train the engine's model in place and return the history of its steps.

    Args:
        training: the keys of ``config.Optimisation``.
        tokens: as in ``accumulate_sft``.
        store: see ``loop.optimise``; so for ``monitor``.
    """
    schedule = make_schedule(training, n_steps)
    batches = seeded_batches(len(examples), batch=schedule.batch, n_steps=n_steps, seed=seed)
    return optimise(
        engine,
        schedule,
        batches,
        lambda items: accumulate_sft(engine, [examples[i] for i in items], tokens=tokens),
        name_of=lambda i: examples[i].prompt_id,
        ema=training.get("ema"),
        store=store,
        monitor=monitor,
    )


def make_schedule(training: dict[str, Any], n_steps: int) -> Schedule:
    """Return the schedule of ``n_steps`` with the keys of ``Optimisation``."""
    return Schedule(n_steps, training["batch"], training["lr"], training["shape"], training["warmup"])


def _parts(examples: Sequence[Example], tokens: int | None) -> list[list[Example]]:
    """Return the examples in parts of at most ``tokens`` tokens, examples of like length together."""
    if tokens is None:
        return [list(examples)]
    parts: list[list[Example]] = []
    for example in sorted(examples, key=_row):
        rows = sum(len(e.responses) for e in [*(parts[-1] if parts else []), example])
        if parts and rows * _row(example) <= tokens:
            parts[-1].append(example)
        else:
            parts.append([example])
    return parts


def _row(example: Example) -> int:
    """Return the tokens of the longest row: prompt and response."""
    return len(example.prompt_ids) + max(len(r) for r in example.responses)
