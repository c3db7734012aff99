"""Intervals and comparisons against closed forms, hand calculation, and simulated studies whose truth is known."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm, ttest_1samp

from selfcontrast.stats import Resamples, compare, compare_all, estimate, estimates, holm, mean_interval

N_STUDIES = 2000


def draws(n_prompts: int, *, n: int = 4000, seed: int = 0) -> Resamples:
    return Resamples.draw(n_prompts=n_prompts, n_resamples=n, seed=seed)


def simulate(rng: np.random.Generator, *, n_seeds: int = 4, n_prompts: int = 60, mean: float = 0.0) -> NDArray:
    """Return scores ``(seeds, prompts)``: how hard a prompt is (sd 1), how lucky a seed (0.1), the rest (0.3)."""
    prompts = rng.normal(0, 1.0, n_prompts)
    seeds = rng.normal(0, 0.1, n_seeds)
    return mean + seeds[:, None] + prompts + rng.normal(0, 0.3, (n_seeds, n_prompts))


# One seed


def test_interval_of_normal_data_is_the_textbook_one() -> None:
    """400 values: mean +- 1.96 s / sqrt(400); with 40,000 resamples the ends are right to about 2 % of its width."""
    values = np.random.default_rng(1).normal(5, 2, (1, 400))
    found = estimate(values, draws(400, n=40_000))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.04 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.04 * half)


def of_rows(*rows: list[float]) -> np.ndarray:
    return np.array(rows)


@pytest.mark.parametrize(
    "values",
    [
        pytest.param(of_rows([3.0]), id="one prompt"),
        pytest.param(of_rows([3.0], [4.0]), id="one prompt, two seeds"),
        pytest.param(
            of_rows([3.0, 3.0, np.nan, np.nan], [np.nan, np.nan, 4.0, 4.0]), id="no prompt that all seeds have"
        ),
    ],
)
def test_without_two_prompts_there_is_neither_interval_nor_p(values: np.ndarray) -> None:
    ((found, p),) = compare_all(values[None], draws(values.shape[1]))
    assert found.value == np.nanmean(values)
    assert np.isnan([found.low, found.high, p]).all()
    assert np.isnan([mean_interval(values).low, mean_interval(values).high]).all()


def test_prompts_that_all_say_the_same_are_a_sign_test() -> None:
    """Five prompts, all lost, whatever the number of seeds: 2 / 2^5."""
    ((found, p),) = compare_all(np.full((1, 3, 5), -1.0), draws(5))
    assert (found.low, found.high, p) == (-1, -1, 1 / 16)


# The draw


def test_as_many_prompts_are_drawn_as_there_are() -> None:
    assert set(draws(9, n=300).prompts.sum(1)) == {9}


def test_mean_of_a_resample_by_hand() -> None:
    """Prompts drawn (2, 0, 1), over both seeds: (2 * (1 + 4) + 3 + 6) / 6 = 19 / 6."""
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert Resamples(np.array([[2, 0, 1]])).means(values).tolist() == pytest.approx([19 / 6])


def test_draws_follow_their_seed() -> None:
    first, second, third = (draws(10, n=50, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.prompts, second.prompts)
    assert not np.array_equal(first.prompts, third.prompts)


# Coverage


def studies(
    prompts: float, seeds: float, rest: float, *, n_prompts: int, n_seeds: int, n: int = N_STUDIES, seed: int = 11
) -> NDArray:
    """Return scores ``(n, seeds, prompts)`` around 0: a prompt's part, a seed's, and the rest, by their deviations."""
    rng = np.random.default_rng(seed)
    of_prompts = prompts * rng.standard_normal((n, 1, n_prompts))
    of_seeds = seeds * rng.standard_normal((n, n_seeds, 1))
    return of_prompts + of_seeds + rest * rng.standard_normal((n, n_seeds, n_prompts))


def coverage(values: NDArray, truth: float = 0.0) -> float:
    """Return the share of studies ``(n, seeds, prompts)`` whose interval holds the truth."""
    found = estimates(values, draws(values.shape[2], n=1000))
    return float(np.mean([e.low <= truth <= e.high for e in found]))


@pytest.mark.parametrize(
    ("prompts", "seeds", "rest", "n_prompts", "n_seeds"),
    [
        (1.0, 0.0, 0.0, 100, 1),  # one seed
        (1.0, 0.1, 0.3, 60, 4),  # prompts carry most: answers to one prompt are alike
        (0.17, 0.008, 0.2, 384, 3),  # about the grades of the study tiny
        (0.05, 0.01, 0.2, 200, 5),  # most is noise, as in differences of arms
        (0.0, 0.1, 0.1, 100, 3),  # seeds carry most
    ],
)
def test_interval_covers_95_of_100_studies(
    prompts: float, seeds: float, rest: float, n_prompts: int, n_seeds: int
) -> None:
    """2,000 studies with truth 0: between 93 and 97 %; the sampling error of a share of 0.95 is 0.5 %."""
    assert 0.93 <= coverage(studies(prompts, seeds, rest, n_prompts=n_prompts, n_seeds=n_seeds)) <= 0.97


def test_interval_of_a_win_rate_covers_too() -> None:
    """Wins and losses of 200 prompts, 3 seeds; a prompt's chance is beta(1, 1), so that its wins are alike; truth 1/2."""
    rng = np.random.default_rng(13)
    chance = rng.beta(1, 1, (N_STUDIES, 1, 200)).repeat(3, 1)
    assert 0.93 <= coverage((rng.random(chance.shape) < chance).astype(float), 0.5) <= 0.97


def test_interval_with_nulls_covers_too() -> None:
    """A fifth of the values is missing at random."""
    values = studies(1.0, 0.1, 0.3, n_prompts=80, n_seeds=3, n=400)
    values[np.random.default_rng(14).random(values.shape) < 0.2] = np.nan
    assert 0.91 <= coverage(values) <= 0.98  # 400 studies: three standard errors more


def test_interval_over_answers_as_if_each_were_alone_does_not_cover() -> None:
    """Four seeds answer 60 prompts of sd 1, with little noise: 240 answers, but not 240 pieces of evidence.

    The standard error is too small by about sqrt(4): 1.96 of it are 0.98 of the true one, which hold 67 %.
    """
    values = studies(1.0, 0.1, 0.3, n_prompts=60, n_seeds=4)
    assert coverage(values.reshape(N_STUDIES, 1, -1)) < 0.75


def crossed(values: NDArray, seed: int = 0) -> float:
    """Return how often percentiles of a bootstrap of seeds crossed with prompts hold the truth: the plain alternative."""
    rng = np.random.default_rng(seed)
    _, n_seeds, n_prompts = values.shape
    prompts, seeds = (rng.multinomial(m - 1, np.full(m, 1 / m), size=1000) for m in (n_prompts, n_seeds))
    means = np.einsum("ksr,rs->kr", values @ prompts.T, seeds)  # the sign is all that matters
    low, high = np.quantile(means, [0.025, 0.975], axis=1)
    return float(((low <= 0) & (high >= 0)).mean())


def test_plain_percentiles_of_a_crossed_bootstrap_do_not_cover() -> None:
    """Why the draws are stretched: three seeds that carry the variance, and noise that the bootstrap counts three times."""
    assert crossed(studies(0.0, 0.1, 0.1, n_prompts=100, n_seeds=3)) < 0.85
    assert crossed(studies(0.0, 0.0, 1.0, n_prompts=60, n_seeds=3)) > 0.98


def test_two_seeds_that_carry_the_variance_are_too_few() -> None:
    """The known limit of the interval: one degree of freedom for the seeds is no estimate; about 0.91."""
    assert 0.88 <= coverage(studies(0.05, 0.02, 0.2, n_prompts=200, n_seeds=2)) <= 0.95


def test_no_difference_is_significant_in_5_of_100_studies() -> None:
    """Two arms alike but for their seeds and noise: p < 0.05 in 3.5 to 6.5 % of 2,000 (5 % and three sampling errors)."""
    sizes = {"n_prompts": 60, "n_seeds": 4}
    differences = studies(0, 0.1, 0.3, **sizes) - studies(0, 0.1, 0.3, **sizes, seed=12)
    found = compare_all(differences, draws(60, n=1000))
    assert 0.035 <= np.mean([p < 0.05 for _, p in found]) <= 0.065


# Comparisons


def test_comparison_is_paired_by_prompt_and_seed() -> None:
    """The prompts' difficulty (sd 1) cancels: the interval of the difference is narrower than that of either arm."""
    rng = np.random.default_rng(3)
    first = simulate(rng)
    second = first - 0.2 + rng.normal(0, 0.05, first.shape)
    resamples = draws(60)
    difference, p = compare(first, second, resamples)
    alone = estimate(first, resamples)
    assert difference.value == pytest.approx((first - second).mean())
    assert 0 < difference.low < 0.2 < difference.high
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    assert 0 < p <= 2 / 4001


def test_comparison_the_other_way_round_has_the_sign_turned_and_the_same_p() -> None:
    rng = np.random.default_rng(4)
    first, second, resamples = simulate(rng, mean=0.1), simulate(rng), draws(60)
    (there, p), (back, q) = compare(first, second, resamples), compare(second, first, resamples)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert p == q


@pytest.mark.parametrize("n_resamples", [100, 5000])
def test_p_beyond_all_draws_is_that_of_student_and_1_for_equal_arms(n_resamples: int) -> None:
    """One seed: the t of a one-sample test, of which no draw reaches zero."""
    values, resamples = simulate(np.random.default_rng(5), n_seeds=1), draws(60, n=n_resamples)
    differences = values - values.mean() + values.std(ddof=1)  # t = sqrt(60)
    for sign in (1, -1):
        p = compare(sign * differences, np.zeros_like(values), resamples)[1]
        assert p == pytest.approx(ttest_1samp(differences[0], 0).pvalue, rel=1e-6)
    assert compare(values, values, resamples)[1] == 1


def test_many_comparisons_leave_a_large_difference_significant() -> None:
    """297 comparisons, as of 100 arms with 3: at 9 standard errors each is found after Holm's correction."""
    differences = np.random.default_rng(6).normal(0.5, 1, (297, 1, 300))
    found = compare_all(differences, draws(300, n=1000))
    assert max(holm([p for _, p in found])) < 0.05


def test_p_by_hand() -> None:
    """Four resamples of two prompts with differences 3 and -1: means 3, 3, -1, 1, of deviation 1.658.

    The standard error is 2 with 1 degree of freedom: 0 is t = -1/2, of which the share 0.3524 lies below. A normal has that
    share below z = -0.3788: 1 - 0.3788 * 1.658 = 0.372. One mean is below: 2 * (1 + 1) / 5.
    """
    prompts = np.array([[1, 0], [1, 0], [0, 1], [1, 1]])
    resamples = Resamples(prompts)
    difference, p = compare(np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]), resamples)
    assert difference.value == 1
    assert p == pytest.approx(0.8)


def test_interval_has_the_tails_of_student() -> None:
    """Twelve quantiles of a normal: standard error s / sqrt(12), times t = 2.201 of 11 degrees of freedom, not 1.96."""
    values = norm.ppf((np.arange(12) + 0.5) / 12)[None]
    found = estimate(values, draws(12, n=40_000))
    half = 2.201 * values.std(ddof=1) / 12**0.5
    assert (found.low, found.high) == pytest.approx((-half, half), rel=0.05)


def test_seeds_widen_the_interval_of_a_mean() -> None:
    """Prompts alike, seeds at 0, 1 and 5: standard error sqrt(7 / 3) = 1.5275, times t = 4.303 of 2 degrees of freedom."""
    rng = np.random.default_rng(16)
    half = 1.5275 * 4.303
    for noise in (0.0, 1e-6):
        values = np.array([[0.0], [1.0], [5.0]]) + noise * rng.standard_normal((3, 200))
        found = estimate(values, draws(200, n=40_000))
        assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=0.04 * half)


def test_interval_and_p_agree() -> None:
    """The interval leaves zero out if and only if p < 0.05, but for one resample."""
    rng = np.random.default_rng(15)
    values = studies(0.5, 0.1, 0.5, n_prompts=40, n_seeds=3, n=200) + rng.normal(0, 0.2, (200, 1, 1))
    for e, p in compare_all(values, draws(40, n=999)):
        assert (e.low > 0 or e.high < 0) == (p < 0.05) or abs(p - 0.05) < 0.005


def test_all_at_once_is_each_alone() -> None:
    """More comparisons than run together; and the order of the arms changes nothing."""
    values, resamples = studies(1, 0.1, 0.3, n_prompts=20, n_seeds=2, n=150), draws(20, n=200)
    at_once = compare_all(values, resamples)
    for i in (0, 70, 149):
        ((alone, p),) = compare_all(values[i : i + 1], resamples)
        assert [alone.value, alone.low, alone.high, p] == pytest.approx([*astuple(at_once[i][0]), at_once[i][1]])
    assert [e for e, _ in at_once[:3]] == estimates(values[:3], resamples)


# Nulls


def test_a_null_is_left_out_of_every_mean() -> None:
    """Prompts drawn (2, 0, 1), the first without a value: only the third is left, with 3."""
    values = np.array([[np.nan, 2.0, 3.0]])
    assert Resamples(np.array([[2, 0, 1]])).means(values).tolist() == [3]
    assert estimate(values, draws(3)).value == 2.5


def test_nulls_alone_have_no_estimate() -> None:
    found, p = compare(np.full((2, 3), np.nan), np.zeros((2, 3)), draws(3))
    assert np.isnan([found.value, found.low, found.high, p]).all()


def test_null_in_one_arm_leaves_the_pair_out() -> None:
    first, second = np.array([[1.0, np.nan, 3.0]]), np.array([[0.0, 5.0, np.nan]])
    assert compare(first, second, draws(3))[0].value == 1


# Holm


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; none below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_1_and_takes_none_or_one() -> None:
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([]) == []


def test_holm_leaves_out_what_is_no_test() -> None:
    """Two tests: 0.01 * 2 and 0.04."""
    assert holm([0.01, np.nan, 0.04]) == pytest.approx([0.02, np.nan, 0.04], nan_ok=True)


@pytest.mark.parametrize("seed", range(10))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_values = rng.choice([0.0, 0.01, 0.05, *rng.random(10)], size=8).tolist()  # with ties
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, 8 * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values)
    assert all(adjusted[i] <= adjusted[j] for i, j in zip(order, order[1:], strict=False))
