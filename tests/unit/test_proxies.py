"""Proxy against truth: means, agreement and wins of answers whose scores are known, and the figure that shows them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from selfcontrast import evidence, main_table, plotting, proxies, proxy_plots, tables
from selfcontrast.cells import Cell
from selfcontrast.config import load_study, parse_study
from selfcontrast.judge_tables import Judgements
from selfcontrast.layout import Layout
from selfcontrast.sweep import arms_of

STUDY = load_study("smoke")
ARMS = arms_of(STUDY, "hh")
SFT, DPO, HALF1, HALF2 = ARMS
N, SEEDS = 24, (0, 1)
Scores = dict[tuple[str, int], NDArray]


def cell_of(truth: Scores, proxy: Scores, targets: tuple[NDArray, NDArray]) -> Cell:
    """Return a cell with the scores ``(prompts, samples)`` of judge and proxy by arm and seed, and of the targets."""
    cell = Cell(STUDY, Layout(Path("nowhere"), "hh", "pocket"), ARMS)
    vars(cell)["prompt_ids"] = [f"p{i}" for i in range(N)]
    vars(cell)["lengths"] = {key: np.ones_like(s) for key, s in truth.items()}
    second = replace(cell, is_proxy=True)
    vars(second).update(prompt_ids=cell.prompt_ids, lengths=cell.lengths)
    for one, scores, target in zip((cell, second), (truth, proxy), targets, strict=True):
        vars(one).update(scores=scores, target_score=target)
    vars(cell)["proxies"] = {"proxy": second}
    for one in (cell, second):
        vars(one)["judgements"] = {"truth": Judgements({}, None, 0)}
    return cell


def same(values: dict[str, list[float]]) -> Scores:
    """Return for each arm the scores of one prompt, repeated over prompts, for both seeds."""
    return {(arm, s): np.tile(np.array(row, dtype=float), (N, 1)) for arm, row in values.items() for s in SEEDS}


TRUTH = same({SFT: [0.5, 0.5], DPO: [1.0, 0.0], HALF1: [0.0, 0.0], HALF2: [1.0, 0.5]})
PROXY = same({SFT: [1.0, 3.0], DPO: [4.0, 1.0], HALF1: [5.0, 6.0], HALF2: [4.0, 2.0]})
CELL = cell_of(TRUTH, PROXY, (np.full(N, 0.5), np.full(N, 2.0)))


def test_disagreement_is_counted_by_hand() -> None:
    """Target: truth 0.5, proxy 2. HALF1 beats it twice by the proxy and never in truth; a tie beats nothing."""
    frame = proxies.proxy_table([CELL]).set_index("arm")
    assert frame["disagree"].to_dict() == {SFT: 0.5, DPO: 0.0, HALF1: 1.0, HALF2: 0.0}
    assert frame["overrated"].to_dict() == {SFT: 0.5, DPO: 0.0, HALF1: 1.0, HALF2: 0.0}
    assert frame["proxy_mean"].to_dict() == {SFT: 2.0, DPO: 2.5, HALF1: 5.5, HALF2: 3.0}
    assert frame["truth_mean"].to_dict() == {SFT: 0.5, DPO: 0.5, HALF1: 0.0, HALF2: 0.75}
    assert set(frame["answers"]) == {N * 2 * 2}
    assert set(frame["truth"]) == {"grade"}
    assert not frame["by_proxy"].any()


def test_correlation_is_over_the_answers_of_the_arm() -> None:
    frame = proxies.proxy_table([CELL]).set_index("arm")
    assert frame.loc[DPO, "pearson"] == pytest.approx(1.0)
    assert np.isnan(frame.loc[HALF1, "pearson"])  # a truth that does not vary
    rng = np.random.default_rng(0)
    truth = {key: rng.normal(size=(N, 2)) for key in TRUTH}
    against = {key: -s + rng.normal(0, 0.5, s.shape) for key, s in truth.items()}
    found = proxies.proxy_table([cell_of(truth, against, (np.zeros(N), np.zeros(N)))])
    assert (found["spearman"] < -0.6).all()


def test_answers_without_a_score_are_left_out() -> None:
    truth = {key: s.copy() for key, s in TRUTH.items()}
    truth[DPO, 0][:4] = np.nan
    frame = proxies.proxy_table([cell_of(truth, PROXY, (np.full(N, 0.5), np.full(N, 2.0)))]).set_index("arm")
    assert frame.loc[DPO, "answers"] == N * 4 - 8
    assert frame.loc[SFT, "answers"] == N * 4


def test_wins_against_an_arm_count_ties_half() -> None:
    """By the truth 1 and 0 each meet two answers of 0.5: half. By the proxy 4 beats 1 and 3, and 1 ties once."""
    wins = proxies.wins_table([CELL]).set_index(["scorer", "arm"])
    assert set(wins["against"]) == {SFT}
    assert wins.loc[("grade", DPO), "value"] == 0.5
    assert wins.loc[("proxy", DPO), "value"] == pytest.approx((1.0 + 0.25) / 2)
    assert wins.loc[("proxy", HALF1), ["value", "prompts", "answers"]].tolist() == [1.0, N, N * 4]
    assert wins.loc[("grade", HALF1), "value"] == 0.0
    assert ("grade", SFT) not in wins.index


def test_metrics_have_those_of_the_proxy_under_its_name() -> None:
    frame = tables.metrics_table([CELL])
    over_all = frame[(frame["seed"] == "all")].set_index(["metric", "arm"])["value"]
    own = {m for m in frame["metric"] if m.endswith("_proxy")}
    assert own == {"score_proxy", "win_vs_sft_proxy", "win_vs_target_proxy"}
    assert over_all["win_vs_target_proxy", HALF1] == 1.0
    assert over_all["win_vs_target", HALF1] == 0.0
    assert over_all["win_vs_target_proxy", HALF2] == pytest.approx(0.75)  # 4 wins, 2 ties
    assert ("win_vs_sft_proxy", SFT) not in over_all


def test_main_table_shows_the_proxy_apart_and_seeks_no_best_by_it() -> None:
    """HALF1 is by far the best by the proxy, and the worst in truth."""
    found = {
        "metrics": tables.metrics_table([CELL]),
        "best": evidence.best_table([CELL]),
        "power": evidence.power_table([CELL]),
        "trend": evidence.trend_table([CELL]),
    }
    truth, proxy = main_table.markdown(STUDY, found).split("hh, pocket: by the scorer proxy, which is not the judge")
    assert "proxy" not in truth
    assert f"**{0.75:.3f} " in truth
    row = next(line for line in proxy.splitlines() if line.startswith(f"| {HALF1} "))
    assert "5.500 [5.500, 5.500]" in row
    assert "100.0 [100.0, 100.0] n=96" in row
    assert not {"*", "≈"} & set(proxy)
    assert "No best arm is sought here" in proxy
    assert "figure overoptimisation" in main_table.latex(STUDY, found)


def test_arms_that_saw_the_proxy_are_marked_whatever_its_scorer_is_called() -> None:
    raw = STUDY.model_dump(mode="json", exclude_unset=True)
    raw["scorers"]["again"] = {"kind": "reward", "trained": "proxy", "tokens": 64}
    raw["selections"]["half"] |= {"scorer": "again"}
    study = parse_study(raw, where="here")
    cell = replace(CELL, study=study)
    assert [proxies.saw_proxy(cell, arm, "proxy") for arm in ARMS.values()] == [False, False, True, True]
    assert not any(proxies.saw_proxy(CELL, arm, "proxy") for arm in ARMS.values())


REWARDS = pd.DataFrame({"reward_model": ["proxy"], "held_out_accuracy": [0.75]})


def test_figure_has_a_point_with_two_bars_for_each_arm_and_a_ring_for_the_proxy_s(tmp_path: Path) -> None:
    frame = proxies.proxy_table([CELL])
    frame["by_proxy"] = frame["arm"] == HALF1
    figure = proxy_plots.overoptimisation(STUDY, {"proxy": frame, "rewards": REWARDS})
    (ax,) = figure.axes
    points = [tuple(p) for c in ax.containers for p in np.column_stack(c.lines[0].get_data())]
    assert sorted(points) == sorted(zip(frame["proxy_mean"], frame["truth_mean"], strict=True))
    assert all(c.has_xerr and c.has_yerr for c in ax.containers)
    rings = [line for line in ax.lines if line.get_markersize() == 11]
    assert [line.get_data()[0].tolist() for line in rings] == [[5.5]]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["SFT", "DPO", "Self-Contrast", "selected by the proxy"]
    saved = {}
    for name in ("a", "b"):
        for suffix in ("pdf", "svg"):
            again = proxy_plots.overoptimisation(STUDY, {"proxy": frame, "rewards": REWARDS})
            plotting.save(again, tmp_path / f"{name}.{suffix}", suffix)
        saved[name] = [(tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("pdf", "svg")]
    assert saved["a"] == saved["b"]
