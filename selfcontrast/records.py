"""The rows that steps and plug-ins exchange."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

TARGET = "target"
"""Id of the SFT target among the responses to a prompt; the others are ``<pool>.<number>``."""


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
    """Log-probabilities of a batch of groups under one model: sums over response tokens, in nats.

    Attributes:
        chosen: ``(batch,)``.
        rejected: ``(batch, k)``; any finite or infinite number where ``valid`` is False.
        valid: ``(batch, k)``, False where a group has fewer than k negatives.
    """

    chosen: Tensor
    rejected: Tensor
    valid: Tensor
