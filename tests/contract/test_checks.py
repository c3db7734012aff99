"""What every check of preference data owes: it finds the trouble it is for, is silent without it, and says where."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast.linting.across import HeldOut, LengthSkew, Overlap
from selfcontrast.linting.findings import LEVELS, Check, Finding, Row, Tokens
from selfcontrast.linting.passes import run_checks
from selfcontrast.linting.text_checks import text_checks
from selfcontrast.linting.token_checks import Limits, token_checks
from selfcontrast.records import Dialogue, Message
from selfcontrast.token_rows import Rows

BOS, EOS = 1, 2
LIMITS = Limits(BOS, EOS, max_length=10, rows=Rows(100))
HELD_OUT = [("row 5", ["Which river flows through the old town of Prague and under Charles Bridge?"], ["The Vltava."])]

MAKERS: list[Callable[[], list[Check]]] = [
    lambda: [*text_checks()],
    lambda: [*token_checks(LIMITS)],
    lambda: [LengthSkew(), Overlap(HeldOut.index("quiz", HELD_OUT))],
]


def name_of(check: Check) -> str:
    """Return the name that stands in the table."""
    return getattr(check, "name", {"LengthSkew": "skew", "Overlap": "overlap"}.get(type(check).__name__, ""))


NAMES = [name_of(check) for make in MAKERS for check in make()]


def fresh(name: str) -> Check:
    (check,) = [check for make in MAKERS for check in make() if name_of(check) == name]
    return check


def row(
    number: int = 1,
    prompt: str | Sequence[tuple[str, str]] = "Name a prime number.",
    target: str = "Seven is one.",
    rejected: Sequence[str] = ("Nine, I think.",),
    *,
    ids: tuple[list[int], list[list[int]]] | None = ([BOS, 5, 6], [[7, EOS], [8, 9, EOS]]),
    **record: object,
) -> Row:
    turns = [("user", prompt)] if isinstance(prompt, str) else prompt
    dialogue = Dialogue(tuple(Message(*turn) for turn in turns), target, tuple(rejected), number)
    return Row(f"row {number}", dialogue, record, Tokens(*ids) if ids else None)


def rows(*rows: Row) -> list[Row]:
    return list(rows)


LONG_ANSWERS = [
    row(i, f"Question {i}", "a b c d e f g", ["a b c"], ids=([BOS, 5], [[7] * 6 + [EOS], [7, 7, EOS]]))
    for i in range(30)
]

CASES: dict[str, tuple[list[Row], int, str]] = {
    "direction": (
        rows(row(1, score_chosen=8.0, score_rejected=3.0), row(2, score_chosen=3, score_rejected=8.5)),
        1,
        "row 2",
    ),
    "tie": (rows(row(1, rank_chosen=2, rank_rejected=2), row(2, rank_chosen=1, rank_rejected=2)), 1, "row 1"),
    "empty": (rows(row(1), row(2, target=" \n"), row(3, rejected=["no", ""])), 2, "row 2"),
    "equal": (rows(row(1, target="You're welcome!", rejected=["no", "you re  Welcome"]), row(2)), 1, "row 1"),
    "prefix": (rows(row(1, target="Seven", rejected=["Seven is one."]), row(2)), 1, "row 1"),
    "roles": (rows(row(1, [("user", "a"), ("user", "b")]), row(2, [("system", "s"), ("user", "a")])), 1, "row 1"),
    "marker": (rows(row(1, target="7\n\nHuman: and then?"), row(2, rejected=["9<|im_end|>"]), row(3)), 2, "row 1"),
    "repeated": (rows(row(1), row(2, "Another?"), row(3)), 1, "row 3"),
    "similar": (rows(row(1), row(2, "name a PRIME number"), row(3)), 1, "row 2"),
    "bos": (rows(row(1), row(2, ids=([5, 6], [[EOS]])), row(3, ids=([BOS, BOS, 5], [[EOS]]))), 2, "row 2"),
    "bos_inside": (rows(row(1, ids=([BOS, 5, BOS, 6], [[EOS]])), row(2)), 1, "row 1"),
    "eos": (rows(row(1), row(2, ids=([BOS, 5], [[7, EOS], [8]])), row(3, ids=([BOS], [[EOS, 7, EOS]]))), 2, "row 2"),
    "rows": (rows(row(1), row(2, ids=([BOS, 100], [[EOS]])), row(3, ids=([BOS], [[99, EOS], [101, EOS]]))), 2, "row 2"),
    "long_prompt": (rows(row(1, ids=([BOS] + [5] * 9, [[EOS]])), row(2)), 1, "row 1"),
    "truncated": (rows(row(1, ids=([BOS] + [5] * 6, [[EOS], [7, 7, 7, EOS]])), row(2)), 1, "row 1"),
    "skew": (LONG_ANSWERS, 30, "row 0"),
    "overlap": (
        rows(row(1), row(2, "Tell me: which river flows through the old town of Prague, and under Charles Bridge?")),
        1,
        "row 2",
    ),
}
CLEAN = [
    row(1, score_chosen=8.0, score_rejected=3.0),
    row(
        2,
        [("system", "Be brief."), ("user", "And an even one?")],
        "Two.",
        ["Four is even."],
        rank_chosen=1,
        rank_rejected=4,
    ),
    *(row(10 + i, f"Question {i}", "a b c", ["d e f"], ids=([BOS, 5], [[7, EOS], [8, EOS]])) for i in range(30)),
]


def test_every_check_has_a_case() -> None:
    assert sorted(NAMES) == sorted(CASES)
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_check_finds_its_trouble_counts_it_and_names_the_first_row(name: str) -> None:
    found, expected, place = CASES[name]
    (finding,) = run_checks(found, [fresh(name)])
    assert (finding.check, finding.count) == (name, expected)
    assert finding.example.startswith(place)
    assert finding.level in LEVELS
    assert 0 < finding.share <= 1
    assert finding.what


@pytest.mark.parametrize("name", NAMES)
def test_check_is_silent_on_clean_rows(name: str) -> None:
    assert run_checks(CLEAN, [fresh(name)]) == []


@pytest.mark.parametrize("name", NAMES)
def test_check_is_silent_without_rows_but_for_what_it_could_not_ask(name: str) -> None:
    assert {(f.level, f.count) for f in run_checks([], [fresh(name)])} <= {("info", 0)}


@pytest.mark.parametrize("name", NAMES)
def test_check_leaves_rows_as_they_are_and_a_second_pass_finds_the_same(name: str) -> None:
    found = CASES[name][0]
    before = copy.deepcopy(found)
    first, second = (run_checks(found, [fresh(name)]) for _ in range(2))
    assert first == second
    assert found == before


@pytest.mark.parametrize("name", NAMES)
def test_check_without_tokens_or_fields_does_not_fail(name: str) -> None:
    bare = [row(i, f"Question {i}", rejected=(), ids=None) for i in range(3)]
    assert [f.count for f in run_checks(bare, [fresh(name)])] in ([], [0])


TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
IDS = st.lists(st.integers(0, 5), max_size=6)


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    turns = draw(st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), TEXT), max_size=4))
    rejected = draw(st.lists(TEXT, max_size=3))
    ids = draw(st.none() | st.tuples(IDS, st.lists(IDS, min_size=len(rejected) + 1, max_size=len(rejected) + 1)))
    numbers = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(allow_nan=False) | TEXT
    answers = st.lists(st.fixed_dictionaries({"answer": TEXT, "rank": numbers}), max_size=3)
    record = {"score_chosen": draw(numbers), "score_rejected": draw(numbers), "answers": draw(answers)}
    return row(draw(st.integers(1, 99)), turns, draw(TEXT), rejected, ids=ids, **record)


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(any_row(), max_size=25))
def test_no_row_breaks_a_check_and_no_count_exceeds_its_total(rows: list[Row]) -> None:
    findings: list[Finding] = run_checks(rows, [check for make in MAKERS for check in make()])
    assert all(0 <= f.count <= f.total for f in findings)
    assert all(len(f.cells) == 6 and not any(c in f.example for c in "\t\n\x1b") for f in findings)
