"""The two adaptors of UltraFeedback on small invented files, and `jsonl` where the response is the last message."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcontrast.datasets import jsonl, ultrafeedback, ultrafeedback_all
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue, Message

Record = dict[str, Any]

PROMPT = Message("user", "Define entropy.")


def read_one(adaptor: ModuleType, folder: Path, record: Record, *, parquet: bool = False) -> Dialogue | BadRecord:
    path = folder / "records"
    if parquet:
        pq.write_table(pa.Table.from_pylist([record]), path)
    else:
        path.write_text(json.dumps(record))
    (found,) = adaptor.read(path)
    return found


def problem(adaptor: ModuleType, folder: Path, record: Record) -> str:
    with pytest.raises(InputError) as caught:
        read_one(adaptor, folder, record)
    return str(caught.value)


def turns(*texts: str, first: str = "user") -> list[Record]:
    """Return turns of user and assistant, field order as published."""
    roles = ["user", "assistant"] if first == "user" else ["assistant", "user"]
    return [{"content": text, "role": roles[i % 2]} for i, text in enumerate(texts)]


# Binarized


def pair(chosen: list[Record], rejected: list[Record], better: object = 8.5, worse: object = 3.0) -> Record:
    return {
        "prompt": "Define entropy.",
        "prompt_id": "a9",
        "chosen": chosen,
        "rejected": rejected,
        "messages": chosen,
        "score_chosen": better,
        "score_rejected": worse,
    }


GOOD, BAD = turns("Define entropy.", " A measure of disorder.\n"), turns("Define entropy.", "Idk")


@pytest.mark.parametrize("parquet", [False, True])
def test_last_turns_are_target_and_rejected_and_the_users_turn_is_the_prompt(tmp_path: Path, parquet: bool) -> None:
    found = read_one(ultrafeedback, tmp_path, pair(GOOD, BAD), parquet=parquet)
    assert found == Dialogue((PROMPT,), "A measure of disorder.", ("Idk",), 1)


def test_history_is_kept(tmp_path: Path) -> None:
    found = read_one(
        ultrafeedback, tmp_path, pair(turns("Hi", "Hello.", "Well?", "Yes."), turns("Hi", "Hello.", "Well?", "No."))
    )
    assert found == Dialogue(
        (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Well?")), "Yes.", ("No.",), 1
    )


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (pair(GOOD, BAD, 3.0, 8.5), "the rejected answer scores higher than the chosen one"),
        (pair(GOOD, BAD, 5.0, 5.0), "chosen and rejected answer have the same score"),
        (pair(GOOD, BAD, 5, 5.0), "chosen and rejected answer have the same score"),
        (pair(GOOD, BAD, None, 5.0), "a score is missing"),
        (pair(GOOD, BAD, 5.0, math.nan), "a score is missing"),
        (pair(GOOD, turns("Define enthalpy.", "Idk")), "the prompts of chosen and rejected differ"),
        (pair(GOOD, turns("Define entropy.", "Idk", "Really?", "No.")), "the prompts of chosen and rejected differ"),
        (pair(GOOD[:1], BAD), "the dialogue does not end with an answer"),
        (pair(GOOD, []), "the dialogue does not end with an answer"),
        (pair(GOOD, turns("Define entropy.", " ")), "an answer is empty"),
        (pair(GOOD, GOOD), "chosen and rejected answer are equal"),
        (
            pair(turns("a", first="assistant"), turns("b", first="assistant")),
            "the prompt does not end with a user turn",
        ),
    ],
)
def test_binarized_names_why_a_record_cannot_be_used(tmp_path: Path, record: Record, expected: str) -> None:
    assert read_one(ultrafeedback, tmp_path, record) == BadRecord(expected, 1)


@given(better=st.floats(0, 10), worse=st.floats(0, 10))
def test_answer_with_the_higher_score_is_the_target_or_there_is_none(
    tmp_path_factory: pytest.TempPathFactory, better: float, worse: float
) -> None:
    """Whatever the columns are called: no dialogue prefers an answer that scores no more than the other."""
    found = read_one(ultrafeedback, tmp_path_factory.mktemp("uf"), pair(GOOD, BAD, better, worse))
    assert isinstance(found, Dialogue) == (better > worse)


@pytest.mark.parametrize("key", ["chosen", "rejected", "score_chosen", "score_rejected"])
def test_binarized_stops_at_another_layout(tmp_path: Path, key: str) -> None:
    without = {k: v for k, v in pair(GOOD, BAD).items() if k != key}
    assert f"`{key}` is missing in 1 of 1 records" in problem(ultrafeedback, tmp_path, without)
    assert f"`{key}` is not a " in problem(ultrafeedback, tmp_path, {**without, key: "text"})


# All answers

ASPECTS = ("helpfulness", "honesty", "instruction_following", "truthfulness")


def rated(*answers: tuple[str, str | list[str]], instruction: str = "Define entropy.") -> Record:
    """Return a record; a single rating stands for all four aspects."""
    completions = [
        {
            "model": "m",
            "response": text,
            "overall_score": 10.0 - i,  # the wrong way round: it must not be read
            "annotations": {
                a: {"Rating": r, "Rationale": "..."}
                for a, r in zip(ASPECTS, [ratings] * 4 if isinstance(ratings, str) else ratings, strict=True)
            },
        }
        for i, (text, ratings) in enumerate(answers)
    ]
    return {"source": "flan", "instruction": instruction, "models": ["m"] * len(answers), "completions": completions}


@pytest.mark.parametrize("parquet", [False, True])
def test_best_rated_answer_is_the_target_and_the_worse_ones_are_rejected_best_first(
    tmp_path: Path, parquet: bool
) -> None:
    record = rated(("bad", "1"), ("fair", "3"), ("best", "5"), ("poor", "2"))
    found = read_one(ultrafeedback_all, tmp_path, record, parquet=parquet)
    assert found == Dialogue((PROMPT,), "best", ("fair", "poor", "bad"), 1)


def test_mean_over_the_aspects_counts(tmp_path: Path) -> None:
    """5 + 5 + 1 + 1 = 12 is less than 3 + 3 + 3 + 4 = 13."""
    found = read_one(
        ultrafeedback_all, tmp_path, rated(("uneven", ["5", "5", "1", "1"]), ("even", ["3", "3", "3", "4"]))
    )
    assert found == Dialogue((PROMPT,), "even", ("uneven",), 1)


def test_of_equally_good_answers_the_first_is_the_target_and_the_others_are_not_rejected(tmp_path: Path) -> None:
    found = read_one(ultrafeedback_all, tmp_path, rated(("first", "4"), ("worse", "3"), ("second", "4")))
    assert found == Dialogue((PROMPT,), "first", ("worse",), 1)


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (rated(), "there is no answer"),
        (rated(("a", "4"), ("b", ["4", "N/A", "4", "4"])), "an answer is not rated"),
        (rated(("a", "4"), ("b", "4")), "no answer is rated lower than the best"),
        (rated(("a", "4")), "no answer is rated lower than the best"),
        (rated(("a", "4"), ("a ", "3")), "chosen and rejected answer are equal"),
        (rated(("a", "4"), ("", "3")), "an answer is empty"),
        (rated(("a", "4"), ("b", "3"), instruction=" "), "the last user turn is empty"),
    ],
)
def test_all_names_why_a_record_cannot_be_used(tmp_path: Path, record: Record, expected: str) -> None:
    assert read_one(ultrafeedback_all, tmp_path, record) == BadRecord(expected, 1)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"instruction": None}, "`instruction` is missing"),
        ({"completions": ["text"]}, "`response` is missing"),
        ({"completions": [{"response": "a"}]}, "`annotations` is missing"),
        ({"completions": [{"response": "a", "annotations": {"honesty": {}}}]}, "`helpfulness` is missing"),
        ({"completions": [{"response": "a", "annotations": {key: {} for key in ASPECTS}}]}, "`Rating` is missing"),
    ],
)
def test_all_stops_at_another_layout(tmp_path: Path, change: Record, part: str) -> None:
    assert part in problem(ultrafeedback_all, tmp_path, {**rated(("a", "4"), ("b", "3")), **change})


# One's own data, the response as the last message


def test_last_message_of_the_assistant_is_the_response(tmp_path: Path) -> None:
    record = {"messages": turns("Hi", "Hello.", "Well?", " Yes."), "rejected": ["No.", "Never."]}
    expected = (Message("user", "Hi"), Message("assistant", "Hello."), Message("user", "Well?"))
    assert read_one(jsonl, tmp_path, record) == Dialogue(expected, "Yes.", ("No.", "Never."), 1)


@pytest.mark.parametrize("parquet", [False, True])
def test_null_is_a_key_that_is_not_there(tmp_path: Path, parquet: bool) -> None:
    """A parquet file has every column in every row."""
    record = {"prompt": None, "messages": turns("Hi", "Hello."), "response": None, "rejected": None}
    if parquet:
        record["prompt"], record["messages"], record["response"] = "Hi", None, "Hello."
    assert read_one(jsonl, tmp_path, record, parquet=parquet) == Dialogue((Message("user", "Hi"),), "Hello.", (), 1)


def test_response_beside_an_answered_dialogue_is_not_guessed_at(tmp_path: Path) -> None:
    record = {"messages": turns("Hi", "Hello."), "response": "Good day."}
    assert read_one(jsonl, tmp_path, record) == BadRecord("the prompt does not end with a user turn", 1)


def test_messages_without_any_response_are_another_layout(tmp_path: Path) -> None:
    assert "`response` is missing" in problem(jsonl, tmp_path, {"messages": turns("Hi")})
    assert "`response` is missing" in problem(jsonl, tmp_path, {"messages": []})
