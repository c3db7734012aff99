"""DPO with the mean over the negatives of a group: Self-Contrast, SPIN and, for one negative, standard DPO.

``L = (1/k) sum_j softplus(-beta * h_j)`` with ``h_j = (log pi/ref of chosen) - (log pi/ref of rejected j)``.

Source: arXiv 2305.18290, eq. 7; arXiv 2404.00604 (mean over the k pairs of a prompt); arXiv 2401.01335 with lambda = beta.
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
    """Return the loss of each group, shape ``(batch,)``; log 2 where the policy is the reference."""
    from torch.nn.functional import softplus

    return batch.mean(softplus(-params.beta * batch.h))
