"""Benchmarks of questions: MT-Bench, Arena-Hard and AlpacaEval files, their reference answers, and answers of a baseline."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from selfcontrast import fields
from selfcontrast.errors import InputError
from selfcontrast.fields import MisfitError, field
from selfcontrast.lines import read_lines_or_array
from selfcontrast.texts import fault_of, is_blank

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which MT-Bench samples answers, by category. Source: lm-sys/FastChat, `llm_judge/common.py`."""

DEFAULT_TEMPERATURE = {"mt_bench": 0.7, "arena_hard": 0.0, "alpaca_eval": 0.7}


T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One question of a benchmark.

    Attributes:
        id: unique in its file.
        turns: what the user says; each turn but the first follows an answer.
        category: kind of question; empty if the file names none.
        temperature: at which the benchmark samples its answer.
        references: right answers, one a turn; () where there are none.
        source: the data set that AlpacaEval took it from.
    """

    id: str
    turns: tuple[str, ...]
    category: str = ""
    temperature: float = 0.0
    references: tuple[str, ...] = ()
    source: str = ""


def read_questions(path: Path, layout: str) -> list[Question]:
    """Return the questions of a file, in its order.

    Raises:
        InputError: a record has another layout, a field of another type or no text, or an id occurs twice.
    """
    read = {"mt_bench": _mt_bench_question, "arena_hard": _arena_question, "alpaca_eval": _alpaca_question}[layout]
    questions = [_read(read, record, f"question of the layout `{layout}`", where) for where, record in _records(path)]
    _check_unique((q.id for q in questions), path)
    if not questions:
        raise InputError("a file of questions has none", where=str(path), remedy="check the path in the study file")
    return questions


def _mt_bench_question(record: Any) -> Question:
    turns = tuple(_texts(record, "turns"))
    if not turns:
        raise MisfitError("`turns` has no turn")
    if any(map(is_blank, turns)):
        raise MisfitError("a turn is empty")
    references = tuple(_texts(record, "reference")) if _is_there(record, "reference") else ()
    if references and len(references) != len(turns):
        raise MisfitError(
            "`reference` does not have one text for each turn", f"{len(references)} for {len(turns)} turns"
        )
    category = _text(record, "category")
    temperature = TEMPERATURES.get(category, DEFAULT_TEMPERATURE["mt_bench"])
    return Question(_id(record, "question_id"), turns, category, temperature, references)


def _arena_question(record: Any) -> Question:
    prompt, names = _asked(record, "prompt"), ("subcategory", "category")
    given = [_text(record, name) for name in names if _is_there(record, name)]
    category = next(filter(None, given), "")
    return Question(_id(record, "uid"), (prompt,), category, DEFAULT_TEMPERATURE["arena_hard"])


def _alpaca_question(record: Any) -> Question:
    instruction = _asked(record, "instruction")
    source = _text(record, "dataset") if _is_there(record, "dataset") else ""
    return Question(instruction, (instruction,), temperature=DEFAULT_TEMPERATURE["alpaca_eval"], source=source)


def _text(record: Any, key: str) -> str:
    return _sound(fields.text(record, key))


def _texts(record: Any, key: str) -> list[str]:
    return [_sound(text) for text in fields.texts(record, key)]


def _sound(text: str) -> str:
    if fault := fault_of(text):
        raise MisfitError(fault, repr(text)[:80])
    return text


def _asked(record: Any, key: str) -> str:
    asked = _text(record, key)
    if is_blank(asked):
        raise MisfitError(f"`{key}` is empty")
    return asked


def _id(record: Any, key: str) -> str:
    """Return an id, which files write as a text or as a whole number."""
    found = field(record, key, str, float)
    if isinstance(found, float) or (isinstance(found, str) and is_blank(found)):
        raise MisfitError(f"`{key}` is not a whole number or a text", repr(found))
    return str(found)


def _is_there(record: Any, key: str) -> bool:
    """Return whether an optional field has a value: a null, as exports of tables have, is none."""
    return record.get(key) is not None


def _read(read: Callable[[Any], T], record: Any, what: str, where: str) -> T:
    try:
        return read(record)
    except MisfitError as misfit:
        raise InputError(
            f"a record is no {what}: {misfit.reason}",
            found=misfit.found,
            where=where,
            remedy="fix the record, or correct the layout under evaluation.questions",
        ) from None


def with_references(questions: list[Question], path: Path) -> list[Question]:
    """Return the questions with the reference answers of FastChat's `reference_answer/<model>.jsonl`, where it has some."""
    found = read_answers(path, "mt_bench")
    unknown = found.keys() - {q.id for q in questions}
    if unknown:
        raise InputError(
            "reference answers belong to other questions", found=", ".join(sorted(unknown)[:5]), where=str(path)
        )
    _check_turns(found, questions, path)
    return [replace(q, references=found[q.id]) if q.id in found else q for q in questions]


def read_baseline(path: Path, layout: str, questions: list[Question]) -> dict[str, tuple[str, ...]]:
    """Return the baseline's answers by question id: one for every question, and for no other.

    Raises:
        InputError: the ids differ; the message names the first ones that are missing or too many.
    """
    answers = read_answers(path, layout)
    ids = {q.id for q in questions}
    if answers.keys() != ids:
        missing, more = ([i[:60] for i in sorted(part)] for part in (ids - answers.keys(), answers.keys() - ids))
        raise InputError(
            "the baseline answers other questions",
            expected=f"{len(ids)} answers, one for each question",
            found=f"{len(missing)} missing {missing[:3]}, {len(more)} of other questions {more[:3]}",
            where=str(path),
        )
    _check_turns(answers, questions, path)
    return answers


def _check_turns(answers: Mapping[str, Sequence[str]], questions: Sequence[Question], path: Path) -> None:
    for q in questions:
        if q.id in answers and len(answers[q.id]) != len(q.turns):
            raise InputError(
                "an answer does not have one text for each turn of its question",
                expected=f"{len(q.turns)} turns",
                found=f"{len(answers[q.id])} turns for the question {q.id[:60]}",
                where=str(path),
            )


def read_answers(path: Path, layout: str) -> dict[str, tuple[str, ...]]:
    """Return the answers of a model, one a turn, by question id, from a file in the layout of a benchmark.

    Raises:
        InputError: a record has another layout or a field of another type, or an id occurs twice.
    """
    read = {"mt_bench": _mt_bench_answer, "arena_hard": _arena_answer, "alpaca_eval": _alpaca_answer}[layout]
    rows = [_read(read, record, f"answer of the layout `{layout}`", where) for where, record in _records(path)]
    _check_unique((i for i, _ in rows), path)
    return dict(rows)


def _mt_bench_answer(record: Any) -> tuple[str, tuple[str, ...]]:
    choices = field(record, "choices", list)
    if not choices:
        raise MisfitError("`choices` has no choice")
    return _id(record, "question_id"), tuple(_texts(choices[0], "turns"))


def _arena_answer(record: Any) -> tuple[str, tuple[str, ...]]:
    messages = field(record, "messages", list)
    if not messages:
        raise MisfitError("`messages` has no message")
    content = field(messages[-1], "content", str, dict)
    if (role := messages[-1].get("role", "assistant")) != "assistant":
        raise MisfitError("the last of the `messages` is no answer", f"the role {role!r}"[:80])
    return _id(record, "uid"), (_text(content, "answer") if isinstance(content, dict) else _sound(content),)


def _alpaca_answer(record: Any) -> tuple[str, tuple[str, ...]]:
    return _asked(record, "instruction"), (_text(record, "output"),)


def _records(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where a record stands and the record, of JSON lines or of one JSON array."""
    return ((f"{path}, {place}", record) for place, record in read_lines_or_array(path))


def _check_unique(ids: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for i in ids:
        if i in seen:
            raise InputError("an id occurs twice", found=json.dumps(i[:80]), where=str(path), remedy="remove one")
        seen.add(i)
