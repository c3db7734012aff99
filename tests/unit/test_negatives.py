"""What negatives are, worked out by hand on a pool of two prompts; and the figures that show it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from selfcontrast import diagnostic_plots
from selfcontrast.config import load_study
from selfcontrast.negatives import (
    BINS,
    Pool,
    Scores,
    bin_edges,
    describe_negatives,
    false_share,
    histogram,
    negatives_of,
    scores_of,
)
from selfcontrast.records import TARGET
from selfcontrast.selection import Draw, select_groups

POOL = Pool(
    prompt_ids=["p", "q"],
    target=["yes", "no"],
    target_tokens=np.array([3, 2]),
    owner=np.array([0, 0, 0, 0, 1, 1]),
    response_ids=["sft.0", "sft.1", "sft.2", "sft.3", "sft.0", "sft.1"],
    text=["bad", "bad", " yes ", "fine", "  ", "worse"],
    n_tokens=np.array([4, 4, 3, 2, 1, 2]),
)
TRUTH = Scores(responses=np.array([0.0, 0.0, 1.0, 0.75, 0.0, np.nan]), targets=np.array([0.75, 0.5]))
GROUPS: list[dict[str, Any]] = [
    {"prompt_id": "p", "chosen": TARGET, "rejected": ["sft.0", "sft.1", "sft.2", "sft.3"]},
    {"prompt_id": "q", "chosen": "sft.1", "rejected": ["sft.0"]},
]


def test_negatives_by_hand() -> None:
    """Five negatives. As good as the target: `yes` (1 against 0.75) and `fine` (0.75); with full score `yes` alone.

    One repeats `bad`; one is the target but for spaces; one is empty. Chosen 3, 3, 3, 3, 2 against 4, 4, 3, 2, 1 tokens:
    longer in the last two, a tie in the third.
    """
    found = describe_negatives(POOL, GROUPS, TRUTH)
    assert found == {
        "negatives": 5,
        "false_negatives": pytest.approx(2 / 5),
        "full_score": pytest.approx(1 / 5),
        "repeated": pytest.approx(1 / 5),
        "equal_to_target": pytest.approx(1 / 5),
        "empty": pytest.approx(1 / 5),
        "chosen_tokens": pytest.approx(14 / 5),
        "negative_tokens": pytest.approx(14 / 5),
        "chosen_longer": pytest.approx(2.5 / 5),
    }


def test_what_has_no_score_is_left_out_of_the_share() -> None:
    """The last response of `q` has none: 2 of 5."""
    assert false_share(POOL, TRUTH) == pytest.approx(2 / 5)


def test_without_truth_there_is_no_share_of_false_negatives() -> None:
    found = describe_negatives(POOL, GROUPS, None)
    assert math.isnan(found["false_negatives"])
    assert math.isnan(found["full_score"])
    assert found["repeated"] == pytest.approx(1 / 5)
    assert math.isnan(false_share(POOL, None))


def test_no_groups_are_no_numbers() -> None:
    found = describe_negatives(POOL, [], TRUTH)
    assert found.pop("negatives") == 0
    assert all(math.isnan(v) for v in found.values())


def test_scores_find_their_responses_in_any_order() -> None:
    table = {
        "prompt_id": ["q", "p", "p", "q"],
        "response_id": ["sft.1", TARGET, "sft.3", "sft.0"],
        "score": [0.4, 0.75, 0.3, None],
    }
    found = scores_of(POOL, table)
    assert np.array_equal(found.responses, [np.nan, np.nan, np.nan, 0.3, np.nan, 0.4], equal_nan=True)
    assert np.array_equal(found.targets, [0.75, np.nan], equal_nan=True)


def test_prompts_of_a_pool_are_what_selections_read() -> None:
    """The real selection on the columns of a pool, whose rows are not sorted by prompt."""
    order = [4, 0, 1, 5, 2, 3]
    mixed = Pool(
        POOL.prompt_ids,
        POOL.target,
        POOL.target_tokens,
        POOL.owner[order],
        [POOL.response_ids[i] for i in order],
        [POOL.text[i] for i in order],
        POOL.n_tokens[order],
    )
    draw = Draw(n=1, common_n=0, nested=True, seed=0)
    selected = select_groups(mixed.prompts(None), draw, kind="target", params={"pool": "sft", "dedup": True})
    assert [g.prompt_id for g in selected.groups] == ["p", "q"]
    assert selected.n_candidates == [2, 1]
    rows = negatives_of(mixed, [{"prompt_id": g.prompt_id, "rejected": g.rejected} for g in selected.groups])
    assert [mixed.owner[i] for i in rows] == [0, 1]


def test_histogram_counts_every_value_once() -> None:
    values = np.array([0.0, 0.1, 0.5, 1.0, np.nan])
    counts = histogram(values, bin_edges(values))
    assert len(counts) == BINS
    assert counts.sum() == 4
    assert (counts[0], counts[-1]) == (1, 1)
    assert histogram(values[1:3], bin_edges(values)).sum() == 2


def test_equal_values_have_a_bin_too() -> None:
    assert histogram(np.full(3, 0.7), bin_edges(np.full(3, 0.7))).sum() == 3
    assert histogram(np.array([np.nan]), bin_edges(np.array([np.nan]))).sum() == 0


# Figures


def tables(**changes: Any) -> dict[str, pd.DataFrame]:
    edges = np.linspace(0, 1, 5)
    bars = [
        {"dataset": "hh", "model": "m", "selection": "half", "n": n, "scorer": "cosine", "set": s, "low": a, "high": b}
        | {"count": i}
        for n in (1, 2)
        for s in ("pool", "candidates", "negatives")
        for i, (a, b) in enumerate(zip(edges, edges[1:], strict=False))
    ]
    rows = [
        {"dataset": "hh", "model": "m", "selection": "half", "n": n, "seed": 0, "truth": "grade"}
        | {"false_in_pool": 0.5, "false_negatives": 0.1 * n, "repeated": 0.0}
        | changes
        for n in (1, 2)
    ]
    curve = {"dataset": "hh", "model": "m", "pool": "sft", "prompts": 4, "negatives": 8, "zeta10": 1.0, "zeta11": 4.0}
    points = [
        curve | {"n": n, "predicted": 1 + 3 / n, "measured": 1 + 3 / n, "low": 0.5, "high": 6.0} for n in (1, 2, 4)
    ]
    return {"histograms": pd.DataFrame(bars), "negatives": pd.DataFrame(rows), "gradient": pd.DataFrame(points)}


STUDY = load_study("smoke")


def texts(figure: Any) -> list[str]:
    return [t.get_text() for ax in figure.axes for t in ax.texts]


def test_figure_shows_a_selection_at_the_n_of_the_ablation() -> None:
    figure = diagnostic_plots.negatives(STUDY, tables())
    assert STUDY.figures.ablation_n == 2
    assert texts(figure) == ["n = 2\nfalse 20.0 % (pool 50.0 %)\nrepeated 0.0 %"]


def test_figure_without_truth_or_scorer_says_so() -> None:
    assert texts(diagnostic_plots.negatives(STUDY, tables(false_negatives=np.nan))) == ["n = 2\nrepeated 0.0 %"]
    empty = tables() | {"histograms": tables()["histograms"].iloc[:0]}
    assert "has a scorer" in texts(diagnostic_plots.negatives(STUDY, empty))[0]


def test_gradient_figure_is_in_units_of_one_pair() -> None:
    """zeta10 = 1 and zeta11 = 4: the curve falls from 1 to (1 + 3 / 4) / 4, its floor is a quarter."""
    (ax,) = diagnostic_plots.gradient(STUDY, tables()).axes
    curve, floor = ax.get_lines()[:2]
    assert curve.get_ydata()[[0, -1]] == pytest.approx([1, 0.4375])
    assert floor.get_ydata()[0] == 0.25
