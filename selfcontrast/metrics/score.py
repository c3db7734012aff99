"""The judge's score of an answer: in the pocket world its true grade, between 0 and 1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.metrics._answers import Answers
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = Shown("mean {judge}", "mean {judge} of an answer", by_scorer=True)


class Params(Strict):
    """No parameters."""


def values(answers: Answers, params: Params) -> NDArray | None:
    """Return the score of each answer, ``(prompts, samples)``."""
    return answers.score
