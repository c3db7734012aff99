"""Variance components, power and trends against hand calculation, other software, and simulated studies."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.stats import nct, norm, t

from selfcontrast.stats import Resamples, compare_all
from selfcontrast.stats.power import smallest_difference
from selfcontrast.stats.trend import find_trend, slopes
from selfcontrast.stats.variance import Components, Spread, split_variance, spread_of_mean

TRUTH = {"prompts": 1.0, "seeds": 0.04, "interaction": 0.25, "samples": 0.5}


def simulate(
    rng: np.random.Generator, *, n_prompts: int = 60, n_seeds: int = 4, n_samples: int = 3, n: int = 1
) -> NDArray:
    """Return answers ``(n, seeds, prompts, samples)`` with the variances of TRUTH around 0."""
    sd = {k: math.sqrt(v) for k, v in TRUTH.items()}
    return (
        sd["prompts"] * rng.standard_normal((n, 1, n_prompts, 1))
        + sd["seeds"] * rng.standard_normal((n, n_seeds, 1, 1))
        + sd["interaction"] * rng.standard_normal((n, n_seeds, n_prompts, 1))
        + sd["samples"] * rng.standard_normal((n, n_seeds, n_prompts, n_samples))
    )


def parts(c: Components) -> list[float]:
    return [c.prompts, c.seeds, c.interaction, c.samples]


# Components


def test_components_by_hand() -> None:
    """Two seeds, two prompts, two samples: cell means 1, 3 and 4, 10; within 2, 2, 2 and 8.

    Seeds 2 and 7, prompts 2.5 and 6.5, all 4.5. Mean squares over cells: seeds 2 * 12.5 = 25, prompts 2 * 8 = 16, rest
    4 * 1 = 4; times two samples 50, 32, 8; within 3.5. So interaction (8 - 3.5) / 2, prompts (32 - 8) / 4, seeds
    (50 - 8) / 4.
    """
    values = np.array([[[0.0, 2.0], [2.0, 4.0]], [[3.0, 5.0], [8.0, 12.0]]])
    assert parts(split_variance(values)) == pytest.approx([6, 10.5, 2.25, 3.5])


def test_components_are_unbiased() -> None:
    """400 simulated studies: the mean of each estimate is its truth, to three standard errors."""
    found = np.array([parts(split_variance(v)) for v in simulate(np.random.default_rng(0), n=400)])
    errors = found.std(0, ddof=1) / 20
    assert np.all(abs(found.mean(0) - list(TRUTH.values())) < 3 * errors)


@pytest.mark.filterwarnings("ignore")
def test_components_are_those_of_a_mixed_model() -> None:
    """On balanced data whose estimates are positive, the method of moments is REML: statsmodels finds the same."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    values = simulate(np.random.default_rng(6), n_prompts=12, n_seeds=4, n_samples=2)[0]
    expected = split_variance(values)
    assert min(parts(expected)) > 0
    s, p, _ = np.indices(values.shape)
    frame = pd.DataFrame({"y": values.ravel(), "s": s.ravel(), "p": p.ravel(), "one": 1})
    frame["cell"] = frame["s"] * 100 + frame["p"]
    formulas = {name: f"0 + C({name})" for name in ("s", "p", "cell")}
    model = MixedLM.from_formula("y ~ 1", frame, re_formula="0", vc_formula=formulas, groups="one")
    fit = model.fit(reml=True)
    found = dict(zip(model.exog_vc.names, fit.vcomp, strict=True))
    assert [found["p"], found["s"], found["cell"], fit.scale] == pytest.approx(parts(expected), rel=0.02)


def test_what_a_design_cannot_tell_apart_is_nan() -> None:
    values = simulate(np.random.default_rng(1))[0]
    one_sample, one_seed, one_each = (split_variance(v) for v in (values[:, :, :1], values[:1], values[:1, :, :1]))
    assert np.isnan(parts(one_sample)).tolist() == [False, False, True, False]
    assert np.isnan(parts(one_seed)).tolist() == [False, True, True, False]
    assert np.isnan(parts(one_each)).tolist() == [False, True, True, True]
    assert one_each.prompts == pytest.approx(values[0, :, 0].var(ddof=1))
    assert np.isnan(parts(split_variance(values[:, :1]))).all()


def test_prompts_with_a_null_are_left_out_and_counted() -> None:
    values = simulate(np.random.default_rng(2))[0]
    holed = values.copy()
    holed[1, 5, 0] = np.nan
    found = split_variance(holed)
    assert found.n_prompts == 59
    assert parts(found) == pytest.approx(parts(split_variance(np.delete(values, 5, axis=1))))


def test_standard_error_follows_from_the_components() -> None:
    """1 / 60 + 0.04 / 4 + 0.25 / 240 + 0.5 / 720; twice the prompts halve all but the second."""
    c = Components(**TRUTH, n_prompts=60, n_seeds=4, n_samples=3)
    assert c.spread().se ** 2 == pytest.approx(1 / 60 + 0.01 + 0.25 / 240 + 0.5 / 720)
    assert c.spread(prompts=2).se ** 2 == pytest.approx(1 / 120 + 0.01 + 0.25 / 480 + 0.5 / 1440)
    assert c.spread(seeds=2).se ** 2 == pytest.approx(1 / 60 + 0.005 + 0.25 / 480 + 0.5 / 1440)
    assert c.spread(samples=2).se ** 2 == pytest.approx(1 / 60 + 0.01 + 0.25 / 240 + 0.5 / 1440)


def test_standard_error_of_components_is_that_of_the_mean() -> None:
    """Where no estimate is negative: two ways to the same number, and to the same degrees of freedom."""
    values = simulate(np.random.default_rng(6))[0]
    of_components, of_mean = split_variance(values).spread(), spread_of_mean(values.mean(2))
    assert of_components.se == pytest.approx(of_mean.se)
    assert of_components.df == pytest.approx(of_mean.df)


def test_one_seed_has_the_standard_error_of_a_mean_and_its_freedom() -> None:
    values = np.random.default_rng(3).normal(0, 1, (1, 50))
    found = spread_of_mean(values)
    assert found.se == pytest.approx(values.std(ddof=1) / 50**0.5)
    assert found.df == pytest.approx(49)


# Power


def test_smallest_difference_of_many_prompts_is_the_textbook_one() -> None:
    """One seed, 100,000 prompts of variance 4: (1.960 + 0.842) * 2 / sqrt(100,000)."""
    c = Components(4.0, math.nan, math.nan, math.nan, n_prompts=100_000, n_seeds=1, n_samples=1)
    assert smallest_difference(c) == pytest.approx((norm.ppf(0.975) + norm.ppf(0.8)) * 2 / 100_000**0.5, rel=1e-3)
    assert smallest_difference(c, prompts=4) == pytest.approx(smallest_difference(c) / 2, rel=1e-3)


def test_small_studies_pay_for_few_degrees_of_freedom() -> None:
    """Three seeds that carry everything: t with 2 degrees of freedom, 5.65 standard errors instead of 2.80."""
    c = Components(0.0, 3.0, 0.0, 0.0, n_prompts=100, n_seeds=3, n_samples=1)
    assert smallest_difference(c) == pytest.approx(5.6535, rel=1e-3)
    assert smallest_difference(c, prompts=2) == pytest.approx(5.6535, rel=1e-3)
    assert smallest_difference(c, seeds=2) < 0.6 * 5.6535


@pytest.mark.parametrize("df", [1.0, 1.125, 1.25, 1.4, 2.0, 7.5, 77.5591, 92.1922, 5e4])
def test_the_smallest_difference_is_found_with_80_percent_power_for_any_degrees_of_freedom(
    df: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The share of a noncentral t beyond the critical value; searches of statsmodels end beside it for some of these df."""
    monkeypatch.setattr(Components, "spread", lambda self, **more: Spread(2.0, df))
    found = smallest_difference(Components(1.0, 1.0, 1.0, 1.0, 10, 3, 2)) / 2
    assert nct.sf(t.ppf(0.975, df), df, found) == pytest.approx(0.8, abs=1e-5)


def test_what_a_study_cannot_know_is_nan() -> None:
    c = Components(1.0, math.nan, math.nan, math.nan, n_prompts=50, n_seeds=1, n_samples=1)
    assert math.isnan(smallest_difference(c, seeds=2))
    assert math.isnan(smallest_difference(c, samples=2))
    assert math.isnan(smallest_difference(Components(0.0, 0.0, 0.0, 0.0, 50, 2, 2)))


def test_smallest_difference_is_found_in_4_of_5_studies() -> None:
    """2,000 studies whose true difference is the smallest visible one, tested as the tables do: power 80 %, +- 3 %."""
    c = Components(**TRUTH, n_prompts=60, n_seeds=4, n_samples=3)
    differences = simulate(np.random.default_rng(4), n=2000).mean(3) + smallest_difference(c)
    resamples = Resamples.draw(n_prompts=60, n_resamples=1000, seed=0)
    assert 0.77 <= np.mean([p < 0.05 for _, p in compare_all(differences, resamples)]) <= 0.83


# Trends


def sweep(rng: np.random.Generator, slope: float, *, noise: float = 0.2) -> dict[int, NDArray]:
    """Return values ``(3 seeds, 80 prompts)`` for n = 1, 2, 4, 8 with the same prompts and a line over log2 n."""
    hard = rng.normal(0, 1, 80)
    return {n: hard + slope * math.log2(n) + rng.normal(0, noise, (3, 80)) for n in (1, 2, 4, 8)}


def resamples(n: int = 1000) -> Resamples:
    return Resamples.draw(n_prompts=80, n_resamples=n, seed=1)


def test_slope_by_hand() -> None:
    """N = 1, 2, 8 are 0, 1, 3 with mean 4/3; values 1, 2, 2: (-4/3 * 1 - 1/3 * 2 + 5/3 * 2) / (14/3) = 2/7."""
    values = {n: np.array([[v]]) for n, v in ((1, 1.0), (2, 2.0), (8, 2.0))}
    assert slopes(values)[0, 0] == pytest.approx(2 / 7)


def test_slope_of_two_n_is_their_difference() -> None:
    assert slopes({1: np.array([[1.0]]), 2: np.array([[4.0]])})[0, 0] == pytest.approx(3)
    assert slopes({1: np.array([[1.0]]), 4: np.array([[4.0]])})[0, 0] == pytest.approx(1.5)


def test_a_rise_is_found_whatever_the_order_of_n_and_a_fall_is_one() -> None:
    values = sweep(np.random.default_rng(5), 0.05)
    rise = find_trend(values, resamples())
    assert rise.direction == "up"
    assert rise.slope.low < 0.05 < rise.slope.high
    assert rise.p < 0.05
    assert rise.page_p < 0.01
    assert find_trend(dict(reversed(values.items())), resamples()) == rise
    fall = find_trend({n: -v for n, v in values.items()}, resamples())
    assert fall.direction == "down"
    assert fall.page_p > 0.99


def test_no_trend_is_seldom_found() -> None:
    """500 flat sweeps: 5 % with p < 0.05, to three standard errors."""
    rng = np.random.default_rng(6)
    flat = np.stack([slopes(sweep(rng, 0.0)) for _ in range(500)])
    assert np.mean([p < 0.05 for _, p in compare_all(flat, resamples())]) < 0.08


def test_prompts_alone_cannot_make_a_trend() -> None:
    """The luck of seeds rises with n by chance: Page's test, blind to it, is sure; the contrast is not."""
    luck = {1: [0.3, -0.3, 0.0], 2: [-0.1, 0.2, 0.2], 4: [0.4, 0.0, -0.1], 8: [-0.2, 0.4, 0.3]}
    rng = np.random.default_rng(7)
    hard = rng.normal(0, 1, 80)
    values = {n: hard + np.array(v)[:, None] + rng.normal(0, 0.02, (3, 80)) for n, v in luck.items()}
    found = find_trend(values, resamples())
    assert found.page_p < 1e-6
    assert found.direction == "not distinguishable"
    assert found.p > 0.2


def test_page_needs_three_n() -> None:
    values = sweep(np.random.default_rng(8), 0.1)
    assert math.isnan(find_trend({n: values[n] for n in (1, 8)}, resamples()).page_p)


def test_cells_with_a_null_are_left_out_of_a_trend() -> None:
    values = sweep(np.random.default_rng(9), 0.1)
    values[4][:, :5] = np.nan
    found = find_trend(values, resamples())
    assert found.slope.value == pytest.approx(np.mean(slopes({n: v[:, 5:] for n, v in values.items()})))
