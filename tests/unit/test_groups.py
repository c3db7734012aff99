"""Groups of a batch: what an objective sees of them, and that no way to cut or share them changes loss and gradient.

Differences of gradients are relative to the largest gradient; the tolerance 1e-6 is that of conftest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from selfcontrast.finite import NotFiniteError
from selfcontrast.logprobs import TokenLogps, token_logps
from selfcontrast.records import GroupBatch, GroupLogps
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import Elsewhere, TokenGroup, as_batch, micro_batches, split_responses
from selfcontrast.training.preference import Execution, Objective, accumulate

TOLERANCE = 1e-6
SHARINGS: tuple[Any, ...] = ("prefix", "packed", "chosen", "none")
MEANS_OVER_NEGATIVES = ("dpo", "hinge", "cdpo", "ipo", "exo_pair", "sppo_hard")
LISTWISE = ("softmax", "plackett_luce", "infonca", "nca")

pytestmark = pytest.mark.usefixtures("one_thread")

Run = Callable[..., tuple[dict[str, float], dict[str, Tensor]]]


@pytest.fixture(scope="module")
def engine(llama: Any) -> Engine:
    return Engine(llama())


@pytest.fixture(scope="module")
def run(engine: Engine, gradients: Any) -> Run:
    """Return figures and gradients of a batch."""

    def of(
        groups: Sequence[TokenGroup], objective: Objective, sharing: Any = "chosen", tokens: int | None = None
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        figures = accumulate(engine, groups, objective, Execution(sharing, tokens))
        return figures, gradients(engine.model)

    return of


@pytest.fixture(scope="module")
def assert_same(difference: Any) -> Callable[..., None]:
    def check(found: Any, expected: Any, tolerance: float = TOLERANCE) -> None:
        assert found[0] == pytest.approx(expected[0], abs=tolerance)
        assert difference(found[1], expected[1]) < tolerance

    return check


# What an objective sees


def token_logps_of(*responses: Sequence[float]) -> TokenLogps:
    return TokenLogps(torch.tensor([float(x) for r in responses for x in r]), [len(r) for r in responses])


def test_batch_holds_sums_padded_with_the_chosen_response_first() -> None:
    """Groups of 1 and 3 negatives; the slots of the first behind its only negative are not valid."""
    groups = [
        TokenGroup([1], [[5, 2], [6]], [-1.5, -2.5], margin=[0.5], score=[0.9]),
        TokenGroup(
            [1], [[5], [6, 7], [8], [9]], [-4.0, -5.0, -6.0, -7.0], margin=[0.1, 0.2, 0.3], score=[0.6, 0.5, 0.4]
        ),
    ]
    tokens = token_logps_of([-1, -2], [-3], [-4], [-5, -6], [-7], [-8])
    drift = torch.tensor(0.25)
    batch = as_batch(groups, tokens, drift=drift, shared=False)
    assert batch.policy.chosen.tolist() == [-3, -4]
    assert batch.valid.tolist() == [[True, False, False], [True, True, True]]
    assert batch.policy.rejected[batch.valid].tolist() == [-3, -11, -7, -8]
    assert batch.reference.chosen.tolist() == [-1.5, -4]
    assert batch.reference.rejected[batch.valid].tolist() == [-2.5, -5, -6, -7]
    assert batch.chosen_length.tolist() == [2, 1]
    assert batch.rejected_length[batch.valid].tolist() == [1, 2, 1, 1]
    assert batch.margin[batch.valid].tolist() == pytest.approx([0.5, 0.1, 0.2, 0.3])
    assert batch.score is not None and batch.score[batch.valid].tolist() == pytest.approx([0.9, 0.6, 0.5, 0.4])
    assert batch.drift is drift
    assert batch.policy.chosen_shared is None and batch.reference.rejected_shared is None


def test_margin_and_score_that_are_not_given_are_zero_and_none() -> None:
    batch = as_batch([TokenGroup([1], [[5], [6]], [0, 0])], token_logps_of([-1], [-2]), drift=None, shared=False)
    assert batch.margin.tolist() == [[0]]
    assert batch.score is None and batch.drift is None


def test_shared_tokens_are_as_many_as_both_responses_have() -> None:
    """A chosen response of 3 tokens and negatives of 2, 4 and 3: its first 2, 3 and 3, and their first 2, 3 and 3."""
    reference_tokens = [[-1.0, -2.0, -4.0], [-8.0, -16.0], [-32.0, -64.0, -128.0, -256.0], [-1.0, -1.0, -1.0]]
    groups = [
        TokenGroup([1], [[5] * len(r) for r in reference_tokens], [sum(r) for r in reference_tokens], reference_tokens),
        TokenGroup([1], [[5], [6, 6]], [-9.0, -5.0], [[-9.0], [-2.0, -3.0]]),
    ]
    tokens = token_logps_of(*[[2 * x for x in r] for g in groups for r in g.reference_tokens or ()])
    batch = as_batch(groups, tokens, drift=None, shared=True)
    expected_chosen, expected_rejected = [-3, -7, -7, -9], [-24, -224, -3, -2]
    for logps, factor in ((batch.reference, 1), (batch.policy, 2)):
        assert logps.chosen_shared is not None and logps.rejected_shared is not None
        assert logps.chosen_shared[batch.valid].tolist() == [factor * x for x in expected_chosen]
        assert logps.rejected_shared[batch.valid].tolist() == [factor * x for x in expected_rejected]


def test_lengths_and_tokens_of_a_group_by_hand() -> None:
    """A prompt of 2 tokens, responses of 1, 3 and 2, padded to 3: 2 + 3 * 3."""
    group = TokenGroup([1, 1], [[2], [3, 3, 2], [4, 2]], [0, 0, 0])
    assert group.lengths == [1, 3, 2]
    assert group.n_tokens == 11


# How a batch is cut


def sized(prompt: int, *responses: int) -> TokenGroup:
    return TokenGroup([1] * prompt, [[2] * n for n in responses], [0.0] * len(responses))


def padded(groups: Sequence[TokenGroup]) -> int:
    """Return the tokens of groups that run together, by the definition: all rows as long as the longest."""
    return max(len(g.prompt_ids) for g in groups) * len(groups) + max(n for g in groups for n in g.lengths) * sum(
        len(g.lengths) for g in groups
    )


def test_micro_batches_by_hand() -> None:
    """Sizes alone 2 + 4, 3 + 4, 1 + 9 and 1 + 40 with two or three responses each; in the order of their longest response.

    The first two together: 2 * 3 + 4 * 2 = 14. With the third, whose response of 3 pads all, 3 * 3 + 7 * 3 = 30.
    """
    groups = [sized(1, 3, 3, 1), sized(2, 2, 2), sized(1, 20, 20), sized(3, 2, 1)]
    assert micro_batches(groups, 14) == [[groups[1], groups[3]], [groups[0]], [groups[2]]]
    assert micro_batches(groups, 13) == [[groups[1]], [groups[3]], [groups[0]], [groups[2]]]
    assert micro_batches(groups, 30) == [[groups[1], groups[3], groups[0]], [groups[2]]]
    assert micro_batches(groups, None) == [groups]


@settings(max_examples=50, derandomize=True, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=2, max_size=5)), min_size=1, max_size=8),
    st.integers(1, 60),
)
def test_micro_batches_hold_every_group_once_and_keep_to_the_budget(
    sizes: list[tuple[int, list[int]]], budget: int
) -> None:
    """A part above the budget holds a single group."""
    groups = [sized(p, *rs) for p, rs in sizes]
    parts = micro_batches(groups, budget)
    assert sorted(id(g) for part in parts for g in part) == sorted(id(g) for g in groups)
    assert all(padded(part) <= budget or len(part) == 1 for part in parts)


@settings(max_examples=50, derandomize=True, deadline=None)
@given(st.integers(1, 9), st.lists(st.integers(1, 7), min_size=1, max_size=6), st.integers(1, 40))
def test_parts_of_a_group_hold_its_responses_in_order_and_keep_to_the_budget(
    prompt: int, lengths: list[int], budget: int
) -> None:
    group = sized(prompt, *lengths)
    parts = split_responses(group, budget)
    assert list(itertools.chain.from_iterable(parts)) == list(range(len(lengths)))
    for part in parts:
        assert prompt + len(part) * max(lengths[i] for i in part) <= budget or len(part) == 1


def test_parts_of_a_group_by_hand() -> None:
    """A prompt of 2; budget 8 leaves 6: two responses of 3 (or 2 and 3), one of 4, which a second one of 1 would fit: 2 * 4 > 6."""
    assert split_responses(sized(2, 3, 2, 3, 4, 1, 1), 8) == [[0, 1], [2], [3], [4, 5]]


# The same loss and gradient, however it runs


def test_every_sharing_gives_the_same(run: Run, assert_same: Any, ragged_groups: Any, objective: Objective) -> None:
    """Every objective on ragged groups of 1, 3 and 2 negatives: log-probabilities, loss, figures and gradient."""
    groups = ragged_groups()
    expected = run(groups, objective, "chosen")
    assert expected[0]["loss"] != 0
    for sharing in ("prefix", "packed", "none"):
        assert_same(run(groups, objective, sharing), expected)


def test_two_passes_give_the_same_as_one(run: Run, assert_same: Any, ragged_groups: Any, objective: Objective) -> None:
    """A budget of 1 token runs every response by itself; one of 14 splits the group of 4 responses alone, 3 to 1."""
    groups = ragged_groups()
    expected = run(groups, objective, "chosen")
    for sharing in SHARINGS:
        for tokens in (1, 14):
            assert_same(run(groups, objective, sharing, tokens), expected)


def test_budgets_of_the_test_above_split_what_they_are_said_to_split(ragged_groups: Any) -> None:
    groups = ragged_groups()
    assert [g.n_tokens for g in groups] == [9, 17, 14]
    assert [split_responses(g, 1) for g in groups] == [[[i] for i in range(len(g.responses))] for g in groups]
    assert split_responses(groups[1], 14) == [[0, 1, 2], [3]]


def test_micro_batches_of_any_budget_give_the_same(
    run: Run, assert_same: Any, ragged_groups: Any, objective: Objective
) -> None:
    """Budgets that run three groups, two and one, and one, each as a whole."""
    groups = ragged_groups()
    expected = run(groups, objective, "prefix")
    for tokens, sizes in ((17, [1, 1, 1]), (25, [2, 1]), (1000, [3])):
        assert [len(part) for part in micro_batches(groups, tokens)] == sizes
        assert_same(run(groups, objective, "prefix", tokens), expected)


def test_listwise_objectives_see_whole_groups(run: Run, ragged_groups: Any, objective_of: Any) -> None:
    """The negative control: taken as pairs, groups of a listwise objective have another loss."""
    groups = [g for g in ragged_groups() if len(g.responses) > 2]
    pairs = [
        replace(
            g,
            responses=[g.responses[0], g.responses[j]],
            reference=[g.reference[0], g.reference[j]],
            reference_tokens=None,
            score=None if g.score is None else [g.score[j - 1]],
        )
        for g in groups
        for j in range(1, len(g.responses))
    ]
    for kind in LISTWISE:
        objective = objective_of(kind)
        whole, apart = (run(batch, objective)[0]["loss"] for batch in (groups, pairs))
        assert abs(whole - apart) > 0.01, kind


@pytest.mark.parametrize("kind", MEANS_OVER_NEGATIVES)
@pytest.mark.parametrize("sharing", ["prefix", "chosen"])
def test_group_loss_equals_the_expanded_pair_loss(
    run: Run, assert_same: Any, ragged_groups: Any, objective_of: Any, kind: str, sharing: Any
) -> None:
    """Each negative with its chosen response as a pair of its own, run apart; mean over pairs, then over prompts."""
    groups, objective = ragged_groups(), objective_of(kind)
    found, found_gradient = run(groups, objective, sharing)
    loss, gradient = 0.0, dict.fromkeys(found_gradient, torch.zeros(()))
    for g in groups:
        for j in range(1, len(g.responses)):
            pair = TokenGroup(g.prompt_ids, [g.responses[0], g.responses[j]], [g.reference[0], g.reference[j]])
            figures, grads = run([pair], objective, "chosen")
            share = 1 / (len(g.responses) - 1) / len(groups)
            loss += share * figures["loss"]
            gradient = {name: value + share * grads[name] for name, value in gradient.items()}
    assert_same(({"loss": found["loss"]}, found_gradient), ({"loss": loss}, gradient))


def ragged_texts(vocabulary: int) -> st.SearchStrategy[list[tuple[list[int], list[list[int]]]]]:
    """Return batches of 1 to 4 prompts of 1 to 9 tokens, with 1 to 5 negatives of 1 to 6 tokens."""
    token = st.integers(0, vocabulary - 1)
    prompt = st.lists(token, min_size=1, max_size=9)
    response = st.lists(token, min_size=1, max_size=6)
    responses = st.lists(response, min_size=2, max_size=6, unique_by=tuple)
    return st.lists(st.tuples(prompt, responses), min_size=1, max_size=4)


@settings(max_examples=30, derandomize=True, deadline=None)
@given(
    texts=ragged_texts(19),
    small=st.integers(1, 20),
    large=st.integers(21, 80),
    kind=st.sampled_from(["softmax", "kto", "ld_dpo"]),
)
def test_random_shapes_agree_for_every_sharing_and_budget(
    run: Run,
    assert_same: Any,
    token_groups: Any,
    objective_of: Any,
    texts: list[tuple[list[int], list[list[int]]]],
    small: int,
    large: int,
    kind: str,
) -> None:
    """A listwise objective, one with a drift, one that reads single tokens; two passes, parts of a batch, the whole.

    The responses of a prompt differ: of two equal ones, rounding decides which is the better, and so the figure ``accuracy``.
    """
    groups, objective = token_groups(texts), objective_of(kind)
    expected = run(groups, objective, "chosen")
    for sharing, tokens in itertools.product(SHARINGS, (None, small, large)):
        assert_same(run(groups, objective, sharing, tokens), expected)


# Drift, weights, margins and the SFT term


def test_drift_is_the_mean_log_ratio_of_the_answers_from_elsewhere_over_the_whole_batch(
    engine: Engine, run: Run, ragged_groups: Any, objective_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, for the whole batch and for every part of it; drifts of the parts alone would be other ones."""
    groups, objective = ragged_groups(), objective_of("kto")
    with torch.no_grad():
        values = token_logps(
            engine.model, [g.prompt_ids for g in groups], [[g.elsewhere.ids] for g in groups], sharing="chosen"
        ).sums()
    ratios = [float(v) - g.elsewhere.reference for v, g in zip(values, groups, strict=True)]
    expected = sum(ratios) / 3
    assert min(abs(r - expected) for r in ratios) > 0.1
    assert expected > 0
    seen = []

    def note(self: Objective, batch: GroupBatch) -> Tensor:
        assert batch.drift is not None and not batch.drift.requires_grad
        seen.append(float(batch.drift))
        return self.module.loss(batch, self.params)

    monkeypatch.setattr(Objective, "loss", note)
    for tokens, parts in ((None, 1), (20, 3), (1, 3)):
        seen.clear()
        run(groups, objective, "prefix", tokens)
        assert seen == pytest.approx([expected] * parts, abs=TOLERANCE)


def test_drift_moves_the_loss_of_kto(run: Run, ragged_groups: Any, objective_of: Any) -> None:
    """The control of the tests of KTO above: with answers from elsewhere that drifted by 4 nats more, it has another value."""
    groups = ragged_groups()
    moved = [replace(g, elsewhere=Elsewhere(g.elsewhere.ids, g.elsewhere.reference - 4)) for g in groups]
    objective = objective_of("kto")
    assert abs(run(groups, objective)[0]["loss"] - run(moved, objective)[0]["loss"]) > 0.01


def test_weight_scales_loss_and_gradient_of_its_group(
    run: Run, assert_same: Any, ragged_groups: Any, objective_of: Any
) -> None:
    """Weights 2, 1 and 0.5: the weighted sum of the three losses, over three groups. Also in two passes."""
    groups, objective = ragged_groups(), objective_of("dpo")
    weights = (2.0, 1.0, 0.5)
    apart = [run([g], objective) for g in groups]
    loss = sum(w * figures["loss"] for w, (figures, _) in zip(weights, apart, strict=True)) / 3
    gradient = {
        name: sum(w * grads[name] for w, (_, grads) in zip(weights, apart, strict=True)) / 3 for name in apart[0][1]
    }
    weighted = [replace(g, weight=w) for g, w in zip(groups, weights, strict=True)]
    for tokens in (None, 20, 1):
        figures, grads = run(weighted, objective, "prefix", tokens)
        assert_same(({"loss": figures["loss"]}, grads), ({"loss": loss}, gradient))


def test_margin_acts_like_a_reference_that_likes_the_negative_less(
    run: Run, assert_same: Any, ragged_groups: Any, objective_of: Any
) -> None:
    """h_j = ... - margin_j: the same as a reference log-probability of the negative that is lower by the margin."""
    groups, objective = ragged_groups(), objective_of("dpo")
    margins = [[0.5, 1.5, 2.5][: len(g.responses) - 1] for g in groups]
    with_margin = [replace(g, margin=m) for g, m in zip(groups, margins, strict=True)]
    moved = [
        replace(g, reference=[g.reference[0], *(r - m for r, m in zip(g.reference[1:], ms, strict=True))])
        for g, ms in zip(groups, margins, strict=True)
    ]
    (found, grads), (expected, expected_grads) = (run(batch, objective) for batch in (with_margin, moved))
    assert_same(({"loss": found["loss"]}, grads), ({"loss": expected["loss"]}, expected_grads))
    assert found["loss"] - run(groups, objective)[0]["loss"] > 0.01
    # The figure ``margin`` is the policy's doing alone.
    assert found["margin"] == pytest.approx(run(groups, objective)[0]["margin"])


def f0(k: int) -> GroupBatch:
    """Return the fixture F0 with its first k negatives."""

    def logps(chosen: float, *rejected: float) -> GroupLogps:
        rows = torch.tensor([[chosen, *rejected[:k]]], dtype=torch.float64)
        return GroupLogps(rows[:, 0], rows[:, 1:])

    return GroupBatch(
        policy=logps(-20, -22, -18.5, -30, -25),
        reference=logps(-21, -21.5, -19, -28, -25.5),
        valid=torch.ones((1, k), dtype=torch.bool),
        chosen_length=torch.tensor([10]),
        rejected_length=torch.tensor([[8, 6, 15, 12][:k]]),
        margin=torch.zeros((1, k), dtype=torch.float64),
    )


@pytest.mark.parametrize(("k", "dpo"), [(1, 0.6209570478), (2, 0.6447083479), (4, 0.6280578971)])
def test_sft_term_adds_the_mean_negative_log_likelihood_of_the_chosen_response(
    objective_of: Any, k: int, dpo: float
) -> None:
    """F0: DPO plus 20 nats over 10 tokens; 2.6209570478 for k = 1."""
    assert objective_of("dpo").loss(f0(k)).item() == pytest.approx(dpo, abs=1e-9)
    assert objective_of("dpo", sft_weight=1.0).loss(f0(k)).item() == pytest.approx(dpo + 2, abs=1e-9)
    assert objective_of("dpo", sft_weight=0.25).loss(f0(k)).item() == pytest.approx(dpo + 0.5, abs=1e-9)


def test_sft_term_of_a_batch_is_that_of_its_chosen_responses(
    engine: Engine, run: Run, ragged_groups: Any, objective_of: Any
) -> None:
    groups = ragged_groups()
    with torch.no_grad():
        chosen = token_logps(engine.model, [g.prompt_ids for g in groups], [[g.responses[0]] for g in groups])
    nll = sum(-float(v.mean()) for v in chosen.split()) / 3
    for tokens in (None, 1):
        plain = run(groups, objective_of("dpo"), "prefix", tokens)[0]["loss"]
        both = run(groups, objective_of("dpo", sft_weight=0.5), "prefix", tokens)[0]["loss"]
        assert both - plain == pytest.approx(0.5 * nll, abs=TOLERANCE)


# Figures


def test_figures_are_margin_and_accuracy_against_the_reference(engine: Engine, run: Run, objective_of: Any) -> None:
    """The reference is the policy, moved by hand: chosen by -2, the negatives by -1 and -3.

    So the margins are 2 - 1 = 1 and 2 - 3 = -1: mean 0, half of them right; kl is the mean of -1 and -3.
    """
    prompt, responses = [3, 4], [[5, 2], [6, 2], [7, 8, 2]]
    with torch.no_grad():
        policy = token_logps(engine.model, [prompt], [responses]).sums().tolist()
    group = TokenGroup(prompt, responses, [policy[0] - 2, policy[1] - 1, policy[2] - 3])
    figures, _ = run([group], objective_of("dpo", beta=1.0))
    assert figures == pytest.approx(
        {
            # softplus(-1) = 0.31326, softplus(1) = 1.31326
            "loss": (0.3132617 + 1.3132617) / 2,
            "margin": 0,
            "accuracy": 0.5,
            "kl": -2,
            "chosen_logp": policy[0],
            "rejected_logp": (policy[1] + policy[2]) / 2,
            "chosen_length": 2,
            "rejected_length": 2.5,
        },
        abs=TOLERANCE,
    )


def test_figures_of_a_ragged_batch_are_means_over_negatives_or_groups(
    engine: Engine, run: Run, ragged_groups: Any, objective_of: Any
) -> None:
    """Three groups of 1, 3 and 2 negatives: means over 6 negatives, but of the chosen responses over 3 groups."""
    groups = ragged_groups()
    with torch.no_grad():
        sums = [token_logps(engine.model, [g.prompt_ids], [g.responses]).sums().tolist() for g in groups]
    ratios = [[s - r for s, r in zip(ss, g.reference, strict=True)] for ss, g in zip(sums, groups, strict=True)]
    margins = [row[0] - x for row in ratios for x in row[1:]]
    for tokens in (None, 20, 1):
        figures, _ = run(groups, objective_of("dpo"), "prefix", tokens)
        del figures["loss"]
        assert figures == pytest.approx(
            {
                "margin": sum(margins) / 6,
                "accuracy": sum(m > 0 for m in margins) / 6,
                "kl": -sum(x for row in ratios for x in row[1:]) / 6,
                "chosen_logp": sum(row[0] for row in sums) / 3,
                "rejected_logp": sum(x for row in sums for x in row[1:]) / 6,
                "chosen_length": (3 + 2 + 2) / 3,
                "rejected_length": (2 + 4 + 1 + 3 + 2 + 3) / 6,
            },
            abs=TOLERANCE,
        )


def test_loss_that_is_not_finite_is_an_error(run: Run, objective_of: Any, ragged_groups: Any) -> None:
    groups = ragged_groups()
    groups[1] = replace(groups[1], reference=[float("inf"), *groups[1].reference[1:]])
    with pytest.raises(NotFiniteError, match="the loss is inf"):
        run(groups, objective_of("dpo"))
