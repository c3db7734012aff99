"""APO-down with the mean over the negatives of a group: lowers the chosen response, and the negatives more.

``L = sigmoid(beta d_w) + (1/k) sum_j (1 - sigmoid(beta (d_w - d_j)))`` with ``d = log(pi/ref)``. For chosen responses
that are worse than what the policy says: at first it does not move them, then it lowers them.

Source: arXiv 2408.06266, eq. 8; the loss type `apo_down` of TRL.
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
    """Return the loss of each group, shape ``(batch,)``; 1 where the policy is the reference."""
    return (params.beta * batch.chosen_ratio).sigmoid() + batch.mean((-params.beta * batch.h).sigmoid())
