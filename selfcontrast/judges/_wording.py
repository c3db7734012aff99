"""Wording that several judges share."""

from __future__ import annotations

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
