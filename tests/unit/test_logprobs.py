"""Log-probabilities of responses: every way of sharing equals one sequence at a time, in values and gradients.

The tolerance 1e-6 is that of conftest.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedModel

from selfcontrast.logprobs import TokenLogps, response_logps, run_prompts, supported_sharing, token_logps

SHARINGS = ("prefix", "packed", "chosen", "none")
TOLERANCE = 1e-6
VOCABULARY = 23

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model(llama: Any) -> LlamaForCausalLM:
    return llama(VOCABULARY, width=32, layers=3, spread=0.4)


def ragged(seed: int) -> tuple[list[list[int]], list[list[list[int]]]]:
    """Four prompts of 1 to 9 tokens with 1 to 4 responses of 0 to 7 tokens each."""
    rng = random.Random(seed)
    tokens = range(VOCABULARY)
    prompts = [rng.choices(tokens, k=rng.randint(1, 9)) for _ in range(4)]
    responses = [[rng.choices(tokens, k=rng.randint(0, 7)) for _ in range(n)] for n in (3, 1, 4, 2)]
    return prompts, responses


def naive_logp(model: PreTrainedModel, prompt: list[int], response: list[int], *, shift: int = 0) -> Tensor:
    """Run prompt and response as one unpadded sequence; ``shift`` moves the positions of the response."""
    if not response:
        return torch.zeros((), dtype=torch.float64)
    ids = torch.tensor([prompt + response])
    moved = {}
    if shift:
        moved["position_ids"] = (torch.arange(ids.shape[1]) + shift * (torch.arange(ids.shape[1]) >= len(prompt)))[None]
    logps = model(input_ids=ids, **moved).logits[0].log_softmax(-1)
    return torch.stack([logps[len(prompt) + i - 1, token] for i, token in enumerate(response)]).sum()


def naive_logps(model: PreTrainedModel, prompts: list[list[int]], responses: list[list[list[int]]]) -> Tensor:
    pairs = zip(prompts, responses, strict=True)
    return torch.stack([naive_logp(model, p, r) for p, rs in pairs for r in rs])


@pytest.fixture(scope="module")
def gradients_of(gradients: Any) -> Callable[[PreTrainedModel, Tensor], dict[str, Tensor]]:
    """Return the gradient of a sum in which every response has a weight of its own, positive or negative."""

    def of(model: PreTrainedModel, logps: Tensor) -> dict[str, Tensor]:
        factors = torch.randn(len(logps), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        model.zero_grad(set_to_none=True)
        (logps * factors).sum().backward()
        return gradients(model)

    return of


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


# One sequence at a time


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
def test_gradients_of_all_sharings_equal_one_sequence_at_a_time(
    model: LlamaForCausalLM, gradients_of: Any, difference: Any, seed: int
) -> None:
    prompts, responses = ragged(seed)
    expected = gradients_of(model, naive_logps(model, prompts, responses))
    for sharing in SHARINGS:
        found = gradients_of(model, response_logps(model, prompts, responses, sharing=sharing))
        assert difference(found, expected) < TOLERANCE, sharing


@pytest.mark.parametrize("sharing", SHARINGS)
def test_tokens_come_response_by_response_and_sum_to_the_response(model: LlamaForCausalLM, sharing: Any) -> None:
    """The log-probability of a token is that of the response up to it, minus that of the response before it."""
    prompts, responses = ragged(3)
    with torch.no_grad():
        found = token_logps(model, prompts, responses, sharing=sharing)
        parts = iter(found.split())
        for prompt, rs in zip(prompts, responses, strict=True):
            for response in rs:
                up_to = [naive_logp(model, prompt, response[:i]).item() for i in range(len(response) + 1)]
                single = [b - a for a, b in zip(up_to, up_to[1:], strict=False)]
                assert next(parts).tolist() == pytest.approx(single, abs=TOLERANCE)
    assert found.lengths == [len(r) for rs in responses for r in rs]
    assert next(parts, None) is None


def test_sums_of_token_values_by_hand() -> None:
    found = TokenLogps(torch.tensor([-1.0, -2.0, -4.0]), [2, 0, 1])
    assert found.sums().tolist() == [-3, 0, -4]
    assert [v.tolist() for v in found.split()] == [[-1, -2], [], [-4]]


# What the tolerance notices


def test_the_tolerance_notices_responses_whose_positions_do_not_follow_their_prompt(model: LlamaForCausalLM) -> None:
    """The negative control: positions one too high, as padding counted as tokens gives them, move a value by 100 times more."""
    prompts, responses = ragged(0)
    pairs = [(p, r) for p, rs in zip(prompts, responses, strict=True) for r in rs if len(r) > 1]
    with torch.no_grad():
        moved = [abs(naive_logp(model, p, r, shift=1) - naive_logp(model, p, r)).item() for p, r in pairs]
    assert min(moved) > 100 * TOLERANCE


@contextmanager
def altered(model: PreTrainedModel, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Change the arguments of the base model for a while."""

    def hook(module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, **change(kwargs)}

    handle = model.base_model.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def causal_mask(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return a mask under which an answer sees the answers before it."""
    mask = kwargs["attention_mask"]
    assert mask.ndim == 4
    return {"attention_mask": torch.ones_like(mask, dtype=torch.bool).tril()}


def running_positions(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return positions that run on from one answer to the next."""
    positions = kwargs["position_ids"]
    return {"position_ids": torch.arange(positions.shape[1]).expand_as(positions)}


@pytest.mark.parametrize("change", [causal_mask, running_positions])
def test_the_tolerance_notices_answers_of_a_packed_row_that_are_not_kept_apart(
    model: LlamaForCausalLM, change: Any
) -> None:
    """Both mistakes of a packed row: the first answer is right all the same, every other one is moved.

    Answers of one token are predicted by the prompt alone: there is nothing to go wrong. The smallest change of another is 200
    tolerances here; with float32 and a tolerance of 1e-3, wrong positions would pass.
    """
    prompts, responses = [[3, 4, 5], [9]], [[[6, 7, 2], [8, 12, 2], [1, 2]], [[10, 11, 2], [13, 14, 15, 2]]]
    with torch.no_grad():
        expected = naive_logps(model, prompts, responses)
        right = response_logps(model, prompts, responses, sharing="packed")
        with altered(model, change):
            wrong = response_logps(model, prompts, responses, sharing="packed")
    assert (right - expected).abs().max() < TOLERANCE
    is_first = torch.tensor([True, False, False, True, False])
    assert (wrong - expected)[is_first].abs().max() < TOLERANCE
    assert (wrong - expected)[~is_first].abs().min() > 200 * TOLERANCE


# Edges


@pytest.mark.parametrize("sharing", SHARINGS)
def test_empty_response_has_logp_zero_and_no_gradient(model: LlamaForCausalLM, sharing: Any) -> None:
    logps = response_logps(model, [[1, 5, 6], [4]], [[[], [7, 8]], [[]]], sharing=sharing)
    assert logps[0] == logps[2] == 0
    assert logps[1] < 0
    model.zero_grad(set_to_none=True)
    (logps[0] + logps[2]).backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize(
    "sharing",
    [
        "prefix",
        "packed",
        "chosen",
        "none",
    ],
)
def test_batch_of_empty_responses_alone_is_zero(model: LlamaForCausalLM, sharing: Any) -> None:
    assert response_logps(model, [[1], [1, 2]], [[[]], [[], []]], sharing=sharing).tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "sharing",
    ["prefix", "packed", "chosen", "none"],
)
def test_prompt_without_responses_takes_no_place(model: LlamaForCausalLM, sharing: Any) -> None:
    with torch.no_grad():
        found = response_logps(model, [[1, 2], [3], [4, 5]], [[[6, 2]], [], [[7, 2], [8]]], sharing=sharing)
        expected = naive_logps(model, [[1, 2], [4, 5]], [[[6, 2]], [[7, 2], [8]]])
    assert (found - expected).abs().max() < TOLERANCE


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
        first = response_logps(model, [[5, 6]], [[[7, 8, 2], [1, 1, 1], [9, 2]]], sharing=sharing)
        second = response_logps(model, [[5, 6]], [[[7, 8, 2], [20, 21, 22], [9, 2]]], sharing=sharing)
    assert (first - second)[[0, 2]].abs().max() < TOLERANCE
    assert abs(first[1] - second[1]) > 100 * TOLERANCE


# Cost


@pytest.mark.parametrize(
    ("sharing", "positions", "predicted"),
    [("prefix", 28, 24), ("packed", 28, 24), ("chosen", 72, 24), ("none", 108, 36)],
)
def test_tokens_that_run_by_hand(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch, sharing: Any, positions: int, predicted: int
) -> None:
    """Two prompts of 6 tokens with 4 responses of 3 tokens each.

    Shared, 2 * 6 + 8 * 2 = 28 positions run (the last token of a response predicts nothing); one row for each response has
    8 * 9 = 72, three pairs for each prompt have 12 * 9 = 108. The head sees response tokens alone: 8 * 3, or 12 * 3 in pairs.
    """
    prompts, responses = [[1] * 6, [2] * 6], [[[3, 4, 5]] * 4, [[6, 7, 8]] * 4]
    seen = []
    actual = token_logps.__globals__["label_logps"]
    monkeypatch.setitem(
        token_logps.__globals__,
        "label_logps",
        lambda model, hidden, labels: [seen.append(len(hidden)), actual(model, hidden, labels)][1],
    )
    layer = model.model.layers[0].mlp
    assert count_rows(layer, lambda: response_logps(model, prompts, responses, sharing=sharing)) == positions
    assert seen == [predicted]


def test_logps_of_a_half_precision_model_are_summed_in_float32(model: LlamaForCausalLM) -> None:
    """A bfloat16 model, with log-softmax and sum by hand in float32 over its logits."""
    torch.manual_seed(2)
    half = LlamaForCausalLM(model.config).bfloat16().eval()
    prompt, response = [1, 2, 3], [4, 5, 6, 7, 8, 9]
    with torch.no_grad():
        found = response_logps(half, [prompt], [[response]], sharing="chosen")
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


# Other models

SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
    "initializer_range": 0.3,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {**SIZES, "num_key_value_heads": 2}
GEMMA = {**GROUPED, "head_dim": 4, "query_pre_attn_scalar": 4}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", GROUPED),
    "mistral": ("Mistral", {**GROUPED, "sliding_window": None}),
    "mistral, window 8": ("Mistral", {**GROUPED, "sliding_window": 8}),
    "mistral, window 3": ("Mistral", {**GROUPED, "sliding_window": 3}),
    "qwen2": ("Qwen2", GROUPED),
    "qwen2, window 8 in one layer": (
        "Qwen2",
        {**GROUPED, "use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1},
    ),
    "qwen2, window 3 not used": ("Qwen2", {**GROUPED, "use_sliding_window": False, "sliding_window": 3}),
    "phi3": ("Phi3", GROUPED),
    "gpt2": ("GPT2", {**SIZES, "attn_pdrop": 0.2}),
    "gpt_neox": ("GPTNeoX", SIZES),
    "opt": ("OPT", {**SIZES, "ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.3}),
    "gemma2, window 8": ("Gemma2", {**GEMMA, "sliding_window": 8}),
    "gemma2, window 3": ("Gemma2", {**GEMMA, "sliding_window": 3}),
    # The grouped products of experts know no float64.
    "mixtral": ("Mixtral", {**GROUPED, "num_local_experts": 4, "sliding_window": None, "experts": "eager"}),
    "cohere": ("Cohere", {**GROUPED, "logit_scale": 0.3}),
    "granite": ("Granite", {**GROUPED, "logits_scaling": 3.0}),
    "bloom": ("Bloom", {"vocab_size": VOCABULARY, "hidden_size": 16, "n_layer": 2, "n_head": 4}),
    "falcon with alibi": ("Falcon", {**SIZES, "alibi": True}),
    "mpt": ("Mpt", {"vocab_size": VOCABULARY, "d_model": 16, "n_layers": 2, "n_heads": 4}),
    "mamba": ("Mamba", {**SIZES, "state_size": 4}),
    "lfm2": ("Lfm2", {**GROUPED, "layer_types": ["conv", "full_attention"]}),
    "experts of limited capacity": ("Llama", {**GROUPED, "expert_capacity": 4}),
}
PROMPTS = [[3, 4, 5], [9], [1, 1, 1, 1, 1]]
RESPONSES = [[[6, 7, 2], [8, 2]], [[10, 2], [11, 12, 13, 2], [2]], [[15, 2], [16, 2], [17, 18, 2], [3, 4, 2]]]
LONGEST_ROW = 8
"""Packed, the last prompt and its responses make a row of 11."""


def build(architecture: str, **more: Any) -> PreTrainedModel:
    """Return a small random model of another architecture in float64."""
    import transformers

    name, config = ARCHITECTURES[architecture]
    config = {**config, **more}
    experts = config.pop("experts", None)
    made = getattr(transformers, f"{name}Config")(**config)
    if experts is not None:
        made._experts_implementation = experts
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(made).double().eval()


def one_prompt_at_a_time(model: PreTrainedModel, sharing: Any) -> Tensor:
    """Return log-probabilities of RESPONSES without padding to the left of a prompt.

    A row of padding sees nothing. Transformers' own attention (`eager`) gives it NaN in float64 alone: its smallest float64 is
    -inf in the softmax, which is in float32.
    """
    rows = zip(PROMPTS, RESPONSES, strict=True)
    return torch.cat([response_logps(model, [p], [rs], sharing=sharing) for p, rs in rows])


SHARED = (
    "llama",
    "mistral",
    "mistral, window 8",
    "qwen2",
    "qwen2, window 8 in one layer",
    "qwen2, window 3 not used",
    "phi3",
    "gpt2",
    "gpt_neox",
    "opt",
    "mixtral",
    "cohere",
    "granite",
)


@pytest.mark.parametrize("architecture", SHARED)
def test_models_whose_prompts_are_shared_give_the_same_values_and_gradients(
    gradients_of: Any, difference: Any, caplog: pytest.LogCaptureFixture, architecture: str
) -> None:
    """Prefix, packed and chosen against the model's own logits, one sequence at a time; no word in the log."""
    model = build(architecture)
    expected = naive_logps(model, PROMPTS, RESPONSES)
    expected_gradients = gradients_of(model, expected)
    for wanted in ("prefix", "packed", "chosen"):
        assert supported_sharing(model, wanted, longest_row=LONGEST_ROW) == wanted  # type: ignore[arg-type]
        found = response_logps(model, PROMPTS, RESPONSES, sharing=wanted)  # type: ignore[arg-type]
        assert (found - expected).abs().max() < TOLERANCE, wanted
        assert difference(gradients_of(model, found), expected_gradients) < TOLERANCE, wanted
    assert not caplog.records


def test_prefix_of_gemma2_equals_one_sequence_at_a_time(gradients_of: Any, difference: Any) -> None:
    """Attention with a soft cap, windows of 8 tokens in every other layer, rows of 8 at most."""
    model = build("gemma2, window 8")
    expected = naive_logps(model, PROMPTS, RESPONSES)
    expected_gradients = gradients_of(model, expected)
    for sharing in ("prefix", "chosen"):
        found = one_prompt_at_a_time(model, sharing)
        assert (found - expected).abs().max() < TOLERANCE
        assert difference(gradients_of(model, found), expected_gradients) < TOLERANCE
    model = model.float()
    with torch.no_grad():
        found = response_logps(model, PROMPTS, RESPONSES, sharing="prefix")
    assert (found - expected).abs().max() < 1e-5  # float32


def test_gemma2_may_share_prompts() -> None:
    assert supported_sharing(build("gemma2, window 8"), "prefix", longest_row=LONGEST_ROW) == "prefix"


EAGER = ("llama", "mistral, window 8", "gemma2, window 8")


@pytest.mark.parametrize("architecture", EAGER)
@pytest.mark.parametrize("wanted", ["prefix", "packed"])
def test_sharing_that_is_granted_under_eager_attention_is_right(architecture: str, wanted: Any) -> None:
    """Attention without a kernel adds its mask to the scores; a mask of truth values would add 0 or 1."""
    model = build(architecture, attn_implementation="eager")
    sharing = supported_sharing(model, wanted, longest_row=LONGEST_ROW)
    with torch.no_grad():
        found, expected = one_prompt_at_a_time(model, sharing), naive_logps(model, PROMPTS, RESPONSES)
    assert (found - expected).abs().max() < TOLERANCE


@pytest.mark.parametrize(
    ("architecture", "reason"),
    [
        ("mistral, window 3", "a sliding window of 3 tokens, shorter than a row of 8"),
        ("gemma2, window 3", "a sliding window of 3 tokens, shorter than a row of 8"),
        ("bloom", "ALiBi"),
        ("falcon with alibi", "ALiBi"),
        ("mpt", "ALiBi"),
        ("mamba", "layers whose state is no list of keys and values"),
        ("lfm2", "layers whose state is no list of keys and values"),
        ("experts of limited capacity", "experts of limited capacity"),
    ],
)
@pytest.mark.parametrize("wanted", ["prefix", "packed"])
def test_models_whose_prompts_cannot_be_shared_run_rows_and_one_line_says_why(
    caplog: pytest.LogCaptureFixture, architecture: str, reason: str, wanted: Any
) -> None:
    model = build(architecture)
    assert supported_sharing(model, wanted, longest_row=LONGEST_ROW) == "chosen"
    (record,) = [r for r in caplog.records if r.name.startswith("selfcontrast")]
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(f"sharing: chosen instead of {wanted}")
    assert reason in record.getMessage()


def test_a_window_as_long_as_the_longest_row_is_long_enough(caplog: pytest.LogCaptureFixture) -> None:
    """The last token of the row sees the first across 8 tokens: a window of 8 (itself counted) covers it."""
    model = build("mistral, window 3", sliding_window=8)
    assert supported_sharing(model, "prefix", longest_row=8) == "prefix"
    with torch.no_grad():
        found = response_logps(model, PROMPTS, RESPONSES, sharing="prefix")
        assert (found - naive_logps(model, PROMPTS, RESPONSES)).abs().max() < TOLERANCE
    assert not caplog.records
    assert supported_sharing(model, "prefix", longest_row=9) == "chosen"


@pytest.mark.parametrize("wanted", ["chosen", "none"])
def test_rows_of_their_own_are_granted_to_every_model(caplog: pytest.LogCaptureFixture, wanted: Any) -> None:
    assert supported_sharing(build("mistral, window 3"), wanted, longest_row=LONGEST_ROW) == wanted
    assert not caplog.records


@pytest.mark.parametrize(
    "architecture", ["mistral, window 3", "gemma2, window 3", "bloom", "falcon with alibi", "mpt", "mamba", "lfm2"]
)
def test_rows_of_their_own_are_right_for_models_that_cannot_share(architecture: str) -> None:
    """In float32, where a row of padding is no NaN: 1e-5, or one float32 rounding of sums of about 20 nats."""
    model = build(architecture).float()
    with torch.no_grad():
        expected = naive_logps(model, PROMPTS, RESPONSES)
        for sharing in ("chosen", "none"):
            found = response_logps(model, PROMPTS, RESPONSES, sharing=sharing)  # type: ignore[arg-type]
            assert (found - expected).abs().max() < 1e-5


def test_the_tolerance_notices_a_window_that_is_too_short_to_pack() -> None:
    """The negative control of the fallback: the mask of a packed row knows no window, and moves values far more than the tolerance.

    A prompt that is run once keeps all keys, and the model's own mask applies the window: that is right even here.
    """
    model = build("mistral, window 3")
    with torch.no_grad():
        expected = naive_logps(model, PROMPTS, RESPONSES)
        prefix, packed = (response_logps(model, PROMPTS, RESPONSES, sharing=s) for s in ("prefix", "packed"))  # type: ignore[arg-type]
    assert (packed - expected).abs().max() > 1000 * TOLERANCE
    assert (prefix - expected).abs().max() < TOLERANCE


def test_model_that_takes_no_positions_shares_no_prompt(caplog: pytest.LogCaptureFixture) -> None:
    """BART's decoder counts positions itself, from the length of the cache: padded prompts would be misplaced."""
    from transformers import BartConfig, BartForCausalLM

    sizes = {"d_model": 16, "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "vocab_size": 23}
    model = BartForCausalLM(BartConfig(**sizes, is_decoder=True, is_encoder_decoder=False))
    assert supported_sharing(model, "prefix", longest_row=LONGEST_ROW) == "chosen"
    assert "positions that cannot be given" in caplog.text
