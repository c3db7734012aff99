"""Plackett-Luce likelihood of a whole order: the chosen response first, then the negatives from the best to the worst.

``L = sum_i (logsumexp_{m >= i} r_m - r_i)`` over the places i of the order, with the rewards ``r = beta log(pi/ref)``. A
sum over places: it grows with k. `softmax` is its first place alone.

Source: arXiv 2305.18290, appendix A.3.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from selfcontrast.errors import InputError
from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(WithBeta):
    """Parameters of the objective."""

    order: Literal["given", "score"] = Field(
        "given",
        description="places of the negatives: as they stand in the group, or by falling score of the selection's scorer",
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; log((1 + k)!) where the policy is the reference.

    The margin is added to the log-ratio of each negative: among negatives only its differences count.

    Raises:
        InputError: the order of the scores is asked for, and there are none.
    """
    import torch

    order = _order(batch, params)
    rejected = params.beta * batch.rejected_ratio.gather(1, order)
    rewards = torch.cat([params.beta * batch.chosen_ratio[:, None], rejected], dim=1)
    valid = torch.cat([torch.ones_like(batch.valid[:, :1]), batch.valid.gather(1, order)], dim=1)
    # (batch, place, response): who is left when a place is filled. Nobody is left for a last slot that is not valid: its
    # logsumexp is -inf, without gradient, and overwritten.
    places = rewards.shape[1]
    left = torch.ones(places, places, dtype=torch.bool, device=rewards.device).triu() & valid[:, None, :]
    terms = rewards[:, None, :].masked_fill(~left, -math.inf).logsumexp(2) - rewards
    return terms.masked_fill(~valid, 0.0).sum(1)


def _order(batch: GroupBatch, params: Params) -> Tensor:
    """Return the slots of the negatives from the first place to the last, ``(batch, k)``; equal scores as they stand."""
    import torch

    if params.order == "given":
        return torch.arange(batch.valid.shape[1], device=batch.valid.device).expand_as(batch.valid)
    if batch.score is None:
        raise InputError(
            "the objective `plackett_luce` orders the negatives by their scores",
            expected="a score of every negative",
            found="a selection without a scorer",
            remedy="give the selection a `scorer`, or set the objective's `order: given`",
        )
    return batch.masked(batch.score, fill=-math.inf).argsort(dim=1, descending=True, stable=True)
