"""How a metric is shown, and what the tables do with it."""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan


@dataclass(frozen=True)
class Shown:
    """What tables, figures and the report say of a metric.

    Attributes:
        head: head of its column; ``{judge}`` stands for the id of the scorer that judges.
        axis: label of an axis; the same.
        is_rate: whether it is a share between 0 and 1, shown in percent and never without its n.
        digits: behind the point, of a metric that is no rate.
        is_merit: whether more is better, so that one arm is the best; else it is shown behind those.
        by_scorer: whether it rests on the judge's scores, so that each of ``evaluation.scorers`` gives one of its own too.
        against_sft: whether it compares with the SFT model, whose own value is one half.
        judge: id of the language model that it comes from.
        proxy: id of the scorer beside the judge that it rests on.
    """

    head: str
    axis: str
    is_rate: bool = False
    digits: int = 3
    is_merit: bool = True
    by_scorer: bool = False
    against_sft: bool = False
    judge: str | None = None
    proxy: str | None = None

    @property
    def decimals(self) -> int:
        """Return the digits behind the point of a value as it is shown."""
        return 1 if self.is_rate else self.digits

    @property
    def factor(self) -> float:
        """Return what a value is multiplied with to be shown: rates are in percent."""
        return 100.0 if self.is_rate else 1.0

    def interval(self, value: float, low: float, high: float) -> str:
        """Return a value with its interval, as it is shown; question marks for ends that are not known (NaN)."""
        v, lo, hi = ("?" if isnan(x) else f"{self.factor * x:.{self.decimals}f}" for x in (value, low, high))
        return f"{v} [{lo}, {hi}]"


def units(what: str, n_seeds: int) -> str:
    """Return what an interval is over: of one seed it is about that training, and says nothing of others."""
    return f"{what} and seeds" if n_seeds > 1 else f"{what} of a single seed"
