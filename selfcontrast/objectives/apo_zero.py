"""APO-zero with the mean over the negatives of a group: raises the chosen response and lowers the negatives, each by itself.

``L = 1 - sigmoid(beta d_w) + (1/k) sum_j sigmoid(beta d_j)`` with ``d = log(pi/ref)``. For chosen responses that are
better than what the policy says.

Source: arXiv 2408.06266, eq. 7; the loss type `apo_zero` of TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithBeta):
    """Parameters of the objective."""


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; 1 where the policy is the reference.

    The margin is added to the log-ratio of each negative.
    """
    chosen, rejected = params.beta * batch.chosen_ratio, params.beta * batch.rejected_ratio
    return (-chosen).sigmoid() + batch.mean(rejected.sigmoid())
