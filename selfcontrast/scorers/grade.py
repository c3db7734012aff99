"""The true grade of an answer to a prompt of the pocket world, between 0 and 1: feedback that no real data set has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from selfcontrast.records import PromptPool
from selfcontrast.schema import Strict
from selfcontrast.world.grader import grade


class Params(Strict):
    """No parameters."""


def score(
    pools: Collection[PromptPool], prompts: Sequence[str], params: Params, counts: Counter[str]
) -> list[list[float]]:
    """Return the grade of every answer, pool by pool; ``prompts`` are the last user turns."""
    return [[grade(prompt, a.text) for a in pool.answers] for pool, prompt in zip(pools, prompts, strict=True)]
