"""IPO with the mean over the negatives of a group: ``(1/k) sum_j (h_j - 1 / (2 tau)) ** 2``; ``h_j`` as in `dpo`.

With ``normalise`` every log-ratio is divided by the length of its response before, so that ``h_j`` is in nats per token.

Source: arXiv 2310.12036, eq. 17, with sums of log-probabilities; the loss type `ipo` of TRL with ``normalise``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._average import mean_logps
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(Strict):
    """Parameters of the objective."""

    tau: float = Field(0.1, gt=0, description="the loss is smallest at h = 1 / (2 tau)")
    normalise: bool = Field(
        description="whether h is in nats per token instead of nats: tau then differs by a factor of about the length"
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; ``1 / (4 tau ** 2)`` where the policy is the reference.

    The margin is in the unit of ``h``: nats, or nats per token with ``normalise``.
    """
    h = _h_per_token(batch) if params.normalise else batch.h
    return batch.mean((h - 1 / (2 * params.tau)) ** 2)


def _h_per_token(batch: GroupBatch) -> Tensor:
    chosen, rejected = mean_logps(batch, batch.policy)
    reference_chosen, reference_rejected = mean_logps(batch, batch.reference)
    return (chosen - reference_chosen)[:, None] - (rejected - reference_rejected) - batch.masked(batch.margin)
