"""SimPO with the mean over the negatives of a group: no reference, log-probabilities per token, and a target margin.

``L = (1/k) sum_j softplus(-beta (s_w - s_j - gamma_ratio))`` with ``s`` the mean log-probability of a response over its
tokens.

Source: arXiv 2405.14734; ``gamma_ratio`` is `gamma_beta_ratio` of princeton-nlp/SimPO. No SFT term.
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

    beta: float = Field(2.0, gt=0, description="steepness, for gaps in nats per token; usual range 2 to 10")
    gamma_ratio: float = Field(
        0.5, ge=0, description="gamma / beta: by how many nats per token the chosen response must be likelier"
    )


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; it does not look at the reference, so it has no fixed first value.

    The margin of the batch is added to ``gamma_ratio``: nats per token.
    """
    from torch.nn.functional import softplus

    chosen, rejected = mean_logps(batch, batch.policy)
    gap = chosen[:, None] - rejected - params.gamma_ratio - batch.masked(batch.margin)
    return batch.mean(softplus(-params.beta * gap))
