"""Supervised fine-tuning on the responses alone: the prompt, all earlier turns included, is context.

Source: arXiv 2404.00604, section 3 (last turn only). The loss is the mean over the response tokens of the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from selfcontrast.logprobs import Sharing, response_logps
from selfcontrast.training.loop import Schedule, optimise, seeded_batches

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class Example:
    """One prompt and the responses that are trained on, EOS included, as token ids; one response, as a rule."""

    prompt_ids: list[int]
    responses: list[list[int]]


def sft_loss(model: PreTrainedModel, examples: Sequence[Example]) -> Tensor:
    """Return the mean negative log-likelihood of a response token, in nats."""
    # One response to a prompt gains nothing from running the prompt apart.
    sharing: Sharing = "prefix" if any(len(e.responses) > 1 for e in examples) else "rows"
    logps = response_logps(model, [e.prompt_ids for e in examples], [e.responses for e in examples], sharing=sharing)
    return -logps.sum() / sum(len(r) for e in examples for r in e.responses)


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
