"""Intervals and paired differences over prompts and seeds.

The unit of evidence is the prompt: answers to one prompt are alike, whichever seed trained the policy. The bootstrap draws
prompts, and independently of them seeds, with replacement (a crossed bootstrap); every answer of a drawn prompt and seed
comes along.

Such a bootstrap is too wide where the interaction of prompts and seeds is large (Owen, The pigeonhole bootstrap, Annals of
Applied Statistics, 2007), and too narrow where a handful of seeds carries the variance. So its draws are stretched: to the
unbiased standard error of the mean, and to the tails of Student's t with that error's degrees of freedom (in the manner of
the expanded percentile interval of Hesterberg, American Statistician, 2015). What remains of the bootstrap is its skewness.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from selfcontrast.stats.variance import spread_of_mean

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

    @property
    def of_one_seed(self) -> Resamples:
        """Return the same draws of prompts for a single seed."""
        return Resamples(self.prompts, np.ones((len(self.prompts), 1)))

    def means(self, values: NDArray) -> NDArray:
        """Return the mean of ``values`` ``(..., seeds, prompts)`` in every resample, ``(..., resamples)``.

        A NaN is no value: the mean is over the others. A resample without any is NaN.
        """
        known = ~np.isnan(values)
        if known.all():
            return self._totals(values) / (self.seeds.sum(1) * self.prompts.sum(1))
        with np.errstate(invalid="ignore"):
            return self._totals(np.where(known, values, 0.0)) / self._totals(known.astype(float))

    def _totals(self, values: NDArray) -> NDArray:
        by_seed = (values.reshape(-1, values.shape[-1]) @ self.prompts.T).reshape(*values.shape[:-1], -1)
        return (by_seed * self.seeds.T).sum(-2)


def _counts(rng: np.random.Generator, n: int, n_resamples: int) -> NDArray:
    if n == 1:
        return np.ones((n_resamples, 1))
    return rng.multinomial(n - 1, np.full(n, 1 / n), size=n_resamples).astype(float)


def estimate(values: NDArray, resamples: Resamples) -> Estimate:
    """Return the mean of ``values`` ``(seeds, prompts)`` with its 95 % interval; a NaN is no value."""
    return estimates(values[None], resamples)[0]


def estimates(values: NDArray, resamples: Resamples) -> list[Estimate]:
    """Return the mean of each of ``values`` ``(k, seeds, prompts)`` with its 95 % interval."""
    return [found for found, _ in compare_all(values, resamples)]


def compare(first: NDArray, second: NDArray, resamples: Resamples) -> tuple[Estimate, float]:
    """Return the paired difference ``first - second`` with its interval, and the two-sided p-value of no difference."""
    return compare_all((first - second)[None], resamples)[0]


AT_ONCE = 64
"""Comparisons whose resamples exist at one time."""


def compare_all(differences: NDArray, resamples: Resamples) -> list[tuple[Estimate, float]]:
    """Return mean, 95 % interval and two-sided p-value of no difference for each of ``(k, seeds, prompts)``.

    The p-value is twice the share of the stretched draws on the far side of zero; it cannot be below 2 / (resamples + 1).
    """
    found = []
    for start in range(0, len(differences), AT_ONCE):
        part = differences[start : start + AT_ONCE]
        found += [_of_draws(v, draws) for v, draws in zip(part, resamples.means(part), strict=True)]
    return found


def _of_draws(values: NDArray, draws: NDArray) -> tuple[Estimate, float]:
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan), np.nan
    value = float(values[known].mean())
    draws = draws[~np.isnan(draws)]
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    zero = 0.0
    spread, sd = spread_of_mean(values), float(draws.std())
    if spread.se > 0 and sd > 0:
        # The stretch is monotone: it may be applied to the ends, and its inverse to the zero of the p-value.
        df = max(spread.df, 1.0)
        low, high = (value + spread.se * _t_of_normal((end - value) / sd, df) for end in (low, high))
        zero = value + sd * _normal_of_t(-value / spread.se, df)
    beyond = min((draws <= zero).sum(), (draws >= zero).sum())
    return Estimate(value, float(low), float(high)), min(1.0, 2 * (1 + int(beyond)) / (len(draws) + 1))


def _t_of_normal(z: float, df: float) -> float:
    """Return the quantile of Student's t that a standard normal's quantile ``z`` stands for."""
    # As a lower tail, where small probabilities keep their digits.
    return float(-np.sign(z) * special.stdtrit(df, special.ndtr(-abs(z))))


def _normal_of_t(t: float, df: float) -> float:
    """Return the inverse of ``_t_of_normal``."""
    return float(-np.sign(t) * special.ndtri(special.stdtr(df, -abs(t))))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number by Holm's step-down method; a NaN is no test and stays."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, dtype=float)
    tests = ~np.isnan(adjusted)
    if tests.any():
        adjusted[tests] = multipletests(adjusted[tests], method="holm")[1]
    return [float(p) for p in adjusted]
