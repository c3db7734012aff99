"""Keep the fraction of the answers with the highest scores: the control that must fail.

With the scorer `cosine` these are the answers most like the target, many of them right: pushing them away teaches
nothing. A study whose control does as well as its method has not shown that the filter matters.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from selfcontrast.schema import Fraction, Strict

NEEDS_SCORES = True


class Params(Strict):
    """Parameters of the filter."""

    keep: Fraction = Field(description="fraction of the answers that is kept, rounded down to a whole number")


def n_kept(n_answers: int, params: Params) -> int:
    """Return how many of ``n_answers`` answers are kept."""
    return int(n_answers * params.keep + 1e-9)


def keep(scores: Sequence[float], params: Params) -> list[int]:
    """Return the positions of the kept answers, ascending; of equal scores the earlier answer is kept first."""
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return sorted(order[: n_kept(len(scores), params)])
