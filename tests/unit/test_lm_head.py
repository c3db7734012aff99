"""The head in chunks: the log-probabilities and gradients of all logits at once, without a tensor that holds them.

Double precision throughout, but where a test says otherwise: rounding is far below the tolerance 1e-10.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig

from selfcontrast import lm_head
from selfcontrast.errors import InputError
from selfcontrast.lm_head import check_head, label_logps, logits_of
from selfcontrast.logprobs import response_logps

TOLERANCE = 1e-10
N, WIDTH, VOCABULARY = 11, 6, 17

pytestmark = pytest.mark.usefixtures("one_thread")


class Head:
    """What the functions read of a model: its head and its configuration."""

    def __init__(self, head: nn.Module | None = None, *, vocabulary: int = VOCABULARY, bias: bool = True) -> None:
        if head is None:
            torch.manual_seed(0)
            head = nn.Linear(WIDTH, vocabulary, bias=bias).double()
        self.head = head
        self.config = LlamaConfig(vocab_size=vocabulary)

    def get_output_embeddings(self) -> nn.Module:
        return self.head


class Wrapped(nn.Module):
    """A head that is no plain linear layer, as adapters and quantisation make it."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, hidden: Tensor) -> Tensor:
        return self.inner(hidden)


def hidden_and_labels(n: int = N, *, vocabulary: int = VOCABULARY) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    hidden = 3 * torch.randn(n, WIDTH, generator=generator, dtype=torch.float64)
    return hidden.requires_grad_(), torch.randint(vocabulary, (n,), generator=generator)


def full_logps(head: nn.Module, hidden: Tensor, labels: Tensor, transform: Callable = lambda z: z) -> Tensor:
    """Return what must come out, from all logits at once."""
    logits = transform(head(hidden).to(torch.promote_types(hidden.dtype, torch.float32)))
    return logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]


def gradients(logps: Tensor, *of: Tensor | None) -> list[Tensor]:
    """Return the gradient of a sum in which every token has a weight of its own; the first weighs nothing."""
    factors = torch.randn(len(logps), generator=torch.Generator().manual_seed(2), dtype=logps.dtype)
    factors[0] = 0
    return list(torch.autograd.grad((logps * factors).sum(), [t for t in of if t is not None]))


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = TOLERANCE) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert (one - other).abs().max() <= tolerance * max(1, other.abs().max())


# Values and gradients


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, N, N + 5, None])
def test_chunks_give_the_values_and_gradients_of_all_logits(chunk: int | None, wrapped: bool, bias: bool) -> None:
    """Of hidden states, weight and bias, for the written-out gradient and for heads that are checkpointed."""
    model = Head(bias=bias)
    linear = model.head
    if wrapped:
        model.head = Wrapped(linear)
    hidden, labels = hidden_and_labels()
    found = label_logps(model, hidden, labels, chunk=chunk)
    expected = full_logps(linear, hidden, labels)
    assert_close([found], [expected])
    assert_close(
        gradients(found, hidden, linear.weight, linear.bias), gradients(expected, hidden, linear.weight, linear.bias)
    )


@pytest.mark.parametrize("chunk", [1, 4, None])
def test_gradient_by_finite_differences(chunk: int | None) -> None:
    """torch.autograd.gradcheck: every derivative against the difference of two values, of hidden, weight and bias."""
    model = Head()
    hidden, labels = hidden_and_labels(5)
    inputs = (hidden, model.head.weight, model.head.bias)
    assert torch.autograd.gradcheck(lambda h, w, b: label_logps(model, h, labels, chunk=chunk), inputs)


def test_gradients_by_hand_of_one_token() -> None:
    """Two words with logits 0 and log 3: probabilities 1/4 and 3/4.

    The gradient of the first word's log-probability is (1 - 1/4, -3/4) on the logits: 3/4 of weight[0] - weight[1] on the hidden
    state, and the hidden state times (3/4, -3/4) on the weights.
    """
    head = nn.Linear(2, 2, bias=False).double()
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 1.0]]))
    hidden = torch.tensor([[5.0, 3.0]], dtype=torch.float64).log().requires_grad_()
    logp = label_logps(Head(head, vocabulary=2), hidden, torch.tensor([0]))
    assert logp.exp().item() == pytest.approx(1 / 4)
    of_hidden, of_weight = torch.autograd.grad(logp.sum(), [hidden, head.weight])
    assert of_hidden.tolist() == [pytest.approx([0, -3 / 4])]
    state = hidden[0].tolist()
    assert of_weight.tolist() == [pytest.approx([s * 3 / 4 for s in state]), pytest.approx([-s * 3 / 4 for s in state])]


def test_no_tokens_give_no_values_and_no_gradients() -> None:
    model = Head()
    hidden, labels = hidden_and_labels(0)
    found = label_logps(model, hidden, labels)
    assert found.shape == (0,)
    assert all(not g.any() for g in torch.autograd.grad(found.sum(), [hidden, model.head.weight, model.head.bias]))


@pytest.mark.parametrize("chunk", [3, N])
@pytest.mark.parametrize("frozen", ["head", "hidden"])
def test_only_what_is_trained_gets_a_gradient(frozen: str, chunk: int) -> None:
    """A frozen head, as with adapters, and frozen hidden states: the other half gets the whole gradient."""
    model = Head()
    hidden, labels = hidden_and_labels()
    expected = gradients(full_logps(model.head, hidden, labels), hidden, model.head.weight, model.head.bias)
    if frozen == "head":
        model.head.requires_grad_(False)
        found = gradients(label_logps(model, hidden, labels, chunk=chunk), hidden)
        assert_close(found, expected[:1])
        assert model.head.weight.grad is None
    else:
        found = gradients(label_logps(model, hidden.detach(), labels, chunk=chunk), model.head.weight, model.head.bias)
        assert_close(found, expected[1:])


def test_tied_embeddings_get_the_gradient_of_both_ends(llama: Any) -> None:
    """The embedding is the head: its gradient is the sum of what comes in as input and as output, as with full logits."""
    model = llama(tie_word_embeddings=True)
    assert model.lm_head.weight is model.model.embed_tokens.weight
    prompt, response = [3, 4, 5], [6, 7, 2]
    logits = model(torch.tensor([prompt + response])).logits[0, 2:5].log_softmax(-1)
    expected = torch.autograd.grad(logits[[0, 1, 2], response].sum(), model.lm_head.weight)[0]
    logps = response_logps(model, [prompt], [[response]], sharing="chosen")
    found = torch.autograd.grad(logps.sum(), model.lm_head.weight)[0]
    assert_close([found], [expected], 1e-6)


# Precision


def test_bfloat16_states_come_close_and_values_are_float32() -> None:
    """bfloat16 has 8 bits: the inputs are off by 2**-9 of themselves, and so are logits of about 10, by 0.02 to 0.05."""
    model = Head()
    hidden, labels = hidden_and_labels()
    expected = full_logps(model.head, hidden, labels)
    of_hidden, of_weight, of_bias = gradients(expected, hidden, model.head.weight, model.head.bias)
    half = Head(Head().head.bfloat16())
    rounded = hidden.detach().bfloat16().requires_grad_()
    found = label_logps(half, rounded, labels, chunk=4)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 0.1
    grads = gradients(found, rounded, half.head.weight, half.head.bias)
    assert {g.dtype for g in grads} == {torch.bfloat16}
    for one, other in zip(grads, (of_hidden, of_weight, of_bias), strict=True):
        assert (one - other).abs().max() < 0.03 * other.abs().max()


def test_gradients_of_a_bfloat16_head_are_summed_over_chunks_in_float32() -> None:
    """4096 equal tokens one by one: a bfloat16 sum of equal terms stops growing behind 256 of them."""
    n = 4096
    half = Head(Head().head.bfloat16())
    hidden = torch.ones(n, WIDTH, dtype=torch.bfloat16)
    labels = torch.zeros(n, dtype=torch.long)
    of = (half.head.weight, half.head.bias)
    one, whole = (torch.autograd.grad(label_logps(half, hidden, labels, chunk=c).sum(), of) for c in (1, n))
    for value, expected in zip(one, whole, strict=True):
        assert (value - expected).abs().max() < 0.01 * expected.abs().max()


def test_autocast_gives_the_gradients_of_full_logits_under_autocast() -> None:
    """Logits of the backward pass must be those of the forward pass, in bfloat16 both.

    Probabilities then sum to one, so that the gradient of the bias, summed over the vocabulary, is 0: to 1e-5 in float32, where
    products in another precision leave 0.04.
    """
    torch.manual_seed(0)
    linear = nn.Linear(32, 50)
    nn.init.normal_(linear.weight, std=0.5)
    model = Head(linear, vocabulary=50)
    hidden = torch.randn(40, 32, requires_grad=True)
    labels = torch.randint(50, (40,))
    exact = gradients(full_logps(linear, hidden, labels), hidden, linear.weight, linear.bias)
    with torch.autocast("cpu", torch.bfloat16):
        found = label_logps(model, hidden, labels, chunk=7)
        ordinary = full_logps(linear, hidden, labels)
    assert (found - ordinary).abs().max() < 1e-5
    grads = gradients(found, hidden, linear.weight, linear.bias)
    assert grads[2].sum().abs() < 1e-2
    for one, other in zip(grads, exact, strict=True):
        assert (one - other).abs().max() < 0.015 * other.abs().max()


# What models do to their logits

SIZES = {
    "vocab_size": 23,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.5,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
SCALED = {
    "gemma2": ("Gemma2", {"head_dim": 4, "final_logit_softcapping": 1.5}),
    "gemma2 without a cap": ("Gemma2", {"head_dim": 4, "final_logit_softcapping": None}),
    "gemma3": ("Gemma3Text", {"head_dim": 4, "final_logit_softcapping": 1.5}),
    "cohere": ("Cohere", {"logit_scale": 0.3}),
    "cohere2": ("Cohere2", {"logit_scale": 0.3}),
    "granite": ("Granite", {"logits_scaling": 3.0}),
    "qwen2": ("Qwen2", {}),
    "hyperclovax": ("HyperCLOVAX", {"logits_scaling": 3.0}),
    "recurrent gemma": ("RecurrentGemma", {"logits_soft_cap": 0.2, "lru_width": 16, "block_types": ["attention"]}),
    "falcon h1": ("FalconH1", {"lm_head_multiplier": 3.0, "mamba_d_ssm": 16, "mamba_n_heads": 4, "mamba_d_head": 4}),
}


def build(name: str) -> nn.Module:
    import transformers

    kind, config = SCALED[name]
    torch.manual_seed(0)
    made = getattr(transformers, f"{kind}Config")(**{**SIZES, **config})
    return transformers.AutoModelForCausalLM.from_config(made).double().eval()


@pytest.mark.parametrize("name", SCALED)
def test_logits_and_values_are_those_of_the_model_itself(name: str) -> None:
    """Soft caps, factors and divisors behind the head, against ``model(...).logits``, with gradients of every weight."""
    model = build(name)
    ids = torch.tensor([[3, 4, 5, 6, 7, 8, 9, 2]])
    labels = ids[0, 1:]
    logits = model(ids).logits[0, :-1]
    hidden = model.base_model(input_ids=ids).last_hidden_state[0, :-1]
    assert (logits_of(model, hidden) - logits).abs().max() < 1e-6
    expected = logits.log_softmax(-1).gather(-1, labels[:, None])[:, 0]
    weights = [p for p in model.parameters() if p.requires_grad]
    expected_gradients = torch.autograd.grad(expected.sum(), weights, retain_graph=True, allow_unused=True)
    for chunk in (2, None):
        found = label_logps(model, hidden, labels, chunk=chunk)
        assert (found - expected).abs().max() < 1e-6
        grads = torch.autograd.grad(found.sum(), weights, retain_graph=True, allow_unused=True)
        largest = max(g.abs().max() for g in expected_gradients if g is not None)
        for one, other in zip(grads, expected_gradients, strict=True):
            assert (one is None) == (other is None)
            assert one is None or (one - other).abs().max() < 1e-6 * largest


def test_the_models_of_the_test_above_change_their_logits() -> None:
    """The negative control: behind the head alone, values are off by more than 0.1 nats."""
    for name, (_, config) in SCALED.items():
        model = build(name)
        ids = torch.tensor([[3, 4, 5, 6, 7, 8]])
        with torch.no_grad():
            plain = model.get_output_embeddings()(model.base_model(input_ids=ids).last_hidden_state)
            moved = (plain.log_softmax(-1) - model(ids).logits.log_softmax(-1)).abs().max()
        is_plain = name in ("qwen2", "gemma2 without a cap")
        assert moved < 1e-6 if is_plain else moved > 0.1, (name, config)


# Memory


class LargestTensor(TorchDispatchMode):
    """Notes the elements of the largest tensor that any operation returns, apart from tensors of as many as ``ignored``."""

    def __init__(self, ignored: int = 0) -> None:
        super().__init__()
        self.ignored = ignored
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.numel() != self.ignored:
                self.elements = max(self.elements, value.numel())
        return result


def elements(logps: Callable[[], Tensor], weight: Tensor) -> tuple[int, int]:
    """Return the elements of the largest tensor of a forward and backward pass, and of all tensors kept for the latter.

    The weight of the head and its gradient do not count.
    """
    kept = []

    def keep(value: Tensor) -> Tensor:
        kept.append(value.numel() if value.numel() != weight.numel() else 0)
        return value

    with LargestTensor(weight.numel()) as seen:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            values = logps()
        values.sum().backward()
    return seen.elements, sum(kept)


TOKENS = 300
BUDGET = 2**16
"""Elements of a chunk's logits, instead of millions: the vocabularies of the test stay large beside it."""


def set_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(lm_head.CHUNK_BYTES, "cpu", 4 * BUDGET)
    monkeypatch.setattr(lm_head, "MIN_CHUNK", 1)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("vocabulary", [2**10, 2**13, 2**16])
def test_no_tensor_grows_with_the_vocabulary(monkeypatch: pytest.MonkeyPatch, vocabulary: int, wrapped: bool) -> None:
    """1k, 8k and 64k words for 300 tokens: no tensor has more elements than a chunk may, and no chunk is kept."""
    set_budget(monkeypatch)
    linear = nn.Linear(WIDTH, vocabulary, bias=False)
    model = Head(Wrapped(linear) if wrapped else linear, vocabulary=vocabulary)
    hidden = torch.randn(TOKENS, WIDTH, requires_grad=True)
    labels = torch.randint(vocabulary, (TOKENS,))
    assert TOKENS * vocabulary > 4 * BUDGET
    largest, kept = elements(lambda: label_logps(model, hidden, labels), linear.weight)
    assert largest <= BUDGET
    assert kept <= BUDGET
    # The control: all logits at once.
    largest, kept = elements(lambda: full_logps(linear, hidden, labels), linear.weight)
    assert largest == TOKENS * vocabulary
    assert kept >= TOKENS * vocabulary


@pytest.mark.parametrize("sharing", ["prefix", "packed", "chosen", "none"])
def test_no_tensor_of_a_whole_model_holds_all_logits(monkeypatch: pytest.MonkeyPatch, llama: Any, sharing: Any) -> None:
    """The same through a Llama with 64k words: 12 response tokens, logits of one of them at a time."""
    set_budget(monkeypatch)
    vocabulary = 2**16
    model = llama(vocabulary, layers=1)
    prompts, responses = [[3, 4, 5], [6]], [[[7, 8, 2], [9, 10, 2]], [[11, 12, 2], [13, 14, 2]]]
    largest, kept = elements(lambda: response_logps(model, prompts, responses, sharing=sharing), model.lm_head.weight)
    assert largest <= BUDGET
    assert kept < 2 * vocabulary  # the layers keep some for themselves

    def plain() -> Tensor:
        ids = torch.tensor([[3, 4, 5, 7, 8, 2]])
        return model(ids).logits[0].log_softmax(-1).gather(-1, ids.T)

    assert elements(plain, model.lm_head.weight)[0] == 6 * vocabulary


def test_chunks_that_are_not_asked_for_hold_the_bytes_of_their_device_and_64_tokens_at_least() -> None:
    """8 MiB of float32 on a CPU: 2**21 logits, or 2048 tokens of a vocabulary of 1k; 64 of one of 64k, not 32."""
    assert lm_head.CHUNK_BYTES["cpu"] == 2**23
    for vocabulary, tokens, rows in ((2**10, 2**12, 2**11), (2**16, 128, 64)):
        linear = nn.Linear(1, vocabulary, bias=False)
        model = Head(linear, vocabulary=vocabulary)
        hidden, labels = torch.randn(tokens, 1), torch.zeros(tokens, dtype=torch.long)
        with torch.no_grad(), LargestTensor() as seen:
            label_logps(model, hidden, labels)
        assert seen.elements == rows * vocabulary


@pytest.mark.parametrize("name", SCALED)
def test_heads_that_are_understood_pass_the_check(name: str) -> None:
    check_head(build(name))


def test_a_head_that_is_not_understood_is_refused() -> None:
    """ModernBERT's decoder has a layer between the last hidden states and the output embeddings."""
    from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = ModernBertDecoderConfig(**sizes, num_attention_heads=2, pad_token_id=0)
    with pytest.raises(InputError, match="LM head of this model is not understood"):
        check_head(ModernBertDecoderForCausalLM(config).eval())
