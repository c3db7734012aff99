"""Two answers side by side, in both orders: a win needs both games, anything else is a tie.

Each game ends in A, B or tie. A judge that names the same place twice follows the place, not the answer: that is a tie, and
is counted as `flipped`.

Source: the protocol of arXiv 2306.05685, section 3.4 (conservative handling of position bias); wording of our own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic import Field

from selfcontrast.judges._wording import IMPARTIAL, NO_BIAS, PAIR, games_in_both_orders
from selfcontrast.judging.cases import Case, Game, Judged, Score, Utterance
from selfcontrast.judging.exchange import Reply
from selfcontrast.judging.prompts import Template, one_verdict
from selfcontrast.schema import Count, Strict

COMPARES = True
NEEDS_LOGPROBS = False
FILES = "alpaca_eval"

TEMPLATE = Template(
    "pairwise",
    (
        (
            "system",
            f"{IMPARTIAL}You are shown a question and two answers to it. {NO_BIAS}Compare them in a few sentences. Then end "
            "with your verdict, exactly in this form: [[A]] if answer A is better, [[B]] if answer B is better, [[C]] for a "
            "tie.",
        ),
        ("user", PAIR),
    ),
)

_VERDICT = re.compile(r"\[\[\s*([ABC])\s*\]\]")


class Params(Strict):
    """Parameters of the judge."""

    temperature: float = Field(0.0, ge=0, description="of the judge; 0 is greedy")
    max_tokens: Count = Field(1024, description="longest reply of the judge, in tokens")


def templates(params: Params) -> tuple[Template, ...]:
    """Return every template that a game may use."""
    return (TEMPLATE,)


def games(case: Case, params: Params) -> list[Game]:
    """Return two games, the judged answer first and then second; none where an answer is missing."""
    return games_in_both_orders(
        TEMPLATE, case, temperature=params.temperature, max_tokens=params.max_tokens, leads_first=True
    )


def read(reply: Reply, game: Game, params: Params) -> float | None:
    """Return 1, 0.5 or 0: win, tie or loss of the judged answer."""
    verdict = one_verdict(_VERDICT, reply.text)
    if verdict is None:
        return None
    return 0.5 if verdict == "C" else float((verdict == "A") == game.leads)


def settle(verdicts: Sequence[float | None], params: Params) -> Score:
    """Return 1 or 0 if both games say so, else 0.5; no score if a game has no verdict."""
    if None in verdicts or not verdicts:
        return Score(None)
    return Score(verdicts[0] if len(set(verdicts)) == 1 else 0.5)


def details(judged: Sequence[Judged], params: Params) -> dict[str, float]:
    """Return shares of all pairs of games: `flipped` (the same place won twice), and how often the first place won."""
    pairs = [row for j in judged for row in j.verdicts if len(row) == 2 and None not in row]
    if not pairs:
        return {}
    flipped = sum({0.0, 1.0} == set(row) for row in pairs) / len(pairs)
    first = sum((row[0] == 1.0) + (row[1] == 0.0) for row in pairs) / (2 * len(pairs))
    return {"flipped": flipped, "first_place_wins": first}


def say(first: float, second: float | None, params: Params) -> Utterance:
    """Return what a judge says that grades the answer shown first ``first``, and the other ``second``."""
    assert second is not None
    return Utterance(f"[[{'C' if first == second else 'A' if first > second else 'B'}]]")
