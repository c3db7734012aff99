"""Intervals and paired differences over prompts and seeds.

The unit of evidence is the prompt: answers to one prompt are alike, whichever seed trained the policy. The bootstrap draws
prompts, and independently of them seeds, with replacement (a crossed bootstrap); every answer of a drawn prompt and seed
comes along.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Resamples:
    """One set of bootstrap draws, shared by everything that is compared, so that differences are paired.

    Attributes:
        prompts: how often each prompt is drawn, ``(resamples, prompts)``.
        seeds: how often each seed is drawn, ``(resamples, seeds)``.
    """

    prompts: NDArray
    seeds: NDArray

    @classmethod
    def draw(cls, *, n_prompts: int, n_seeds: int, n_resamples: int, seed: int) -> Resamples:
        """Draw one prompt and one seed less than there are: this makes the bootstrap variance of a mean unbiased.

        A resample of m out of m understates it by the factor (m - 1) / m, which matters for a handful of seeds.
        """
        rng = np.random.default_rng(seed)
        return cls(_counts(rng, n_prompts, n_resamples), _counts(rng, n_seeds, n_resamples))

    def means(self, values: NDArray) -> NDArray:
        """Return the mean of ``values`` ``(seeds, prompts)`` in every resample, ``(resamples,)``."""
        total = ((self.seeds @ values) * self.prompts).sum(1)
        return total / (self.seeds.sum(1) * self.prompts.sum(1))


def _counts(rng: np.random.Generator, n: int, n_resamples: int) -> NDArray:
    if n == 1:
        return np.ones((n_resamples, 1))
    return rng.multinomial(n - 1, np.full(n, 1 / n), size=n_resamples).astype(float)


def estimate(values: NDArray, resamples: Resamples) -> Estimate:
    """Return the mean of ``values`` ``(seeds, prompts)`` with its 95 % percentile interval."""
    low, high = np.quantile(resamples.means(values), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def compare(first: NDArray, second: NDArray, resamples: Resamples) -> tuple[Estimate, float]:
    """Return the paired difference ``first - second`` with its interval, and the two-sided p-value of no difference.

    The p-value is twice the share of resamples on the far side of zero; it cannot be below 2 / (resamples + 1).
    """
    difference = first - second
    means = resamples.means(difference)
    beyond = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (1 + int(beyond)) / (len(means) + 1))
    return estimate(difference, resamples), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number by Holm's step-down method."""
    from statsmodels.stats.multitest import multipletests

    return [float(p) for p in multipletests(p_values, method="holm")[1]] if p_values else []
