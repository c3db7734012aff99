"""The better of two random answers of a pool against the worse one, by a scorer: standard DPO with feedback.

The feedback is the scorer's, which Self-Contrast does without. A prompt whose two answers score the same gives no pair;
such prompts are counted.
"""

from __future__ import annotations

import random

from pydantic import Field

from selfcontrast.records import TARGET, Candidates, PromptPool
from selfcontrast.schema import Strict
from selfcontrast.texts import is_blank


class Params(Strict):
    """Parameters of the selection."""

    pool: str = Field(description="id under `pools`")
    scorer: str = Field(description="id under `scorers`: who ranks")


def largest_n(pool_size: int, params: dict[str, object]) -> int:
    """Return how many negatives a prompt with ``pool_size`` responses can give at most."""
    return 1 if pool_size >= 2 else 0


def candidates(pool: PromptPool, *, n: int, rng: random.Random, params: Params) -> Candidates:
    """Return the better of two random answers as chosen, the worse as the only candidate."""
    if len(pool.answers) < 2:
        return Candidates(TARGET, (), {"not drawn": len(pool.answers)})
    first, second = rng.sample(pool.answers, 2)
    if first.score is None or second.score is None:
        raise ValueError("the selection `ranked` needs scores")
    if first.score == second.score:
        return Candidates(first.response_id, (), {"equal scores": 2, "not drawn": len(pool.answers) - 2})
    if first.score < second.score:
        first, second = second, first
    rejected = (second.response_id,) if not is_blank(second.text) else ()
    return Candidates(first.response_id, rejected, {"empty": 1 - len(rejected), "not drawn": len(pool.answers) - 2})
