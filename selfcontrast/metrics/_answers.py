"""What a metric may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Answers:
    """The evaluated answers of one arm and one seed.

    Attributes:
        score: the judge's score of each answer, ``(prompts, samples)``; NaN where it gave none.
        n_tokens: length of each answer without EOS, ``(prompts, samples)``.
        target_score: the judge's score of the SFT target, ``(prompts,)``; None where it has no meaning.
        baseline_score: the judge's scores of all answers of the SFT model to the same prompts, over its samples and
            seeds, ``(prompts, answers)``.
        is_baseline: whether this arm is the SFT model itself.
    """

    score: NDArray
    n_tokens: NDArray
    target_score: NDArray | None
    baseline_score: NDArray
    is_baseline: bool


def win_share(score: NDArray, opponent: NDArray) -> NDArray:
    """Return how often each score beats the opponents' scores of the same prompt, ties half, ``(prompts, samples)``.

    An opponent without a score (NaN) is no opponent; an answer without one, or without opponents, has no share either.
    """
    import numpy as np

    mine, theirs = score[:, :, None], opponent[:, None, :]
    meets = ~(np.isnan(mine) | np.isnan(theirs))
    wins = ((mine > theirs) + 0.5 * (mine == theirs)).sum(-1)
    with np.errstate(invalid="ignore"):
        return np.where(meets.any(-1), wins / meets.sum(-1), np.nan)
