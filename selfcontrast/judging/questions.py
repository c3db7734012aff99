"""Benchmarks of questions: MT-Bench, Arena-Hard and AlpacaEval files, their reference answers, and answers of a baseline."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import read_json, read_jsonl
from selfcontrast.errors import InputError

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
        InputError: a record has another layout, or an id occurs twice.
    """
    questions = [_question(record, layout, where=where) for where, record in _records(path)]
    _check_unique((q.id for q in questions), path)
    return questions


def _question(record: dict[str, Any], layout: str, *, where: str) -> Question:
    default = DEFAULT_TEMPERATURE[layout]
    try:
        if layout == "mt_bench":
            category = str(record["category"])
            references = tuple(map(str, record.get("reference") or ()))
            turns = tuple(map(str, record["turns"]))
            temperature = TEMPERATURES.get(category, default)
            return Question(str(record["question_id"]), turns, category, temperature, references)
        if layout == "arena_hard":
            category = record.get("subcategory") or record.get("category") or ""
            return Question(str(record["uid"]), (str(record["prompt"]),), str(category), default)
        instruction = str(record["instruction"])
        return Question(instruction, (instruction,), temperature=default, source=str(record.get("dataset", "")))
    except (KeyError, TypeError) as error:
        raise InputError(
            f"a record is no question of the layout `{layout}`", found=f"no {error}", where=where
        ) from None


def with_references(questions: list[Question], path: Path) -> list[Question]:
    """Return the questions with the reference answers of FastChat's `reference_answer/<model>.jsonl`, where it has some."""
    found = read_answers(path, "mt_bench")
    unknown = found.keys() - {q.id for q in questions}
    if unknown:
        raise InputError(
            "reference answers belong to other questions", found=", ".join(sorted(unknown)[:5]), where=str(path)
        )
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
    return answers


def read_answers(path: Path, layout: str) -> dict[str, tuple[str, ...]]:
    """Return the answers of a model, one a turn, by question id, from a file in the layout of a benchmark."""
    rows = [_answer(record, layout, where=where) for where, record in _records(path)]
    _check_unique((i for i, _ in rows), path)
    return dict(rows)


def _answer(record: dict[str, Any], layout: str, *, where: str) -> tuple[str, tuple[str, ...]]:
    try:
        if layout == "mt_bench":
            return str(record["question_id"]), tuple(map(str, record["choices"][0]["turns"]))
        if layout == "arena_hard":
            content = record["messages"][-1]["content"]
            return str(record["uid"]), (str(content["answer"] if isinstance(content, dict) else content),)
        return str(record["instruction"]), (str(record["output"]),)
    except (KeyError, IndexError, TypeError) as error:
        raise InputError(f"a record is no answer of the layout `{layout}`", found=f"no {error}", where=where) from None


def _records(path: Path) -> Iterable[tuple[str, dict[str, Any]]]:
    """Yield where a record stands and the record, of JSON lines or of one JSON array."""
    if not path.is_file():
        raise InputError("a data file is missing", where=str(path), remedy="check the path in the study file")
    with path.open("rb") as stream:
        is_array = stream.read(1) == b"["
    if not is_array:
        return [(f"{path}, row {row}", record) for row, record in read_jsonl(path)]
    return [(f"{path}, entry {i}", record) for i, record in enumerate(read_json(path), 1)]


def _check_unique(ids: Iterable[str], path: Path) -> None:
    seen: set[str] = set()
    for i in ids:
        if i in seen:
            raise InputError("an id occurs twice", found=json.dumps(i[:80]), where=str(path), remedy="remove one")
        seen.add(i)
