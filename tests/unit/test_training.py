"""Training: group losses, batches, schedules, and small models that learn what they are shown.

Losses are compared at 1e-6 or relative to the largest gradient: the model is float64 with RMSNorm in float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from selfcontrast import plugins
from selfcontrast.logprobs import response_logps
from selfcontrast.training.loop import Schedule, optimise, seeded_batches
from selfcontrast.training.preference import TokenGroup, as_group_logps, group_loss, train_preference
from selfcontrast.training.sft import Example, make_schedule, sft_loss, train_sft

TOLERANCE = 1e-6
MEANS_OVER_NEGATIVES = ("dpo", "hinge")
SETTINGS = {"lr": 1e-2, "batch": 2, "shape": "constant", "warmup": 0.0, "clip": 1.0}


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def llama(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=19,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        attention_dropout=0.2,  # must have no effect: training runs without dropout
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).double().eval()


def ragged_groups() -> list[TokenGroup]:
    """Three groups of 1, 3 and 2 negatives; reference log-probabilities as a slightly different model gives them."""
    groups = [
        ([3, 4, 5], [[6, 7, 2], [8, 2]]),
        ([9], [[10, 2], [11, 12, 13, 2], [2], [14, 14, 2]]),
        ([1, 1, 1, 1, 1], [[15, 2], [16, 2], [17, 18, 2]]),
    ]
    reference = llama(seed=1)
    with torch.no_grad():
        return [TokenGroup(p, rs, response_logps(reference, [p], [rs]).tolist()) for p, rs in groups]


def gradients(model: LlamaForCausalLM, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


# The loss of a group


@pytest.mark.parametrize("kind", MEANS_OVER_NEGATIVES)
@pytest.mark.parametrize("sharing", ["prefix", "rows"])
def test_group_loss_equals_the_expanded_pair_loss(kind: str, sharing: Any) -> None:
    """Each negative with its chosen response as a pair of its own, run apart; mean over pairs, then over prompts."""
    model, groups, objective = llama(), ragged_groups(), plugins.load("objectives", kind)
    params = objective.Params(beta=0.5)
    loss, _ = group_loss(model, groups, objective, params, sharing=sharing)
    per_prompt = []
    for g in groups:
        pairs = [
            TokenGroup(g.prompt_ids, [g.responses[0], g.responses[j]], [g.reference[0], g.reference[j]])
            for j in range(1, len(g.responses))
        ]
        per_prompt.append(
            torch.stack([group_loss(model, [p], objective, params, sharing="rows")[0] for p in pairs]).mean()
        )
    expanded = torch.stack(per_prompt).mean()
    assert abs(loss - expanded) < TOLERANCE
    found, expected = gradients(model, loss), gradients(model, expanded)
    largest = max(g.abs().max() for g in expected.values())
    assert all((found[name] - expected[name]).abs().max() < TOLERANCE * largest for name in expected)


def test_groups_are_padded_with_the_chosen_response_first() -> None:
    logps = as_group_logps(torch.tensor([-1.0, -2.0, -3.0, -4.0, -5.0, -6.0]), [2, 4])
    assert logps.chosen.tolist() == [-1, -3]
    assert logps.valid.tolist() == [[True, False, False], [True, True, True]]
    assert logps.rejected[logps.valid].tolist() == [-2, -4, -5, -6]


def test_figures_are_margin_and_accuracy_against_the_reference() -> None:
    """The reference is the policy, moved by hand: chosen by -2, the negatives by -1 and -3.

    So the margins are 2 - 1 = 1 and 2 - 3 = -1: mean 0, half of them right.
    """
    model, prompt, responses = llama(), [3, 4], [[5, 2], [6, 2], [7, 8, 2]]
    with torch.no_grad():
        policy = response_logps(model, [prompt], [responses]).tolist()
    group = TokenGroup(prompt, responses, [policy[0] - 2, policy[1] - 1, policy[2] - 3])
    objective = plugins.load("objectives", "dpo")
    loss, figures = group_loss(model, [group], objective, objective.Params(beta=1.0))
    assert figures["margin"] == pytest.approx(0, abs=TOLERANCE)
    assert figures["accuracy"] == 0.5
    assert figures["chosen_logp"] == pytest.approx(policy[0])
    assert figures["rejected_logp"] == pytest.approx((policy[1] + policy[2]) / 2)
    # softplus(-1) = 0.31326, softplus(1) = 1.31326
    assert loss.item() == pytest.approx((0.3132617 + 1.3132617) / 2, abs=TOLERANCE)


# Batches


def test_batches_are_the_same_for_a_seed_and_differ_between_seeds() -> None:
    batches = {seed: list(seeded_batches(10, batch=4, n_steps=6, seed=seed)) for seed in (0, 1)}
    assert batches[0] == list(seeded_batches(10, batch=4, n_steps=6, seed=0))
    assert batches[0] != batches[1]


def test_every_epoch_is_a_new_permutation_and_its_short_last_batch_is_kept() -> None:
    """10 items in batches of 4: 4, 4, 2; two epochs are six steps."""
    batches = list(seeded_batches(10, batch=4, n_steps=6, seed=0))
    assert [len(b) for b in batches] == [4, 4, 2, 4, 4, 2]
    epochs = [[i for b in part for i in b] for part in (batches[:3], batches[3:])]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(10))
    assert epochs[0] != epochs[1]


def test_batches_end_in_the_middle_of_an_epoch() -> None:
    assert [len(b) for b in seeded_batches(10, batch=4, n_steps=4, seed=0)] == [4, 4, 2, 4]


def test_more_steps_begin_with_the_batches_of_fewer() -> None:
    fewer, more = (list(seeded_batches(7, batch=3, n_steps=n, seed=2)) for n in (2, 8))
    assert more[:2] == fewer


# Schedules


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        # 10 steps, 2 of warm-up: lr * 1/2, lr * 2/2, then 8 steps with the share done 0/8, 1/8, ...
        ("constant", {0: 0.5, 1: 1.0, 2: 1.0, 9: 1.0}),
        ("linear", {0: 0.5, 1: 1.0, 2: 1.0, 3: 0.875, 6: 0.5, 9: 0.125}),
        ("cosine", {0: 0.5, 1: 1.0, 2: 1.0, 4: 0.5 + math.sqrt(2) / 4, 6: 0.5, 8: 0.5 - math.sqrt(2) / 4}),
    ],
)
def test_learning_rate_by_hand(shape: Any, expected: dict[int, float]) -> None:
    schedule = Schedule(n_steps=10, batch=1, lr=0.2, shape=shape, warmup=0.2, clip=1.0)
    assert {step: schedule.lr_at(step) / 0.2 for step in expected} == pytest.approx(expected)


def test_schedule_without_warm_up_starts_at_the_peak() -> None:
    schedule = Schedule(n_steps=4, batch=1, lr=0.2, shape="linear", warmup=0.0, clip=1.0)
    assert [schedule.lr_at(i) for i in range(4)] == pytest.approx([0.2, 0.15, 0.1, 0.05])


def test_schedule_of_a_single_step_takes_it() -> None:
    for shape in ("constant", "linear", "cosine"):
        assert Schedule(n_steps=1, batch=1, lr=0.2, shape=shape, warmup=0.3, clip=1.0).lr_at(0) == 0.2  # type: ignore[arg-type]


def test_schedule_takes_its_keys_from_the_training_settings() -> None:
    assert make_schedule(SETTINGS, 5) == Schedule(5, batch=2, lr=1e-2, shape="constant", warmup=0.0, clip=1.0)


# SFT


def test_sft_loss_is_the_mean_over_the_tokens_of_the_batch() -> None:
    """Responses of 1 and 5 tokens: all six weigh the same. The mean of the two means, far from it, is refused."""
    model = llama()
    examples = [Example([3, 4], [[2]]), Example([5], [[6, 7, 8, 9, 2]])]
    with torch.no_grad():
        loss = sft_loss(model, examples).item()
        short, long = response_logps(model, [[3, 4], [5]], [[[2]], [[6, 7, 8, 9, 2]]]).tolist()
    assert loss == pytest.approx(-(short + long) / 6, abs=TOLERANCE)
    assert abs(loss + (short + long / 5) / 2) > 0.1


def test_sft_loss_of_several_responses_to_a_prompt_is_that_of_as_many_examples() -> None:
    """Prompts that are run once for their responses, against one example for each response."""
    model = llama()
    together = [Example([3, 4], [[2], [6, 7, 2]]), Example([5], [[8, 9, 10, 11, 2]])]
    apart = [Example(e.prompt_ids, [r]) for e in together for r in e.responses]
    assert abs(sft_loss(model, together) - sft_loss(model, apart)) < TOLERANCE


def test_sft_loss_is_cross_entropy_on_the_response_alone() -> None:
    """Against torch's cross-entropy with labels -100 on the prompt, over both sequences padded by hand."""
    model = llama()
    ids = torch.tensor([[3, 4, 6, 2], [5, 7, 2, 0]])
    labels = torch.tensor([[-100, -100, 6, 2], [-100, 7, 2, -100]])
    with torch.no_grad():
        logits = model(ids, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])).logits
        expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        found = sft_loss(model, [Example([3, 4], [[6, 2]]), Example([5], [[7, 2]])])
    assert abs(found - expected) < TOLERANCE


def test_sft_learns_its_examples_by_heart() -> None:
    model = llama()
    examples = [Example([3], [[4, 5, 2]]), Example([6], [[7, 8, 2]])]
    history = train_sft(model, examples, SETTINGS, n_steps=60, seed=0)
    assert history[0]["loss"] > 2
    assert history[-1]["loss"] < 0.05


# Preference training


def needs_no_parameters(kind: str) -> bool:
    return not any(f.is_required() for f in plugins.load("objectives", kind).Params.model_fields.values())


@pytest.mark.parametrize("kind", filter(needs_no_parameters, plugins.names("objectives")))
def test_two_groups_are_learnt_to_full_accuracy(kind: str) -> None:
    """Two prompts, two negatives each, the starting policy as the reference: the margin rises from 0, every pair is right."""
    model, objective = llama(), plugins.load("objectives", kind)
    texts = [([3], [[4, 5, 2], [6, 2], [7, 7, 2]]), ([8], [[6, 2], [4, 5, 2], [9, 2]])]
    with torch.no_grad():
        groups = [TokenGroup(p, rs, response_logps(model, [p], [rs]).tolist()) for p, rs in texts]
    history = train_preference(model, groups, objective, objective.Params(), SETTINGS, n_steps=30, seed=0)
    assert history[0]["margin"] == pytest.approx(0, abs=TOLERANCE)
    assert history[-1]["accuracy"] == 1
    assert history[-1]["margin"] > 1
    assert history[-1]["loss"] < history[0]["loss"]


def test_first_dpo_loss_is_log_2_where_the_policy_is_the_reference() -> None:
    model, objective = llama(), plugins.load("objectives", "dpo")
    groups = ragged_groups()
    with torch.no_grad():
        own = [
            TokenGroup(g.prompt_ids, g.responses, response_logps(model, [g.prompt_ids], [g.responses]).tolist())
            for g in groups
        ]
    history = train_preference(model, own, objective, objective.Params(), {**SETTINGS, "batch": 3}, n_steps=1, seed=0)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)


def train_once(seed: int) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
    model, objective = llama(), plugins.load("objectives", "dpo")
    history = train_preference(model, ragged_groups(), objective, objective.Params(), SETTINGS, n_steps=4, seed=seed)
    return model, history


def test_same_seed_gives_the_same_weights_to_the_last_bit() -> None:
    (first, one), (second, two) = train_once(0), train_once(0)
    assert one == two
    assert all(torch.equal(weights(first)[name], w) for name, w in weights(second).items())


def test_another_seed_gives_other_weights() -> None:
    (first, _), (second, _) = train_once(0), train_once(1)
    assert any(not torch.equal(weights(first)[name], w) for name, w in weights(second).items())


def test_history_has_one_record_for_each_step() -> None:
    _, history = train_once(0)
    assert [h["step"] for h in history] == [0, 1, 2, 3]
    keys = {"step", "loss", "grad_norm", "lr", "margin", "accuracy", "chosen_logp", "rejected_logp"}
    assert all(h.keys() == keys for h in history)
    assert all(h["grad_norm"] > 0 and h["lr"] == SETTINGS["lr"] for h in history)


# The loop


def fixed_schedule(n_steps: int, *, lr: float = 0.1, warmup: float = 0.0) -> Schedule:
    return Schedule(n_steps=n_steps, batch=1, lr=lr, shape="constant", warmup=warmup, clip=1.0)


def test_first_step_of_adamw_moves_every_weight_by_the_learning_rate() -> None:
    """The first step of Adam is lr * g / (|g| + eps): its size is the learning rate. Half of it during the warm-up."""
    model = torch.nn.Linear(3, 1, bias=False)
    before = model.weight.detach().clone()
    schedule = fixed_schedule(2, lr=0.1, warmup=1.0)
    optimise(model, schedule, iter([[0]]), lambda _: (model(torch.tensor([1.0, -2.0, 3.0])).sum(), {}))  # type: ignore[arg-type]
    # 1e-5: float32 weights of about 0.5.
    assert (model.weight.detach() - before).flatten().tolist() == pytest.approx([-0.05, 0.05, -0.05], abs=1e-5)


def test_gradient_norm_is_recorded_before_clipping() -> None:
    """The gradient of 3 x + 4 y is (3, 4): norm 5, clipped to 1."""
    model = torch.nn.Linear(2, 1, bias=False)
    seen = []

    def loss_of(items: Any) -> tuple[Tensor, dict[str, float]]:
        if model.weight.grad is not None:
            seen.append(model.weight.grad)
        return model(torch.tensor([3.0, 4.0])).sum(), {"items": len(items)}

    history = optimise(model, fixed_schedule(2), iter([[0], [0, 1]]), loss_of)  # type: ignore[arg-type]
    assert [h["grad_norm"] for h in history] == pytest.approx([5, 5])
    assert [h["items"] for h in history] == [1, 2]
    assert not seen  # gradients do not pile up over steps


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_loss_that_is_not_finite_stops_before_it_reaches_the_weights(value: float) -> None:
    model = torch.nn.Linear(2, 1)
    losses = iter([1.0, value])

    def loss_of(items: Any) -> tuple[Tensor, dict[str, float]]:
        return model.weight.sum() * next(losses), {}

    states = []

    def batches() -> Any:
        for _ in range(2):
            states.append(model.weight.detach().clone())
            yield [0]

    with pytest.raises(FloatingPointError, match="at step 1; lower the learning rate"):
        optimise(model, fixed_schedule(2), batches(), loss_of)  # type: ignore[arg-type]
    assert not torch.equal(states[0], states[1])
    assert torch.equal(model.weight.detach(), states[1])


def test_training_runs_without_dropout() -> None:
    """Even for a model handed over in training mode: at step 0 the policy must be the same function as the reference."""
    model, objective = llama(), plugins.load("objectives", "dpo")
    with torch.no_grad():
        rows = [([3, 4], [[5, 2], [6, 2]])]
        groups = [TokenGroup(p, rs, response_logps(model, [p], [rs]).tolist()) for p, rs in rows]
    model.train()
    history = train_preference(model, groups, objective, objective.Params(), SETTINGS, n_steps=1, seed=0)
    assert not model.training
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)
