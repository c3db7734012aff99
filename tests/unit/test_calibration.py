"""Win rates of judgements in AlpacaEval's layout, by hand, and against a leaderboard; all files here are invented."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from selfcontrast.__main__ import main
from selfcontrast.calibration import annotator_of, read_judged, win_rate

JUDGE = "weighted_alpaca_eval_gpt4_turbo"


def write(root: Path, model: str, preferences: list[Any], *, annotator: str = JUDGE) -> Path:
    """Write annotations with the keys of the public files."""
    rows = [
        {
            "instruction": f"Question {i}?",
            "output_1": "The baseline's answer.",
            "generator_1": "gpt4_1106_preview",
            "dataset": "koala",
            "output_2": "An answer.",
            "generator_2": model,
            "annotator": annotator,
            "preference": p,
            "price_per_example": 0.01,
            "raw_completion": {"finish_reason": "length", "index": 0},
        }
        for i, p in enumerate(preferences)
    ]
    path = root / model / annotator / "annotations.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def leaderboard(root: Path, rows: dict[str, tuple[float, float]], name: str = f"{JUDGE}_leaderboard.csv") -> Path:
    lines = [",win_rate,standard_error,n_wins,n_wins_base,n_draws,n_total,avg_length"]
    lines += [f"{model},{rate!r},{error!r},1,1,0,2,1000" for model, (rate, error) in rows.items()]
    path = root / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_win_rate_by_hand() -> None:
    """Preferences 1, 2, 1.5 and 1.2: wins 0, 1, 0.5, 0.2 with mean 0.425 and squares of deviations summing to 0.5675.

    The standard error is sqrt(0.5675 / 3 / 4) = 0.217466.
    """
    found = win_rate([1, 2, 1.5, 1.2])
    assert found.value == pytest.approx(42.5)
    assert found.standard_error == pytest.approx(21.7466, abs=1e-4)
    assert (found.n, found.nulls, found.invalid) == (4, 0, 0)


def test_nulls_are_left_out_and_counted() -> None:
    """1, 2 and two nulls: mean 0.5, standard error sqrt(0.5 / 2) = 0.5; NaN is a null too."""
    found = win_rate([1, None, 2, math.nan])
    assert (found.value, found.standard_error, found.n, found.nulls) == (50, 50, 2, 2)


def test_zero_is_a_draw_as_in_the_first_annotators() -> None:
    assert win_rate([0, 1, 2, 0]) == win_rate([1.5, 1, 2, 1.5])


def test_what_is_no_preference_is_left_out_and_counted() -> None:
    found = win_rate([1, 2, -1, 2.5, None])
    assert (found.n, found.nulls, found.invalid) == (2, 1, 2)
    assert found.value == 50


def test_there_is_no_rate_without_judgements() -> None:
    with pytest.raises(ValueError, match="no preference"):
        win_rate([None, 3])


def test_one_judgement_has_no_standard_error() -> None:
    assert math.isnan(win_rate([2]).standard_error)


@given(st.lists(st.floats(1, 2), min_size=2, max_size=60))
def test_it_is_the_mean_and_standard_error_of_pandas(preferences: list[float]) -> None:
    """The public code is ``pandas.Series.mean`` and ``.sem`` of preference - 1, times 100."""
    wins = pd.Series(preferences) - 1
    found = win_rate(preferences)
    assert found.value == pytest.approx(100 * wins.mean(), abs=1e-9)
    assert found.standard_error == pytest.approx(100 * wins.sem(), abs=1e-9)


def published_study(root: Path) -> dict[str, tuple[float, float]]:
    """Write three models: 805 weighted preferences, 803 rows of which 3 are null, and a v1 annotator's; return truth."""
    rng = np.random.default_rng(0)
    weighted = (1 + rng.beta(0.5, 1.5, 805)).tolist()
    holed: list[Any] = [*(1 + rng.beta(0.3, 0.3, 800)).tolist(), None, None, None]
    discrete = rng.choice([1, 1.5, 2, 0], size=805).tolist()
    truth = {}
    for model, values in (("weighted-7b", weighted), ("holed-7b", holed), ("discrete-7b", discrete)):
        write(root, model, values)
        wins = np.array([0.5 if v == 0 else v - 1 for v in values if v is not None])
        truth[model] = (float(wins.mean() * 100), float(wins.std(ddof=1) / len(wins) ** 0.5 * 100))
    return truth


def test_folder_is_read_and_equals_its_leaderboard(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = published_study(tmp_path)
    write(tmp_path, "weighted-7b", [1, 2], annotator="another_judge")  # not on this leaderboard
    file = leaderboard(tmp_path, {**truth, "not-here": (50.0, 1.0)})
    assert main(["calibrate", str(tmp_path), "--leaderboard", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 of 4 are on weighted_alpaca_eval_gpt4_turbo_leaderboard.csv; largest difference 0.000000" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.endswith(JUDGE)}
    assert rows["holed-7b"][3:5] == ["800", "3"]
    for model, (rate, error) in truth.items():
        assert rows[model][1:3] == [f"{rate:.3f}", f"{error:.3f}"]


@pytest.mark.parametrize(("shift", "code"), [((0.0004, 0.0), 0), ((0.0006, 0.0), 1), ((0.0, 0.0006), 1)])
def test_a_difference_in_the_fourth_decimal_exits_with_1(
    shift: tuple[float, float], code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = published_study(tmp_path)
    rate, error = truth["holed-7b"]
    truth["holed-7b"] = (rate + shift[0], error + shift[1])
    assert main(["calibrate", str(tmp_path), "--leaderboard", str(leaderboard(tmp_path, truth))]) == code
    assert ("differs by 0.000600: holed-7b" in capsys.readouterr().out) == bool(code)


def test_other_places_of_the_file_are_found(tmp_path: Path) -> None:
    """Deeper folders: the two above the file count. At the top: what the rows say."""
    path = write(tmp_path / "a", "x-7b", [1, 2])
    (tmp_path / "annotations.json").write_bytes(path.read_bytes())
    assert [(j.model, j.annotator) for j in read_judged(tmp_path)[0]] == [("x-7b", JUDGE), ("x-7b", JUDGE)]
    assert read_judged(tmp_path / "a" / "x-7b")[0][0].model == "x-7b"


def test_leaderboard_of_another_name_is_compared_with_all(tmp_path: Path) -> None:
    write(tmp_path, "x-7b", [1, 2], annotator="some_judge")
    file = leaderboard(tmp_path, {"x-7b": (50.0, 50.0)}, "mine.csv")
    assert annotator_of(file) is None
    assert annotator_of(Path("some_judge_leaderboard.csv")) == "some_judge"
    assert main(["calibrate", str(tmp_path), "--leaderboard", str(file)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "not JSON"),
        ("{}", "array of objects"),
        ("[]", "array of objects"),
        ('[{"instruction": "x"}]', "array of objects"),
        ('[{"preference": "2"}]', "a number or null"),
        ('[{"preference": null}]', "no preference"),
    ],
)
def test_a_file_that_is_no_annotations_is_named(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x" / "y" / "annotations.json"
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="utf-8")
    assert main(["calibrate", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert str(path) in err


def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = published_study(tmp_path)
    path = write(tmp_path, "unjudged-7b", [None, None])
    assert main(["calibrate", str(tmp_path), "--leaderboard", str(leaderboard(tmp_path, truth))]) == 1
    out = capsys.readouterr().out
    assert all(f"{model} " in out for model in truth)
    assert "1 of 4 files cannot be read:\nthere is no preference" in out
    assert str(path) in out
    assert "3 of 3 are on" in out


def test_nothing_to_read_and_nothing_to_compare_are_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", str(tmp_path)]) == 2
    assert "<model>/<annotator>/annotations.json" in capsys.readouterr().err
    write(tmp_path, "x-7b", [1, 2])
    for file, message in (
        (leaderboard(tmp_path, {"y-7b": (1.0, 1.0)}), "no model of the leaderboard"),
        (tmp_path / "none.csv", "a file is missing"),
        (tmp_path / "x-7b" / JUDGE / "annotations.json", "not a leaderboard"),
    ):
        assert main(["calibrate", str(tmp_path), "--leaderboard", str(file)]) == 2
        assert message in capsys.readouterr().err
