"""Supervised fine-tuning on the responses alone: the prompt, all earlier turns included, is context.

Source: arXiv 2404.00604, section 3 (last turn only). The loss is the mean over the response tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from selfcontrast.logprobs import response_logps
from selfcontrast.training.loop import Schedule, optimise, seeded_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Example:
    """One prompt and the response that is trained on, EOS included, as token ids."""

    prompt_ids: list[int]
    response_ids: list[int]


def sft_loss(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Return the mean negative log-likelihood of a response token, in nats."""
    logps = response_logps(model, [e.prompt_ids for e in examples], [[e.response_ids] for e in examples], sharing="rows")
    return -logps.sum() / sum(len(e.response_ids) for e in examples)


def train_sft(
    model: PreTrainedModel, examples: Sequence[Example], training: dict[str, Any], *, n_steps: int, seed: int
) -> list[dict[str, float]]:
    """Train ``model`` in place and return the history of its steps; ``training`` holds the keys of ``Optimisation``."""
    schedule = make_schedule(training, n_steps)
    batches = seeded_batches(len(examples), batch=schedule.batch, n_steps=n_steps, seed=seed)
    return optimise(model, schedule, batches, lambda items: (sft_loss(model, [examples[i] for i in items]), {}))


def make_schedule(training: dict[str, Any], n_steps: int) -> Schedule:
    """Return the schedule of ``n_steps`` with the keys of ``Optimisation``."""
    return Schedule(n_steps, training["batch"], training["lr"], training["shape"], training["warmup"], training["clip"])
