"""DPO-Positive with the mean over the negatives of a group: DPO that keeps the chosen response likely.

``L = (1/k) sum_j softplus(-beta (h_j - penalty_weight max(0, log ref(y_w) - log pi(y_w))))``; ``h_j`` as in `dpo`.

Source: arXiv 2402.13228.
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

    penalty_weight: float = Field(
        50.0,
        ge=0,
        description="nats of h for each nat by which the chosen response became less likely; lambda in the paper",
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; log 2 where the policy is the reference."""
    from torch.nn.functional import relu, softplus

    penalty = params.penalty_weight * relu(-batch.chosen_ratio)
    return batch.mean(softplus(-params.beta * (batch.h - penalty[:, None])))
