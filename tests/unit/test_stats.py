"""Intervals and comparisons against closed forms, hand calculation, and simulated studies whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from selfcontrast.stats import Resamples, compare, estimate, holm

N_STUDIES = 300


def draws(n_prompts: int, n_seeds: int, *, n: int = 4000, seed: int = 0) -> Resamples:
    return Resamples.draw(n_prompts=n_prompts, n_seeds=n_seeds, n_resamples=n, seed=seed)


def simulate(rng: np.random.Generator, *, n_seeds: int = 4, n_prompts: int = 60, mean: float = 0.0) -> NDArray:
    """Return scores ``(seeds, prompts)``: how hard a prompt is (sd 1), how lucky a seed (0.1), the rest (0.3)."""
    prompts = rng.normal(0, 1.0, n_prompts)
    seeds = rng.normal(0, 0.1, n_seeds)
    return mean + seeds[:, None] + prompts + rng.normal(0, 0.3, (n_seeds, n_prompts))


# One seed


def test_interval_of_normal_data_is_the_textbook_one() -> None:
    """400 values: mean +- 1.96 s / sqrt(400); with 40,000 resamples the ends are right to about 2 % of its width."""
    values = np.random.default_rng(1).normal(5, 2, (1, 400))
    found = estimate(values, draws(400, 1, n=40_000))
    half = 1.96 * values.std(ddof=1) / 20
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.04 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.04 * half)


def test_single_seed_draws_prompts_alone() -> None:
    resamples = draws(7, 1, n=500)
    assert resamples.seeds.shape == (500, 1)
    assert (resamples.seeds == 1).all()
    values = np.arange(7.0)[None]
    assert resamples.means(values).std() > 0


def test_single_prompt_and_seed_have_an_interval_of_no_width() -> None:
    found = estimate(np.array([[3.0]]), draws(1, 1))
    assert (found.value, found.low, found.high) == (3, 3, 3)


# The draw


def test_one_less_than_all_is_drawn() -> None:
    resamples = draws(9, 4, n=300)
    assert set(resamples.prompts.sum(1)) == {8}
    assert set(resamples.seeds.sum(1)) == {3}


def test_variance_of_the_mean_is_unbiased() -> None:
    """Five values, one seed: the bootstrap variance of the mean is s**2 / 5 with the unbiased s**2.

    A draw of 5 out of 5 gives 4/5 of it, 20 % too little; 200,000 resamples measure a variance to 0.5 %.
    """
    values = np.array([[1.0, 2.0, 4.0, 8.0, 16.0]])
    unbiased = values.var(ddof=1) / 5
    assert draws(5, 1, n=200_000).means(values).var() == pytest.approx(unbiased, rel=0.02)
    full = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=200_000)
    assert Resamples(full, np.ones((200_000, 1))).means(values).var() == pytest.approx(0.8 * unbiased, rel=0.02)


def test_variance_adds_up_over_prompts_and_seeds() -> None:
    """Scores that are a seed's part plus a prompt's part: the variance of the mean is s_a**2 / 3 + s_b**2 / 4."""
    seeds, prompts = np.array([0.0, 1.0, 5.0]), np.array([2.0, 3.0, 7.0, 12.0])
    expected = seeds.var(ddof=1) / 3 + prompts.var(ddof=1) / 4
    means = draws(4, 3, n=200_000).means(seeds[:, None] + prompts)
    assert means.var() == pytest.approx(expected, rel=0.02)


def test_mean_of_a_resample_by_hand() -> None:
    """Seeds drawn (1, 2), prompts drawn (2, 0, 1): (1 * (2*1 + 3) + 2 * (2*4 + 6)) / (3 * 3) = 33 / 9."""
    values = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    resamples = Resamples(np.array([[2, 0, 1]]), np.array([[1, 2]]))
    assert resamples.means(values).tolist() == pytest.approx([33 / 9])


def test_draws_follow_their_seed() -> None:
    first, second, third = (draws(10, 3, n=50, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first.prompts, second.prompts)
    assert np.array_equal(first.seeds, second.seeds)
    assert not np.array_equal(first.prompts, third.prompts)


# Coverage


def coverage(*, clustered: bool) -> float:
    """Return the share of 300 simulated studies whose interval holds the true mean, 0."""
    rng = np.random.default_rng(11)
    hits = 0
    for i in range(N_STUDIES):
        values = simulate(rng)
        if not clustered:
            values = values.reshape(1, -1)  # every answer on its own, as if 240 prompts had been asked once
        found = estimate(values, draws(values.shape[1], values.shape[0], n=500, seed=i))
        hits += found.low <= 0 <= found.high
    return hits / N_STUDIES


def test_crossed_bootstrap_covers_and_one_over_answers_does_not() -> None:
    """The crossed interval holds the truth in 90 to 99 % of the studies; one that takes answers as independent far less.

    Its standard error is too small by about sqrt(4), the answers of a prompt being alike: it covers about 2 in 3.
    """
    assert 0.90 <= coverage(clustered=True) <= 0.99
    assert coverage(clustered=False) < 0.75


def test_no_difference_is_seldom_significant() -> None:
    """Two arms alike but for their seeds and noise, 300 times: p < 0.05 in at most 8 % (5 % and its sampling error)."""
    rng = np.random.default_rng(12)
    hard = rng.normal(0, 1, 60)
    found = [
        compare(
            *(hard + rng.normal(0, 0.1, (4, 1)) + rng.normal(0, 0.3, (4, 60)) for _ in range(2)),
            draws(60, 4, n=400, seed=i),
        )[1]
        for i in range(N_STUDIES)
    ]
    assert np.mean(np.array(found) < 0.05) < 0.08


# Comparisons


def test_comparison_is_paired_by_prompt_and_seed() -> None:
    """The prompts' difficulty (sd 1) cancels: the interval of the difference is narrower than that of either arm."""
    rng = np.random.default_rng(3)
    first = simulate(rng)
    second = first - 0.2 + rng.normal(0, 0.05, first.shape)
    resamples = draws(60, 4)
    difference, p = compare(first, second, resamples)
    alone = estimate(first, resamples)
    assert difference.value == pytest.approx((first - second).mean())
    assert 0 < difference.low < 0.2 < difference.high
    assert difference.high - difference.low < 0.2 * (alone.high - alone.low)
    assert p == 2 / 4001


def test_comparison_the_other_way_round_has_the_sign_turned_and_the_same_p() -> None:
    rng = np.random.default_rng(4)
    first, second, resamples = simulate(rng, mean=0.1), simulate(rng), draws(60, 4)
    (there, p), (back, q) = compare(first, second, resamples), compare(second, first, resamples)
    assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))
    assert p == q


@pytest.mark.parametrize("n_resamples", [100, 5000])
def test_p_has_a_floor_and_is_1_for_equal_arms(n_resamples: int) -> None:
    """Never beyond zero: 2 * (1 + 0) / (resamples + 1). Always at zero: 2 * (1 + resamples) / (resamples + 1), cut to 1."""
    values, resamples = simulate(np.random.default_rng(5)), draws(60, 4, n=n_resamples)
    assert compare(values + 10, values, resamples)[1] == 2 / (n_resamples + 1)
    assert compare(values, values + 10, resamples)[1] == 2 / (n_resamples + 1)
    assert compare(values, values, resamples)[1] == 1


def test_p_by_hand() -> None:
    """Four resamples of two prompts with differences 3 and -1; means 3, 3, -1, 1: one beyond zero, 2 * (1 + 1) / 5."""
    prompts = np.array([[1, 0], [1, 0], [0, 1], [1, 1]])
    resamples = Resamples(prompts, np.ones((4, 1)))
    difference, p = compare(np.array([[3.0, 0.0]]), np.array([[0.0, 1.0]]), resamples)
    assert difference.value == 1
    assert p == pytest.approx(0.8)


# Holm


def test_holm_by_hand() -> None:
    """Sorted 0.005, 0.01, 0.03, 0.04 times 4, 3, 2, 1 is 0.02, 0.03, 0.06, 0.04; none below the one before it."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_stops_at_1_and_takes_none_or_one() -> None:
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([0.03]) == pytest.approx([0.03])
    assert holm([]) == []


@pytest.mark.parametrize("seed", range(10))
def test_holm_never_lowers_a_p_value_nor_changes_their_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    p_values = rng.choice([0.0, 0.01, 0.05, *rng.random(10)], size=8).tolist()  # with ties
    adjusted = holm(p_values)
    assert all(p <= a <= min(1, 8 * p) + 1e-12 for p, a in zip(p_values, adjusted, strict=True))
    order = np.argsort(p_values)
    assert all(adjusted[i] <= adjusted[j] for i, j in zip(order, order[1:], strict=False))
