"""ORPO with the mean over the negatives of a group: the SFT loss and the odds of the chosen response against the negatives.

``L = -s_w + odds_weight (1/k) sum_j softplus(o_j - o_w)`` with ``s`` the mean log-probability of a response over its
tokens and ``o = s - log(1 - exp(s))`` its log-odds. No reference: meant to start from a base model.

Source: arXiv 2403.07691.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._average import mean_logps
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset()


class Params(Strict):
    """Parameters of the objective."""

    odds_weight: float = Field(
        0.1, ge=0, description="weight of the odds ratio beside the SFT loss; lambda in the paper"
    )


CLOSEST_TO_ONE = -1e-6
"""Mean log-probability up to which odds are computed: those of 0 are infinite, and so is their gradient."""


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; it does not look at the reference, so it has no fixed first value.

    The margin is subtracted from the difference of the log-odds.
    """
    from torch.nn.functional import softplus

    chosen, rejected = mean_logps(batch, batch.policy)
    gap = _log_odds(chosen)[:, None] - _log_odds(rejected) - batch.masked(batch.margin)
    return params.odds_weight * batch.mean(softplus(-gap)) - chosen


def _log_odds(mean_logp: Tensor) -> Tensor:
    # expm1 keeps the digits of 1 - exp(s) for s near 0, where log1p(-exp(s)) loses them.
    mean_logp = mean_logp.clamp(max=CLOSEST_TO_ONE)
    return mean_logp - (-mean_logp.expm1()).log()
