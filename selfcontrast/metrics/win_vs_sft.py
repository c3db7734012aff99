"""Win rate against the SFT model under the judge, ties half.

Each answer meets every answer of the SFT model to the same prompt, over its samples and seeds. The SFT model's own value
is 0.5 by definition and is not reported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.metrics._answers import Answers, win_share
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = Shown("wins vs SFT, %", "win rate against the SFT model (%)", is_rate=True, by_scorer=True, against_sft=True)


class Params(Strict):
    """No parameters."""


def values(answers: Answers, params: Params) -> NDArray | None:
    """Return the share of wins of each answer, ``(prompts, samples)``; None for the SFT model itself."""
    return None if answers.is_baseline else win_share(answers.score, answers.baseline_score)
