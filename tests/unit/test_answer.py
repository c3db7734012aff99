"""Answering the questions of a benchmark turn by turn."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

from selfcontrast.judging.questions import Question
from selfcontrast.steps.answer import NO_ROOM, converse


@dataclass
class Letters:
    """A renderer whose tokens are letters."""

    def prompt_ids(self, messages: list) -> list[int]:
        return [ord(c) for m in messages for c in f"{m.role[0]}:{m.content};"]

    def response_text(self, ids: list[int]) -> str:
        return "".join(map(chr, ids)).rstrip(".")


QUESTIONS = [
    Question("1", ("ab", "cd")),
    Question("2", ("x" * 50, "y")),
    Question("3", ("z",)),
    Question("4", ("e", "f" * 50)),
]


def test_second_turn_sees_the_first_answer_and_what_does_not_fit_stays_unanswered() -> None:
    seen: list[dict[str, str]] = []

    def sample(prompts: dict[str, list[int]], turn: int) -> dict:
        seen.append({i: "".join(map(chr, ids)) for i, ids in prompts.items()})
        return {i: SimpleNamespace(ids=[ord(c) for c in f"A{i}{turn}."], finish="stop") for i in prompts}

    rows = converse(QUESTIONS, Letters(), sample, most_prompt_tokens=30)  # type: ignore[arg-type]
    assert seen == [{"1": "u:ab;", "3": "u:z;", "4": "u:e;"}, {"1": "u:ab;a:A10;u:cd;"}]
    found = {(r.question_id, r.turn): (r.text, r.n_tokens, r.finish) for r in rows}
    nothing = (None, 0, NO_ROOM)
    assert found == {
        ("1", 0): ("A10", 3, "stop"),
        ("1", 1): ("A11", 3, "stop"),
        ("2", 0): nothing,
        ("2", 1): nothing,
        ("3", 0): ("A30", 3, "stop"),
        ("4", 0): ("A40", 3, "stop"),
        ("4", 1): nothing,
    }
    assert [(r.question_id, r.turn) for r in rows] == [
        ("1", 0),
        ("1", 1),
        ("2", 0),
        ("2", 1),
        ("3", 0),
        ("4", 0),
        ("4", 1),
    ]
