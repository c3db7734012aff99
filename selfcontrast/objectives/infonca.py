"""InfoNCA with soft labels: the cross-entropy of the rewards of the chosen response and all negatives to their scores.

``L = -sum_i q_i log softmax(r)_i`` over the k + 1 responses, with ``q = softmax(score / temperature)`` and the rewards
``r = beta log(pi/ref)``. The chosen response has ``chosen_score``. With a low temperature and the highest score on the
chosen response it is `softmax`; a negative whose label exceeds its share is raised.

Source: arXiv 2402.05369.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pydantic import Field

from selfcontrast.objectives._params import WithBeta

if TYPE_CHECKING:
    from torch import Tensor

    from selfcontrast.records import GroupBatch


NEEDS: frozenset[str] = frozenset({"score"})


class Params(WithBeta):
    """Parameters of the objective."""

    temperature: float = Field(gt=0, description="in units of the scores; the lower, the more the best score counts")
    chosen_score: float = Field(1.0, description="score of the chosen response; 1 for the target of a similarity")


def loss(batch: GroupBatch, params: Params) -> Tensor:
    """Return the loss of each group, shape ``(batch,)``; log(1 + k) where the policy is the reference.

    The margin is added to the log-ratio of each negative.
    """
    import torch

    assert batch.score is not None  # as NEEDS asks
    chosen_score = torch.full_like(batch.chosen_ratio, params.chosen_score)
    scores = torch.cat([chosen_score[:, None], batch.masked(batch.score, fill=-math.inf)], dim=1)
    labels = (scores / params.temperature).softmax(1)
    rewards = params.beta * torch.cat([batch.chosen_ratio[:, None], batch.rejected_ratio], dim=1)
    # The labels sum to 1, so that the normaliser stands outside; slots that are not valid have label 0 and reward 0.
    in_sum = torch.cat([rewards[:, :1], batch.masked(rewards[:, 1:], fill=-math.inf)], dim=1)
    return in_sum.logsumexp(1) - (labels * rewards).sum(1)
