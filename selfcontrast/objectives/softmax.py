"""Softmax over the chosen response and all negatives of a group: S-DPO, one-hot InfoNCA, first place of Plackett-Luce.

``L = log(1 + sum_j exp(-beta h_j))``; ``h_j`` as in `dpo`. A sum, no mean: it grows with k, and so does the gradient of
the chosen response, k / (k + 1) * beta at first against beta / 2 of `dpo`; the negatives that the policy likes best weigh
most.

Source: arXiv 2406.09215 (S-DPO); arXiv 2402.05369 (InfoNCA).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithBeta):
    """Parameters of the objective."""


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; log(1 + k) where the policy is the reference."""
    from torch.nn.functional import softplus

    # log(1 + exp(logsumexp)): the exponential of a far margin alone overflows.
    return softplus(batch.masked(-params.beta * batch.h, fill=-math.inf).logsumexp(1))
