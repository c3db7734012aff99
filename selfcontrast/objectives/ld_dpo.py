"""LD-DPO with the mean over the negatives of a group: DPO in which the tokens that only the longer response has count less.

As `dpo`, with ``shared + alpha (whole - shared)`` for each log-probability, of policy and reference alike: ``shared`` is
that of the first tokens, as many as both responses of a pair have. ``alpha`` = 1 is `dpo`.

Source: arXiv 2409.06411; `ld_alpha` of TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch, GroupLogps


NEEDS: frozenset[str] = frozenset({"shared"})


class Params(WithBeta):
    """Parameters of the objective."""

    alpha: float = Field(ge=0, le=1, description="weight of the tokens beyond the length of the shorter response")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; log 2 where the policy is the reference."""
    from torch.nn.functional import softplus

    gap = _gap(batch, batch.policy, params.alpha) - _gap(batch, batch.reference, params.alpha)
    return batch.mean(softplus(-params.beta * (gap - batch.masked(batch.margin))))


def _gap(batch: GroupBatch, logps: GroupLogps, alpha: float) -> Tensor:
    """Return the weighted log-probability of the chosen response minus that of each negative, ``(batch, k)``."""
    assert logps.chosen_shared is not None and logps.rejected_shared is not None  # as NEEDS asks
    shared = batch.masked(logps.chosen_shared) - batch.masked(logps.rejected_shared)
    whole = logps.chosen[:, None] - batch.masked(logps.rejected)
    return (1 - alpha) * shared + alpha * whole
