"""The smallest difference that a study could have seen, and what a larger study would see."""

from __future__ import annotations

import math

from selfcontrast.stats.intervals import LEVEL
from selfcontrast.stats.variance import Components

POWER = 0.8
"""Chance with which a difference of the smallest visible size is found."""


def smallest_difference(components: Components, *, prompts: float = 1, seeds: float = 1, samples: float = 1) -> float:
    """Return the true difference that a two-sided test at 5 % finds with 80 % power, in units of the metric.

    The test is Student's t with the standard error of the paired difference and Satterthwaite's degrees of freedom, as in
    the intervals; the power is that of the noncentral t distribution. Not corrected for several comparisons.

    Args:
        components: of the paired differences of two arms.
        prompts: how many times as many prompts the study would have; so for ``seeds`` and ``samples``. With a single
            seed the variance of seeds is unknown, and the difference is one between these very trainings.

    Returns:
        NaN where the study cannot tell: for more seeds or samples than one, if it has but one; without any variance.
    """
    from scipy import special

    if (components.n_seeds == 1 and seeds != 1) or (components.n_samples == 1 and samples != 1):
        return math.nan
    spread = components.spread(prompts=prompts, seeds=seeds, samples=samples)
    if not spread.se > 0:
        return math.nan
    df = min(max(spread.df, 1.0), 1e6)
    # At such a power the far tail adds nothing, so that a quantile of the noncentral t is all there is to find. The search
    # of statsmodels' TTestPower ends beside it for some df below 1.5, and returns an array for others.
    return float(special.nctdtrinc(df, 1 - POWER, special.stdtrit(df, (1 + LEVEL) / 2))) * spread.se
