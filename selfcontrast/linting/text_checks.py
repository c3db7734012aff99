"""Questions to the texts of a row, and to the scores and ranks of its record."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from selfcontrast.linting.findings import FINE, Question, Row, RowCheck
from selfcontrast.linting.words import normalised, prompt_digest
from selfcontrast.texts import is_blank

TOLERATED = 0.01
"""Share of rows beyond which a trouble of single rows is an error of the data set."""

_PAIR_KINDS = (("score", 1), ("rating", 1), ("reward", 1), ("rank", -1))
_TEXT_KEYS = ("answer", "response", "text", "output", "content")
_MERIT_KEYS = (
    ("rank", -1),
    ("fine-grained_score", 1),
    ("overall_score", 1),
    ("score", 1),
    ("rating", 1),
    ("reward", 1),
)
_MARKER = re.compile(
    r"\n\n(?:Human|Assistant):|<\|(?:im_start|im_end|user|assistant|system|end_of_turn|eot_id|endoftext|start_header_id)\|>"
    r"|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</s>|^### (?:Instruction|Response):",
    re.MULTILINE,
)


def text_checks() -> list[RowCheck]:
    """Return the checks that need no tokenizer, fresh for one pass over the rows."""
    return [
        RowCheck(
            "direction",
            "a score or rank of the data says that a rejected answer is better than the chosen one",
            "warning",
            chosen_is_worse,
            error_beyond=TOLERATED,
            if_never="no record has both rejected answers and a score or rank: nothing says which answer is better",
        ),
        RowCheck("tie", "a rejected answer has the score or rank of the chosen one", "info", chosen_is_no_better),
        RowCheck("empty", "a turn or an answer has no text", "warning", empty_text, error_beyond=TOLERATED),
        RowCheck(
            "equal",
            "a rejected answer is the chosen one but for case, spaces and punctuation",
            "warning",
            equal_answers,
            error_beyond=TOLERATED,
        ),
        RowCheck("prefix", "one answer is the beginning of the other: is one cut off?", "warning", prefix_answer),
        RowCheck(
            "roles",
            "the turns are not (system,) user, assistant, ..., user",
            "warning",
            role_order,
            error_beyond=TOLERATED,
        ),
        RowCheck("marker", "an answer holds a turn marker or special token as text", "warning", marker_in_answer),
        RowCheck("repeated", "the prompt is that of an earlier row", "warning", repeated_prompt()),
        RowCheck(
            "similar",
            "the prompt is that of an earlier row but for case, spaces and punctuation",
            "warning",
            similar_prompt(),
        ),
    ]


# Scores and ranks


def chosen_is_worse(row: Row) -> str | None:
    """Find a rejected answer that the data's own score or rank puts before the chosen one."""
    found = merits(row)
    if found is None:
        return None
    chosen, rejected = found
    return f"merit {chosen:g} of the chosen, {max(rejected):g} of a rejected answer" if chosen < max(rejected) else FINE


def chosen_is_no_better(row: Row) -> str | None:
    """Find a rejected answer with the same score or rank as the chosen one."""
    found = merits(row)
    if found is None:
        return None
    return f"both {found[0]:g}" if found[0] == max(found[1]) else FINE


def merits(row: Row) -> tuple[float, list[float]] | None:
    """Return what the record's fields give the chosen and the rejected answers, more being better; ranks as negatives.

    It reads pairs of fields such as ``score_chosen`` and ``score_rejected``, and lists of answers that each have a score or a
    rank, which are found by their text. None where there are no such fields, or no rejected answers.
    """
    if not row.dialogue.rejected:
        return None
    for kind, sign in _PAIR_KINDS:
        for names in ((f"{kind}_chosen", f"{kind}_rejected"), (f"chosen_{kind}", f"rejected_{kind}")):
            good, bad = (_number(row.record.get(name)) for name in names)
            if good is not None and bad is not None:
                return sign * good, [sign * bad]
    for value in row.record.values():
        if isinstance(value, list) and (by_text := _merit_by_text(value)):
            chosen = by_text.get(row.dialogue.target.strip())
            rejected = [min(by_text[r.strip()]) for r in row.dialogue.rejected if r.strip() in by_text]
            if chosen and rejected:
                return max(chosen), rejected
    return None


def _merit_by_text(answers: list[Any]) -> dict[str, list[float]]:
    """Return the merits of each text: a text that occurs twice may have two."""
    found: dict[str, list[float]] = {}
    for answer in answers:
        if not isinstance(answer, Mapping):
            return {}
        text = next((answer[key] for key in _TEXT_KEYS if isinstance(answer.get(key), str)), None)
        merit = next((s * n for key, s in _MERIT_KEYS if (n := _number(answer.get(key))) is not None), None)
        if text is not None and merit is not None:
            found.setdefault(text.strip(), []).append(merit)
    return found


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


# Texts


def empty_text(row: Row) -> str | None:
    """Find a turn or an answer that shows nothing: no character, or only spaces and invisible ones."""
    d = row.dialogue
    parts = [*((f"{m.role} turn", m.content) for m in d.messages), ("chosen answer", d.target)]
    parts += [("rejected answer", r) for r in d.rejected]
    return next((f"the {name} is empty" for name, text in parts if is_blank(text)), FINE)


def equal_answers(row: Row) -> str | None:
    """Find a rejected answer with the same words as the chosen one."""
    if not row.dialogue.rejected:
        return None
    target = normalised(row.dialogue.target)
    return next((r for r in row.dialogue.rejected if normalised(r) == target), FINE)


def prefix_answer(row: Row) -> str | None:
    """Find a rejected answer that starts with the whole chosen one, or the other way round."""
    if not row.dialogue.rejected:
        return None
    target = row.dialogue.target
    for rejected in row.dialogue.rejected:
        short, long = sorted((target, rejected), key=len)
        if short != long and long.startswith(short):
            return short or "(empty)"
    return FINE


def role_order(row: Row) -> str | None:
    """Find a prompt that is not made of (a system turn and) turns of user and assistant, the user's first and last."""
    roles = [m.role for m in row.dialogue.messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    is_fine = len(turns) % 2 == 1 and all(r == ("user", "assistant")[i % 2] for i, r in enumerate(turns))
    return FINE if is_fine else " ".join(roles) or "(no turn)"


def marker_in_answer(row: Row) -> str | None:
    """Find a turn marker of a common template, or a special token spelled out, in an answer."""
    for text in (row.dialogue.target, *row.dialogue.rejected):
        if match := _MARKER.search(text):
            return text[max(0, match.start() - 20) :]
    return FINE


def repeated_prompt() -> Question:
    """Return a question that finds prompts seen before."""
    seen: set[int] = set()

    def ask(row: Row) -> str | None:
        exact = prompt_digest(row.dialogue.messages, normalise=False)
        is_new = exact not in seen
        seen.add(exact)
        return FINE if is_new else _last_turn(row)

    return ask


def similar_prompt() -> Question:
    """Return a question that finds prompts with the words of one seen before, but not the same text."""
    exact: set[int] = set()
    by_words: set[int] = set()

    def ask(row: Row) -> str | None:
        text = prompt_digest(row.dialogue.messages, normalise=False)
        same_words = prompt_digest(row.dialogue.messages, normalise=True)
        is_similar = same_words in by_words and text not in exact
        exact.add(text)
        by_words.add(same_words)
        return _last_turn(row) if is_similar else FINE

    return ask


def _last_turn(row: Row) -> str:
    return (row.dialogue.messages[-1].content if row.dialogue.messages else "") or "(empty)"
