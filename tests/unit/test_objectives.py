"""The objectives on a fixture with hand-computed values, and what must not change them.

The fixture F0: one prompt, four negatives, beta = 0.1, log-probabilities in nats.

============  ======  =====  =====  =====  =====
              chosen  y1     y2     y3     y4
log pi_theta  -20     -22    -18.5  -30    -25
log pi_ref    -21     -21.5  -19    -28    -25.5
difference    1       -0.5   0.5    -2     0.5
h_j                   1.5    0.5    3      0.5
============  ======  =====  =====  =====  =====

Everything is float64. The tolerance 1e-9 leaves room for expectations that are written with ten decimals.
"""

from __future__ import annotations

import math
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from selfcontrast.objectives import dpo, hinge
from selfcontrast.records import GroupLogps

TOLERANCE = 1e-9
BETA = 0.1
POLICY = (-20.0, [-22.0, -18.5, -30.0, -25.0])
REFERENCE = (-21.0, [-21.5, -19.0, -28.0, -25.5])
DPO_MEANS = {1: 0.6209570478, 2: 0.6447083479, 4: 0.6280578971}
HINGE_MEANS = {1: 0.85, 2: (0.85 + 0.95) / 2, 4: (0.85 + 0.95 + 0.70 + 0.95) / 4}
OBJECTIVES = pytest.mark.parametrize("objective", [dpo, hinge], ids=["dpo", "hinge"])


def groups(rows: list[tuple[float, list[float]]], *, width: int, fill: float = 0.0) -> GroupLogps:
    """Return rows of (chosen, rejected) padded to ``width`` with ``fill``, float64 and with gradients."""
    chosen = torch.tensor([c for c, _ in rows], dtype=torch.float64, requires_grad=True)
    padded = [[*r, *[fill] * (width - len(r))] for _, r in rows]
    rejected = torch.tensor(padded, dtype=torch.float64, requires_grad=True)
    valid = torch.tensor([[j < len(r) for j in range(width)] for _, r in rows])
    return GroupLogps(chosen, rejected, valid)


def fixture(k: int) -> tuple[GroupLogps, GroupLogps]:
    """Return F0 with its first ``k`` negatives, policy and reference."""
    return groups([(POLICY[0], POLICY[1][:k])], width=k), groups([(REFERENCE[0], REFERENCE[1][:k])], width=k)


def loss_of(objective: ModuleType, policy: GroupLogps, reference: GroupLogps, *, beta: float = BETA) -> Tensor:
    value: Tensor = objective.loss(policy, reference, objective.Params(beta=beta))
    return value


def gradients(objective: ModuleType, policy: GroupLogps, reference: GroupLogps) -> tuple[Tensor, Tensor]:
    chosen, rejected = torch.autograd.grad(
        loss_of(objective, policy, reference).sum(), [policy.chosen, policy.rejected]
    )
    return chosen, rejected


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Values


@pytest.mark.parametrize("k", [1, 2, 4])
def test_dpo_is_the_mean_over_the_first_k_negatives(k: int) -> None:
    """Per negative softplus(-0.1 h) = 0.6209570478, 0.6684596480, 0.5543552445, 0.6684596480."""
    assert loss_of(dpo, *fixture(k)).item() == pytest.approx(DPO_MEANS[k], abs=TOLERANCE)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_hinge_is_the_mean_over_the_first_k_negatives(k: int) -> None:
    """Per negative 1 - 0.1 h = 0.85, 0.95, 0.70, 0.95."""
    assert loss_of(hinge, *fixture(k)).item() == pytest.approx(HINGE_MEANS[k], abs=TOLERANCE)


def test_contrast_equals_dpo_for_one_negative() -> None:
    """-log sigmoid(beta (difference of chosen - difference of rejected)) = -log sigmoid(0.1 * 1.5)."""
    expected = -math.log(1 / (1 + math.exp(-0.15)))
    assert loss_of(dpo, *fixture(1)).item() == pytest.approx(expected, abs=TOLERANCE)


@OBJECTIVES
def test_group_of_four_equals_the_mean_of_four_pairs(objective: ModuleType) -> None:
    pairs = []
    for j in range(4):
        policy = groups([(POLICY[0], [POLICY[1][j]])], width=1)
        reference = groups([(REFERENCE[0], [REFERENCE[1][j]])], width=1)
        pairs.append(loss_of(objective, policy, reference).item())
    assert loss_of(objective, *fixture(4)).item() == pytest.approx(sum(pairs) / 4, abs=TOLERANCE)


@OBJECTIVES
@pytest.mark.parametrize(("beta", "h"), [(0.01, 1.5), (0.5, 1.5), (2.0, 0.5)])
def test_beta_scales_the_margin(objective: ModuleType, beta: float, h: float) -> None:
    policy, reference = groups([(-20.0, [-20.0 - h])], width=1), groups([(-20.0, [-20.0])], width=1)
    expected = softplus(-beta * h) if objective is dpo else max(0.0, 1 - beta * h)
    assert loss_of(objective, policy, reference, beta=beta).item() == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(("objective", "expected"), [(dpo, math.log(2)), (hinge, 1.0)], ids=["dpo", "hinge"])
def test_value_at_initialisation(objective: ModuleType, expected: float, k: int) -> None:
    """Policy equal to reference: every h is 0, softplus(0) = log 2, max(0, 1 - 0) = 1, for every k."""
    same = groups([(-20.0, [-21.0 - j for j in range(k)])], width=k)
    assert loss_of(objective, same, same).item() == pytest.approx(expected, abs=1e-15)


def test_hinge_is_zero_beyond_its_margin() -> None:
    """H = 12 > 1 / beta = 10: neither loss nor gradient."""
    policy, reference = groups([(-20.0, [-32.0])], width=1), groups([(-20.0, [-20.0])], width=1)
    assert loss_of(hinge, policy, reference).item() == 0
    assert [g.item() for g in gradients(hinge, policy, reference)] == [0, 0]


@OBJECTIVES
@pytest.mark.parametrize("h", [-1e4, 1e4])
def test_far_margins_stay_finite(objective: ModuleType, h: float) -> None:
    """-0.1 h = 1000 gives 1000 (or 1001 for hinge), -1000 gives 0; no overflow on the way."""
    policy, reference = groups([(0.0, [-h])], width=1), groups([(0.0, [0.0])], width=1)
    expected = 0.0 if h > 0 else 1000.0 + (objective is hinge)
    assert loss_of(objective, policy, reference).item() == pytest.approx(expected, abs=TOLERANCE)
    assert all(torch.isfinite(g).all() for g in gradients(objective, policy, reference))


@OBJECTIVES
def test_loss_has_one_value_for_each_group_and_keeps_the_type(objective: ModuleType) -> None:
    policy, reference = fixture(4)
    assert loss_of(objective, policy, reference).shape == (1,)
    assert loss_of(objective, policy, reference).dtype == torch.float64
    single = [GroupLogps(g.chosen.float(), g.rejected.float(), g.valid) for g in (policy, reference)]
    assert loss_of(objective, *single).dtype == torch.float32


# Gradients


def test_dpo_gradient() -> None:
    """Rejected: beta / 4 * sigma(-beta h_j): .4625701547 .4875026035 .4255574832 .4875026035. Chosen: minus the sum."""
    chosen, rejected = gradients(dpo, *fixture(4))
    assert chosen.tolist() == pytest.approx([-0.0465783211], abs=TOLERANCE)
    expected = [0.0115642539, 0.0121875651, 0.0106389371, 0.0121875651]
    assert rejected.tolist()[0] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_hinge_gradient(k: int) -> None:
    """All k negatives are inside the margin: -beta for the chosen, beta / k for each rejected response."""
    chosen, rejected = gradients(hinge, *fixture(k))
    assert chosen.tolist() == pytest.approx([-BETA], abs=TOLERANCE)
    assert rejected.tolist()[0] == pytest.approx([BETA / k] * k, abs=TOLERANCE)


@OBJECTIVES
def test_gradient_is_the_slope_of_the_value(objective: ModuleType) -> None:
    policy, reference = fixture(4)

    def value(chosen: Tensor, rejected: Tensor) -> Tensor:
        return loss_of(objective, GroupLogps(chosen, rejected, policy.valid), reference)

    assert torch.autograd.gradcheck(value, (policy.chosen, policy.rejected))


# What must not matter

GARBAGE = [0.0, 1e30, -math.inf, math.inf, math.nan]


@OBJECTIVES
@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("reference_garbage", GARBAGE)
def test_garbage_in_masked_slots_changes_neither_value_nor_gradient(
    objective: ModuleType, garbage: float, reference_garbage: float
) -> None:
    """F0 with 4, 2 and 1 negatives in one batch: each row has the value and the gradient that it has alone."""
    sizes = (4, 2, 1)
    policy = groups([(POLICY[0], POLICY[1][:k]) for k in sizes], width=4, fill=garbage)
    reference = groups([(REFERENCE[0], REFERENCE[1][:k]) for k in sizes], width=4, fill=reference_garbage)
    means = DPO_MEANS if objective is dpo else HINGE_MEANS
    assert loss_of(objective, policy, reference).tolist() == pytest.approx([means[k] for k in sizes], abs=TOLERANCE)
    chosen, rejected = gradients(objective, policy, reference)
    for row, k in enumerate(sizes):
        alone_chosen, alone_rejected = gradients(objective, *fixture(k))
        assert chosen[row].item() == pytest.approx(alone_chosen.item(), abs=TOLERANCE)
        assert rejected[row, :k].tolist() == pytest.approx(alone_rejected[0].tolist(), abs=TOLERANCE)
        assert rejected[row, k:].tolist() == [0.0] * (4 - k)


@OBJECTIVES
def test_masked_slot_may_stand_before_a_valid_one(objective: ModuleType) -> None:
    """Slots y1 and y3 of F0 masked and spoilt: the mean over y2 and y4, both with h = 0.5."""
    policy, reference = fixture(4)
    valid = torch.tensor([[False, True, False, True]])
    spoilt = policy.rejected.detach().clone()
    spoilt[0, [0, 2]] = torch.tensor([math.nan, -math.inf], dtype=torch.float64)
    policy = GroupLogps(policy.chosen, spoilt.requires_grad_(), valid)
    expected = 0.6684596480 if objective is dpo else 0.95
    assert loss_of(objective, policy, replace(reference, valid=valid)).item() == pytest.approx(expected, abs=TOLERANCE)
    assert gradients(objective, policy, reference)[1][0, [0, 2]].tolist() == [0.0, 0.0]


@OBJECTIVES
def test_order_of_the_negatives_does_not_matter(objective: ModuleType) -> None:
    policy, reference = fixture(4)
    turned = [GroupLogps(g.chosen, g.rejected.flip(1), g.valid) for g in (policy, reference)]
    assert loss_of(objective, *turned).item() == pytest.approx(
        loss_of(objective, policy, reference).item(), abs=TOLERANCE
    )


@OBJECTIVES
@pytest.mark.parametrize("shift", [-300.0, 7.0])
def test_constant_shift_of_the_reference_changes_nothing(objective: ModuleType, shift: float) -> None:
    """It cancels in h, the difference of two differences."""
    policy, reference = fixture(4)
    shifted = GroupLogps(reference.chosen + shift, reference.rejected + shift, reference.valid)
    assert loss_of(objective, policy, shifted).item() == pytest.approx(
        loss_of(objective, policy, reference).item(), abs=TOLERANCE
    )
    for mine, theirs in zip(
        gradients(objective, policy, shifted), gradients(objective, policy, reference), strict=True
    ):
        assert mine.flatten().tolist() == pytest.approx(theirs.flatten().tolist(), abs=TOLERANCE)


def test_shift_of_the_chosen_reference_alone_does_change_the_loss() -> None:
    """It enlarges every h by 10: softplus(-0.1 * (1.5 + 10)) for one negative."""
    policy, reference = fixture(1)
    shifted = replace(reference, chosen=reference.chosen - 10)
    assert loss_of(dpo, policy, shifted).item() == pytest.approx(softplus(-1.15), abs=TOLERANCE)


def test_swapping_chosen_and_rejected_turns_the_sign_of_the_margin() -> None:
    """softplus(x) - softplus(-x) = x with x = 0.15: 0.6209570478 + 0.15; hinge 1 - 0.15 becomes 1 + 0.15."""
    policy, reference = groups([(-22.0, [-20.0])], width=1), groups([(-21.5, [-21.0])], width=1)
    assert loss_of(dpo, policy, reference).item() == pytest.approx(0.7709570478, abs=TOLERANCE)
    assert loss_of(hinge, policy, reference).item() == pytest.approx(1.15, abs=TOLERANCE)


logps = st.floats(-60, 0)


@OBJECTIVES
@settings(max_examples=50, deadline=None)
@given(st.tuples(logps, logps, logps, logps))
def test_swap_is_antisymmetric(objective: ModuleType, values: tuple[float, float, float, float]) -> None:
    """With x = -beta h: softplus(x) - softplus(-x) = x, and (1 + x) - (1 - x) = 2x while |x| < 1; here |x| < 0.7."""
    chosen, rejected, ref_chosen, ref_rejected = (v / 20 for v in values)
    there = groups([(chosen, [rejected])], width=1), groups([(ref_chosen, [ref_rejected])], width=1)
    back = groups([(rejected, [chosen])], width=1), groups([(ref_rejected, [ref_chosen])], width=1)
    x = -BETA * ((chosen - ref_chosen) - (rejected - ref_rejected))
    difference = loss_of(objective, *there).item() - loss_of(objective, *back).item()
    assert difference == pytest.approx(x * (1 if objective is dpo else 2), abs=TOLERANCE)


# Parameters


@OBJECTIVES
@pytest.mark.parametrize("params", [{"beta": 0}, {"beta": -0.1}, {"beta": math.inf}, {"beta": "big"}, {"bta": 0.1}])
def test_wrong_parameters_are_refused(objective: ModuleType, params: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        objective.Params(**params)
