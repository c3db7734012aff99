"""EXO on pairs with the mean over the negatives of a group: the divergence of the policy's preference from smoothed labels.

``L = (1/k) sum_j KL((s_j, 1 - s_j) || (1 - e, e))`` with ``s_j = sigmoid(beta h_j)``, ``e`` for ``label_smoothing`` and
``h_j`` as in `dpo`. Smallest, 0, at ``beta h = log((1 - e) / e)``; `cdpo` turns the divergence around.

Source: arXiv 2402.00856, eq. 16; the loss type `exo_pair` of TRL.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithBeta):
    """Parameters of the objective."""

    label_smoothing: float = Field(
        1e-3, gt=0, lt=0.5, description="probability that the labels leave to the negative of a pair"
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; ``-log 2 - log(e (1 - e)) / 2`` where policy is reference."""
    from torch.nn.functional import logsigmoid

    z = params.beta * batch.h
    right, wrong = logsigmoid(z), logsigmoid(-z)
    to_right = right - math.log1p(-params.label_smoothing)
    to_wrong = wrong - math.log(params.label_smoothing)
    return batch.mean(right.exp() * to_right + wrong.exp() * to_wrong)
