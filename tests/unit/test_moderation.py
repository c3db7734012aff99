"""Moderated variances against closed forms, hand calculation, and simulated studies whose truth is known."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import chi2, norm, t

from selfcontrast.stats import Resamples, compare_all, compare_family, holm
from selfcontrast.stats import moderation as moderation_module
from selfcontrast.stats.laws import Law
from selfcontrast.stats.moderation import WILD, Prior, fit, moderate
from selfcontrast.stats.variance import Parts, spread_of_mean

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("simulation", ROOT / "benchmarks" / "simulate_statistics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["simulation"] = module
    spec.loader.exec_module(module)
    return module


def family(
    rng: np.random.Generator, *, n_arms: int = 10, n_seeds: int = 3, n_prompts: int = 60, shared: float = 0.0
) -> NDArray:
    """Return differences ``(arms, seeds, prompts)`` around 0: seeds of an arm (sd 0.1), of all arms, prompts and noise (1)."""
    luck = 0.1 * rng.standard_normal((n_arms, n_seeds, 1)) + shared * rng.standard_normal((1, n_seeds, 1))
    noise = rng.standard_normal((n_arms, n_seeds, n_prompts))
    return luck + rng.standard_normal((n_arms, 1, n_prompts)) + noise


# The law of an error


def test_law_of_one_component_is_student() -> None:
    law = Law(np.ones(1), np.array([2.0]), np.array([5.0]))
    assert law.two_sided(3.0) == pytest.approx(2 * t.sf(1.5, 5))
    assert law.of_normal(norm.ppf(0.975)) == pytest.approx(2 * t.ppf(0.975, 5))


def test_law_of_two_components_by_hand() -> None:
    """Nine of ten errors of width 1, one of width 10, both as good as normal: beyond 3 are .9 of one and .1 of the other."""
    law = Law(np.array([0.9, 0.1]), np.array([1.0, 10.0]), np.array([1e9, 1e9]))
    expected = 2 * (0.9 * norm.sf(3) + 0.1 * norm.sf(0.3))
    assert law.two_sided(np.array(-3.0)) == pytest.approx(expected)
    for z in (-2.5, -0.3, 0.0, 1.0, 4.0):
        assert law.normal_of(law.of_normal(z)) == pytest.approx(z, abs=1e-6)


# The prior


def test_suspicion_and_shares_by_hand() -> None:
    """Three seeds, core 1 without noise, 60 arms: the wild variances are 100, 400 and so on, each half as likely.

    The suspicion is 7 / 100^(1/3) = 1.51 of one arm in 60. For chi-square over its 2 degrees of freedom the density of a
    variance seen at s is exp(-s / v) / v.
    """
    prior = Prior(np.array([1.0]), np.array([0.0]), 60, 2)
    suspicion = 7 / 100 ** (1 / 3) / 60
    assert prior.suspicion == pytest.approx(suspicion)
    assert prior.wild.ravel().tolist() == list(WILD)
    assert (WILD[0], WILD[1]) == (100, 400)
    chances = 0.5 ** np.arange(1, 9) / (1 - 0.5**8)
    for seen in (0.1, 1.0, 9.0):
        densities = [(1 - suspicion) * np.exp(-seen)] + [
            suspicion * c * np.exp(-seen / v) / v for v, c in zip(WILD, chances, strict=True)
        ]
        assert prior.shares(np.array([seen]))[0] == pytest.approx(np.array(densities) / sum(densities))


def test_suspicion_rises_with_the_noise_from_one_arm_of_the_family_and_never_exceeds_a_half() -> None:
    """Noise of 0 to 0.7 of the core: R from 100 down to 30.7, and 7 R^(-1/3) from 1.51 up to 2.24 arms of 60."""
    found = [
        60 * float(Prior(np.array([1.0]), np.array([noise]), 60, 2).suspicion[0]) for noise in (0.0, 0.3, 0.7, 1.0)
    ]
    assert found == sorted(found)
    assert (found[0], found[-1]) == pytest.approx((7 / 100 ** (1 / 3), 7 / 30.7 ** (1 / 3)))
    assert Prior(np.array([1.0]), np.array([1.0]), 3, 1).suspicion[0] == 0.5


def test_noise_is_not_multiplied_in_a_wild_arm() -> None:
    """Half of the core's variance is noise of prompts: ten times the seeds' deviation is 0.5 + 100 * 0.5."""
    assert Prior(np.array([1.0]), np.array([0.5]), 10, 2).wild[0, 0] == pytest.approx(50.5)


# The fit


def test_without_suspicion_the_core_is_the_pooled_variance(monkeypatch: pytest.MonkeyPatch) -> None:
    """The residual mean square of arms crossed with seeds, and the shared part is the mean over arms."""
    monkeypatch.setattr(Prior, "suspicion", property(lambda self: np.full_like(self.core, 1e-300)))
    by_seed = np.random.default_rng(0).normal(0, 1, (12, 3)) + np.arange(12)[:, None]
    found = fit(by_seed, np.zeros(12))
    rest = by_seed - by_seed.mean(1, keepdims=True) - by_seed.mean(0) + by_seed.mean()
    assert found.prior.core[0] == pytest.approx((rest**2).sum() / (11 * 2))
    assert found.shared[0] == pytest.approx(by_seed.mean(0) - by_seed.mean())


def test_with_suspicion_of_all_the_law_is_far_wider_than_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    values = family(np.random.default_rng(1))
    usual = moderate(Parts.of(values))
    monkeypatch.setattr(Prior, "suspicion", property(lambda self: np.full_like(self.core, 0.5)))
    wary = moderate(Parts.of(values))
    assert (wary.two_sided(0.5) > usual.two_sided(0.5)).all()


def test_standard_error_of_the_core_is_that_of_the_pooled_mean_squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without suspicion: one variance of seeds for all arms, and squared errors whose mean is that of the arms' own."""
    monkeypatch.setattr(Prior, "suspicion", property(lambda self: np.full_like(self.core, 1e-300)))
    values = family(np.random.default_rng(2), n_seeds=4)
    law = moderate(Parts.of(values))
    own = np.array([spread_of_mean(v).se for v in values])
    assert (law.errors[:, 0] ** 2).mean() == pytest.approx((own**2).mean())
    of_seeds = law.errors[:, 0] ** 2 - Parts.of(values).beside_seeds
    assert of_seeds == pytest.approx(of_seeds.mean())


@pytest.mark.parametrize("times", [1, 30, 10_000])
def test_a_wild_arm_is_seen_and_does_not_widen_the_others(times: float) -> None:
    rng = np.random.default_rng(3)
    values = family(rng, n_arms=14)
    with_wild = values.copy()
    with_wild[-1] += times * np.array([-3.0, 1.0, 2.0])[:, None]
    usual, found = moderate(Parts.of(values)), moderate(Parts.of(with_wild))
    without = moderate(Parts.of(values[:-1]))
    assert found.errors[:-1, 0] == pytest.approx(without.errors[:, 0], rel=0.1)
    assert found.shares[-1, 0] < 1e-6
    assert found.two_sided(times * 1.0)[-1] > 0.3
    assert usual.two_sided(1.0)[-1] < 0.01


def test_luck_that_all_arms_share_is_in_the_error_of_each() -> None:
    """An opponent whose seeds have a deviation of 1: the error is at least its standard error from 2 degrees of freedom."""
    values = family(np.random.default_rng(4), n_prompts=300)
    luck = np.array([-1.0, 0.0, 1.0])
    law = moderate(Parts.of(values + luck[None, :, None]))
    assert law.errors[:, 0] == pytest.approx((1 / 3) ** 0.5, rel=0.15)
    assert law.df[:, 0] == pytest.approx(2, rel=0.2)


# Families


def draws(n_prompts: int, n: int = 2000) -> Resamples:
    return Resamples.draw(n_prompts=n_prompts, n_resamples=n, seed=0)


def test_a_family_reports_both_and_says_which() -> None:
    values = family(np.random.default_rng(5))
    found, own = compare_family(values, draws(60)), compare_all(values, draws(60))
    assert {f.variance for f in found} == {"moderated"}
    assert [(f.unpooled, f.p_unpooled) for f in found] == own
    law = moderate(Parts.of(values))
    for i, f in enumerate(found):
        assert f.estimate.value == own[i][0].value
        assert f.p == pytest.approx(float(law[i].two_sided(f.estimate.value)), abs=0.03)
        half = law[i].of_normal(norm.ppf(0.975))
        assert (f.estimate.high - f.estimate.low) / 2 == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("n_arms", "n_seeds", "name"), [(4, 3, "own"), (10, 1, "prompts"), (2, 1, "prompts")])
def test_where_nothing_can_be_borrowed_the_own_variance_is_used(n_arms: int, n_seeds: int, name: str) -> None:
    values = family(np.random.default_rng(6), n_arms=n_arms, n_seeds=n_seeds)
    found = compare_family(values, draws(60))
    assert [(f.estimate, f.p) for f in found] == compare_all(values, draws(60))
    assert {f.variance for f in found} == {name}


def test_arms_without_variance_or_interval_lend_nothing() -> None:
    """A difference that is the same everywhere, and one without values: both stay as they are, and the others too."""
    values = family(np.random.default_rng(7), n_arms=8)
    more = np.concatenate([values, np.full((1, 3, 60), 0.25), np.full((1, 3, 60), np.nan)])
    found = compare_family(more, draws(60))
    assert found[:8] == compare_family(values, draws(60))
    assert [f.variance for f in found[8:]] == ["own", "own"]
    assert (found[8].estimate.low, found[8].estimate.high) == (0.25, 0.25)
    assert np.isnan(found[9].estimate.value)


def test_nulls_leave_a_standard_error_near_that_of_all_values() -> None:
    values = family(np.random.default_rng(8), n_prompts=200)
    holed = values.copy()
    holed[np.random.default_rng(9).random(values.shape) < 0.05] = np.nan
    usual, found = moderate(Parts.of(values)), moderate(Parts.of_arms(list(holed)))
    assert found.errors[:, 0] == pytest.approx(usual.errors[:, 0], rel=0.15)
    assert Parts.of_arms(list(values)).share.tolist() == [1] * 10


@pytest.mark.parametrize("n_differing", [0, 1, 3])
def test_arms_whose_seeds_agree_exactly_are_no_division_by_zero(n_differing: int) -> None:
    """Of eight arms most or all have seeds that say the same: what is left is the error over prompts."""
    values = np.random.default_rng(10).normal(0, 1, (8, 1, 50)).repeat(3, 1)
    values[:n_differing] += np.array([-0.1, 0.0, 0.1])[:, None]
    found, own = compare_family(values, draws(50)), compare_all(values, draws(50))
    for f in found:
        assert np.isfinite([f.estimate.low, f.estimate.high, f.p]).all()
    if not n_differing:
        assert [f.p for f in found] == pytest.approx([p for _, p in own])


# Level, power and coverage: some rows of the table in docs/statistics.md, with fewer studies

N_STUDIES = 400
ALARMS = 0.05 + 3 * (0.05 * 0.95 / N_STUDIES) ** 0.5
"""Share of false alarms that 400 studies at a level of 5 % show at most, but for one in a thousand: 8.3 %."""


def test_significance_in_the_simulation_is_that_of_holm(simulation: ModuleType) -> None:
    p = np.random.default_rng(11).random((8, 14)) ** 4
    assert np.array_equal(simulation.found_by_holm(p), np.array([holm(row) for row in p]) < 0.05)


@pytest.mark.parametrize(("sd_seeds", "wild"), [(0.005, 10.0), (0.015, 1.0), (0.015, 10.0)])
def test_three_seeds_hold_the_level_with_power(simulation: ModuleType, sd_seeds: float, wild: float) -> None:
    """Bars: false alarms 5 %, power 60 % at .04 and 95 % at .08, coverage 93 to 97 %; each within three sampling errors.

    The sampling error of a mean power over 400 studies is at most that of 400 independent trials.
    """
    rng = np.random.default_rng(12)
    studies = simulation.simulate(rng, N_STUDIES, sd_seeds=sd_seeds, wild=wild, n_seeds=3)
    found = simulation.outcome(studies.errors, studies.moderated)
    assert found.alarms[0.0] <= ALARMS
    assert found.alarms[0.04] <= ALARMS
    assert found.power[0.04] >= 0.6 - 3 * (0.6 * 0.4 / N_STUDIES) ** 0.5
    assert found.power[0.08] >= 0.95 - 3 * (0.95 * 0.05 / N_STUDIES) ** 0.5
    assert 0.93 <= found.coverage <= 0.97
    if sd_seeds == 0.015:  # the same by each comparison's own variance: the fault that moderation mends
        before = simulation.outcome(studies.errors, studies.unpooled)
        assert before.alarms[0.0] > ALARMS
        assert before.power[0.08] < 0.75


def test_without_suspicion_a_wild_arm_is_a_false_alarm(simulation: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Why every arm may be wild: pooled variances alone, the plain way, call a wild arm real in a fifth of the studies."""
    monkeypatch.setattr(moderation_module.Prior, "suspicion", property(lambda self: np.full_like(self.core, 1e-12)))
    studies = simulation.simulate(np.random.default_rng(13), 200, sd_seeds=0.015, wild=10.0, n_seeds=3)
    assert simulation.outcome(studies.errors, studies.moderated).alarms[0.0] > 2 * ALARMS


@pytest.mark.parametrize("n_seeds", [1, 2, 5])
def test_other_numbers_of_seeds_hold_the_level_with_heavy_tails(simulation: ModuleType, n_seeds: int) -> None:
    rng = np.random.default_rng(14)
    studies = simulation.simulate(rng, N_STUDIES, sd_seeds=0.015, wild=10.0, n_seeds=n_seeds, tails=4.0)
    found = simulation.outcome(studies.errors, studies.moderated)
    assert max(found.alarms[e] for e in (0.0, 0.04)) <= ALARMS
    assert found.coverage >= 0.93


def test_variances_of_normal_seeds_are_seen_as_chi_square() -> None:
    """The share of the core falls where an arm's own variance is beyond what two degrees of freedom give by chance."""
    prior = Prior(np.array([1.0]), np.array([0.0]), 14, 2)
    usual, rare = prior.shares(chi2.ppf([0.5, 0.9999], 2) / 2)[:, 0]
    assert usual > 0.99
    assert rare < 0.5
