"""SPPO with hard labels and the mean over the negatives of a group: a regression of each log-ratio on a fixed value.

``L = (d_w - 1 / (2 beta)) ** 2 + (1/k) sum_j (d_j + 1 / (2 beta)) ** 2`` with ``d = log(pi/ref)``. The probability of a
win is taken as 1 for the chosen response and 0 for the negatives.

Source: arXiv 2405.00675, eq. 4.7 with eta = 1 / beta; the loss type `sppo_hard` of TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(Strict):
    """Parameters of the objective."""

    beta: float = Field(0.1, gt=0, description="the log-ratios aim at 1 / (2 beta) nats and at minus that")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; ``1 / (2 beta ** 2)`` where the policy is the reference.

    The margin is added to the log-ratio of each negative.
    """
    aim = 1 / (2 * params.beta)
    return (batch.chosen_ratio - aim) ** 2 + batch.mean((batch.rejected_ratio + aim) ** 2)
