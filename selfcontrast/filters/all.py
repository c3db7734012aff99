"""Keep every answer."""

from __future__ import annotations

from collections.abc import Sequence

from selfcontrast.schema import Strict

NEEDS_SCORES = False


class Params(Strict):
    """No parameters."""


def n_kept(n_answers: int, params: Params) -> int:
    """Return how many of ``n_answers`` answers are kept."""
    return n_answers


def keep(scores: Sequence[float], params: Params) -> list[int]:
    """Return the positions of the kept answers, ascending."""
    return list(range(len(scores)))
