"""Length of an answer in tokens, without EOS."""

from __future__ import annotations

from typing import TYPE_CHECKING

from selfcontrast.metrics._answers import Answers
from selfcontrast.metrics._shown import Shown
from selfcontrast.schema import Strict

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHOWN = Shown("tokens", "mean length of an answer (tokens)", digits=1, is_merit=False)


class Params(Strict):
    """No parameters."""


def values(answers: Answers, params: Params) -> NDArray | None:
    """Return the length of each answer, ``(prompts, samples)``."""
    return answers.n_tokens.astype(float)
