"""Hinge loss with the mean over the negatives of a group: ``(1/k) sum_j max(0, 1 - beta * h_j)``; ``h_j`` as in `dpo`.

Source: the loss type `hinge` of uclaml/SPIN at a12ba80 (arXiv 2401.01335); SLiC, arXiv 2305.10425.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(Strict):
    """Parameters of the objective."""

    beta: float = Field(0.1, gt=0, description="the margin is reached at h = 1 / beta")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; 1 where the policy is the reference."""
    return batch.mean((1 - params.beta * batch.h).clamp(min=0))
