"""Tables from answers whose metrics are known: counts and nulls, the best arm, and the main table in both languages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from selfcontrast import artifacts, evidence, main_table, metrics, tables
from selfcontrast.cells import Cell, mean_of_known
from selfcontrast.config import load_study
from selfcontrast.judge_tables import Judgements
from selfcontrast.layout import Layout
from selfcontrast.metrics import length, win_vs_target
from selfcontrast.metrics._answers import win_share
from selfcontrast.reporting import headline
from selfcontrast.reporting.material import Material
from selfcontrast.stats import Resamples
from selfcontrast.sweep import arms_of

SMOKE = load_study("smoke")
STUDY = SMOKE.model_copy(update={"evaluation": SMOKE.evaluation.model_copy(update={"scorers": ()})})
ARMS = arms_of(STUDY, "hh")
SFT, DPO, HALF1, HALF2 = ARMS
N = STUDY.datasets["hh"].splits.test


def cell_of(
    root: Path = Path("nowhere"), *, judged: dict[str, NDArray] | None = None, **metrics: dict[str, NDArray]
) -> Cell:
    """Return a cell whose metrics ``(seeds, prompts, samples)`` are given by arm; the others have none.

    Args:
        judged: what the judge `truth` says.
    """
    cell = Cell(STUDY, Layout(root, "hh", "pocket"), ARMS)
    draws = Resamples.draw(n_prompts=N, n_resamples=STUDY.evaluation.bootstrap, seed=0)
    vars(cell)["judgements"] = {"truth": Judgements(judged or {}, draws, 0)}
    vars(cell)["prompt_ids"] = [f"p{i}" for i in range(N)]
    cell._answers.update({"length": {}, "score": {}, "win_vs_sft": {}, "win_vs_target": {}} | metrics)
    return cell


def graded(shift: dict[str, float], *, seed: int = 0) -> dict[str, NDArray]:
    """Return scores of 2 seeds and 24 prompts that differ from arm to arm by a shift and a little noise."""
    rng = np.random.default_rng(seed)
    hard = rng.normal(0, 1, (1, N, 1))
    return {arm: hard + s + rng.normal(0, 0.05, (2, N, 1)) for arm, s in shift.items()}


CELL = cell_of(
    score=graded({SFT: 0.0, DPO: 0.001, HALF1: 0.5, HALF2: 0.502}),
    win_vs_target={arm: np.full((2, N, 1), v) for arm, v in zip(ARMS, (0.25, 0.5, 0.75, 1.0), strict=True)},
)


def made(cell: Cell = CELL) -> dict[str, pd.DataFrame]:
    return {
        "metrics": tables.metrics_table([cell]),
        "best": evidence.best_table([cell]),
        "power": evidence.power_table([cell]),
        "trend": evidence.trend_table([cell]),
    }


# Nulls


def test_win_share_with_nulls_by_hand() -> None:
    """0.5 beats 0.2, ties with 0.5 and does not meet the third: (1 + 1/2) / 2. A null answer has no share."""
    found = win_share(np.array([[0.5, np.nan]]), np.array([[0.2, 0.5, np.nan]]))
    assert found[0, 0] == 0.75
    assert np.isnan(found[0, 1])
    assert np.isnan(win_share(np.array([[0.5]]), np.array([[np.nan]]))).all()


def test_means_of_samples_leave_nulls_out() -> None:
    found = mean_of_known(np.array([[1.0, np.nan], [2.0, 4.0], [np.nan, np.nan]]))
    assert found[:2].tolist() == [1, 3]
    assert np.isnan(found[2])


def test_metrics_carry_their_counts() -> None:
    """Prompt 3 of seed 0 and prompt 5 of both seeds have no value: 23 prompts, 45 answers, 3 nulls."""
    values = graded({SFT: 0.0})
    values[SFT][0, 3] = values[SFT][:, 5] = np.nan
    frame = tables.metrics_table([cell_of(score=values)]).set_index("seed")
    assert frame.loc["0", ["prompts", "answers", "nulls"]].tolist() == [22, 22, 2]
    assert frame.loc["all", ["prompts", "answers", "nulls"]].tolist() == [23, 45, 3]
    assert frame.loc["all", "value"] == pytest.approx(np.nanmean(values[SFT]))


def write_scores(root: Path, rows: list[tuple[str, str, float | None]]) -> None:
    folder = Layout(root, "hh", "pocket").answer_scores(SFT, 0, "test", "grade").parent
    columns = dict(zip(("prompt_id", "response_id", "score"), (list(c) for c in zip(*rows, strict=True)), strict=True))
    artifacts.write_table(folder / "scores.parquet", columns)
    outputs = {"scores.parquet": artifacts.sha256(folder / "scores.parquet")}
    artifacts.write_json(folder / "manifest.json", {"outputs": outputs})


def test_a_null_score_is_read_as_one_and_a_missing_row_is_an_error(tmp_path: Path) -> None:
    rows: list[tuple[str, str, float | None]] = [(f"p{i}", r, 0.5) for i in range(N) for r in ("target", "eval.0")]
    rows[3] = ("p1", "eval.0", None)
    write_scores(tmp_path, rows)
    scores, target = cell_of(tmp_path)._read(SFT, 0)
    assert np.isnan(scores).sum() == 1
    assert np.isnan(scores[1, 0])
    assert (target == 0.5).all()
    write_scores(tmp_path, rows[:-1])
    with pytest.raises(ValueError, match="no row of scores"):
        cell_of(tmp_path)._read(SFT, 0)


# The best arm


def test_the_best_arm_and_those_like_it() -> None:
    """HALF1 is 0.002 worse with a noise of 0.05 / sqrt(24): like the best. The other two are half a point worse."""
    best = evidence.best_table([CELL])
    rows = best[best["metric"] == "score"].set_index("arm")
    assert set(rows["best"]) == {HALF2}
    assert rows["distinguishable"].to_dict() == {HALF2: False, SFT: True, DPO: True, HALF1: False}
    assert rows.loc[SFT, "difference"] == pytest.approx(-0.502, abs=0.05)


MANY = {f"dpo-half-n{n}": n / 1000 for n in range(1, 8)}


def test_the_best_of_many_arms_is_found_with_moderated_variances_beside_the_own() -> None:
    """Seven arms and the SFT model: every comparison with the best borrows; the best itself is compared with nothing."""
    best = evidence.best_table([cell_of(score=graded({SFT: 0.0} | MANY))]).set_index("arm")
    name = best["best"].iloc[0]
    assert best.loc[name, "variance"] == "none"
    others = best.drop(index=name)
    assert set(others["variance"]) == {"moderated"}
    assert not np.allclose(others["p"], others["p_unpooled"])
    assert (others["p_holm_unpooled"] >= others["p_unpooled"]).all()
    assert best.columns[-5:].tolist() == list(tables.UNPOOLED)


def test_intervals_of_trained_arms_borrow_from_each_other_and_the_sft_model_has_its_own() -> None:
    cell = cell_of(score=graded({SFT: 0.0} | MANY))
    vars(cell)["arms"] = {SFT: ARMS[SFT]} | dict.fromkeys(MANY, ARMS[DPO])
    frame = tables.metrics_table([cell])
    over_all = frame[frame["seed"] == "all"].set_index("arm")
    assert over_all["variance"].to_dict() == {SFT: "own"} | dict.fromkeys(MANY, "moderated")
    assert (over_all.loc[SFT, ["low", "high"]].tolist()) == over_all.loc[
        SFT, ["low_unpooled", "high_unpooled"]
    ].tolist()
    assert not np.allclose(over_all["low"].drop(index=SFT), over_all["low_unpooled"].drop(index=SFT))
    single = frame[frame["seed"] != "all"]
    assert set(single["variance"]) == {"prompts"}
    assert single["low"].tolist() == single["low_unpooled"].tolist()
    assert "borrowed from the other arms" in main_table.variance_note(over_all)


def test_comparisons_say_how_many_prompts_both_arms_have() -> None:
    values = graded({SFT: 0.0, DPO: 0.1})
    values[SFT][:, 0] = values[DPO][:, 1] = np.nan
    frame = tables.comparisons_table([cell_of(score=values)])
    assert frame["prompts"].tolist() == [N - 2]
    assert frame[["arm", "compared_to"]].to_numpy().tolist() == [[DPO, SFT]]
    assert frame["variance"].tolist() == ["own"]
    assert frame["p_holm_unpooled"].tolist() == frame["p"].tolist()


def test_variance_and_power_have_a_row_for_each_arm_and_comparison() -> None:
    variance = evidence.variance_table([CELL])
    assert len(variance) == 8
    assert variance["var_prompts"].iloc[0] == pytest.approx(1.0, abs=0.6)
    power = evidence.power_table([CELL]).set_index(["metric", "arm"])
    one = power.loc[("score", HALF2)]
    assert 0 < one["twice_prompts"] < one["smallest"] < 0.2
    assert np.isnan(one["twice_samples"])  # with one answer for each seed the study cannot tell
    assert power.loc["win_vs_target"]["smallest"].isna().all()  # differences without any variance


def test_trend_is_that_of_every_sweep_with_several_n() -> None:
    trend = evidence.trend_table([CELL])
    assert trend[["method", "selection", "n"]].drop_duplicates().to_numpy().tolist() == [
        ["selfcontrast", "half", "1 2"]
    ]
    assert trend.set_index("metric").loc["win_vs_target", "per_doubling"] == pytest.approx(0.25)


# The main table


@pytest.mark.parametrize("n", [0, -1, None, True, 3.0, "5"])
def test_a_rate_is_not_printed_without_its_n(n: Any) -> None:
    with pytest.raises(ValueError, match="number of answers"):
        main_table.format_value(win_vs_target.SHOWN, 0.5, 0.4, 0.6, n=n)
    with pytest.raises(TypeError):
        main_table.format_value(win_vs_target.SHOWN, 0.5, 0.4, 0.6)  # type: ignore[call-arg]


def test_a_rate_is_printed_with_its_n() -> None:
    assert main_table.format_value(win_vs_target.SHOWN, 0.593, 0.5801, 0.6064, n=4608) == "59.3 [58.0, 60.6] n=4608"
    assert main_table.format_value(length.SHOWN, 15.03, 14.98, 15.1, n=4608) == "15.0 [15.0, 15.1]"


def test_markdown_marks_the_best_and_its_like() -> None:
    lines = main_table.markdown(STUDY, made()).splitlines()
    by_arm = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert "**" in by_arm[HALF2].split("|")[2]
    assert "≈" in by_arm[HALF1].split("|")[2]
    assert not {"*", "≈"} & set(by_arm[SFT] + by_arm[DPO])
    assert "25.0 [25.0, 25.0] n=48" in by_arm[SFT]
    assert len({len(line) for line in by_arm.values()}) == 1
    notes = [line for line in lines if line.startswith("- ")]
    assert "each doubling of n (n = 1, 2): mean grade +0.0" in notes[1]
    assert "80 % power" in notes[2]
    assert "moderated" not in notes[3]
    assert "own, since there are too few arms" in notes[3]
    assert len(notes) == 4


def test_intervals_of_one_seed_are_not_said_to_be_over_seeds() -> None:
    one = STUDY.model_copy(update={"seeds": (0,)})
    assert "95 % intervals over prompts and seeds" in main_table.markdown(STUDY, made())
    for text in (main_table.markdown(one, made()), main_table.latex(one, made())):
        assert "intervals over prompts of a single seed" in text
    found = tables.metrics_table([cell_of(score=graded({SFT: 0.0}))]).assign(variance="prompts")
    assert "about these trainings, not about the methods" in main_table.variance_note(found)


def test_one_prompt_that_a_judge_scored_everywhere_has_no_interval_no_p_and_no_trend() -> None:
    cell = cell_of(score=graded({SFT: 0.0, DPO: 0.1, HALF1: 0.2, HALF2: 0.3}))
    judged = {arm: np.full((2, 1, 1), v) for arm, v in ((DPO, 0.25), (HALF1, 0.5), (HALF2, 0.75))}
    draws = Resamples.draw(n_prompts=1, n_resamples=200, seed=0)
    vars(cell)["judgements"] = {"truth": Judgements(judged, draws, N - 1)}
    text = main_table.markdown(STUDY, made(cell))
    assert "25.0 [?, ?] n=2 ≈" in text
    assert "nan" not in text


def test_a_judge_has_a_column_in_percent_and_a_gap_for_the_arm_that_it_compares_with() -> None:
    judged = {arm: np.full((2, N, 1), v) for arm, v in ((DPO, 0.25), (HALF1, 0.5), (HALF2, 0.75))}
    scores = graded({SFT: 0.0, DPO: 0.001, HALF1: 0.5, HALF2: 0.502})
    lines = main_table.markdown(STUDY, made(cell_of(judged=judged, score=scores))).splitlines()
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in lines if line.startswith("| ")}
    column = rows["arm"].index("truth: wins vs SFT, %")
    assert rows[SFT][column] == "-"
    assert rows[DPO][column] == "25.0 [25.0, 25.0] n=48"
    assert rows[HALF2][column] == "**75.0 [75.0, 75.0] n=48**"


def test_a_metric_that_is_added_is_shown_compared_and_searched_for_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The example of docs/adding.md."""
    text = (Path(__file__).parents[2] / "docs" / "adding.md").read_text(encoding="utf-8").split("## A metric")[1]
    (tmp_path / "no_worse_than_target.py").write_text(text.split("```python\n")[1].split("```")[0], encoding="utf-8")
    monkeypatch.setattr(metrics, "__path__", [*metrics.__path__, str(tmp_path)])
    cell = cell_of(
        no_worse_than_target={arm: np.full((2, N, 1), v) for arm, v in zip(ARMS, (0.2, 0.4, 0.9, 0.6), strict=True)}
    )
    try:
        found = made(cell) | {"comparisons": tables.comparisons_table([cell])}
        lines = main_table.markdown(STUDY, found).splitlines()
        material = Material(STUDY, found)
        assert material.shown["no_worse_than_target"].head == "no worse than target, %"
        assert "no worse than target" in str(headline.headline(material).blocks)
    finally:
        sys.modules.pop("selfcontrast.metrics.no_worse_than_target", None)
    rows = {line.split("|")[1].strip(): [c.strip() for c in line.split("|")] for line in lines if line.startswith("| ")}
    column = rows["arm"].index("no worse than target, %")
    assert rows[HALF1][column] == "**90.0 [90.0, 90.0] n=48**"
    assert rows[SFT][column] == "20.0 [20.0, 20.0] n=48"
    for name in ("best", "comparisons", "trend", "power"):
        assert "no_worse_than_target" in set(found[name]["metric"]), name


def test_nulls_are_said_below_the_table_and_nothing_stands_for_no_value() -> None:
    values = graded({SFT: 0.0, DPO: 0.1, HALF1: 0.2, HALF2: 0.3})
    values[DPO][:] = np.nan
    text = main_table.markdown(STUDY, made(cell_of(score=values)))
    assert "left out, over all arms: mean grade 48" in text
    assert "no value" in text
    assert "nan" not in text


def test_latex_has_the_same_numbers_and_balanced_braces() -> None:
    text = main_table.latex(STUDY, made())
    assert text.count("{") == text.count("}")
    assert text.count(r"\begin{table}") == text.count(r"\end{table}") == 1
    body = text.split(r"\midrule")[1].split(r"\bottomrule")[0]
    assert body.count(r"\\") == 4
    assert r"\textbf{" in next(line for line in body.splitlines() if HALF2 in line)
    assert "25.0 [25.0, 25.0] n=48" in body
    assert r"wins vs target, \%" in text


@given(st.text(alphabet="ab&%$#_{}~^\\<>≈", max_size=20))
def test_escaped_text_has_no_character_with_a_meaning(text: str) -> None:
    """Every special character is behind a backslash or inside of a command, and comes back by undoing the escapes."""
    escaped = main_table.escape_latex(text)
    rest = escaped
    for character, command in main_table._LATEX.items():
        if len(command) > 2:
            rest = rest.replace(command, "")
        else:
            assert escaped.count(character) >= text.count(character)
    for command in (c for c in main_table._LATEX.values() if len(c) == 2):
        rest = rest.replace(command, "")
    assert set(rest) <= {"a", "b"}
