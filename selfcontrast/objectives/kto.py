"""KTO over a group: every response is desirable or not by itself, its log-ratio held against the drift of the policy.

``L = (desirable_weight sigmoid(beta (z0 - d_w)) + undesirable_weight sum_j sigmoid(beta (d_j - z0))) / (k + 1)`` with
``d = log(pi/ref)`` and ``z0`` the mean log-ratio of answers to other prompts, at least 0, without gradient.

Source: arXiv 2402.01306, where the loss is the mean of ``weight - value`` over single responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset({"drift"})


class Params(WithBeta):
    """Parameters of the objective."""

    desirable_weight: float = Field(
        1.0,
        gt=0,
        description="weight of the chosen response; k to 4k/3 times the other one balances it against k negatives",
    )
    undesirable_weight: float = Field(1.0, gt=0, description="weight of each negative")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; 0.5 where the policy is the reference and both weights are 1.

    The margin is added to the log-ratio of each negative.
    """
    assert batch.drift is not None  # as NEEDS asks
    drift = batch.drift.detach().clamp(min=0)
    desirable = (params.beta * (drift - batch.chosen_ratio)).sigmoid()
    undesirable = batch.masked((params.beta * (batch.rejected_ratio - drift)).sigmoid()).sum(1)
    total = params.desirable_weight * desirable + params.undesirable_weight * undesirable
    return total / (batch.valid.sum(1) + 1)
