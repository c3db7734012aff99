"""Robust DPO with the mean over the negatives of a group: an unbiased loss where a share of pairs is flipped.

``L = (1/k) sum_j ((1 - e) softplus(-beta h_j) - e softplus(beta h_j)) / (1 - 2 e)`` with ``e`` for ``label_smoothing``
and ``h_j`` as in `dpo`. Without lower bound: about ``-e beta h / (1 - 2 e)`` for large ``h``.

Source: arXiv 2403.00409; the loss type `robust` of TRL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.objectives._params import WithLabelSmoothing

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithLabelSmoothing):
    """Parameters of the objective."""


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``, possibly negative; log 2 where the policy is the reference."""
    from torch.nn.functional import softplus

    z, flipped = params.beta * batch.h, params.label_smoothing
    return batch.mean(((1 - flipped) * softplus(-z) - flipped * softplus(z)) / (1 - 2 * flipped))
