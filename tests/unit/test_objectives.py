"""The objectives on a fixture with hand-computed values, and what must and must not change them.

The fixture F0: one prompt, four negatives, beta = 0.1, log-probabilities in nats.

==================  =======  ======  ======  ======  ======
                    chosen   y1      y2      y3      y4
log pi              -20      -22     -18.5   -30     -25
log ref             -21      -21.5   -19     -28     -25.5
tokens              10       8       6       15      12
d = log pi/ref      1        -0.5    0.5     -2      0.5
h_j                          1.5     0.5     3       0.5
score                        0.5     0.25    0.75    0.25
mean log pi         -2       -2.75   -3.083  -2      -2.083
==================  =======  ======  ======  ======  ======

Shared tokens of the pairs (8, 6, 10 and 10): log pi of the chosen response -16, -12, -20, -20, log ref -16.5, -12.5, -21, -21;
of the negatives log pi -22, -18.5, -19, -21, log ref -21.5, -19, -18.5, -21.

Everything is float64. The tolerance 1e-9 leaves room for expectations that are written with ten decimals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.records import GroupBatch, GroupLogps

TOLERANCE = 1e-9
LOG2 = math.log(2)
ALL = (0, 1, 2, 3)
H = (1.5, 0.5, 3.0, 0.5)
LENGTHS = (8, 6, 15, 12)
SCORES = (0.5, 0.25, 0.75, 0.25)
DRIFT = 0.3
# chosen, rejected, chosen_shared, rejected_shared
POLICY = (-20.0, (-22.0, -18.5, -30.0, -25.0), (-16.0, -12.0, -20.0, -20.0), (-22.0, -18.5, -19.0, -21.0))
REFERENCE = (-21.0, (-21.5, -19.0, -28.0, -25.5), (-16.5, -12.5, -21.0, -21.0), (-21.5, -19.0, -18.5, -21.0))

Row = tuple[int | None, ...]


def f0(*rows: Row, fill: float = 0.0, initial: bool = False, dtype: torch.dtype = torch.float64) -> GroupBatch:
    """Return F0 once for each row, with the negatives that the row names; a slot None is not valid and holds ``fill``.

    Integers cannot be infinite or NaN: lengths there hold 0. With ``initial`` the reference is the policy.
    """

    def slots(values: tuple[float, ...]) -> Tensor:
        return torch.tensor([[fill if j is None else values[j] for j in row] for row in rows], dtype=dtype)

    def logps(chosen: float, *others: tuple[float, ...]) -> GroupLogps:
        return GroupLogps(torch.full((len(rows),), chosen, dtype=dtype), *map(slots, others))

    policy, reference = logps(*POLICY), logps(*POLICY if initial else REFERENCE)
    for leaf in leaves(policy):
        leaf.requires_grad_()
    return GroupBatch(
        policy=policy,
        reference=reference,
        valid=torch.tensor([[j is not None for j in row] for row in rows]),
        chosen_length=torch.full((len(rows),), 10),
        rejected_length=torch.tensor([[0 if j is None else LENGTHS[j] for j in row] for row in rows]),
        margin=slots((0.0,) * 4),
        score=slots(SCORES),
        drift=torch.tensor(0.0 if initial else DRIFT, dtype=dtype),
    )


def leaves(logps: GroupLogps) -> list[Tensor]:
    """Return the tensors of log-probabilities; F0 has all four of them."""
    return [logps.chosen, logps.rejected, logps.chosen_shared, logps.rejected_shared]  # type: ignore[list-item]


# The objectives


@dataclass(frozen=True)
class Case:
    """An objective with parameters, and what it gives on F0.

    Attributes:
        pairs: value with each of the negatives alone; the value of a group is then the mean over its negatives.
        groups: value with the first k negatives, of an objective that is no such mean.
        initial: value with k negatives where the policy is the reference; None of an objective without reference.
        unit: what a margin of 1 adds to log pi of a negative: 1 nat, or 1 nat for each token. None: neither.
    """

    kind: str
    params: dict[str, Any] = field(default_factory=dict)
    pairs: tuple[float, ...] = ()
    groups: dict[int, float] = field(default_factory=dict)
    initial: Callable[[int], float] | None = None
    unit: str | None = "nat"

    def __str__(self) -> str:
        """Return the kind and the values of the parameters, the id of the case."""
        return "-".join([self.kind, *(str(v) for v in self.params.values())])

    def __call__(self, batch: GroupBatch, **params: Any) -> Tensor:
        module = plugins.load("objectives", self.kind)
        loss: Tensor = module.loss(batch, module.Params(**{**self.params, **params}))
        return loss

    def expected(self, k: int) -> float:
        """Return the value with the first k negatives of F0."""
        return sum(self.pairs[:k]) / k if self.pairs else self.groups[k]


def at_start(value: float) -> Callable[[int], float]:
    return lambda k: value


DPO = Case("dpo", pairs=(0.6209570478, 0.6684596480, 0.5543552445, 0.6684596480), initial=at_start(LOG2))

CASES = [
    DPO,  # softplus(-0.1 h)
    # 1 - 0.1 h
    Case("hinge", pairs=(0.85, 0.95, 0.70, 0.95), initial=at_start(1)),
    # (h - 5) ** 2
    Case("ipo", {"normalise": False}, pairs=(12.25, 20.25, 4.00, 20.25), initial=at_start(25)),
    # (0.1 - d_j / tokens - 5) ** 2
    Case(
        "ipo",
        {"normalise": True},
        pairs=(23.40140625, 24.8336111111, 22.7211111111, 24.4200694444),
        initial=at_start(25),
        unit="token",
    ),
    # 0.9 softplus(-0.1 h) + 0.1 softplus(0.1 h)
    Case("cdpo", pairs=(0.6359570478, 0.6734596480, 0.5843552445, 0.6734596480), initial=at_start(LOG2)),
    # (0.9 softplus(-0.1 h) - 0.1 softplus(0.1 h)) / 0.8
    Case("robust", pairs=(0.6022070478, 0.6622096480, 0.5168552445, 0.6622096480), initial=at_start(LOG2)),
    # p log(p / 0.999) + (1 - p) log((1 - p) / 0.001) with p = sigmoid(0.1 h); at first p = 1/2
    Case(
        "exo_pair",
        pairs=(2.5055165555, 2.6752266586, 2.2581991915, 2.6752266586),
        initial=at_start(-LOG2 - math.log(0.999 * 0.001) / 2),
    ),
    # softplus(-2 (gap - 0.5)) of the mean log-probabilities: gaps 0.75, 1.08333, 0, 0.08333
    Case("simpo", pairs=(0.4740769842, 0.2710977272, 1.3132616875, 1.1942181493), unit="token"),
    # 2 + 0.1 L_OR with L_OR = 0.3620929861, 0.2675112170, 0.6931471806, 0.6464081653; mean of four 2.0492289887
    Case("orpo", pairs=(2.03620929861, 2.02675112170, 2.06931471806, 2.06464081653), unit=None),
    # softplus(-0.1 gap) of the log-probabilities: gaps 2, -1.5, 10, 5
    Case("cpo", {"sft_weight": 0}, pairs=(0.5981388694, 0.7709570478, 0.3132616875, 0.4740769842)),
    # the same, and 20 nats / 10 tokens
    Case("cpo", pairs=(2.5981388694, 2.7709570478, 2.3132616875, 2.4740769842)),
    # softplus(-0.1) + softplus(0.1 d_j)
    Case("bco", pairs=(1.3128563081, 1.3628563081, 1.2425355295, 1.3628563081), initial=at_start(2 * LOG2)),
    # softplus(0.2 - 0.1) + softplus(0.1 d_j - 0.2); at first softplus(0.2) + softplus(-0.2)
    Case(
        "bco",
        {"delta": 0.2},
        pairs=(1.3203360800, 1.3653537079, 1.2574119125, 1.3653537079),
        initial=at_start(2 * math.log1p(math.exp(0.2)) - 0.2),
    ),
    # 1 - sigmoid(0.1) + sigmoid(0.1 d_j)
    Case("apo_zero", pairs=(0.9625234160, 0.9875182090, 0.9251868152, 0.9875182090), initial=at_start(1)),
    # sigmoid(0.1) + 1 - sigmoid(0.1 h)
    Case("apo_down", pairs=(0.9875493421, 1.0124817910, 0.9505366707, 1.0124817910), initial=at_start(1)),
    # (1 - 5) ** 2 + (d_j + 5) ** 2
    Case("sppo_hard", pairs=(36.25, 46.25, 25.0, 46.25), initial=at_start(50)),
    # dpo: d of the chosen response is positive, no penalty
    replace(DPO, kind="dpop"),
    # dpo
    replace(DPO, kind="ld_dpo", params={"alpha": 1}),
    # softplus(-0.1 h) with the tail at half weight: h = 0.75 + 0.5, 0.75 - 0.5, 1 + 1.25, 1 - 0.25
    Case(
        "ld_dpo",
        {"alpha": 0.5},
        pairs=(0.6325990353, 0.6807253035, 0.5869620020, 0.6563501408),
        initial=at_start(LOG2),
    ),
    # log(1 + sum exp(-0.1 h))
    Case(
        "softmax",
        groups={1: 0.6209570478, 2: 1.0338737123, 4: 1.5049625707},
        initial=lambda k: math.log(1 + k),
    ),
    # softplus(-0.1) + mean over the chosen and the k negatives of softplus(0.1 d)
    Case("nca", groups={1: 1.3508248141, 2: 1.3548353121, 4: 1.3339795548}, initial=at_start(2 * LOG2)),
    # labels exp(4 score) / sum for scores 1 and those of F0, k = 4: 0.6239 0.0844 0.0311 0.2295 0.0311
    Case(
        "infonca",
        {"temperature": 0.25},
        groups={1: 0.6388374861, 2: 1.0531034955, 4: 1.5895918285},
        initial=lambda k: math.log(1 + k),
    ),
    # rewards 0.1, then -0.05 0.05 -0.2 0.05: sum over places of logsumexp of the rest - reward
    Case(
        "plackett_luce",
        groups={1: 0.6209570478, 2: 1.7782703724, 4: 4.7568223576},
        initial=lambda k: math.log(math.factorial(1 + k)),
    ),
    # by score y3 y1 y2 y4: rewards 0.1, then -0.2 -0.05 0.05 0.05; for two as they stand
    Case(
        "plackett_luce",
        {"order": "score"},
        groups={1: 0.6209570478, 2: 1.7782703724, 4: 4.9183880791},
        initial=lambda k: math.log(math.factorial(1 + k)),
    ),
    # z0 = 0.3: chosen 0.4825071423, rejected 0.4800106598 0.5049998333 0.4427521454 0.5049998333; mean over all k + 1
    Case("kto", groups={1: 0.4812589011, 2: 0.4891725451, 4: 0.4830539228}, initial=at_start(0.5)),
]
BY_NAME = {str(case): case for case in CASES}
REFERENCE_FREE = {"simpo", "orpo", "cpo-0", "cpo"}
LOOKS_AT_H_ALONE = {
    *("dpo", "hinge", "ipo-False", "cdpo", "robust", "exo_pair", "ld_dpo-1", "ld_dpo-0.5"),
    *("softmax", "infonca-0.25", "plackett_luce", "plackett_luce-score"),
}

every = pytest.mark.parametrize("case", CASES, ids=str)


def gradients(case: Case, batch: GroupBatch) -> list[Tensor]:
    """Return the gradient of the summed loss in each tensor of the policy, 0 where it is not used."""
    found = torch.autograd.grad(case(batch).sum(), leaves(batch.policy), allow_unused=True, materialize_grads=True)
    return list(found)


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


# Values


def test_every_objective_is_in_the_table() -> None:
    assert {case.kind for case in CASES} == set(plugins.names("objectives"))
    assert len(BY_NAME) == len(CASES)
    assert set(BY_NAME) > REFERENCE_FREE | LOOKS_AT_H_ALONE


@every
@pytest.mark.parametrize("k", [1, 2, 4])
def test_value_with_the_first_k_negatives(case: Case, k: int) -> None:
    """The table above: from each pair alone, or as a group."""
    assert case(f0(ALL[:k])).item() == pytest.approx(case.expected(k), abs=TOLERANCE)


@pytest.mark.parametrize("case", [c for c in CASES if c.pairs], ids=str)
def test_value_of_each_pair(case: Case) -> None:
    """Four groups of one negative each: with the test above, a group is the mean of its pairs."""
    assert case(f0((0,), (1,), (2,), (3,))).tolist() == pytest.approx(case.pairs, abs=TOLERANCE)


@pytest.mark.parametrize("case", [c for c in CASES if c.initial], ids=str)
@pytest.mark.parametrize("k", [1, 2, 4, 8, 16])
def test_value_at_initialisation(case: Case, k: int) -> None:
    """Policy equal to reference: every log-ratio is 0. 1e-12: sums of up to 17 terms of up to 33."""
    assert case.initial is not None
    assert case(f0((ALL * 4)[:k], initial=True)).item() == pytest.approx(case.initial(k), abs=1e-12)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("softmax", {}),
        ("plackett_luce", {}),
        ("plackett_luce-score", {}),
        ("infonca-0.25", {"temperature": 1e-3, "chosen_score": 2}),
    ],
)
@pytest.mark.parametrize("j", ALL)
def test_listwise_objectives_are_dpo_for_one_negative(name: str, params: dict[str, Any], j: int) -> None:
    """log(1 + exp(-0.1 h)) = softplus(-0.1 h); a label of exp(-1250) for the negative is 0."""
    assert BY_NAME[name](f0((j,)), **params).item() == pytest.approx(DPO.pairs[j], abs=TOLERANCE)


def test_softmax_is_infonca_with_all_weight_on_the_chosen_response() -> None:
    """Scores 2 and at most 0.75 at a temperature of 0.01: labels below exp(-125)."""
    sharp = BY_NAME["infonca-0.25"](f0(ALL), temperature=0.01, chosen_score=2)
    assert sharp.item() == pytest.approx(BY_NAME["softmax"].expected(4), abs=TOLERANCE)


@every
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, TOLERANCE), (torch.float32, 1e-5)], ids=str)
def test_one_value_for_each_group_in_the_type_of_the_log_probabilities(
    case: Case, dtype: torch.dtype, tolerance: float
) -> None:
    """1e-5: float32 has seven digits, of 30 nats and of squares of 50."""
    loss = case(f0((0, 1, 2, 3), (0, 1, None, None), dtype=dtype))
    assert loss.dtype == dtype
    assert loss.tolist() == pytest.approx([case.expected(4), case.expected(2)], rel=tolerance)


@every
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("chosen", "rejected"), [(-1.0, -1e4), (-1e4, -1.0)])
def test_far_margins_stay_finite(case: Case, dtype: torch.dtype, chosen: float, rejected: float) -> None:
    """Margins h of 1e4 and -1e4: the exponential of 1000 is infinite even in float64."""
    batch = f0(ALL, initial=True, dtype=dtype)
    with torch.no_grad():
        for tensor, value in zip(leaves(batch.policy), (chosen, rejected) * 2, strict=True):
            tensor.fill_(value)
    assert case(batch).isfinite().all()
    assert all(g.isfinite().all() for g in gradients(case, batch))


def test_far_margins_count_in_full() -> None:
    """Four times h = -1e4: mean of softplus(1000) = 1000; log(1 + 4 exp(1000)) = 1000 + log 4."""
    batch = f0(ALL, initial=True)
    batch = replace(batch, margin=torch.full_like(batch.margin, 1e4))
    assert DPO(batch).item() == pytest.approx(1000, abs=TOLERANCE)
    assert BY_NAME["softmax"](batch).item() == pytest.approx(1000 + math.log(4), abs=TOLERANCE)


# Gradients


@every
def test_gradient_is_the_slope_of_the_value(case: Case) -> None:
    batch = f0((0, 1, 2, 3), (None, 1, None, 0))
    assert torch.autograd.gradcheck(lambda *t: case(replace(batch, policy=GroupLogps(*t))), leaves(batch.policy))


def test_gradient_of_dpo() -> None:
    """Rejected: 0.1 / 4 * sigmoid(-0.1 h): .4625701547 .4875026035 .4255574832 .4875026035. Chosen: minus the sum."""
    chosen, rejected, *_ = gradients(DPO, f0(ALL))
    assert chosen.tolist() == pytest.approx([-0.0465783211], abs=TOLERANCE)
    assert rejected[0].tolist() == pytest.approx(
        [0.0115642539, 0.0121875651, 0.0106389371, 0.0121875651], abs=TOLERANCE
    )


def test_gradient_of_softmax_weighs_the_likeliest_negatives_most() -> None:
    """0.1 softmax(r): of five rewards 0.1 -0.05 0.05 -0.2 0.05, not the same for all; the chosen response minus the sum."""
    chosen, rejected, *_ = gradients(BY_NAME["softmax"], f0(ALL))
    assert chosen.tolist() == pytest.approx([-0.0777974396], abs=TOLERANCE)
    assert rejected[0].tolist() == pytest.approx(
        [0.0191099208, 0.0211197287, 0.0164480613, 0.0211197287], abs=TOLERANCE
    )


def test_hinge_has_no_gradient_beyond_its_margin() -> None:
    """At beta = 1 the margin is 1 nat: y1 and y3 (h = 1.5 and 3) are beyond it, y2 and y4 (0.5) are not."""
    sharp = replace(BY_NAME["hinge"], params={"beta": 1})
    chosen, rejected, *_ = gradients(sharp, f0(ALL))
    assert chosen.tolist() == [-0.5]
    assert rejected[0].tolist() == [0, 0.25, 0, 0.25]


# What must not matter


GARBAGE = [0.0, 1e30, -math.inf, math.inf, math.nan]


@every
@pytest.mark.parametrize("garbage", GARBAGE)
def test_slots_that_are_not_valid_change_neither_value_nor_gradient(case: Case, garbage: float) -> None:
    """Rows with 4, 2 and 1 negatives, and one whose first slot is not valid: each is as it is alone.

    The garbage stands in policy, reference, shared tokens, margin and score; lengths are 0 there.
    """
    rows: list[Row] = [ALL, (0, 1, None, None), (2, None, None, None), (None, 1, None, 3)]
    batch = f0(*rows, fill=garbage)
    values, (chosen, *others) = case(batch), gradients(case, batch)
    for i, row in enumerate(rows):
        slots = [s for s, j in enumerate(row) if j is not None]
        alone = f0(tuple(row[s] for s in slots))
        assert values[i].item() == pytest.approx(case(alone).item(), abs=1e-12)
        alone_chosen, *alone_others = gradients(case, alone)
        assert chosen[i].item() == pytest.approx(alone_chosen.item(), abs=1e-12)
        for found, expected in zip(others, alone_others, strict=True):
            assert found[i, slots].tolist() == pytest.approx(expected[0].tolist(), abs=1e-12)
            assert not found[i, [s for s in range(4) if s not in slots]].any()


@every
def test_order_of_the_negatives_does_not_matter(case: Case) -> None:
    """But where the order is itself the label. Equal scores, of y2 and y4, are no matter: so are their log-ratios in F0."""
    changed = abs(case(f0((3, 2, 1, 0))) - case(f0(ALL))).item() > TOLERANCE
    assert changed == (str(case) == "plackett_luce")


def test_equal_scores_stand_in_their_order() -> None:
    """All scores equal: the order by score is the given one."""
    batch = f0((2, 0, 3, 1))
    flat = replace(batch, score=torch.zeros_like(batch.margin))
    assert BY_NAME["plackett_luce-score"](flat).equal(BY_NAME["plackett_luce"](batch))


@every
@pytest.mark.parametrize("shift", [-300.0, 7.0])
def test_constant_shift_of_the_reference_changes_only_what_looks_at_log_ratios_one_by_one(
    case: Case, shift: float
) -> None:
    """It cancels in h, the difference of two log-ratios, and divided by two lengths it does not."""
    batch = f0(ALL)
    shifted = replace(batch, reference=GroupLogps(*(t + shift for t in leaves(batch.reference))))
    same = abs(case(shifted) - case(batch)).item() < TOLERANCE
    # The penalty of dpop is for a chosen response below the reference: a lower reference moves nothing.
    expected = LOOKS_AT_H_ALONE | REFERENCE_FREE | ({"dpop"} if shift < 0 else set())
    assert same == (str(case) in expected)


@pytest.mark.parametrize("name", sorted(REFERENCE_FREE))
def test_objectives_without_reference_do_not_look_at_one(name: str) -> None:
    batch = f0(ALL)
    without = replace(batch, reference=None)  # type: ignore[arg-type]
    assert BY_NAME[name](without).equal(BY_NAME[name](batch))


def test_shift_of_the_chosen_reference_alone_does_change_the_loss() -> None:
    """It enlarges every h by 10: softplus(-0.1 * (1.5 + 10)) for one negative."""
    batch = f0((0,))
    shifted = replace(batch, reference=replace(batch.reference, chosen=batch.reference.chosen - 10))
    assert DPO(shifted).item() == pytest.approx(softplus(-1.15), abs=TOLERANCE)


# Swap


def swapped(j: int) -> tuple[GroupBatch, GroupBatch]:
    """Return the pair of the chosen response and negative j, and the same pair the other way round."""
    batch = f0((j,))

    def back(logps: GroupLogps) -> GroupLogps:
        return GroupLogps(logps.rejected[:, 0], logps.chosen[:, None], logps.rejected_shared, logps.chosen_shared)

    lengths = {"chosen_length": batch.rejected_length[:, 0], "rejected_length": batch.chosen_length[:, None]}
    return batch, replace(batch, policy=back(batch.policy), reference=back(batch.reference), **lengths)


@pytest.mark.parametrize(
    ("name", "slope", "gaps"),
    [
        ("dpo", -0.1, H),  # softplus(-x) - softplus(x) = -x with x = 0.1 h
        ("softmax", -0.1, H),
        ("plackett_luce", -0.1, H),
        ("bco", -0.1, H),  # softplus(-a) + softplus(b) - softplus(-b) - softplus(a) = b - a
        ("cdpo", -0.08, H),  # (1 - 2 * 0.1) of it
        ("robust", -0.125, H),  # (0.9 + 0.1) (softplus(-x) - softplus(x)) / 0.8
        ("hinge", -0.2, H),  # (1 - x) - (1 + x), |x| < 1
        ("ipo-False", -20, H),  # (h - 5) ** 2 - (h + 5) ** 2
        ("sppo_hard", -20, H),  # (a - 5) ** 2 + (b + 5) ** 2 - (b - 5) ** 2 - (a + 5) ** 2 = -20 (a - b)
        ("ld_dpo-0.5", -0.1, (1.25, 0.25, 2.25, 0.75)),
        ("cpo-0", -0.1, (2, -1.5, 10, 5)),
    ],
)
@pytest.mark.parametrize("j", ALL)
def test_swap_of_a_pair_turns_its_sign(name: str, slope: float, gaps: tuple[float, ...], j: int) -> None:
    there, back = swapped(j)
    assert (BY_NAME[name](there) - BY_NAME[name](back)).item() == pytest.approx(slope * gaps[j], abs=TOLERANCE)


# Margin


@every
def test_margin_counts_like_a_higher_log_probability_of_the_negative(case: Case) -> None:
    """In nats of the whole response, or of each of its tokens."""
    margin = torch.tensor([[0.5, 0.0, 2.0, -1.0]], dtype=torch.float64)
    batch = f0(ALL)
    found = case(replace(batch, margin=margin))
    assert abs(found - case(batch)).item() > TOLERANCE
    if case.unit is None:
        return
    nats = margin * batch.rejected_length if case.unit == "token" else margin
    chosen, rejected, chosen_shared, rejected_shared = leaves(batch.policy)
    raised = GroupLogps(chosen, rejected + nats, chosen_shared, rejected_shared + nats)
    assert found.item() == pytest.approx(case(replace(batch, policy=raised)).item(), abs=TOLERANCE)


def test_margin_of_orpo_is_in_log_odds() -> None:
    """y3 has the log-odds of the chosen response: 2 + 0.1 softplus(0 + 1.5)."""
    batch = f0((2,))
    found = BY_NAME["orpo"](replace(batch, margin=torch.full_like(batch.margin, 1.5)))
    assert found.item() == pytest.approx(2 + 0.1 * softplus(1.5), abs=TOLERANCE)


# Single objectives


@pytest.mark.parametrize("name", ["cdpo", "exo_pair"])
@pytest.mark.parametrize("smoothing", [0.1, 0.3])
def test_smoothed_objectives_have_their_optimum_at_the_odds_of_the_labels(name: str, smoothing: float) -> None:
    """At beta h = log((1 - e) / e), 2.1972 for e = 0.1: no gradient there, and a divergence of 0."""
    case = replace(BY_NAME[name], params={"label_smoothing": smoothing})
    batch = f0((0,), initial=True)
    best = replace(batch, margin=torch.full_like(batch.margin, -10 * math.log((1 - smoothing) / smoothing)))
    assert all(abs(g).max() < TOLERANCE for g in gradients(case, best))
    if name == "exo_pair":
        assert case(best).item() == pytest.approx(0, abs=TOLERANCE)


def test_robust_has_no_lower_bound() -> None:
    """At beta h = 20: (0.9 softplus(-20) - 0.1 softplus(20)) / 0.8 = -2.5; softplus(-20) = 2e-9."""
    batch = f0((0,), initial=True)
    far = replace(batch, margin=torch.full_like(batch.margin, -200))
    assert BY_NAME["robust"](far).item() == pytest.approx(-2.5, abs=1e-8)


def test_simpo_does_not_see_length() -> None:
    """Responses repeated twice: twice the log-probability over twice the tokens."""
    batch = f0(ALL)
    twice = replace(
        batch,
        policy=GroupLogps(batch.policy.chosen * 2, batch.policy.rejected * 2),
        chosen_length=batch.chosen_length * 2,
        rejected_length=batch.rejected_length * 2,
    )
    assert BY_NAME["simpo"](twice).item() == pytest.approx(BY_NAME["simpo"](batch).item(), abs=TOLERANCE)
    assert abs(BY_NAME["cpo-0"](twice) - BY_NAME["cpo-0"](batch)).item() > 0.05


def certain(chosen: float, rejected: float, dtype: torch.dtype) -> GroupBatch:
    """Return a group of one negative with these log-probabilities, ten tokens each."""
    batch = f0((0,), dtype=dtype)
    policy = GroupLogps(torch.full_like(batch.drift[None], chosen), torch.full_like(batch.margin, rejected))
    policy.chosen.requires_grad_(), policy.rejected.requires_grad_()
    return replace(batch, policy=policy, rejected_length=torch.tensor([[10]]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("chosen", [0.0, -1e-12, -1e-6, -1.0])
@pytest.mark.parametrize("rejected", [0.0, -1e-12, -1e-6, -1.0])
def test_orpo_is_finite_for_responses_of_probability_one(dtype: torch.dtype, chosen: float, rejected: float) -> None:
    """The odds of 1 are infinite: both are held just below it."""
    batch = certain(chosen, rejected, dtype)
    assert BY_NAME["orpo"](batch).isfinite().all()
    BY_NAME["orpo"](batch).sum().backward()
    assert batch.policy.chosen.grad is not None and batch.policy.rejected.grad is not None
    assert batch.policy.chosen.grad.isfinite().all() and batch.policy.rejected.grad.isfinite().all()


def test_orpo_keeps_its_digits_next_to_probability_one() -> None:
    """Chosen of mean log 1/2: log-odds 0. Rejected of mean -1e-5: log-odds log(1 / expm1(1e-5)) = 11.51292. In float32."""
    found = BY_NAME["orpo"](certain(-10 * LOG2, -1e-4, torch.float32)).item()
    assert found == pytest.approx(LOG2 + 0.1 * softplus(-math.log(math.expm1(1e-5))), abs=1e-5)


def test_infonca_raises_a_negative_whose_label_exceeds_its_share() -> None:
    """0.1 (0.2 - label): at first each of five responses has 0.2. Labels exp(score) / sum; y3, with score 0.75, has 0.234."""
    case = replace(BY_NAME["infonca-0.25"], params={"temperature": 1})
    chosen, rejected, *_ = gradients(case, f0(ALL, initial=True))
    labels = 0.1821378087, 0.1418490681, 0.2338695757, 0.1418490681
    assert chosen.tolist() == pytest.approx([0.1 * (0.2 - 0.3002944794)], abs=TOLERANCE)
    assert rejected[0].tolist() == pytest.approx([0.1 * (0.2 - q) for q in labels], abs=TOLERANCE)


@pytest.mark.parametrize("drift", [-0.5, 0.0])
def test_drift_of_kto_is_at_least_zero_and_has_no_gradient(drift: float) -> None:
    """z0 = 0, chosen and y1: (sigmoid(-0.1) + sigmoid(-0.05)) / 2 = (0.4750208125 + 0.4875026035) / 2."""
    z0 = torch.tensor(drift, dtype=torch.float64, requires_grad=True)
    loss = BY_NAME["kto"](replace(f0((0,)), drift=z0))
    assert loss.item() == pytest.approx(0.4812617080, abs=TOLERANCE)
    loss.backward()
    assert z0.grad is None


def test_weights_of_kto_are_those_of_the_chosen_response_and_of_each_negative() -> None:
    """(4 * 0.4825071423 + 2 * (0.4800106598 + 0.5049998333)) / 3, from its row of the table."""
    found = BY_NAME["kto"](f0((0, 1)), desirable_weight=4, undesirable_weight=2)
    assert found.item() == pytest.approx((4 * 0.4825071423 + 2 * 0.9850104931) / 3, abs=TOLERANCE)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_dpop_penalises_a_chosen_response_below_its_reference(weight: float) -> None:
    """With log pi of the chosen response -22: d = -1, h = -0.5, penalty 1 nat: softplus(-0.1 (-0.5 - weight))."""
    batch = f0((0,))
    fallen = torch.tensor([-22.0], dtype=torch.float64, requires_grad=True)
    loss = BY_NAME["dpop"](replace(batch, policy=replace(batch.policy, chosen=fallen)), penalty_weight=weight)
    assert loss.item() == pytest.approx(softplus(0.1 * (0.5 + weight)), abs=TOLERANCE)
    # -0.1 (1 + weight) sigmoid(0.1 (0.5 + weight))
    slope = -0.1 * (1 + weight) / (1 + math.exp(-0.1 * (0.5 + weight)))
    assert torch.autograd.grad(loss.sum(), fallen)[0].item() == pytest.approx(slope, abs=TOLERANCE)


def test_plackett_luce_asks_for_the_scores_that_it_orders_by() -> None:
    with pytest.raises(InputError, match="give the selection a `scorer`"):
        BY_NAME["plackett_luce-score"](replace(f0(ALL), score=None))


# Parameters


def refused() -> list[Any]:
    """Return every objective with a strength that is no positive number, and limits of single parameters."""
    found: list[tuple[str, dict[str, Any]]] = [
        ("ipo", {}),
        ("ipo", {"normalise": False, "tau": 0}),
        ("cdpo", {"label_smoothing": 0.5}),
        ("robust", {"label_smoothing": 0.5}),
        ("robust", {"label_smoothing": -0.1}),
        ("exo_pair", {"label_smoothing": 0}),
        ("ld_dpo", {}),
        ("ld_dpo", {"alpha": 1.1}),
        ("infonca", {}),
        ("infonca", {"temperature": 0}),
        ("plackett_luce", {"order": "random"}),
        ("kto", {"desirable_weight": 0}),
        ("orpo", {"odds_weight": -1}),
        ("cpo", {"sft_weight": -1}),
        ("dpop", {"penalty_weight": -1}),
    ]
    for case in CASES:
        if "beta" in plugins.load("objectives", case.kind).Params.model_fields:
            found += [(case.kind, {**case.params, "beta": beta}) for beta in (0, -0.1, math.inf, "big")]
    return [pytest.param(kind, params, id=f"{kind}-{params}") for kind, params in found]


@pytest.mark.parametrize(("kind", "params"), refused())
def test_wrong_parameters_are_refused(kind: str, params: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        plugins.load("objectives", kind).Params(**params)


@pytest.mark.parametrize(("beta", "h"), [(0.01, 1.5), (0.5, 1.5), (2.0, 0.5)])
def test_beta_scales_the_margin(beta: float, h: float) -> None:
    """softplus(-beta h) and max(0, 1 - beta h)."""
    batch = f0((0,), initial=True)
    batch = replace(batch, margin=torch.full_like(batch.margin, -h))
    assert DPO(batch, beta=beta).item() == pytest.approx(softplus(-beta * h), abs=TOLERANCE)
    assert BY_NAME["hinge"](batch, beta=beta).item() == pytest.approx(max(0.0, 1 - beta * h), abs=TOLERANCE)
