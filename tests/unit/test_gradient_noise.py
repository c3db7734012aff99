"""The variance of a prompt's gradient: the identity by enumeration, its estimates by simulation, gradients by autograd."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from selfcontrast import plugins
from selfcontrast.gradient_noise import (
    Sketch,
    estimate_zetas,
    measured_variance,
    pair_gradients,
    predicted_variance,
    variance_curve,
)
from selfcontrast.logprobs import response_logps
from selfcontrast.records import GroupBatch, GroupLogps

pytestmark = pytest.mark.usefixtures("one_thread")

P, Q = np.array([0.5, 0.3, 0.2]), np.array([0.4, 0.3, 0.2, 0.1])
G = np.random.default_rng(0).normal(size=(3, 4))
"""Chances of three positives and four negatives, and the gradient of each pair, in one coordinate."""


def enumerated(m: int, n: int) -> float:
    """Return the variance of the mean gradient over all draws of m positives and n negatives."""
    first = second = 0.0
    for positives in itertools.product(range(3), repeat=m):
        for negatives in itertools.product(range(4), repeat=n):
            chance = math.prod(P[list(positives)]) * math.prod(Q[list(negatives)])
            mean = G[np.ix_(positives, negatives)].mean()
            first += chance * mean
            second += chance * mean**2
    return second - first**2


def zetas() -> tuple[float, float, float]:
    """Return zeta10, zeta01 and zeta11 of the same."""
    mean = P @ G @ Q
    return float(P @ (G @ Q - mean) ** 2), float((P @ G - mean) ** 2 @ Q), float(P @ (G - mean) ** 2 @ Q)


@pytest.mark.parametrize(
    ("m", "n", "expected"),
    [(1, 1, 0.373702), (1, 2, 0.262846), (1, 4, 0.207418), (2, 2, 0.160619), (3, 3, 0.101250)],
)
def test_identity_equals_enumeration(m: int, n: int, expected: float) -> None:
    zeta10, zeta01, zeta11 = zetas()
    found = predicted_variance(zeta10, zeta11, n=n, m=m, zeta01=zeta01)
    assert found == pytest.approx(enumerated(m, n), rel=1e-12)
    assert found == pytest.approx(expected, abs=5e-7)


def simulate(rng: np.random.Generator, *, n_prompts: int, n: int, shared: float = 2.0, rest: float = 6.0) -> NDArray:
    """Return pair gradients of 5 coordinates: what a prompt shares, and the rest; the variances are sums over them."""
    of_prompts = math.sqrt(shared / 5) * rng.standard_normal((n_prompts, 1, 5))
    return 3 + of_prompts + math.sqrt(rest / 5) * rng.standard_normal((n_prompts, n, 5))


def test_zetas_by_hand() -> None:
    """Two prompts, two pairs each, one coordinate: 0, 2 and 4, 10. Within (2 + 18) / 2 = 10; means 1 and 7, between 18.

    So zeta10 = 18 - 10 / 2 = 13 and zeta11 = 13 + 10.
    """
    found = estimate_zetas(np.array([[[0.0], [2.0]], [[4.0], [10.0]]]))
    assert (found.shared, found.pair) == pytest.approx((13, 23))


def test_zetas_are_unbiased() -> None:
    """300 simulated samples, to three standard errors."""
    rng = np.random.default_rng(1)
    found = np.array([[(z := estimate_zetas(simulate(rng, n_prompts=12, n=4))).shared, z.pair] for _ in range(300)])
    assert np.all(abs(found.mean(0) - [2, 8]) < 3 * found.std(0) / 300**0.5)


def test_measured_variance_is_the_sample_variance_over_prompts() -> None:
    """Four negatives in sets of two: the mean of two sample variances, summed over coordinates."""
    gradients = simulate(np.random.default_rng(2), n_prompts=9, n=5)
    expected = np.mean([gradients[:, i : i + 2].mean(1).var(0, ddof=1).sum() for i in (0, 2)])
    assert measured_variance(gradients, 2)[0] == pytest.approx(expected)


def test_weights_of_a_resample_are_repeated_prompts() -> None:
    gradients = simulate(np.random.default_rng(3), n_prompts=4, n=2)
    weights = np.array([[2.0, 0.0, 1.0, 1.0]])
    repeated = gradients[[0, 0, 2, 3]]
    assert measured_variance(gradients, 1, weights=weights) == pytest.approx(measured_variance(repeated, 1))


def test_prediction_and_measurement_meet_in_a_large_sample() -> None:
    """2 + 6 / n with 1,000 prompts: both to 10 %, three standard errors; measured on negatives that the prediction has not seen."""
    curve = variance_curve(simulate(np.random.default_rng(4), n_prompts=1000, n=16), n_resamples=50, seed=0)
    truth = [2 + 6 / n for n in (1, 2, 4, 8)]
    assert curve["n"] == [1, 2, 4, 8]
    assert curve["predicted"] == pytest.approx(truth, rel=0.1)
    assert curve["measured"] == pytest.approx(truth, rel=0.1)
    assert all(low < v < high for low, v, high in zip(curve["low"], curve["measured"], curve["high"], strict=True))


def test_negatives_that_depend_on_each_other_break_the_identity() -> None:
    """The negative control: pairs of equal negatives in the second half; then two are no better than one."""
    gradients = simulate(np.random.default_rng(5), n_prompts=1000, n=8)
    gradients[:, 5::2] = gradients[:, 4::2]
    curve = variance_curve(gradients, n_resamples=50, seed=0)
    assert curve["measured"][1] > 1.4 * curve["predicted"][1]
    assert curve["low"][1] > curve["predicted"][1]


# Gradients

PROMPT, TARGET, NEGATIVES = [3, 4, 5], [6, 7, 2], [[8, 2], [9, 10, 11, 2], [2]]


@pytest.fixture(scope="module")
def model(llama: Callable[..., Any]) -> Any:
    return llama()


def test_pair_gradient_is_that_of_the_dpo_loss_at_the_reference(model: Any) -> None:
    """The plug-in `dpo` of a group with one negative, policy and reference the same, divided by beta."""
    size = sum(p.numel() for p in model.parameters())
    found = pair_gradients(model, PROMPT, TARGET, NEGATIVES, Sketch(size, 0))
    dpo, beta = plugins.load("objectives", "dpo"), 0.3
    signs = _signs(model, size)
    for negative, gradient in zip(NEGATIVES, found, strict=True):
        logps = response_logps(model, [PROMPT], [[TARGET, negative]])
        policy = GroupLogps(logps[:1], logps[None, 1:])
        reference = GroupLogps(policy.chosen.detach(), policy.rejected.detach())
        batch = _batch(policy, reference, len(negative))
        (loss,) = dpo.loss(batch, dpo.Params(beta=beta))
        parts = torch.autograd.grad(loss, list(model.parameters()))
        expected = torch.cat([p.flatten() for p in parts]).numpy() / beta
        assert gradient * signs == pytest.approx(expected, abs=2e-5 * abs(expected).max())


def _signs(model: Any, size: int) -> NDArray:
    """Return the signs of a sketch that is wide enough to do nothing else."""
    return Sketch(size, 0)([torch.ones_like(p) for p in model.parameters()]).numpy()


def _batch(policy: GroupLogps, reference: GroupLogps, n_tokens: int) -> GroupBatch:
    return GroupBatch(
        policy,
        reference,
        valid=torch.ones(1, 1, dtype=torch.bool),
        chosen_length=torch.tensor([len(TARGET)]),
        rejected_length=torch.tensor([[n_tokens]]),
        margin=torch.zeros(1, 1),
    )


def test_wide_sketch_keeps_every_inner_product(model: Any) -> None:
    size = sum(p.numel() for p in model.parameters())
    wide, wider = (pair_gradients(model, PROMPT, TARGET, NEGATIVES, Sketch(w, 0)) for w in (size, 2 * size))
    assert wide @ wide.T == pytest.approx(wider @ wider.T, rel=1e-5)


def test_narrow_sketch_keeps_inner_products_on_average(model: Any) -> None:
    """64 numbers for some thousand weights: each product is off by about sqrt(2 / 64), the mean of 200 by a 14th of it."""
    size = sum(p.numel() for p in model.parameters())
    exact = pair_gradients(model, PROMPT, TARGET, NEGATIVES, Sketch(size, 0))
    parts = [p.detach() for p in model.parameters()]
    vector = torch.cat([p.flatten() for p in parts]).float()
    squares = [float(Sketch(64, seed)(parts).square().sum()) for seed in range(200)]
    norm = float(vector.square().sum())
    assert np.mean(squares) == pytest.approx(norm, rel=3 * math.sqrt(2 / 64 / 200))
    assert np.std(squares) < 2 * math.sqrt(2 / 64) * norm
    assert np.isfinite(exact).all()


def test_sketch_follows_its_seed(model: Any) -> None:
    parts = [p.detach() for p in model.parameters()]
    assert torch.equal(Sketch(32, 5)(parts), Sketch(32, 5)(parts))
    assert not torch.equal(Sketch(32, 5)(parts), Sketch(32, 6)(parts))


def drawn_anew(parts: list[torch.Tensor], width: int, seed: int) -> torch.Tensor:
    """Return a sketch whose signs are drawn for this gradient alone."""
    generator, found, start = torch.Generator().manual_seed(seed), torch.zeros(width), 0
    for part in parts:
        bits = torch.randint(0, 2, (part.numel(),), generator=generator, dtype=torch.int8)
        for i, value in enumerate((part.flatten() * (2 * bits - 1)).tolist()):
            found[(start + i) % width] += value
        start += part.numel()
    return found


def test_signs_are_drawn_once_for_all_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two gradients of two weights each, 7 and 6 numbers: two draws, and the sketches of signs drawn for each gradient."""
    draws, randint = [], torch.randint

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        draws.append(args[2])
        return randint(*args, **kwargs)

    gradients = [[torch.randn(7), torch.randn(2, 3)] for _ in range(2)]
    expected = [drawn_anew(parts, 4, 5) for parts in gradients]
    monkeypatch.setattr(torch, "randint", counted)
    sketch = Sketch(4, 5)
    for parts, wanted in zip(gradients, expected, strict=True):
        assert torch.allclose(sketch(parts), wanted, atol=1e-6)
    assert draws == [(7,), (6,)]


def test_signs_follow_the_gradient_that_has_another_shape() -> None:
    sketch = Sketch(4, 5)
    sketch([torch.ones(3)])
    assert torch.equal(sketch([torch.ones(9)]), Sketch(4, 5)([torch.ones(9)]))
