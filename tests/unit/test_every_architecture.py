"""Every causal language model of transformers, small and random: sampled, scored and trained as a plain forward pass has it.

Windows are shorter than the rows. What cannot be served is refused by name; the lists below say which models that are, and
which models sample whole rows anew. A new architecture, or one that changes, makes a test fail.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from every_architecture import ARCHITECTURES, VOCABULARY, WINDOW, small_config, small_model
from torch import Tensor
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES

from selfcontrast.architectures import REFUSED, TABLE, longest_row, refuse
from selfcontrast.attention import check_model, shortest_window, why_no_shared_prompt
from selfcontrast.errors import InputError
from selfcontrast.generation import HuggingFaceSampler, sample_batch
from selfcontrast.logprobs import supported_sharing, token_logps
from selfcontrast.reward_models import load_reward_model, score_rows
from selfcontrast.sampling import Sampling

pytestmark = pytest.mark.usefixtures("one_thread")

TOLERANCE = 2e-4
"""Nats, in float32. A window that is not kept, or a position that is off by one, moves a value by 0.01 at least."""

_random = torch.Generator().manual_seed(5)
_prompt_lengths, _response_lengths = (11, 3), ((6, 2), (5, 7, 1))
PROMPTS = [torch.randint(3, VOCABULARY, (n,), generator=_random).tolist() for n in _prompt_lengths]
RESPONSES = [[torch.randint(3, VOCABULARY, (n,), generator=_random).tolist() for n in ns] for ns in _response_lengths]
LONGEST_ROW = 17
N_SAMPLED = 5

NOT_SERVED = {
    *("bert", "bert-generation", "big_bird", "blt", "camembert", "cpmant", "data2vec-text", "electra", "ernie"),
    *("gemma4_assistant", "gemma4_unified_assistant", "inkling2_text", "inkling_text", "megatron-bert"),
    *("modernbert-decoder", "musicgen", "musicgen_melody", "prophetnet", "reformer", "rembert", "roberta"),
    *("roberta-prelayernorm", "roc_bert", "roformer", "xlm", "xlm-roberta", "xlm-roberta-xl", "xlnet", "xlstm", "xmod"),
}
NOT_BUILT = {
    "gemma3n": "its images need the package timm; its text model is tried as gemma3n_text",
    "dots3_note": "its default configuration cannot be made small",
    "dots3_note_text": "its default configuration cannot be made small",
}
WHOLE_ROWS = {
    *("axk2", "bailing_hybrid", "bamba", "bart", "bigbird_pegasus", "blenderbot", "blenderbot-small", "bloom"),
    *("deepseek_v32", "deepseek_v4", "falcon_h1", "falcon_mamba", "git", "glm_moe_dsa", "granitemoehybrid"),
    *("hy_v4", "jamba", "kimi_linear", "lfm2", "lfm2_moe", "lfm3", "mamba", "mamba2", "marian", "mbart", "minimax"),
    *("moss_transcribe_diarize", "mpt", "mvp", "nemotron_h", "olmo_hybrid", "openai-gpt", "pegasus", "plbart"),
    *("qwen3_5", "qwen3_5_moe", "qwen3_5_moe_text", "qwen3_5_text", "qwen3_next", "qwen4_exp", "qwen4_exp_text"),
    *("recurrent_gemma", "rwkv", "trocr", "whisper", "zamba", "zamba2", "zaya"),
}
"""Models that are sampled with whole rows, and whose log-probabilities share no prompt."""

WINDOWED = {
    *("afmoe", "beam", "cohere2", "cohere2_moe", "cohere_compass_text", "cwm", "deepseek_v4", "doge", "dots1"),
    *("exaone4", "exaone_moe", "flint", "gemma2", "gemma3", "gemma3_text", "gemma3n_text", "gemma4", "gemma4_text"),
    *("gemma4_unified", "gemma4_unified_text", "got_ocr2", "gpt_neo", "gpt_oss", "granite_swa", "granitemoe_swa"),
    *("kolibri1", "laguna", "lfm3", "llama4", "llama4_text", "mellum", "mimo_v2_flash", "minimax", "ministral"),
    *("ministral3", "mistral", "mixtral", "moshi", "moss_transcribe_diarize", "nemotron_h", "olmo3", "phi3"),
    *("phi4_multimodal", "phimoe", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "recurrent_gemma", "smollm3"),
    *("starcoder2", "vaultgemma", "zaya"),
}
"""Models of which a layer sees ``WINDOW`` tokens: shorter than every row of the longer prompt."""

SERVED = [a for a in ARCHITECTURES if a not in NOT_SERVED and a not in NOT_BUILT]


def plain_logps(model: PreTrainedModel) -> Tensor:
    """Return the log-probability of every response token, each row alone and unpadded."""
    found = []
    for prompt, responses in zip(PROMPTS, RESPONSES, strict=True):
        for response in responses:
            logits = model(input_ids=torch.tensor([prompt + response]), use_cache=False).logits[0]
            logps = logits.double().log_softmax(-1)
            found += [logps[len(prompt) + i - 1, token] for i, token in enumerate(response)]
    return torch.stack(found)


def plain_greedy(model: PreTrainedModel, prompt: list[int]) -> list[int]:
    """Return the most probable tokens, the whole row run anew for each."""
    row = list(prompt)
    for _ in range(N_SAMPLED):
        row.append(int(model(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1].argmax()))
    return row[len(prompt) :]


def greedy(model: PreTrainedModel, prompts: list[list[int]], seeds: list[list[int]]) -> list[list[list[int]]]:
    sampled = sample_batch(model, prompts, seeds, Sampling(N_SAMPLED, temperature=0), eos_ids=frozenset())
    return [[s.ids for s in row] for row in sampled]


@pytest.mark.parametrize("architecture", SERVED)
@torch.no_grad()
def test_served_architecture_is_sampled_and_scored_as_a_plain_forward_pass_has_it(architecture: str) -> None:
    """Alone, beside a longer prompt, and twice from one prompt; all four sharings, granted or replaced."""
    model = small_model(small_config(architecture))
    check_model(model)
    assert (why_no_shared_prompt(model) is not None, shortest_window(model)) == (
        architecture in WHOLE_ROWS,
        WINDOW if architecture in WINDOWED else None,
    )
    expected = [plain_greedy(model, prompt) for prompt in PROMPTS]
    assert greedy(model, PROMPTS, [[0], [1, 2]]) == [expected[:1], expected[1:] * 2]
    assert greedy(model, PROMPTS[1:], [[1]]) == [expected[1:]]
    logps = plain_logps(model)
    ways = {supported_sharing(model, wanted, longest_row=LONGEST_ROW) for wanted in ("prefix", "packed")}  # type: ignore[arg-type]
    for sharing in sorted(ways | {"chosen", "none"}):
        found = token_logps(model, PROMPTS, RESPONSES, sharing=sharing).values
        assert (found - logps).abs().max() < TOLERANCE, sharing


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("architecture", ["mistral", "phi3", "qwen2", "gemma3_text", "cohere2", "olmo3", "starcoder2"])
@torch.no_grad()
def test_windows_are_kept_by_both_kinds_of_attention(architecture: str, attention: str) -> None:
    config = small_config(architecture)
    config._attn_implementation = attention
    model = small_model(config)
    assert model.config._attn_implementation == attention
    assert shortest_window(model) == WINDOW
    assert greedy(model, PROMPTS, [[0], [1]]) == [[plain_greedy(model, prompt)] for prompt in PROMPTS]


@pytest.mark.parametrize(
    "architecture", ["llama", "mistral", "gemma2", "gpt_oss", "qwen2", "llama4_text", "mamba", "bloom"]
)
def test_gradients_of_training_are_those_of_a_plain_forward_pass(
    gradients: Any, difference: Any, architecture: str
) -> None:
    """Each response token with a weight of its own, under the sharing that training takes for this row."""
    model = small_model(small_config(architecture))
    weights = torch.linspace(-1, 2, sum(len(r) for rs in RESPONSES for r in rs), dtype=torch.float64)
    (plain_logps(model) * weights).sum().backward()
    expected = gradients(model)
    for wanted in ("prefix", "packed", "none"):
        sharing = supported_sharing(model, wanted, longest_row=LONGEST_ROW)  # type: ignore[arg-type]
        (token_logps(model, PROMPTS, RESPONSES, sharing=sharing).values * weights).sum().backward()
        assert difference(gradients(model), expected) < 1e-4, wanted  # float32


@pytest.mark.parametrize("architecture", TABLE)
@torch.no_grad()
def test_a_table_of_positions_ends_where_its_configuration_says(architecture: str) -> None:
    config = small_config(architecture)
    setattr(config.get_text_config(), TABLE[architecture], 16)
    model = small_model(config)
    row = torch.ones((1, 17), dtype=torch.long)
    model(input_ids=row[:, :16], use_cache=False)
    with pytest.raises((IndexError, RuntimeError)):
        model(input_ids=row, use_cache=False)
    assert longest_row(model.config.to_dict()) == 16


def test_prompts_are_not_shared_by_a_model_with_code_of_its_own() -> None:
    class OwnConfig(LlamaConfig):  # type: ignore[misc]
        """As a checkpoint's own code has it: transformers does not know this class."""

    model = small_model(small_config("llama"))
    assert why_no_shared_prompt(model) is None
    model.config = OwnConfig(**model.config.to_dict())
    assert "code of its own" in str(why_no_shared_prompt(model))


@torch.no_grad()
def test_the_sweep_notices_a_cache_of_the_window_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a cache that forgets what left the window is what a model makes by itself."""
    import transformers

    model = small_model(small_config("mistral"))
    expected = [plain_greedy(model, prompt) for prompt in PROMPTS]
    assert greedy(model, PROMPTS, [[0], [1]]) == [[tokens] for tokens in expected]
    made = transformers.DynamicCache
    monkeypatch.setattr(transformers, "DynamicCache", lambda config=None: made(config=model.config))
    assert greedy(model, PROMPTS, [[0], [1]]) != [[tokens] for tokens in expected]


def test_what_is_not_served_is_known_by_name() -> None:
    assert {*REFUSED, "bert-generation"} == NOT_SERVED
    assert NOT_SERVED | NOT_BUILT.keys() < set(ARCHITECTURES)


@pytest.mark.parametrize("architecture", sorted(NOT_SERVED))
def test_model_that_is_not_served_is_refused_by_its_name_from_its_configuration_alone(architecture: str) -> None:
    with pytest.raises(InputError, match=f"architecture `{architecture}` cannot be served"):
        refuse({"model_type": architecture}, where="config.json")


@pytest.mark.parametrize("architecture", ["bert", "modernbert-decoder", "xlnet", "xlstm"])
def test_loaded_model_that_is_not_served_is_refused_before_it_samples(architecture: str) -> None:
    with pytest.raises(InputError, match=f"architecture `{architecture}` cannot be served"):
        HuggingFaceSampler(small_model(small_config(architecture)))


def test_model_that_reads_both_ways_is_noticed_whatever_its_name() -> None:
    """Llama whose attention sees what comes after, as code of its own may have it."""
    model = small_model(small_config("llama"))
    model.model.config.is_causal = False
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    with pytest.raises(InputError, match="the last token of a text changes what stands before it"):
        check_model(model)


@pytest.mark.parametrize(("architecture", "reason"), [("mamba", "state"), ("bloom", "ALiBi"), ("bart", "positions")])
@torch.no_grad()
def test_sampling_of_whole_rows_says_why(caplog: pytest.LogCaptureFixture, architecture: str, reason: str) -> None:
    from selfcontrast import generation

    generation._warn_once.cache_clear()
    greedy(small_model(small_config(architecture)), PROMPTS, [[0], [1]])
    (record,) = [r for r in caplog.records if r.name.startswith("selfcontrast")]
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()


@pytest.mark.parametrize("architecture", sorted(WINDOWED & MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.keys()))
@torch.no_grad()
def test_rewards_of_models_with_windows_are_the_models_own(architecture: str, tmp_path: Path) -> None:
    """Rows longer than the window, read together with padding, against each row alone."""
    config = small_config(architecture, num_labels=1)
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config).eval()
    if not hasattr(model, "score"):
        pytest.skip("its classifier has no layer `score`, so it is refused")
    model.score.weight.copy_(torch.randn(model.score.weight.shape))
    model.save_pretrained(tmp_path)
    read, device = load_reward_model(tmp_path, "sequence", dtype="float32", trust_remote_code=False)
    rows = [*PROMPTS, PROMPTS[0] + RESPONSES[1][1]]
    found = score_rows(read, rows, tokens=100, device=device)
    expected = [float(model(input_ids=torch.tensor([row])).logits) for row in rows]
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 1e-2
