"""Wording and games that several judges share."""

from __future__ import annotations

from selfcontrast.judging.cases import Case, Game
from selfcontrast.judging.prompts import Template

IMPARTIAL = (
    "Be an impartial judge. Look at how helpful, relevant, correct, deep, creative and detailed an answer is, and whether it "
    "does what the user asked. "
)
NO_BIAS = "Neither the order in which the answers are shown nor their length may sway you. "

PAIR = (
    "[Question]\n{question}\n\n[Start of answer A]\n{answer_a}\n[End of answer A]\n\n"
    "[Start of answer B]\n{answer_b}\n[End of answer B]"
)
"""Two answers under names that say nothing."""


def pair_values(question: str, answer: str, opponent: str, *, leads: bool) -> dict[str, str]:
    """Return the slots of ``PAIR``."""
    first, second = (answer, opponent) if leads else (opponent, answer)
    return {"question": question, "answer_a": first, "answer_b": second}


def games_in_both_orders(
    template: Template, case: Case, *, temperature: float, max_tokens: int, leads_first: bool
) -> list[Game]:
    """Return two games over the last turn, the judged answer shown first in one of them; none where an answer is missing.

    Args:
        leads_first: whether the game that shows it first comes first.
    """
    answer, opponent = case.answers[-1], (case.opponents or (None,))[-1]
    if answer is None or opponent is None:
        return []
    sampling = {"temperature": temperature, "max_tokens": max_tokens}
    return [
        Game(template, pair_values(case.turns[-1], answer, opponent, leads=leads), sampling, leads)
        for leads in (leads_first, not leads_first)
    ]
