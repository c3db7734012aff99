"""Arena-Hard: two games in swapped order, five verdicts from much better to much worse; a strong one counts three times.

Every game is a battle, every strong verdict three, and the score is the share of battles won, ties half, as in
arena-hard-auto's `show_result.py` without style control. Its interval there draws battles; the standard error here is over
questions, since games over one question are no independent evidence. A judge without a verdict is not asked to go on: the
question is null.

Source: arXiv 2406.11939 and lmarena/arena-hard-auto; wording of our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from selfcontrast.judges._wording import IMPARTIAL, NO_BIAS, PAIR, games_in_both_orders
from selfcontrast.judging.cases import Case, Game, Judged, Score, Utterance
from selfcontrast.judging.exchange import Reply
from selfcontrast.judging.prompts import Template, verdict_text
from selfcontrast.schema import Count, Strict

COMPARES = True
NEEDS_LOGPROBS = False
FILES = "arena_hard"

TEMPLATE = Template(
    "arena_hard",
    (
        (
            "system",
            f"{IMPARTIAL}You are shown a user's prompt and two answers to it. First write an answer of your own. Then "
            f"compare both answers with it, and name and mend their mistakes. {NO_BIAS}"
            "End with exactly one of these verdicts:\n"
            "[[A>>B]] answer A is much better\n[[A>B]] answer A is better\n[[A=B]] they are about as good\n"
            "[[B>A]] answer B is better\n[[B>>A]] answer B is much better",
        ),
        ("user", PAIR),
    ),
)

_VERDICT = re.compile(r"\[\[\s*(A\s*>>?\s*B|A\s*=\s*B|B\s*>>?\s*A|A\s*<<?\s*B|B\s*=\s*A|B\s*<<?\s*A)\s*\]\]")
_LEVEL = {"A>>B": 2, "A>B": 1, "A=B": 0, "B>A": -1, "B>>A": -2, "B<<A": 2, "B<A": 1, "B=A": 0, "A<B": -1, "A<<B": -2}
"""Of the answer shown first."""

STRONG = 0.5
"""Difference of grades, between 0 and 1, from which a judge that knows them says "much better"."""


class Params(Strict):
    """Parameters of the judge."""

    temperature: float = Field(0.0, ge=0, description="of the judge; 0 is greedy")
    max_tokens: Count = Field(4096, description="longest reply of the judge, in tokens")
    strong_weight: float = Field(3.0, ge=1, description="battles that a strong verdict counts for")


def templates(params: Params) -> tuple[Template, ...]:
    """Return every template that a game may use."""
    return (TEMPLATE,)


def games(case: Case, params: Params) -> list[Game]:
    """Return two games, the baseline first and then second; none where an answer is missing."""
    return games_in_both_orders(
        TEMPLATE, case, temperature=params.temperature, max_tokens=params.max_tokens, leads_first=False
    )


def read(reply: Reply, game: Game, params: Params) -> float | None:
    """Return the level of the judged answer: 2 much better, 1, 0, -1, -2 much worse."""
    levels = {_LEVEL[re.sub(r"\s", "", v)] for v in _VERDICT.findall(verdict_text(reply.text))}
    if len(levels) != 1:
        return None
    return float(levels.pop()) * (1 if game.leads else -1)


def settle(verdicts: Sequence[float | None], params: Params) -> Score:
    """Return the share of battles won over both games, and the number of battles as weight."""
    levels = [v for v in verdicts if v is not None]
    if len(levels) < len(verdicts) or not levels:
        return Score(None)
    weights = [params.strong_weight if abs(v) == 2 else 1.0 for v in levels]
    wins = [w * (0.5 if v == 0 else float(v > 0)) for v, w in zip(levels, weights, strict=True)]
    return Score(sum(wins) / sum(weights), sum(weights))


def details(judged: Sequence[Judged], params: Params) -> dict[str, float]:
    """Return the share of pairs of games whose winner changed with the order."""
    pairs = [(row[0], row[1]) for j in judged for row in j.verdicts if len(row) == 2 and None not in row]
    flipped = [a * b < 0 for a, b in pairs if a is not None and b is not None]
    return {"flipped": sum(flipped) / len(flipped)} if flipped else {}


def say(first: float, second: float | None, params: Params) -> Utterance:
    """Return what a judge says that grades the answer shown first ``first``, and the other ``second``."""
    assert second is not None
    if first == second:
        return Utterance("[[A=B]]")
    sign = ">>" if abs(first - second) >= STRONG else ">"
    return Utterance(f"[[A{sign}B]]" if first > second else f"[[B{sign}A]]")
