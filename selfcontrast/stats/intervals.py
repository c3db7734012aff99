"""Intervals and paired differences over prompts and seeds.

The unit of evidence is the prompt: answers to one prompt are alike, whichever seed trained the policy. The bootstrap draws
prompts with replacement, and every answer of a drawn prompt comes along. It gives the shape of the sampling distribution.

Its width would know nothing of the seeds. A bootstrap that draws seeds too, crossed with prompts, is too wide where prompts
and seeds interact (Owen, The pigeonhole bootstrap, Annals of Applied Statistics, 2007), and too narrow for a handful of
seeds. So the draws are stretched: to the unbiased standard error of the mean over prompts and seeds, and to the tails of
Student's t with that error's degrees of freedom (in the manner of the expanded percentile interval of Hesterberg, American
Statistician, 2015).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import special

from selfcontrast.stats.laws import Law
from selfcontrast.stats.moderation import LEAST_ARMS, moderate
from selfcontrast.stats.variance import Parts, spread_of_mean

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
    """

    prompts: NDArray

    @classmethod
    def draw(cls, *, n_prompts: int, n_resamples: int, seed: int) -> Resamples:
        """Draw as many prompts as there are, with replacement."""
        rng = np.random.default_rng(seed)
        return cls(rng.multinomial(n_prompts, np.full(n_prompts, 1 / n_prompts), size=n_resamples).astype(float))

    def means(self, values: NDArray) -> NDArray:
        """Return the mean of ``values`` ``(..., seeds, prompts)`` in every resample, ``(..., resamples)``.

        A NaN is no value: the mean is over the others. A resample without any is NaN.
        """
        known = ~np.isnan(values)
        n_known = known.sum(-2) @ self.prompts.T
        with np.errstate(invalid="ignore"):
            return np.where(known, values, 0.0).sum(-2) @ self.prompts.T / n_known


def estimate(values: NDArray, resamples: Resamples) -> Estimate:
    """Return the mean of ``values`` ``(seeds, prompts)`` with its 95 % interval; a NaN is no value."""
    return estimates(values[None], resamples)[0]


def estimates(values: NDArray, resamples: Resamples) -> list[Estimate]:
    """Return the mean of each of ``values`` ``(k, seeds, prompts)`` with its 95 % interval."""
    return [found for found, _ in compare_all(values, resamples)]


def mean_interval(values: NDArray) -> Estimate:
    """Return the mean of ``values`` ``(seeds, prompts)`` with its 95 % interval by Student's t; a NaN is no value.

    Standard error and degrees of freedom are those of ``spread_of_mean``, as in the other intervals, but there are no draws:
    for tens of thousands of questions, whose mean is as good as normal.
    """
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan)
    value, spread = float(values[known].mean()), spread_of_mean(values)
    half = 0.0 if spread.se == 0 else spread.se * float(special.stdtrit(max(spread.df, 1.0), (1 + LEVEL) / 2))
    return Estimate(value, value - half, value + half)


def compare(first: NDArray, second: NDArray, resamples: Resamples) -> tuple[Estimate, float]:
    """Return the paired difference ``first - second`` with its interval, and the two-sided p-value of no difference."""
    return compare_all((first - second)[None], resamples)[0]


AT_ONCE = 64
"""Comparisons whose resamples exist at one time."""


def compare_all(differences: NDArray, resamples: Resamples) -> list[tuple[Estimate, float]]:
    """Return mean, 95 % interval and two-sided p-value of no difference for each of ``(k, seeds, prompts)``, each by itself.

    The p-value is twice the share of the stretched draws on the far side of zero. Where no draw is, it is that of Student's
    t, and at most 2 / (resamples + 1): a floor there would leave nothing significant after Holm's correction of many
    comparisons. What has fewer than two prompts with a value for every seed has neither an interval nor a p-value (NaN).
    """
    laws = [Law.of_spread(spread_of_mean(v)) for v in differences]
    return _with_draws(differences, laws, resamples)


@dataclass(frozen=True)
class Found:
    """A mean of a family, by the family's variance of seeds and by its own.

    Attributes:
        estimate, p: what is reported: mean, interval and two-sided p-value of no difference.
        unpooled, p_unpooled: the same from the variance of this mean alone.
        variance: the variance that was used: ``moderated``, ``own``, or ``prompts`` where one seed says nothing of seeds.
    """

    estimate: Estimate
    p: float
    unpooled: Estimate
    p_unpooled: float
    variance: str


def compare_family(differences: NDArray, resamples: Resamples) -> list[Found]:
    """Return what is found of each of ``(k, seeds, prompts)``, with strength borrowed from each other for their seeds.

    Those without any variance and those without an interval lend nothing and borrow nothing; neither does a family of fewer
    than ``LEAST_ARMS``, or one with a single seed (``moderation``).

    Args:
        differences: of arms that are trained alike, to one and the same opponent; or the means of such arms.
        resamples: draws over their prompts.
    """
    spreads = [spread_of_mean(v) for v in differences]
    own = compare_all(differences, resamples)
    name = "own" if differences.shape[1] > 1 else "prompts"
    found = [Found(e, p, e, p, name) for e, p in own]
    lend = [i for i, spread in enumerate(spreads) if spread.se > 0]
    if name == "own" and len(lend) >= LEAST_ARMS:
        law = moderate(Parts.of_arms([differences[i] for i in lend]))
        moderated = _with_draws(differences[lend], [law[j] for j in range(len(lend))], resamples)
        for i, (estimate, p) in zip(lend, moderated, strict=True):
            found[i] = Found(estimate, p, *own[i], "moderated")
    return found


def _with_draws(values: NDArray, laws: Sequence[Law], resamples: Resamples) -> list[tuple[Estimate, float]]:
    found = []
    for start in range(0, len(values), AT_ONCE):
        part = values[start : start + AT_ONCE]
        draws = resamples.means(part)
        found += [_of_draws(*each) for each in zip(part, draws, laws[start : start + AT_ONCE], strict=True)]
    return found


def _of_draws(values: NDArray, draws: NDArray, law: Law) -> tuple[Estimate, float]:
    known = ~np.isnan(values)
    if not known.any():
        return Estimate(np.nan, np.nan, np.nan), np.nan
    value = float(values[known].mean())
    draws = draws[~np.isnan(draws)]
    sd = float(draws.std())
    if np.isnan(law.errors).any():
        return Estimate(value, np.nan, np.nan), np.nan
    if not law.errors.any():  # every prompt says the same: what is left is the sign test
        return Estimate(value, value, value), 1.0 if value == 0 else 2.0 ** (1 - int(known.any(0).sum()))
    # Without differences between prompts there is no shape but that of Student's t.
    shape = (draws - draws.mean()) / sd if sd > 0 else special.ndtri((np.arange(len(draws)) + 0.5) / len(draws))
    # The stretch is monotone: it may be applied to the ends, and its inverse to the zero of the p-value.
    ends = np.quantile(shape, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    low, high = (value + law.of_normal(end) for end in ends)
    zero = law.normal_of(-value)
    n_beyond = int(min((shape <= zero).sum(), (shape >= zero).sum()))
    p = min(1.0, 2 * (1 + n_beyond) / (len(draws) + 1))
    if n_beyond == 0:
        p = min(p, float(law.two_sided(value)))
    return Estimate(value, low, high), p


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number by Holm's step-down method; a NaN is no test and stays."""
    from statsmodels.stats.multitest import multipletests

    adjusted = np.array(p_values, dtype=float)
    tests = ~np.isnan(adjusted)
    if tests.any():
        adjusted[tests] = multipletests(adjusted[tests], method="holm")[1]
    return [float(p) for p in adjusted]
