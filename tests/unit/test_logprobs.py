"""Log-probabilities of responses: both ways of sharing equal one sequence at a time, in values and gradients.

Tolerance 1e-6: the model is float64, but its RMSNorm and rotary angles are computed in float32, so that one rounding
step of float32 (6e-8) may differ between two ways of batching the same sequence.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from selfcontrast.logprobs import response_logps, run_prompts

SHARINGS = ("prefix", "rows")
TOLERANCE = 1e-6
VOCABULARY = 23


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Four query heads share two key-value heads; weights are large enough for attention and positions to matter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.4,
        tie_word_embeddings=False,
    )
    return LlamaForCausalLM(config).double().eval()


def ragged(seed: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Five prompts of 1 to 9 tokens with 0 to 4 responses of 0 to 7 tokens each."""
    rng = random.Random(seed)
    tokens = range(VOCABULARY)
    prompts = [rng.choices(tokens, k=rng.randint(1, 9)) for _ in range(5)]
    responses = [[rng.choices(tokens, k=rng.randint(0, 7)) for _ in range(n)] for n in (3, 0, 1, 4, 2)]
    return prompts, responses


def naive_logp(model: LlamaForCausalLM, prompt: list[int], response: list[int], *, shift: int = 0) -> Tensor:
    """Run prompt and response as one unpadded sequence; ``shift`` moves the positions of the response."""
    if not response:
        return torch.zeros((), dtype=torch.float64)
    ids = torch.tensor([prompt + response])
    positions = torch.arange(ids.shape[1]) + shift * (torch.arange(ids.shape[1]) >= len(prompt))
    logps = model(input_ids=ids, position_ids=positions[None]).logits[0].log_softmax(-1)
    return torch.stack([logps[len(prompt) + i - 1, token] for i, token in enumerate(response)]).sum()


def naive_logps(model: LlamaForCausalLM, prompts: list[list[int]], responses: list[list[list[int]]]) -> Tensor:
    pairs = zip(prompts, responses, strict=True)
    return torch.stack([naive_logp(model, p, r) for p, rs in pairs for r in rs])


def gradients(model: LlamaForCausalLM, logps: Tensor) -> dict[str, Tensor]:
    """Return the gradient of a sum in which every response has a weight of its own, positive or negative."""
    weights = torch.randn(len(logps), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    model.zero_grad(set_to_none=True)
    (logps * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def count_rows(module: torch.nn.Module, call: Any) -> int:
    """Return how many vectors (all leading dimensions multiplied) go into a module during a call."""
    rows = []
    hook = module.register_forward_pre_hook(
        lambda _, args: rows.append(args[0].reshape(-1, args[0].shape[-1]).shape[0])
    )
    try:
        call()
    finally:
        hook.remove()
    return sum(rows)


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("seed", range(5))
def test_values_equal_one_sequence_at_a_time(model: LlamaForCausalLM, sharing: Any, seed: int) -> None:
    prompts, responses = ragged(seed)
    with torch.no_grad():
        found = response_logps(model, prompts, responses, sharing=sharing)
        expected = naive_logps(model, prompts, responses)
    assert found.shape == (10,)
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize("seed", range(3))
def test_gradients_of_both_sharings_equal_one_sequence_at_a_time(model: LlamaForCausalLM, seed: int) -> None:
    prompts, responses = ragged(seed)
    expected = gradients(model, naive_logps(model, prompts, responses))
    largest = max(g.abs().max() for g in expected.values())
    for sharing in SHARINGS:
        found = gradients(model, response_logps(model, prompts, responses, sharing=sharing))
        assert found.keys() == expected.keys()
        for name, gradient in found.items():
            assert (gradient - expected[name]).abs().max() < TOLERANCE * largest, (sharing, name)


def test_the_tolerance_notices_responses_whose_positions_do_not_follow_their_prompt(model: LlamaForCausalLM) -> None:
    """The negative control: positions one too high, as padding counted as tokens gives them, move a value by 100 times more."""
    prompts, responses = ragged(0)
    pairs = [(p, r) for p, rs in zip(prompts, responses, strict=True) for r in rs if len(r) > 1]
    with torch.no_grad():
        moved = [abs(naive_logp(model, p, r, shift=1) - naive_logp(model, p, r)).item() for p, r in pairs]
    assert min(moved) > 100 * TOLERANCE


@pytest.mark.parametrize("sharing", SHARINGS)
def test_empty_response_has_logp_zero_and_no_gradient(model: LlamaForCausalLM, sharing: Any) -> None:
    logps = response_logps(model, [[1, 5, 6], [4]], [[[], [7, 8]], [[]]], sharing=sharing)
    assert logps[0] == logps[2] == 0
    assert logps[1] < 0
    model.zero_grad(set_to_none=True)
    (logps[0] + logps[2]).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("sharing", SHARINGS)
def test_batch_of_empty_responses_alone_is_zero(model: LlamaForCausalLM, sharing: Any) -> None:
    assert response_logps(model, [[1], [1, 2]], [[[]], [[], []]], sharing=sharing).tolist() == [0, 0, 0]


@pytest.mark.parametrize("sharing", SHARINGS)
def test_first_response_token_is_read_at_the_last_prompt_position(model: LlamaForCausalLM, sharing: Any) -> None:
    """All one-token responses to one prompt: their log-probabilities are the model's next-token distribution."""
    prompt = [3, 9, 4, 17]
    singles = [[token] for token in range(VOCABULARY)]
    with torch.no_grad():
        expected = model(torch.tensor([prompt])).logits[0, -1].log_softmax(-1)
        found = response_logps(model, [prompt], [singles], sharing=sharing)
    assert (found - expected).abs().max() < TOLERANCE
    assert abs(found.exp().sum() - 1) < TOLERANCE


@pytest.mark.parametrize("sharing", SHARINGS)
def test_company_and_padding_do_not_matter(model: LlamaForCausalLM, sharing: Any) -> None:
    """A response alone, and beside a longer prompt and a longer response that make its row be padded on both sides."""
    prompt, response = [5, 6], [7, 8, 2]
    with torch.no_grad():
        alone = response_logps(model, [prompt], [[response]], sharing=sharing)
        together = response_logps(model, [list(range(12)), prompt], [[[9]], [[1] * 9, response]], sharing=sharing)
    assert abs(alone[0] - together[2]) < TOLERANCE


@pytest.mark.parametrize("sharing", SHARINGS)
def test_responses_of_one_prompt_do_not_see_each_other(model: LlamaForCausalLM, sharing: Any) -> None:
    with torch.no_grad():
        first = response_logps(model, [[5, 6]], [[[7, 8, 2], [1, 1, 1]]], sharing=sharing)
        second = response_logps(model, [[5, 6]], [[[7, 8, 2], [20, 21, 22]]], sharing=sharing)
    assert abs(first[0] - second[0]) < TOLERANCE
    assert abs(first[1] - second[1]) > 100 * TOLERANCE


@pytest.mark.parametrize("sharing", SHARINGS)
def test_only_response_positions_reach_the_lm_head(model: LlamaForCausalLM, sharing: Any) -> None:
    prompts, responses = ragged(0)
    n_tokens = sum(len(r) for rs in responses for r in rs)
    assert count_rows(model.lm_head, lambda: response_logps(model, prompts, responses, sharing=sharing)) == n_tokens


def test_prefix_sharing_runs_each_prompt_once(model: LlamaForCausalLM) -> None:
    """Two prompts of 6 tokens with 4 responses of 3 tokens each.

    ``prefix`` computes 2 * 6 + 8 * 2 = 28 positions (the last token of a response predicts nothing), ``rows`` 8 * 9 = 72.
    """
    prompts, responses = [[1] * 6, [2] * 6], [[[3, 4, 5]] * 4, [[6, 7, 8]] * 4]
    layer = model.model.layers[0].mlp
    assert count_rows(layer, lambda: response_logps(model, prompts, responses, sharing="prefix")) == 28
    assert count_rows(layer, lambda: response_logps(model, prompts, responses, sharing="rows")) == 72


def test_logps_of_a_half_precision_model_are_summed_in_float32(model: LlamaForCausalLM) -> None:
    """A bfloat16 model, with log-softmax and sum by hand in float32 over its logits."""
    torch.manual_seed(2)
    half = LlamaForCausalLM(model.config).bfloat16().eval()
    prompt, response = [1, 2, 3], [4, 5, 6, 7, 8, 9]
    with torch.no_grad():
        found = response_logps(half, [prompt], [[response]], sharing="rows")
        logits = half(torch.tensor([prompt + response])).logits[0, 2:-1].float()
    expected = logits.log_softmax(-1).gather(-1, torch.tensor(response)[:, None]).sum()
    assert found.dtype == torch.float32
    # 1e-3: bfloat16 would be off by 0.03 at best (8 bits of a sum of about 20 nats).
    assert abs(found[0] - expected) < 1e-3


def test_prompt_pass_reports_lengths_masks_and_the_last_token(model: LlamaForCausalLM) -> None:
    with torch.no_grad():
        passed = run_prompts(model, [[1, 2, 3], [4]])
        alone = run_prompts(model, [[4]])
    assert passed.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert passed.lengths.tolist() == [3, 1]
    assert (passed.last_hidden[1] - alone.last_hidden[0]).abs().max() < TOLERANCE
