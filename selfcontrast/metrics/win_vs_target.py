"""Win rate against the SFT target under the judge, ties half: the protocol of arXiv 2404.00604."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.metrics._answers import Answers, win_share
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = Shown("wins vs target, %", "win rate against the SFT target (%)", is_rate=True, by_scorer=True)


class Params(Strict):
    """No parameters."""


def values(answers: Answers, params: Params) -> NDArray | None:
    """Return 1, 0.5 or 0 for each answer, ``(prompts, samples)``; None where the target has no score of its own."""
    if answers.target_score is None:
        return None
    return win_share(answers.score, answers.target_score[:, None])
