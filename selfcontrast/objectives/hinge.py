"""Hinge loss with the mean over the negatives of a group: ``(1/k) sum_j max(0, 1 - beta * h_j)``; ``h_j`` as in `dpo`.

Source: the loss type `hinge` of uclaml/SPIN at a12ba80 (arXiv 2401.01335); SLiC, arXiv 2305.10425.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.config import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupLogps


class Params(Strict):
    """Parameters of the objective."""

    beta: float = Field(0.1, gt=0, description="the margin is reached at h = 1 / beta")


def loss(policy: GroupLogps, reference: GroupLogps, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; 1 where the policy is the reference."""
    import torch

    chosen = (policy.chosen - reference.chosen)[:, None]
    rejected = torch.where(policy.valid, policy.rejected, 0.0) - torch.where(policy.valid, reference.rejected, 0.0)
    per_negative = torch.where(policy.valid, (1 - params.beta * (chosen - rejected)).clamp(min=0), 0.0)
    return per_negative.sum(1) / policy.valid.sum(1)
