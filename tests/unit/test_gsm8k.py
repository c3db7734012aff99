"""The false-negative rates of filters on invented problems, worked out by hand; the script itself runs on real ones."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from selfcontrast.errors import InputError
from selfcontrast.records import Answer, PromptPool

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "gsm8k" / "example_model_solutions.jsonl"

# Four solutions to each problem, in the order of MODELS: final number, and the similarity that the scorer gives.
PROBLEMS = [
    ("18", [("18", 0.9), ("17", 0.2), ("18.0", 0.1), ("20", 0.8)]),
    ("1,000", [("1000", 0.7), ("$1000", 0.6), ("999", 0.5), ("none", 0.4)]),
    ("3", [("4", 0.9), ("5", 0.8), ("6", 0.7), ("7", 0.6)]),
]
RIGHT = [{"gsm8k.0", "gsm8k.2"}, {"gsm8k.0", "gsm8k.1"}, set()]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gsm8k", ROOT / "benchmarks" / "gsm8k_false_negatives.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # Its dataclasses look up their module by name.
        patch.setitem(sys.modules, "gsm8k", module)
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def problems(script: ModuleType, tmp_path: Path) -> list[Any]:
    """Return the problems above, read from a file of the real layout and scored as given."""
    lines = []
    for i, (target, answers) in enumerate(PROBLEMS):
        record: dict[str, Any] = {"question": f"{i}?", "ground_truth": f"It is so.\nA: {target}"}
        for model, (number, _) in zip(script.MODELS, answers, strict=True):
            record[model] = {"is_correct": None, "solution": f"By {model} <<1+1=2>>2.\nA: {number}"}
        lines.append(json.dumps(record))
    (tmp_path / "f.jsonl").write_text("\n".join(lines))

    def score(pools: Sequence[PromptPool], questions: Sequence[str]) -> list[list[float]]:
        assert list(questions) == ["0?", "1?", "2?"]
        return [[s for _, s in answers] for _, answers in PROBLEMS]

    found: list[Any] = script.scored(script.read_problems(tmp_path / "f.jsonl"), score)
    return found


def test_right_is_what_ends_in_the_number_of_the_reference(problems: list[Any]) -> None:
    assert [set(p.right) for p in problems] == RIGHT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x\nA: 1,234", Decimal(1234)),
        ("x\nA: $5.50", Decimal("5.5")),
        ("x\nA: -2", Decimal(-2)),
        ("x\nA: 1\nA: 2", Decimal(2)),
    ]
    + [(text, None) for text in ("x\nA: 1/2", "x 7", "7", "", "x\nA:", "x\nA: NaN", "x\nA: Infinity")],
)
def test_final_number(script: ModuleType, text: str, expected: Decimal | None) -> None:
    assert script.final_number(text) == expected


@pytest.mark.parametrize(
    ("name", "let_through", "false_negatives", "right"),
    [
        # 4 of the 12 answers are right, and every answer becomes a negative.
        ("`all`", 12 / 12, 4 / 4, 4 / 12),
        # Least similar halves: {1, 2}, {2, 3}, {2, 3}; of the right ones only answer 2 of the first problem is there.
        ("`least`, `keep: 0.5`", 6 / 12, 1 / 4, 1 / 6),
        # Most similar halves: {0, 3}, {0, 1}, {0, 1}: three of the right ones.
        ("`most`, `keep: 0.5`", 6 / 12, 3 / 4, 3 / 6),
        # Least similar quarters: {2}, {3}, {3}.
        ("`least`, `keep: 0.25`", 3 / 12, 1 / 4, 1 / 3),
        # The reference code: ranks below that at position int(4 * 0.5) of the ascending ones, so two answers, as `least` does.
        ("`paper`, `last-5`", 6 / 12, 1 / 4, 1 / 6),
        ("`paper`, `alldedup`", 12 / 12, 4 / 4, 4 / 12),
    ],
)
def test_rates_by_hand(
    script: ModuleType, problems: list[Any], name: str, let_through: float, false_negatives: float, right: float
) -> None:
    found = script.rates(problems, script.negatives(problems, *script.SELECTIONS[name]))
    assert {k: v[0] for k, v in found.items()} == pytest.approx(
        {"let_through": let_through, "false_negatives": false_negatives, "right": right}
    )
    assert all(low <= value <= high for value, low, high in found.values())


def test_pairs_by_hand(script: ModuleType, problems: list[Any]) -> None:
    """Problem 1: 0.9 and 0.1 against 0.2 and 0.8, 2 of 4 pairs; problem 2: 0.7, 0.6 against 0.5, 0.4, all 4; problem 3: none."""
    assert script.pairs_in_order(problems)[0] == pytest.approx(6 / 8)


def test_pairs_in_which_the_weaker_model_is_right(script: ModuleType) -> None:
    """Model 0 is right three times and model 1 twice. Of all 5 pairs the right answer wins 4; of those two of model 1, one."""
    scores_and_right = [((0.9, 0.1), 0), ((0.9, 0.1), 0), ((0.9, 0.1), 0), ((0.6, 0.3), 1), ((0.2, 0.8), 1)]
    problems = []
    for scores, right in scores_and_right:
        answers = tuple(Answer(f"gsm8k.{j}", "x", s) for j, s in enumerate(scores))
        problems.append(script.Problem("?", PromptPool("row1", "t", answers), frozenset({f"gsm8k.{right}"})))
    assert script.pairs_in_order(problems)[0] == pytest.approx(4 / 5)
    assert script.pairs_in_order(problems, weaker_is_right=True)[0] == pytest.approx(1 / 2)


def test_without_notes_the_texts_have_none(script: ModuleType, problems: list[Any], tmp_path: Path) -> None:
    plain = script.read_problems(tmp_path / "f.jsonl", annotations=False)
    assert "<<" in problems[0].pool.answers[0].text
    assert plain[0].pool.answers[0].text == "By 6b_finetuning 2.\nA: 18"
    assert [p.right for p in plain] == [p.right for p in problems]


def test_the_interval_draws_problems_and_not_answers(script: ModuleType) -> None:
    """50 problems that are all right or all wrong: the interval is as wide as that of 50 coins, not of 5,000."""
    value, low, high = script.ratio([100 * (i % 2) for i in range(50)], [100] * 50)
    assert value == 0.5
    assert high - low == pytest.approx(2 * 1.96 * (0.25 / 50) ** 0.5, rel=0.15)


def test_another_file_is_named_with_its_row(script: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "f.jsonl").write_text('{"question": "?"}')
    with pytest.raises(InputError, match=r"no problem with four solutions[\s\S]*row 1"):
        script.read_problems(tmp_path / "f.jsonl")


def test_a_missing_folder_ends_with_a_message(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main([str(tmp_path)]) == 2
    assert "a data file is missing" in capsys.readouterr().err


@pytest.mark.skipif(not REAL.is_file(), reason="real data not found beside the project")
def test_the_final_number_agrees_with_every_mark_of_the_real_file(script: ModuleType) -> None:
    """OpenAI marked 5,276 solutions as right or wrong; 2,001 are right."""
    marks = [json.loads(line) for line in REAL.read_text(encoding="utf-8").splitlines()]
    problems = script.read_problems(REAL)
    for problem, mark in zip(problems, marks, strict=True):
        assert problem.right == {f"gsm8k.{j}" for j, m in enumerate(script.MODELS) if mark[m]["is_correct"]}
    assert sum(len(p.right) for p in problems) == 2001
