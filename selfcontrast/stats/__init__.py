"""How sure a number is: intervals, comparisons, variance components, power, trends; docs/statistics.md explains each."""

from selfcontrast.stats.intervals import (
    LEVEL,
    Estimate,
    Found,
    Resamples,
    compare,
    compare_all,
    compare_family,
    estimate,
    estimates,
    holm,
    mean_interval,
)

__all__ = [
    "LEVEL",
    "Estimate",
    "Found",
    "Resamples",
    "compare",
    "compare_all",
    "compare_family",
    "estimate",
    "estimates",
    "holm",
    "mean_interval",
]
