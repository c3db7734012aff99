"""The numerical core on a GPU; skipped where there is none."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from selfcontrast.generation import sample_batch
from selfcontrast.logprobs import response_logps
from selfcontrast.sampling import Sampling

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

PROMPTS = [[1, 5, 6, 7], [1, 9], [1, 8, 8]]
RESPONSES = [[[4, 5, 2], [6, 2]], [[7, 7, 7, 2]], [[3, 2], [5]]]


@pytest.fixture
def model() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("sharing", ["prefix", "rows"])
def test_log_probabilities_on_the_gpu_equal_those_on_the_cpu(model, sharing):
    """Float32 on both; 1e-4 nats allow for other orders of summation."""
    with torch.no_grad():
        expected = response_logps(model, PROMPTS, RESPONSES, sharing=sharing)
        found = response_logps(model.cuda(), PROMPTS, RESPONSES, sharing=sharing).cpu()
    assert torch.allclose(found, expected, atol=1e-4)


def test_greedy_answers_on_the_gpu_equal_those_on_the_cpu(model):
    sampling = Sampling(max_new_tokens=8, temperature=0)
    expected = sample_batch(model, PROMPTS, [[1]] * 3, sampling, eos_ids=frozenset([2]))
    found = sample_batch(model.cuda(), PROMPTS, [[1]] * 3, sampling, eos_ids=frozenset([2]))
    assert found == expected
