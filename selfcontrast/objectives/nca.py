"""NCA with the chosen response as the only right one: raises its reward and lowers those of all k + 1 responses.

``L = softplus(-r_w) + (softplus(r_w) + sum_j softplus(r_j)) / (k + 1)`` with the rewards ``r = beta log(pi/ref)``. Unlike
`softmax` it holds the rewards against 0, not against each other.

Source: arXiv 2402.05369, with all weight on the chosen response; for k = 1 the loss type `nca_pair` of TRL.
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
    """Return the loss of each group, shape ``(batch,)``; 2 log 2 where the policy is the reference.

    The margin is added to the log-ratio of each negative.
    """
    from torch.nn.functional import softplus

    chosen, rejected = params.beta * batch.chosen_ratio, params.beta * batch.rejected_ratio
    lowered = softplus(chosen) + batch.masked(softplus(rejected)).sum(1)
    return softplus(-chosen) + lowered / (batch.valid.sum(1) + 1)
