"""Whether a metric rises with the number of negatives."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.stats import page_trend_test

from selfcontrast.stats.intervals import Estimate, Resamples, compare_all

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Trend:
    """How a metric changes over a sweep of n.

    Attributes:
        slope: change of the metric for each doubling of n: the slope of the least-squares line over log2 n.
        p: two-sided p-value of no slope, from the bootstrap over prompts and seeds.
        page_p: one-sided p-value of Page's test that the metric rises with n, prompts as blocks. It is about the policies
            that were trained, not about the training: the luck of a seed is no error to it. NaN below three n.
    """

    slope: Estimate
    p: float
    page_p: float

    @property
    def direction(self) -> str:
        """Return ``up``, ``down``, or ``not distinguishable`` from no trend at the 5 % level."""
        if self.slope.low > 0:
            return "up"
        return "down" if self.slope.high < 0 else "not distinguishable"


def slopes(values: Mapping[int, NDArray]) -> NDArray:
    """Return the slope over log2 n in every cell, ``(seeds, prompts)``, of values ``(seeds, prompts)`` by n."""
    x = np.log2(list(values))
    weights = x - x.mean()
    return np.einsum("n,nsp->sp", weights / (weights**2).sum(), np.stack(list(values.values())))


def find_trend(values: Mapping[int, NDArray], resamples: Resamples) -> Trend:
    """Return the trend of values ``(seeds, prompts)`` by n; cells where any n has NaN are left out.

    The contrast is paired: the same prompts and seeds stand behind every n, so what is hard about a prompt cancels.
    """
    ordered = {n: values[n] for n in sorted(values)}
    ((slope, p),) = compare_all(slopes(ordered)[None], resamples)
    means = np.stack([v.mean(0) for v in ordered.values()], axis=1)
    means = means[~np.isnan(means).any(1)]
    page_p = math.nan
    if len(ordered) > 2 and len(means) > 1:
        page_p = float(page_trend_test(means, method="asymptotic").pvalue)
    return Trend(slope, p, page_p)
