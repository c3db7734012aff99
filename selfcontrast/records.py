"""The rows that steps and plug-ins exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "target"
"""Id of the SFT target among the responses to a prompt; the others are ``<pool>.<number>``."""

UNREADABLE = "ids_without_token"
"""Count, in reports of steps that sample: sampled ids that are no token of the tokenizer, so that texts lack them."""

ELSEWHERE = "elsewhere"
"""Id, among reference log-probabilities, of an answer to another prompt: the target of the prompt that follows."""


TRAINING_PROMPT = "training_prompt_ids"
"""Column of a prompt as training reads it; only where that is another one than sampling reads."""


def training_column(encoded: Mapping[str, Any]) -> str:
    """Return the column of the prompts that training and reference log-probabilities read.

    Args:
        encoded: manifest of the step ``encode``.
    """
    return TRAINING_PROMPT if encoded["report"].get("trains_apart") else "prompt_ids"


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True)
class Dialogue:
    """One record of a data set in the canonical form.

    Attributes:
        messages: the prompt: every turn before the last answer; the last of them is the user's.
        target: the answer that is trained on.
        rejected: the data set's own worse answers to the same prompt, none if it has no annotation.
        row: number of the record in its file, from 1.
    """

    messages: tuple[Message, ...]
    target: str
    rejected: tuple[str, ...]
    row: int


@dataclass(frozen=True)
class BadRecord:
    """A record that cannot be used; ``reason`` is one of few fixed phrases, since records are counted by it."""

    reason: str
    row: int


WRONG_WAY_ROUND = "the rejected answer scores higher than the chosen one"
"""Reason of a record whose own scores contradict its preference: many of them are a data set that is turned round."""


@dataclass(frozen=True)
class Answer:
    """One response of a pool.

    Attributes:
        response_id: ``<pool>.<number>``, unique within the prompt.
        text: what was answered.
        score: what the selection's scorer gave it; None if the selection has no scorer.
    """

    response_id: str
    text: str
    score: float | None = None


@dataclass(frozen=True)
class PromptPool:
    """The responses to one prompt, in the order in which they were sampled, and the SFT target."""

    prompt_id: str
    target: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Candidates:
    """What a selection offers for one prompt.

    Attributes:
        chosen: response id of the preferred answer.
        rejected: response ids from which the negatives are drawn, in pool order.
        left_out: number of answers that are no candidates, by reason.
    """

    chosen: str
    rejected: tuple[str, ...]
    left_out: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Group:
    """One prompt's chosen response and its rejected ones, by response id."""

    prompt_id: str
    chosen: str
    rejected: tuple[str, ...]


@dataclass(frozen=True)
class GroupLogps:
    """Log-probabilities of a batch of groups under one model, in nats, summed over response tokens.

    ``k`` is the largest number of negatives in the batch; groups with fewer have slots that hold anything, even infinities.

    Attributes:
        chosen: ``(batch,)``.
        rejected: ``(batch, k)``.
        chosen_shared: ``(batch, k)``: of the chosen response, only its first ``min(chosen length, length of rejected j)``
            tokens. None where no objective needs it.
        rejected_shared: ``(batch, k)``: the same tokens of rejected response j.
    """

    chosen: Tensor
    rejected: Tensor
    chosen_shared: Tensor | None = None
    rejected_shared: Tensor | None = None


@dataclass(frozen=True)
class GroupBatch:
    """What an objective sees of a batch of groups: one chosen and up to k rejected responses to each prompt.

    Attributes:
        policy: of the model that is trained, with gradients.
        reference: of the frozen model.
        valid: ``(batch, k)``, False in the slots of groups with fewer than k negatives.
        chosen_length: tokens of the chosen responses, EOS included, ``(batch,)``.
        rejected_length: ``(batch, k)``.
        margin: nats by which the log-ratio of the chosen response must exceed that of each negative, ``(batch, k)``.
        score: what the selection's scorer gave each negative, ``(batch, k)``; None where it has no scorer.
        drift: mean log-ratio of answers to other prompts under the policy, a scalar without gradient; an estimate of
            the divergence of policy and reference. None where no objective needs it.
    """

    policy: GroupLogps
    reference: GroupLogps
    valid: Tensor
    chosen_length: Tensor
    rejected_length: Tensor
    margin: Tensor
    score: Tensor | None = None
    drift: Tensor | None = None

    # Slots that are not valid are overwritten before any arithmetic: what stands there, even -inf, must reach neither a
    # value nor a gradient.

    @property
    def chosen_ratio(self) -> Tensor:
        """Return log policy - log reference of the chosen responses, ``(batch,)``."""
        return self.policy.chosen - self.reference.chosen

    @property
    def rejected_ratio(self) -> Tensor:
        """Return log policy - log reference of the negatives, plus their margin, ``(batch, k)``; 0 where not valid."""
        return self.masked(self.policy.rejected) - self.masked(self.reference.rejected) + self.masked(self.margin)

    @property
    def h(self) -> Tensor:
        """Return the log-ratio of the chosen response minus that of each negative and its margin, ``(batch, k)``."""
        return self.chosen_ratio[:, None] - self.rejected_ratio

    def masked(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Return ``values`` of shape ``(batch, k)`` with ``fill`` in the slots that are not valid."""
        return values.masked_fill(~self.valid, fill)

    def mean(self, per_negative: Tensor) -> Tensor:
        """Return the mean over the negatives of each group, ``(batch,)``."""
        return self.masked(per_negative).sum(1) / self.valid.sum(1)
