"""Training: batches, schedules, the loop, and small models that learn what they are shown.

Losses are compared at the tolerance of conftest, 1e-6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from selfcontrast import plugins
from selfcontrast.finite import NotFiniteError
from selfcontrast.logprobs import response_logps
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup, micro_batches
from selfcontrast.training.loop import Schedule, optimise, seeded_batches
from selfcontrast.training.preference import FIGURES, Execution, train_preference
from selfcontrast.training.sft import Example, accumulate_sft, make_schedule, train_sft

TOLERANCE = 1e-6
SETTINGS: dict[str, Any] = {"lr": 1e-2, "batch": 2, "shape": "constant", "warmup": 0.0, "clip": 1.0, "ema": None}

pytestmark = pytest.mark.usefixtures("one_thread")


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
    schedule = Schedule(n_steps=10, batch=1, lr=0.2, shape=shape, warmup=0.2)
    assert {step: schedule.lr_at(step) / 0.2 for step in expected} == pytest.approx(expected)


def test_schedule_without_warm_up_starts_at_the_peak() -> None:
    schedule = Schedule(n_steps=4, batch=1, lr=0.2, shape="linear", warmup=0.0)
    assert [schedule.lr_at(i) for i in range(4)] == pytest.approx([0.2, 0.15, 0.1, 0.05])


def test_schedule_of_a_single_step_takes_it() -> None:
    for shape in ("constant", "linear", "cosine"):
        assert Schedule(n_steps=1, batch=1, lr=0.2, shape=shape, warmup=0.3).lr_at(0) == 0.2  # type: ignore[arg-type]


def test_schedule_takes_its_keys_from_the_training_settings() -> None:
    assert make_schedule(SETTINGS, 5) == Schedule(5, batch=2, lr=1e-2, shape="constant", warmup=0.0)


# SFT


def sft_loss(model: LlamaForCausalLM, examples: Sequence[Example], *, tokens: int | None = None) -> float:
    return accumulate_sft(Engine(model), examples, tokens=tokens)["loss"]


def test_sft_loss_is_the_mean_over_the_tokens_of_the_batch(llama: Any) -> None:
    """Responses of 1 and 5 tokens: all six weigh the same. The mean of the two means, far from it, is refused."""
    model = llama()
    examples = [Example([3, 4], [[2]]), Example([5], [[6, 7, 8, 9, 2]])]
    with torch.no_grad():
        short, long = response_logps(model, [[3, 4], [5]], [[[2]], [[6, 7, 8, 9, 2]]]).tolist()
    for tokens in (None, 1):
        loss = sft_loss(model, examples, tokens=tokens)
        assert loss == pytest.approx(-(short + long) / 6, abs=TOLERANCE)
        assert abs(loss + (short + long / 5) / 2) > 0.1


def test_sft_loss_of_several_responses_to_a_prompt_is_that_of_as_many_examples(llama: Any) -> None:
    """Prompts that are run once for their responses, against one example for each response."""
    model = llama()
    together = [Example([3, 4], [[2], [6, 7, 2]]), Example([5], [[8, 9, 10, 11, 2]])]
    apart = [Example(e.prompt_ids, [r]) for e in together for r in e.responses]
    assert abs(sft_loss(model, together) - sft_loss(model, apart)) < TOLERANCE


def test_sft_loss_and_gradient_are_those_of_cross_entropy_on_the_response_alone(
    llama: Any, gradients: Any, difference: Any
) -> None:
    """Against torch's cross-entropy with labels -100 on the prompt, over both sequences padded by hand; whole and in parts."""
    model = llama()
    ids = torch.tensor([[3, 4, 6, 2], [5, 7, 2, 0]])
    labels = torch.tensor([[-100, -100, 6, 2], [-100, 7, 2, -100]])
    logits = model(ids, attention_mask=torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])).logits
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    expected.backward()
    expected_gradients = gradients(model)
    for tokens in (None, 8, 1):
        found = sft_loss(model, [Example([3, 4], [[6, 2]]), Example([5], [[7, 2]])], tokens=tokens)
        assert abs(found - expected) < TOLERANCE
        assert difference(gradients(model), expected_gradients) < TOLERANCE


@pytest.mark.parametrize(("tokens", "parts"), [(None, [6]), (12, [2, 1, 1, 1, 1]), (14, [2, 2, 1, 1]), (1, [1] * 6)])
def test_sft_runs_rows_of_like_length_together_within_the_budget(
    llama: Any, monkeypatch: pytest.MonkeyPatch, tokens: int | None, parts: list[int]
) -> None:
    """Rows of 3, 4, 6, 7, 8 and 14 tokens: 12 tokens hold 2 * 4, but neither 3 * 6 nor 2 * 7; 14 hold 2 * 7, but not 2 * 8."""
    engine = Engine(llama())
    examples = [Example([3] * (n - 2), [[4, 2]]) for n in (14, 3, 6, 8, 4, 7)]
    seen = []
    actual = Engine.token_logps

    def note(self: Engine, prompts: Any, responses: Any, **kwargs: Any) -> Any:
        seen.append(len(prompts))
        return actual(self, prompts, responses, **kwargs)

    monkeypatch.setattr(Engine, "token_logps", note)
    accumulate_sft(engine, examples, tokens=tokens)
    assert seen == parts


def test_sft_learns_its_examples_by_heart(llama: Any) -> None:
    examples = [Example([3], [[4, 5, 2]]), Example([6], [[7, 8, 2]])]
    history = train_sft(Engine(llama()), examples, SETTINGS, n_steps=60, seed=0)
    assert history[0].keys() == {"step", "loss", "grad_norm", "lr"}
    assert history[0]["loss"] > 2
    assert history[-1]["loss"] < 0.05


# Preference training


def own_groups(model: LlamaForCausalLM, token_groups: Any, texts: Any) -> list[TokenGroup]:
    """Return groups whose reference is the policy as it is."""
    return token_groups(texts, reference=model)


def needs_no_parameters(kind: str) -> bool:
    return not any(f.is_required() for f in plugins.load("objectives", kind).Params.model_fields.values())


@pytest.mark.parametrize("kind", filter(needs_no_parameters, plugins.names("objectives")))
def test_two_groups_are_learnt_to_full_accuracy(llama: Any, token_groups: Any, objective_of: Any, kind: str) -> None:
    """Two prompts, two negatives each, the starting policy as the reference: the margin rises from 0, every pair is right."""
    model = llama()
    texts = [([3], [[4, 5, 2], [6, 2], [7, 7, 2]]), ([8], [[6, 2], [4, 5, 2], [9, 2]])]
    groups = own_groups(model, token_groups, texts)
    history = train_preference(Engine(model), groups, objective_of(kind), SETTINGS, n_steps=30, seed=0)
    assert history[0]["margin"] == pytest.approx(0, abs=TOLERANCE)
    assert history[-1]["accuracy"] == 1
    assert history[-1]["margin"] > 1
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("tokens", [None, 20, 1])
def test_first_dpo_loss_is_log_2_where_the_policy_is_the_reference(
    llama: Any, token_groups: Any, ragged_groups: Any, objective_of: Any, tokens: int | None
) -> None:
    model = llama()
    groups = own_groups(model, token_groups, [(g.prompt_ids, g.responses) for g in ragged_groups()])
    settings = {**SETTINGS, "batch": 3}
    execution = Execution("prefix", tokens)
    history = train_preference(
        Engine(model), groups, objective_of("dpo"), settings, n_steps=1, seed=0, execution=execution
    )
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)


@pytest.fixture(scope="module")
def train_once(llama: Any, ragged_groups: Any, objective_of: Any) -> Any:
    def train(seed: int) -> tuple[LlamaForCausalLM, list[dict[str, float]]]:
        model = llama()
        groups, objective = ragged_groups(), objective_of("dpo")
        return model, train_preference(Engine(model), groups, objective, SETTINGS, n_steps=4, seed=seed)

    return train


def test_same_seed_gives_the_same_weights_to_the_last_bit(train_once: Any, weights: Any) -> None:
    (first, one), (second, two) = train_once(0), train_once(0)
    assert one == two
    assert all(torch.equal(weights(first)[name], w) for name, w in weights(second).items())


def test_another_seed_gives_other_weights(train_once: Any, weights: Any) -> None:
    (first, _), (second, _) = train_once(0), train_once(1)
    assert any(not torch.equal(weights(first)[name], w) for name, w in weights(second).items())


def test_history_has_one_record_for_each_step_with_the_documented_figures(train_once: Any) -> None:
    _, history = train_once(0)
    assert [h["step"] for h in history] == [0, 1, 2, 3]
    figures = {"margin", "accuracy", "kl", "chosen_logp", "rejected_logp", "chosen_length", "rejected_length"}
    assert FIGURES.keys() == figures
    assert all(h.keys() == {"step", "loss", "grad_norm", "lr", *figures} for h in history)
    assert all(h["grad_norm"] > 0 and h["lr"] == SETTINGS["lr"] for h in history)


@pytest.mark.parametrize("kind", ["dpo", "kto", "softmax", "ld_dpo"])
def test_four_groups_at_once_train_like_four_one_by_one(
    llama: Any, token_groups: Any, objective_of: Any, weights: Any, difference: Any, kind: str
) -> None:
    """Batch 4 against batch 1 times 4 accumulated: losses, gradient norms and weights after three steps.

    The drift of KTO is that of the batch in both. With the gradients of a step divided by 4, or the drift of each part alone, the
    weights would be off by far more: Adam forgives a factor, but not one that clipping makes different, and no other drift.
    """
    texts = [
        ([3, 4], [[5, 6, 2], [7, 2], [8, 9, 2]]),
        ([9, 1, 1], [[10, 2], [11, 11, 2], [12, 2]]),
        ([13], [[14, 15, 2], [16, 2], [1, 2]]),
        ([17, 5], [[18, 2], [4, 2], [3, 3, 2], [6, 2]]),
        ([2, 2], [[1, 2], [5, 2], [3, 2, 2]]),
    ]
    groups = token_groups(texts)
    assert max(g.n_tokens for g in groups) == 14  # each fits by itself, no two do
    assert all(len(micro_batches([a, b], 14)) == 2 for a in groups for b in groups)
    found = []
    for tokens in (None, 14):
        model = llama()
        history = train_preference(
            Engine(model, clip=0.5),
            groups,
            objective_of(kind),
            {**SETTINGS, "batch": 4},
            n_steps=3,
            seed=0,
            execution=Execution("prefix", tokens),
        )
        found.append((history, weights(model)))
    (history, whole), (parts_history, parts) = found
    for one, other in zip(history, parts_history, strict=True):
        assert one == pytest.approx(other, abs=TOLERANCE)
    assert difference(parts, whole) < TOLERANCE


def test_drift_of_the_parts_would_move_the_weights(
    llama: Any, ragged_groups: Any, objective_of: Any, weights: Any, difference: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control of the test above: an answer from elsewhere that drifted more gives other weights."""
    from dataclasses import replace

    from selfcontrast.training.groups import Elsewhere

    found = []
    for extra in (0.0, 1.0):
        model = llama()
        groups = [
            replace(g, elsewhere=Elsewhere(g.elsewhere.ids, g.elsewhere.reference - extra)) for g in ragged_groups()
        ]
        train_preference(Engine(model), groups, objective_of("kto"), {**SETTINGS, "batch": 3}, n_steps=3, seed=0)
        found.append(weights(model))
    assert difference(*found) > 100 * TOLERANCE


def test_training_runs_without_dropout(llama: Any, token_groups: Any, objective_of: Any) -> None:
    """Even for a model handed over in training mode: at step 0 the policy must be the same function as the reference."""
    model = llama()
    groups = own_groups(model, token_groups, [([3, 4], [[5, 2], [6, 2]])])
    model.train()
    history = train_preference(Engine(model), groups, objective_of("dpo"), SETTINGS, n_steps=1, seed=0)
    assert not model.training
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=TOLERANCE)


# The loop


class Toy(nn.Module):
    """A vector of weights, in place of a language model."""

    def __init__(self, *values: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(values))

    @property
    def device(self) -> torch.device:
        return self.weight.device

    def forward(self) -> Tensor:
        return self.weight


def fixed_schedule(n_steps: int, *, lr: float = 0.1, warmup: float = 0.0) -> Schedule:
    return Schedule(n_steps=n_steps, batch=1, lr=lr, shape="constant", warmup=warmup)


def test_first_step_of_adamw_moves_every_weight_by_the_learning_rate() -> None:
    """The first step of Adam is lr * g / (|g| + eps): its size is the learning rate. Half of it during the warm-up."""
    model = Toy(0.5, -0.5, 1.0)
    engine = Engine(model)  # type: ignore[arg-type]

    def accumulate(items: Any) -> dict[str, float]:
        engine.backward((model.weight * torch.tensor([1.0, -2.0, 3.0])).sum())
        return {"loss": 0.0}

    optimise(engine, fixed_schedule(2, lr=0.1, warmup=1.0), iter([[0]]), accumulate)
    # 1e-5: float32 weights of about 0.5.
    assert model.weight.tolist() == pytest.approx([0.45, -0.45, 0.95], abs=1e-5)


def test_every_step_takes_the_learning_rate_of_its_schedule() -> None:
    """Adam moves by the learning rate in every step while the gradient stays 1: down from 0.4 in a line, 0.4, 0.3, 0.2, 0.1."""
    model = Toy(0.0)
    engine = Engine(model)  # type: ignore[arg-type]
    seen = []

    def accumulate(items: Any) -> dict[str, float]:
        seen.append(model.weight.item())
        engine.backward(model.weight.sum())
        return {"loss": 0.0}

    schedule = Schedule(n_steps=4, batch=1, lr=0.4, shape="linear", warmup=0.0)
    history = optimise(engine, schedule, iter([[0]] * 4), accumulate)
    assert [h["lr"] for h in history] == pytest.approx([0.4, 0.3, 0.2, 0.1])
    assert [*seen, model.weight.item()] == pytest.approx([0, -0.4, -0.7, -0.9, -1.0], abs=1e-5)  # float32


def test_gradient_norm_is_recorded_before_clipping() -> None:
    """The gradient of 3 x + 4 y is (3, 4): norm 5, clipped to 1."""
    model = Toy(0.0, 0.0)
    engine = Engine(model, clip=1.0)  # type: ignore[arg-type]
    left = []

    def accumulate(items: Any) -> dict[str, float]:
        left.append(model.weight.grad)
        engine.backward((model.weight * torch.tensor([3.0, 4.0])).sum())
        return {"loss": 7.0, "items": len(items)}

    history = optimise(engine, fixed_schedule(2), iter([[0], [0, 1]]), accumulate)
    assert [h["grad_norm"] for h in history] == pytest.approx([5, 5])
    assert [h["items"] for h in history] == [1, 2]
    assert [h["loss"] for h in history] == [7, 7]
    assert left == [None, None]  # gradients do not pile up over steps


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_gradient_is_clipped_to_the_norm_that_is_set(clip: float) -> None:
    """Seen in Adam's first moment, a tenth of the gradient: (3, 4) of norm 5, or a tenth of it at norm 0.5."""
    model = Toy(0.0, 0.0)
    engine = Engine(model, clip=clip)  # type: ignore[arg-type]
    engine.backward((model.weight * torch.tensor([3.0, 4.0])).sum())
    assert engine.step(0.1) == pytest.approx(5)
    factor = min(1.0, clip / 5)
    moment = engine.optimiser.state[model.weight]["exp_avg"]
    assert moment.tolist() == pytest.approx([0.3 * factor, 0.4 * factor], rel=1e-4)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("culprit", ["loss", "gradient"])
def test_loss_or_gradient_that_is_not_finite_stops_before_it_reaches_the_weights(value: float, culprit: str) -> None:
    model = Toy(1.0, 2.0)
    engine = Engine(model)  # type: ignore[arg-type]
    factors = iter([1.0, value])
    states = []

    def accumulate(items: Any) -> dict[str, float]:
        factor = next(factors)
        if culprit == "loss" and not math.isfinite(factor):
            raise NotFiniteError("the loss", factor)
        engine.backward((model.weight * factor).sum())
        return {"loss": 0.0}

    def batches() -> Any:
        for _ in range(2):
            states.append(model.weight.detach().clone())
            yield [0]

    told = (
        r"the (loss|norm of the gradient) is (nan|inf), .*at step 1, behind losses of 0\n.*\n.*lower the learning rate"
    )
    with pytest.raises(NotFiniteError, match=told):
        optimise(engine, fixed_schedule(2), batches(), accumulate)
    assert not torch.equal(states[0], states[1])
    assert torch.equal(model.weight.detach(), states[1])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_sft_loss_that_is_not_finite_is_an_error(llama: Any, value: float) -> None:
    model = llama()
    with torch.no_grad():
        model.lm_head.weight[0] = value
    with pytest.raises(NotFiniteError, match=r"the log-probability of a response is -?(nan|inf), prompt p7"):
        accumulate_sft(Engine(model), [Example([3], [[4, 2]], "p7")])


def test_weight_decay_is_off() -> None:
    """A weight without gradient stays where it is."""
    model = Toy(5.0, 1.0)
    engine = Engine(model)  # type: ignore[arg-type]
    engine.backward(model.weight[1] * 1.0)
    engine.step(0.1)
    assert model.weight[0] == 5
    assert model.weight[1] != 1
