"""Sampling: greedy equals transformers' own, samples follow the model's distribution, and batching changes nothing.

Models are float64, so that two ways of batching cannot fall on different sides of a random number by rounding.
"""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from scipy.stats import chi2
from torch import Tensor
from transformers import GenerationConfig, LlamaForCausalLM

from selfcontrast import generation
from selfcontrast.generation import HuggingFaceSampler, sample_batch
from selfcontrast.plugins import load
from selfcontrast.pools._context import PoolContext, PoolPrompt
from selfcontrast.rendering import Renderer
from selfcontrast.sampling import Sampled, Sampling, plan_batches
from selfcontrast.seeds import derive_seed
from selfcontrast.world.checkpoint import build_model, build_tokenizer

PROMPTS = ([3, 9, 4], [5], [1, 2, 3, 4, 5, 6, 7], [8, 8], [4, 4, 4, 4])
NO_EOS: frozenset[int] = frozenset()


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(llama: Any) -> LlamaForCausalLM:
    return llama(19, spread=0.4)


def seeds_for(n: int, *, of: tuple[list[int], ...] = PROMPTS) -> list[list[int]]:
    return [[derive_seed(0, i, j) for j in range(n)] for i in range(len(of))]


@torch.no_grad()
def next_token(model: LlamaForCausalLM, ids: list[int]) -> Tensor:
    """Return the model's next-token probabilities after one unpadded sequence."""
    return model(torch.tensor([ids])).logits[0, -1].softmax(-1)


def is_consistent(counts: Tensor, probabilities: Tensor) -> bool:
    """Pearson's chi-square test at the level 1e-4; the seeds are fixed, so that a pass stays a pass.

    Cells that expect fewer than 5 are put together, as the approximation demands.
    """
    expected = probabilities * counts.sum()
    rare = expected < 5
    observed = torch.cat([counts[~rare], counts[rare].sum()[None]])
    expected = torch.cat([expected[~rare], expected[rare].sum()[None]])
    observed, expected = observed[expected > 0], expected[expected > 0]
    statistic = ((observed - expected) ** 2 / expected).sum().item()
    return statistic < chi2.ppf(1 - 1e-4, len(expected) - 1)


# Greedy


def test_greedy_equals_generate_of_transformers(model: LlamaForCausalLM) -> None:
    """The EOS is the fourth token of the first greedy answer, so that some answers end by it and some by length."""
    free = sample_batch(model, PROMPTS, [[0]] * len(PROMPTS), Sampling(9, temperature=0), eos_ids=NO_EOS)
    eos = free[0][0].ids[3]
    found = sample_batch(model, PROMPTS, [[0]] * len(PROMPTS), Sampling(9, temperature=0), eos_ids=frozenset([eos]))
    settings = GenerationConfig(max_new_tokens=9, do_sample=False, eos_token_id=eos, pad_token_id=0)
    for prompt, (answer,) in zip(PROMPTS, found, strict=True):
        ids = torch.tensor([prompt])
        expected = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        assert answer.ids == expected[0, len(prompt) :].tolist()
    assert {a.finish for (a,) in found} == {"stop", "length"}


def test_greedy_ignores_the_seed(model: LlamaForCausalLM) -> None:
    (answers,) = sample_batch(model, PROMPTS[:1], [[1, 2, 3]], Sampling(5, temperature=0), eos_ids=NO_EOS)
    assert answers[0] == answers[1] == answers[2]


# Distribution


def test_pairs_of_sampled_tokens_follow_the_model(llama: Any) -> None:
    """4000 responses of two tokens: the frequency of each pair against p(a) p(b | a), computed without a cache."""
    model, prompt = llama(7, spread=0.4), [1, 4, 2]
    seeds = [[derive_seed(1, j) for j in range(4000)]]
    (answers,) = sample_batch(model, [prompt], seeds, Sampling(2), eos_ids=NO_EOS)
    counts, first = torch.zeros(7, 7), next_token(model, prompt)
    for answer in answers:
        counts[tuple(answer.ids)] += 1
    joint = torch.stack([first[a] * next_token(model, [*prompt, a]) for a in range(7)])
    assert is_consistent(counts.flatten(), joint.flatten())
    assert not is_consistent(counts.flatten(), joint.T.flatten())  # the test has the power to tell another distribution


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_temperature_sharpens_or_flattens(llama: Any, temperature: float) -> None:
    """At temperature T the probabilities are p**(1/T), normalised."""
    model, prompt = llama(11, spread=0.3), [1, 4, 2]
    seeds = [[derive_seed(2, j) for j in range(3000)]]
    (answers,) = sample_batch(model, [prompt], seeds, Sampling(1, temperature=temperature), eos_ids=NO_EOS)
    counts = torch.bincount(torch.tensor([a.ids[0] for a in answers]), minlength=11).double()
    p = next_token(model, prompt)
    for other in (0.5, 1.0, 2.0):
        powered = p ** (1 / other)
        assert is_consistent(counts, powered / powered.sum()) == (other == temperature)


def test_top_p_samples_the_smallest_set_of_that_mass_in_proportion(llama: Any) -> None:
    model, prompt, top_p = llama(11, spread=0.3), [1, 4, 2], 0.7
    seeds = [[derive_seed(3, j) for j in range(3000)]]
    (answers,) = sample_batch(model, [prompt], seeds, Sampling(1, top_p=top_p), eos_ids=NO_EOS)
    counts = torch.bincount(torch.tensor([a.ids[0] for a in answers]), minlength=11).double()
    p = next_token(model, prompt)
    ranked = sorted(range(11), key=lambda i: -p[i])
    size = next(k for k in range(1, 12) if p[ranked[:k]].sum() >= top_p)
    nucleus = torch.zeros(11, dtype=torch.float64)
    nucleus[ranked[:size]] = p[ranked[:size]]
    assert 1 < size < 11
    assert not counts[nucleus == 0].any()
    assert is_consistent(counts, nucleus / nucleus.sum())


@pytest.mark.parametrize(
    ("uniform", "top_p", "token"),
    [
        (0.0, 1.0, 0),
        (0.49, 1.0, 0),
        (0.5, 1.0, 1),
        (0.79, 1.0, 1),
        (0.81, 1.0, 2),
        (0.96, 1.0, 3),
        (1 - 2**-53, 1.0, 3),
        (0.62, 0.8, 0),  # 0.62 * 0.8 = 0.496 of the mass of the first two
        (0.63, 0.8, 1),
        (1 - 2**-53, 0.8, 1),
        (1 - 2**-53, 0.4, 0),  # one token is always left
    ],
)
def test_a_uniform_number_picks_the_token_in_whose_share_it_falls(uniform: float, top_p: float, token: int) -> None:
    """Probabilities 0.5, 0.3, 0.15, 0.05: cumulative 0.5, 0.8, 0.95, 1; those of top_p 0.8 are the first two."""
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64).log()
    # 0.8 as a sum of floats is a hair less than 0.8: ask for a hair less too.
    sampling = Sampling(1, top_p=top_p - 1e-12 if top_p < 1 else 1.0)
    assert generation._draw(logits, torch.tensor([uniform], dtype=torch.float64), sampling).tolist() == [token]


# Streams


def test_same_seeds_give_the_same_responses(model: LlamaForCausalLM) -> None:
    first, second = (sample_batch(model, PROMPTS, seeds_for(4), Sampling(6), eos_ids=NO_EOS) for _ in range(2))
    assert first == second


def test_a_response_depends_on_its_prompt_and_its_seed_alone(model: LlamaForCausalLM) -> None:
    """Each response computed by itself, without company and without padding, equals the one from the whole batch."""
    eos = frozenset([0, 1, 2])
    batch = sample_batch(model, PROMPTS, seeds_for(3), Sampling(8), eos_ids=eos)
    for prompt, seeds, answers in zip(PROMPTS, seeds_for(3), batch, strict=True):
        for seed, answer in zip(seeds, answers, strict=True):
            assert sample_batch(model, [prompt], [[seed]], Sampling(8), eos_ids=eos) == [[answer]]


def test_another_seed_changes_its_own_response_alone(model: LlamaForCausalLM) -> None:
    seeds = seeds_for(3)
    before = sample_batch(model, PROMPTS, seeds, Sampling(8), eos_ids=NO_EOS)
    seeds[1][2] += 1
    after = sample_batch(model, PROMPTS, seeds, Sampling(8), eos_ids=NO_EOS)
    changed = [(i, j) for i in range(len(PROMPTS)) for j in range(3) if before[i][j] != after[i][j]]
    assert changed == [(1, 2)]


def test_responses_to_one_prompt_are_independent(model: LlamaForCausalLM) -> None:
    """16 responses of 12 tokens all differ; were they copies of one stream, they would all be equal."""
    (answers,) = sample_batch(model, PROMPTS[:1], seeds_for(16)[:1], Sampling(12), eos_ids=NO_EOS)
    assert len({tuple(a.ids) for a in answers}) == 16


def test_prompts_may_have_different_numbers_of_responses(model: LlamaForCausalLM) -> None:
    seeds = [[7], [], [8, 9]]
    answers = sample_batch(model, PROMPTS[:3], seeds, Sampling(4), eos_ids=NO_EOS)
    assert [len(a) for a in answers] == [1, 0, 2]
    assert answers[2] == sample_batch(model, PROMPTS[2:3], [[8, 9]], Sampling(4), eos_ids=NO_EOS)[0]


# Ends of responses


def all_answers(model: LlamaForCausalLM, eos: frozenset[int], *, max_new_tokens: int = 6) -> list[Sampled]:
    found = sample_batch(model, PROMPTS, seeds_for(20), Sampling(max_new_tokens), eos_ids=eos)
    return list(itertools.chain.from_iterable(found))


def test_response_that_stops_keeps_its_eos_and_nothing_after(model: LlamaForCausalLM) -> None:
    eos = frozenset([3, 5])
    stopped = [a for a in all_answers(model, eos) if a.finish == "stop"]
    assert len(stopped) > 10
    assert all(a.ids[-1] in eos and not eos & set(a.ids[:-1]) for a in stopped)


def test_response_without_eos_is_cut_at_the_limit_and_marked(model: LlamaForCausalLM) -> None:
    eos = frozenset([3, 5])
    cut = [a for a in all_answers(model, eos) if a.finish == "length"]
    assert len(cut) > 10
    assert all(len(a.ids) == 6 and not eos & set(a.ids) for a in cut)


def test_eos_as_the_last_token_allowed_is_a_stop(model: LlamaForCausalLM) -> None:
    """With one token allowed and every token an EOS, every response stops; with none an EOS, every one is cut."""
    assert {a.finish for a in all_answers(model, frozenset(range(19)), max_new_tokens=1)} == {"stop"}
    assert {a.finish for a in all_answers(model, NO_EOS, max_new_tokens=1)} == {"length"}


def test_a_lower_limit_gives_the_beginning_of_the_same_responses(model: LlamaForCausalLM) -> None:
    eos = frozenset([3, 5])
    for short, long in zip(all_answers(model, eos, max_new_tokens=3), all_answers(model, eos), strict=True):
        assert short.ids == long.ids[:3]


# Compaction


def test_removing_finished_rows_changes_no_response(model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Never, at every step, and at the usual share; the first leaves finished rows in, the second none."""
    eos = frozenset([0, 1, 2, 3])
    found, rows = [], []
    for share in (0.0, 1.01, generation.COMPACT_BELOW):
        monkeypatch.setattr(generation, "COMPACT_BELOW", share)
        sizes: list[int] = []

        def note(module: Any, args: Any, sizes: list[int] = sizes) -> None:
            sizes.append(len(args[0]))

        hook = model.lm_head.register_forward_pre_hook(note)
        found.append(sample_batch(model, PROMPTS, seeds_for(6), Sampling(10), eos_ids=eos))
        hook.remove()
        rows.append(sum(sizes))
    assert found[0] == found[1] == found[2]
    assert rows[1] == sum(len(a.ids) for row in found[1] for a in row)  # each token kept cost one row, and no more
    assert rows[1] < rows[2] < rows[0]


# Batches and shards


def test_batches_hold_prompts_of_like_length_with_ties_in_prompt_order() -> None:
    assert plan_batches([5, 2, 5, 1, 2], prompts_per_batch=2) == [[3, 1], [4, 0], [2]]


@pytest.mark.parametrize("per_batch", [1, 2, 7, 100])
def test_every_prompt_is_in_one_batch(per_batch: int) -> None:
    batches = plan_batches([9, 1, 4, 4, 2, 8, 8, 8, 3], prompts_per_batch=per_batch)
    assert sorted(itertools.chain.from_iterable(batches)) == list(range(9))
    assert all(len(b) == per_batch for b in batches[:-1])


@pytest.fixture(scope="module")
def context() -> PoolContext:
    """The untrained model of the pocket world in float32, as the workflow samples it."""
    policy = HuggingFaceSampler(build_model(n_layers=1, width=16, n_heads=2, max_length=64, seed=0).eval())
    return PoolContext(
        renderer=Renderer(build_tokenizer(max_length=64), "tokenizer"),
        sampler=lambda: policy,
        seed_of=lambda prompt_id, j: derive_seed(5, prompt_id, j),
    )


def test_pool_is_the_same_for_any_number_of_shards(context: PoolContext) -> None:
    """1, 2, 3 and 8 shards of 7 batches: every prompt in one shard (one of 8 is empty), every response the same.

    Exact although the model is float32: a prompt runs in the same batch whatever the number of shards.
    """
    pool = load("pools", "policy")
    params = pool.Params(n_responses=3, max_new_tokens=5, batch_responses=6)
    prompts = [PoolPrompt(f"p{i}", [1, *range(10, 11 + i % 5)], ()) for i in range(13)]
    whole = pool.respond(prompts, context, params, shard=1, shards=1)
    assert whole.keys() == {p.prompt_id for p in prompts}
    assert {len(answers) for answers in whole.values()} == {3}
    for shards in (2, 3, 8):
        parts = [pool.respond(prompts, context, params, shard=i, shards=shards) for i in range(1, shards + 1)]
        assert sum(len(part) for part in parts) == len(prompts)
        joined = {prompt_id: answers for part in parts for prompt_id, answers in part.items()}
        assert joined == whole


def test_an_empty_shard_does_not_load_the_policy(context: PoolContext) -> None:
    pool = load("pools", "policy")
    params = pool.Params(n_responses=1, max_new_tokens=2)

    def fail() -> Any:
        raise AssertionError("the policy was loaded")

    lazy = PoolContext(context.renderer, fail, context.seed_of)
    assert pool.respond([PoolPrompt("p", [1, 2], ())], lazy, params, shard=1, shards=2) == {}
