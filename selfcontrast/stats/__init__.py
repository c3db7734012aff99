"""How sure a number is: intervals, comparisons, variance components, power, trends; docs/statistics.md explains each."""

from selfcontrast.stats.intervals import (
    LEVEL,
    Estimate,
    Resamples,
    compare,
    compare_all,
    estimate,
    estimates,
    holm,
    mean_interval,
)

__all__ = ["LEVEL", "Estimate", "Resamples", "compare", "compare_all", "estimate", "estimates", "holm", "mean_interval"]
