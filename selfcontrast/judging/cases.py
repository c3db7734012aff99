"""What judges judge: an answer with its question and opponent, the games played over it, and the scores that result."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from selfcontrast.judging.prompts import Template


@dataclass(frozen=True)
class Case:
    """One answer to be judged.

    Attributes:
        turns: what the user said, turn by turn.
        answers: what the policy answered; None where it could not.
        opponents: what the baseline answered; None where there is none.
        references: right answers, for judges that may look at one; () where there are none.
        category: what kind of question it is; empty if unknown.
    """

    turns: tuple[str, ...]
    answers: tuple[str | None, ...]
    opponents: tuple[str | None, ...] | None = None
    references: tuple[str, ...] = ()
    category: str = ""


@dataclass(frozen=True)
class Game:
    """One question to the judge over a case.

    Attributes:
        values: what fills the slots of the template.
        sampling: how the judge is sampled: the rest of the request's body.
        leads: whether the judged answer is the one shown first; True also where it is alone.
        turn: number of the turn it is about, from 0.
    """

    template: Template
    values: Mapping[str, str]
    sampling: Mapping[str, Any]
    leads: bool = True
    turn: int = 0


@dataclass(frozen=True)
class Score:
    """What the games over one case amount to.

    Attributes:
        value: higher is better: a share of wins between 0 and 1, or a rating. None if a game has no verdict.
        weight: how much it counts beside other cases.
    """

    value: float | None
    weight: float = 1.0


@dataclass(frozen=True)
class Judged:
    """One case after its judgement.

    Attributes:
        verdicts: one row for each repeat, with one verdict for each game; None where there is none.
        score: the mean over those repeats that have a score.
        null: why there is no score; empty if there is one.
        keys: the keys of the requests, in the shape of ``verdicts``.
        templates: names of the templates of the games.
        missing: why there is no verdict, for each that is None.
    """

    case: Case
    verdicts: tuple[tuple[float | None, ...], ...]
    score: Score
    null: str = ""
    keys: tuple[tuple[str, ...], ...] = ()
    templates: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Utterance:
    """What a judge with known grades would say: its text, and log-probabilities of its first token where they carry it."""

    text: str
    first_logprobs: Mapping[str, float] | None = None


def mean_score(scores: Sequence[Score]) -> Score:
    """Return the mean of those scores that are there; one without value if none is."""
    there = [s for s in scores if s.value is not None]
    if not there:
        return Score(None)
    return Score(
        sum(s.value for s in there if s.value is not None) / len(there), sum(s.weight for s in there) / len(there)
    )


@dataclass(frozen=True)
class Summary:
    """The weighted mean of scores, with its standard error over cases.

    Attributes:
        n: cases with a score.
        nulls: cases without one; they take no part.
    """

    value: float
    se: float
    n: int
    nulls: int


def summarise(scores: Sequence[Score], prompts: Sequence[Hashable] | None = None) -> Summary:
    """Return the mean of the scores, NaN if there is none, and its standard error, NaN if there are fewer than two prompts.

    The error is that of a ratio of sums over prompts (linearised): games over one case, and answers to one prompt, are not
    taken for independent. With equal weights and one answer to each prompt it is the standard error of a mean.

    Args:
        prompts: of each score; by default each has its own.
    """
    owners = range(len(scores)) if prompts is None else prompts
    there = [(s.value, s.weight, p) for s, p in zip(scores, owners, strict=True) if s.value is not None]
    n, total = len(there), sum(w for _, w, _ in there)
    if n == 0:
        return Summary(math.nan, math.nan, 0, len(scores))
    value = sum(v * w for v, w, _ in there) / total
    sums: dict[Hashable, float] = {}
    for v, w, prompt in there:
        sums[prompt] = sums.get(prompt, 0.0) + w * (v - value)
    n_prompts, squares = len(sums), sum(x**2 for x in sums.values())
    se = math.sqrt(n_prompts / (n_prompts - 1) * squares) / total if n_prompts > 1 else math.nan
    return Summary(value, se, n, len(scores) - n)
