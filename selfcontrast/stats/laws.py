"""The law of the error of a mean: a mixture of scaled Student's t, with its tails and quantiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, special

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selfcontrast.stats.variance import Spread


@dataclass(frozen=True)
class Law:
    """What a mean less its truth is drawn from, ``(..., components)``: with each share Student's t of its own width.

    Attributes:
        shares: chance of each component; they sum to 1.
        errors: its standard error, in units of the metric.
        df: its degrees of freedom.
    """

    shares: NDArray
    errors: NDArray
    df: NDArray

    @classmethod
    def of_spread(cls, spread: Spread) -> Law:
        """Return Student's t with a standard error and its degrees of freedom, at least 1."""
        return cls(np.ones(1), np.array([spread.se]), np.array([max(spread.df, 1.0)]))

    def __getitem__(self, index: int) -> Law:
        """Return the law of one mean of several."""
        return Law(self.shares[index], self.errors[index], self.df[index])

    def tail(self, size: NDArray | float) -> NDArray:
        """Return the chance of an error below minus ``size`` ``(...)``, which is not negative."""
        t = -np.asarray(size)[..., None] / self.errors
        return np.asarray((self.shares * special.stdtr(self.df, t)).sum(-1))

    def two_sided(self, size: NDArray | float) -> NDArray:
        """Return the chance of an error at least as large as ``size`` ``(...)``, of either sign."""
        return np.minimum(1.0, 2 * self.tail(np.abs(size)))

    def normal_of(self, error: float) -> float:
        """Return the quantile of a standard normal that stands for an error of a single law."""
        return float(-np.sign(error) * special.ndtri(self.tail(abs(error))))

    def of_normal(self, z: float) -> float:
        """Return the inverse of ``normal_of``."""
        # As a lower tail, where small probabilities keep their digits.
        p = special.ndtr(-abs(z))
        ends = -special.stdtrit(self.df, p) * self.errors
        low, high = float(ends.min()), float(ends.max())
        if low == high:
            return float(np.sign(z)) * low
        # A little wider, since tails are rounded.
        ends = np.array([low * (1 - 1e-6), high * (1 + 1e-6)])
        size = optimize.brentq(lambda x: float(self.tail(x)) - p, *ends, xtol=1e-9 * high)
        return float(np.sign(z)) * float(size)
