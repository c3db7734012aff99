"""BCO on pairs with the mean over the negatives of a group: a classifier of responses whose logit is the reward.

``L = softplus(delta - r_w) + (1/k) sum_j softplus(r_j - delta)`` with the rewards ``r = beta log(pi/ref)``.

Source: arXiv 2404.04656, with a constant for the running mean of the rewards; the loss type `bco_pair` of TRL for 0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithBeta):
    """Parameters of the objective."""

    delta: float = Field(0.0, description="reward at which a response is as likely good as bad")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; 2 log 2 where the policy is the reference and ``delta`` is 0.

    The margin is added to the log-ratio of each negative.
    """
    from torch.nn.functional import softplus

    chosen, rejected = params.beta * batch.chosen_ratio, params.beta * batch.rejected_ratio
    return softplus(params.delta - chosen) + batch.mean(softplus(rejected - params.delta))
