"""TRL's trainers, given the same batches, take the same steps: the independent check of this project's own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from selfcontrast import plugins
from selfcontrast.errors import InputError
from selfcontrast.logprobs import response_logps
from selfcontrast.training.engine import Engine
from selfcontrast.training.groups import TokenGroup
from selfcontrast.training.preference import Objective, train_preference
from selfcontrast.training.sft import Example, train_sft
from selfcontrast.training.trl import train_dpo_with_trl, train_sft_with_trl
from selfcontrast.world.checkpoint import build_model, build_tokenizer

N_STEPS = 5
BETA = 0.1
TRAINING = {
    "lr": 1e-3,
    "batch": 2,
    "shape": "cosine",
    "warmup": 0.2,
    "clip": 1.0,
    "ema": None,
    "lora": None,
    "precision": "weights",
}
HISTORY = 1e-5
WEIGHTS = 1e-5
"""The bound of five steps of AdamW at 1e-3, of which each moves a weight by up to 1e-3."""


def new_model() -> Any:
    return build_model(n_layers=2, width=32, n_heads=2, max_length=128, seed=0)


def make_groups(ks: list[int]) -> list[TokenGroup]:
    """Return groups of random tokens with k negatives each; the model of ``new_model`` is the reference."""
    rng, model, groups = random.Random(0), new_model(), []
    for k in ks:
        prompt = [rng.randrange(7, 100) for _ in range(rng.randint(2, 9))]
        responses = [[*(rng.randrange(7, 100) for _ in range(rng.randint(1, 7))), 2] for _ in range(k + 1)]
        with torch.no_grad():
            reference = response_logps(model, [prompt], [responses]).tolist()
        groups.append(TokenGroup(prompt, responses, reference))
    return groups


def assert_same(mine: Any, theirs: Any, history: list[dict[str, float]], other: list[dict[str, float]]) -> None:
    for key in ("loss", "grad_norm", "lr"):
        assert [h[key] for h in history] == pytest.approx([h[key] for h in other], rel=HISTORY), key
    found, expected = mine.state_dict(), theirs.state_dict()
    assert max((found[name] - expected[name]).abs().max().item() for name in expected) < WEIGHTS
    untrained = new_model().state_dict()
    assert max((expected[name] - untrained[name]).abs().max().item() for name in expected) > 100 * WEIGHTS


@pytest.mark.parametrize("tokens", [None, 40], ids=["whole batch", "accumulated"])
def test_five_steps_of_dpo_equal_those_of_trl(tokens: int | None) -> None:
    groups, mine, theirs = make_groups([1] * 4), new_model(), new_model()
    module = plugins.load("objectives", "dpo")
    objective = Objective(module, module.Params(beta=BETA))
    history = train_preference(Engine(mine), groups, objective, TRAINING, n_steps=N_STEPS, seed=3)
    other = train_dpo_with_trl(
        theirs, build_tokenizer(max_length=128), groups, TRAINING, beta=BETA, n_steps=N_STEPS, seed=3, tokens=tokens
    )
    assert_same(mine, theirs, history, other)


def test_a_group_of_three_equals_three_pairs_of_trl() -> None:
    """The mean over negatives; losses and norms agree, weights to what AdamW makes of gradients near 0."""
    groups, mine, theirs = make_groups([3] * 4), new_model(), new_model()
    module = plugins.load("objectives", "dpo")
    objective = Objective(module, module.Params(beta=BETA))
    history = train_preference(Engine(mine), groups, objective, TRAINING, n_steps=N_STEPS, seed=3)
    other = train_dpo_with_trl(
        theirs, build_tokenizer(max_length=128), groups, TRAINING, beta=BETA, n_steps=N_STEPS, seed=3
    )
    for key in ("loss", "grad_norm"):
        assert [h[key] for h in history] == pytest.approx([h[key] for h in other], rel=HISTORY)


def test_five_steps_of_sft_equal_those_of_trl() -> None:
    examples = [Example(list(g.prompt_ids), [list(g.responses[0])]) for g in make_groups([1] * 4)]
    mine, theirs = new_model(), new_model()
    history = train_sft(Engine(mine), examples, TRAINING, n_steps=N_STEPS, seed=3)
    other = train_sft_with_trl(theirs, build_tokenizer(max_length=128), examples, TRAINING, n_steps=N_STEPS, seed=3)
    assert_same(mine, theirs, history, other)


def test_groups_of_different_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="the same number of negatives"):
        train_dpo_with_trl(
            new_model(), build_tokenizer(max_length=128), make_groups([1, 2]), TRAINING, beta=BETA, n_steps=1, seed=0
        )


def test_what_trl_cannot_do_here_is_refused() -> None:
    with pytest.raises(InputError, match="neither `lora` nor `ema`"):
        train_sft_with_trl(
            new_model(),
            build_tokenizer(max_length=128),
            [Example([3], [[4, 2]])],
            {**TRAINING, "ema": 0.9},
            n_steps=1,
            seed=0,
        )
