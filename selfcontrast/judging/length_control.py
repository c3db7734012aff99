"""Win rate at equal length: what a pairwise judge would say of answers as long as the baseline's.

A logistic model ``p = sigmoid(theta + phi * tanh(d / sd(d)) + psi * difficulty)`` is fitted to the judge's preferences of one
arm, ``d`` being the characters of the baseline's answer minus those of the arm's; the rate is the mean of its predictions at
d = 0. The strength of its L1 penalty is chosen by five-fold cross-validation over prompts.

Source: arXiv 2404.04475 and tatsu-lab/alpaca_eval 0.6.6, `metrics/glm_winrate.py`, without its regularisation to two gamed
baselines, which needs preferences that are on the Hugging Face hub alone: it is `length_controlled_noreg` there. With equal
difficulties the two agree to rounding (tested). The difficulties here are estimated from the other arms of the study, so this
rate compares arms within a study and not with a leaderboard: it is called `length_controlled_within_study`. `alpaca_rate` has
the published one.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_FOLDS = 5
STRENGTHS = np.logspace(-4, 4, 10)
"""Inverse strengths of the penalty that are tried."""

LEAST_WEIGHT = 1e-9
"""Of a win or a loss that is certain."""

LEAST_ARMS = 3
"""Arms whose preferences a difficulty is the mean of, at least; below, the model has no such term."""


@dataclass(frozen=True)
class LengthControlled:
    """A length-controlled win rate.

    Attributes:
        rate: between 0 and 1.
        se: standard error over prompts, those behind the fitted model included: that of a sum of influences (sandwich).
        se_of_predictions: that of the mean prediction, as AlpacaEval gives it: the model is taken for certain, so that it is
            0 where no prompt is harder than another.
        length_weight: phi; below 0 the judge prefers longer answers than the baseline's.
        n: prompts behind it.
    """

    rate: float
    se: float
    length_weight: float
    n: int
    se_of_predictions: float


def length_controlled(
    share: NDArray,
    n_chars: NDArray,
    n_chars_baseline: NDArray,
    difficulty: NDArray | None = None,
    prompts: Sequence[Hashable] | None = None,
) -> LengthControlled | None:
    """Return the win rate at equal length; None for fewer prompts than folds.

    Args:
        share: preference for the arm over the baseline, between 0 and 1, ``(prompts,)``; NaN where there is none.
        n_chars: characters of the arm's answers.
        n_chars_baseline: characters of the baseline's.
        difficulty: of each prompt, on any scale around 0, from others than this arm.
        prompts: of each preference, where a prompt has several; they are not taken for independent.
    """
    delta = (n_chars_baseline - n_chars).astype(float)
    spread = delta.std(ddof=1) if len(delta) > 1 else 0.0
    columns = [np.tanh(delta / spread) if spread else np.zeros(len(delta))]
    if difficulty is not None:
        columns.append(difficulty)
    features = np.stack([*columns, np.ones(len(delta))], axis=1)
    known = ~np.isnan(share)
    if known.sum() < N_FOLDS:
        return None
    if np.ptp(share[known]) == 0:  # nothing that length could explain; and the solver fails where every game is lost
        return LengthControlled(float(share[known][0]), 0.0, 0.0, int(known.sum()), 0.0)
    weights = _fit(features[known], share[known])
    level = features.copy()
    level[:, 0] = 0.0
    predicted = _sigmoid(level @ weights)
    owner = np.unique(np.arange(len(share)) if prompts is None else np.array(prompts), return_inverse=True)[1]
    se = _standard_error(features[known], level[known], share[known], weights, owner[known])
    of_predictions = float(predicted.std(ddof=1) / np.sqrt(len(predicted)))
    return LengthControlled(float(predicted.mean()), se, float(weights[0]), int(known.sum()), of_predictions)


def _sigmoid(logits: NDArray) -> NDArray:
    return np.asarray(1 / (1 + np.exp(-logits)))


def _standard_error(features: NDArray, level: NDArray, share: NDArray, weights: NDArray, owner: NDArray) -> float:
    """Return the standard error of the mean prediction at ``level``, of a model fitted to ``share``, both over prompts.

    A prompt moves the rate by its own prediction and, through the weights, by its residual. The penalty is left out.
    """
    p, q = _sigmoid(features @ weights), _sigmoid(level @ weights)
    curvature = (features * (p * (1 - p))[:, None]).T @ features / len(p)
    slope = (level * (q * (1 - q))[:, None]).mean(0)
    influence = q - q.mean() + (features * (share - p)[:, None]) @ np.linalg.pinv(curvature) @ slope
    sums = np.bincount(owner, weights=influence)[np.unique(owner)]
    return float(np.sqrt(len(sums) / max(len(sums) - 1, 1) * (sums**2).sum()) / len(p))


def difficulties(shares: NDArray) -> NDArray | None:
    """Return the standardised mean logit of each prompt over all other arms, ``(arms, prompts)``; None for too few arms.

    Preferences of exactly 0 and 1 count as 0.01 and 0.99; an arm without preference for a prompt takes no part in it.

    Args:
        shares: preferences for each arm over the baseline, ``(arms, prompts)``, NaN where there is none.
    """
    if len(shares) <= LEAST_ARMS:
        return None
    clipped = np.clip(shares, 0.01, 0.99)
    logits = np.log(clipped / (1 - clipped))
    there = ~np.isnan(logits)
    total, count = np.where(there, logits, 0.0).sum(0), there.sum(0)
    others = (total - np.where(there, logits, 0.0)) / np.maximum(count - there, 1)
    spread = others.std(1, keepdims=True)
    return (others - others.mean(1, keepdims=True)) / np.where(spread > 0, spread, 1.0)


def _fit(features: NDArray, share: NDArray) -> NDArray:
    """Return the weights of the logistic model with the penalty that predicts held-out prompts best."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold

    # A preference of 0.7 is a win of weight 0.7 and a loss of weight 0.3. No weight may be 0: the solver drops such rows, and
    # where a fold has no win it takes the losses for wins.
    n = len(share)
    share = np.clip(share, LEAST_WEIGHT, 1 - LEAST_WEIGHT)
    rows, wins = np.tile(features, (2, 1)), np.repeat([1, 0], n)
    weights, group = np.concatenate([share, 1 - share]), np.tile(np.arange(n), 2)

    def fitted(strength: float, part: NDArray) -> LogisticRegression:
        model = LogisticRegression(C=strength, l1_ratio=1.0, solver="liblinear", fit_intercept=False, random_state=123)
        return model.fit(rows[part], wins[part], sample_weight=weights[part])

    folds = list(GroupKFold(N_FOLDS).split(rows, wins, group))
    losses = [np.mean([_loss(fitted(c, a), rows[b], share[group[b]]) for a, b in folds]) for c in STRENGTHS]
    best = STRENGTHS[int(np.argmin(losses))]
    return np.asarray(fitted(best, np.arange(2 * n)).coef_[0], dtype=float)


def _loss(model: object, rows: NDArray, share: NDArray) -> float:
    p = np.clip(model.predict_proba(rows)[:, 1], 1e-15, 1 - 1e-15)  # type: ignore[attr-defined]
    return float(-np.mean(share * np.log(p) + (1 - share) * np.log(1 - p)))
