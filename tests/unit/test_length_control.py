"""Win rates at equal length: known truths, agreement with alpaca-eval where it is installed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from selfcontrast.judging.length_control import difficulties, length_controlled


def preferences(*, quality: float, length: float, n: int = 400, seed: int = 0, longer: float = 0.0):
    """Return shares of a judge with known weights, and the lengths of both answers; ``longer`` standard deviations longer."""
    rng = np.random.default_rng(seed)
    baseline = rng.integers(200, 1000, n)
    mine = np.maximum(1, baseline + (rng.normal(longer, 1, n) * 150)).astype(int)
    delta = (baseline - mine) / (baseline - mine).std(ddof=1)
    p = 1 / (1 + np.exp(-(quality - length * np.tanh(delta))))
    return rng.binomial(20, p) / 20, mine, baseline


def test_judge_that_likes_length_is_seen_through() -> None:
    """Quality 0 is a rate of one half, however long the answers; the raw rate is far above."""
    share, mine, baseline = preferences(quality=0.0, length=2.0, longer=1.0)
    found = length_controlled(share, mine, baseline)
    assert found is not None
    assert share.mean() > 0.68
    assert found.rate == pytest.approx(0.5, abs=0.04)
    assert found.length_weight == pytest.approx(-2.0, abs=0.25)


def test_judge_without_a_liking_keeps_its_rate() -> None:
    share, mine, baseline = preferences(quality=0.8, length=0.0, longer=1.0)
    found = length_controlled(share, mine, baseline)
    assert found is not None
    assert found.rate == pytest.approx(share.mean(), abs=0.02)
    assert abs(found.length_weight) < 0.1


def test_rate_lies_between_the_shares_when_lengths_are_equal() -> None:
    share = np.linspace(0.2, 0.8, 50)
    found = length_controlled(share, np.full(50, 100), np.full(50, 100))
    assert found is not None
    assert found.rate == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_where_every_verdict_is_the_same_it_is_the_rate(value: float) -> None:
    lengths = np.arange(30)
    found = length_controlled(np.full(30, value), lengths, lengths[::-1])
    assert found is not None
    assert (found.rate, found.se, found.length_weight, found.n) == (value, 0.0, 0.0, 30)


@pytest.mark.parametrize("with_difficulty", [False, True])
def test_standard_error_is_the_spread_of_simulated_studies(with_difficulty: bool) -> None:
    """60 studies of 100 prompts: their rates scatter as their errors say, within 25 % (2.7 times 1 / sqrt(120))."""
    rng = np.random.default_rng(3)
    rates, errors = [], []
    for _ in range(60):
        delta, hard = rng.normal(0.5, 1, 100), rng.normal(0, 1, 100)
        logit = 0.4 - 1.5 * np.tanh(delta / delta.std(ddof=1)) - (hard if with_difficulty else 0)
        share = rng.binomial(1, 1 / (1 + np.exp(-logit))).astype(float)
        found = length_controlled(share, np.zeros(100), 1000 * delta, -hard if with_difficulty else None)
        assert found is not None
        rates.append(found.rate)
        errors.append(found.se)
    assert np.std(rates, ddof=1) == pytest.approx(np.mean(errors), rel=0.25)


def test_preferences_that_are_there_twice_are_no_more_evidence() -> None:
    share, mine, baseline = preferences(quality=0.3, length=1.0, n=100)
    once = length_controlled(share, mine, baseline)
    twice = length_controlled(*(np.repeat(x, 2) for x in (share, mine, baseline)), prompts=list(np.arange(200) // 2))
    assert once is not None and twice is not None
    assert twice.se == pytest.approx(once.se, rel=0.02)


@pytest.mark.parametrize("n", [40, 805])
def test_a_single_win_is_no_fifth_of_them(n: int) -> None:
    """Where a fold has no win, or no loss, the solver must not take the one for the other; both sides are alike."""
    rng = np.random.default_rng(0)
    mine, baseline, share = rng.gamma(4, 200, n), rng.gamma(4, 150, n), np.zeros(n)
    share[n // 2] = 1
    won, lost = length_controlled(share, mine, baseline), length_controlled(1 - share, mine, baseline)
    assert won is not None and lost is not None
    assert won.rate < 3 / n
    assert won.rate == pytest.approx(1 - lost.rate, abs=1e-3)


def test_missing_preferences_take_no_part_in_the_fit() -> None:
    share, mine, baseline = preferences(quality=0.5, length=1.0)
    share[::10] = np.nan
    found = length_controlled(share, mine, baseline)
    assert found is not None
    assert found.n == 360
    assert length_controlled(np.array([0.5, np.nan, 1.0]), np.arange(3), np.arange(3)) is None


def test_difficulty_leaves_the_arm_itself_out() -> None:
    """Four arms, two prompts; of the first arm only the rest counts, so that its own preferences do not explain themselves."""
    shares = np.array([[0.9, 0.1], [0.2, 0.6], [0.2, 0.6], [0.2, 0.6]])
    found = difficulties(shares)
    assert found is not None
    assert found[0] == pytest.approx([-1, 1])
    changed = shares.copy()
    changed[0] = [0.1, 0.9]
    again = difficulties(changed)
    assert again is not None
    assert again[0] == pytest.approx(found[0])
    assert difficulties(shares[:3]) is None


def test_extremes_and_gaps_give_finite_difficulties() -> None:
    shares = np.array([[0.0, 1.0, np.nan]] * 3 + [[0.5, 0.5, 0.5], [1.0, 1.0, 1.0]])
    found = difficulties(shares)
    assert found is not None
    assert np.isfinite(found).all()


@pytest.mark.parametrize("seed", range(3))
def test_agrees_with_alpaca_eval(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package's model without gamed baselines, fed with synthetic difficulties, gives the same rate and error."""
    pytest.importorskip("alpaca_eval")
    import pandas as pd
    from alpaca_eval.metrics import glm_winrate

    share, mine, baseline = preferences(quality=0.4 * seed - 0.4, length=1.5, longer=0.7, n=200, seed=seed)
    hard = np.random.default_rng(seed).normal(size=200)
    columns = {
        "preference": 0.5,
        "index": range(200),
        "std_delta_len": 0.0,
        "not_gamed_baseline": False,
        "model": "gamed",
    }
    gamed = tmp_path / "df_gamed.csv"
    pd.DataFrame({**columns, "instruction_difficulty": hard}).to_csv(gamed, index=False)
    monkeypatch.setattr(glm_winrate, "hf_hub_download", lambda **_: str(gamed))
    rows = [
        {"index": i, "instruction": str(i), "output_1": "x" * b, "output_2": "x" * m, "generator_1": "base",
         "generator_2": "arm", "annotator": "a", "preference": 1 + s}
        for i, (s, m, b) in enumerate(zip(share, mine, baseline, strict=True))
    ]  # fmt: skip
    theirs = glm_winrate.get_length_controlled_winrate(
        pd.DataFrame(rows).set_index("index", drop=False).rename_axis(None).drop(columns="index"),
        glm_name="length_controlled_noreg",
        save_weights_dir=None,
    )
    ours = length_controlled(share, mine, baseline, hard)
    assert ours is not None
    assert 100 * ours.rate == pytest.approx(theirs["length_controlled_winrate"], abs=1e-6)
    assert 100 * ours.se_of_predictions == pytest.approx(theirs["lc_standard_error"], abs=1e-6)
