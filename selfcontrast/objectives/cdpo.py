"""Conservative DPO with the mean over the negatives of a group: the cross-entropy to labels of which a share is flipped.

``L = (1/k) sum_j ((1 - e) softplus(-beta h_j) + e softplus(beta h_j))`` with ``e`` for ``label_smoothing`` and ``h_j`` as
in `dpo`. Smallest at ``beta h = log((1 - e) / e)``: margins do not grow without end.

Source: Eric Mitchell, "A note on DPO with noisy preferences and relationship to IPO" (2023); `label_smoothing` of his DPO
code.
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
    """Return the loss of each group, shape ``(batch,)``; log 2 where the policy is the reference."""
    from torch.nn.functional import softplus

    z, flipped = params.beta * batch.h, params.label_smoothing
    return batch.mean((1 - flipped) * softplus(-z) + flipped * softplus(z))
