"""CPO with the mean over the negatives of a group: DPO under a uniform reference, and the SFT loss of the chosen response.

``L = (1/k) sum_j softplus(-beta (log pi(y_w) - log pi(y_j))) - sft_weight s_w`` with ``s_w`` the mean log-probability of
the chosen response over its tokens.

Source: arXiv 2401.08417; the SFT term is a mean over tokens as in TRL, but of each group, not of the batch.
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

    beta: float = Field(0.1, gt=0, description="steepness, for gaps in nats; there is no reference to pull to")
    sft_weight: float = Field(
        1.0, ge=0, description="weight of the negative log-likelihood per token of the chosen response"
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; it does not look at the reference, so it has no fixed first value.

    The margin is subtracted from the difference of the log-probabilities, in nats.
    """
    from torch.nn.functional import softplus

    gap = batch.policy.chosen[:, None] - batch.masked(batch.policy.rejected) - batch.masked(batch.margin)
    mean_chosen, _ = mean_logps(batch, batch.policy)
    return batch.mean(softplus(-params.beta * gap)) - params.sft_weight * mean_chosen
