"""Log-probabilities of given tokens from hidden states, without a tensor of tokens x vocabulary.

The hidden states reach the LM head in chunks; the logits of a chunk are thrown away and computed again in the backward
pass. So memory does not grow with the vocabulary, for one more product with the head.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHUNK_BYTES = {"cpu": 2**23, "cuda": 2**28}
"""Bytes of the float32 logits of one chunk, by kind of device: on a CPU a chunk should stay in the cache."""

MIN_CHUNK = 64
"""Tokens of a chunk at least, whatever the vocabulary: a product with fewer rows wastes the device."""


def backbone(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformer below the head, whose output has the last hidden states."""
    below: PreTrainedModel = model.base_model
    # Llama 4's text model names as its base what only the model with images has.
    return below if below is not model else getattr(model, "model", model)


def label_logps(model: PreTrainedModel, hidden: Tensor, labels: Tensor, *, chunk: int | None = None) -> Tensor:
    """Return ``log softmax(head(hidden[i]))[labels[i]]`` in nats, shape ``(tokens,)``, in float32 at least.

    Args:
        hidden: last hidden states, ``(tokens, width)``.
        labels: token ids, ``(tokens,)``.
        chunk: tokens whose logits exist at one time; by default as many as ``CHUNK_BYTES`` allows.
    """
    head = model.get_output_embeddings()
    transform = _logit_transform(model)
    if chunk is None:
        chunk = max(MIN_CHUNK, CHUNK_BYTES.get(hidden.device.type, 2**28) // (4 * _vocabulary(model)))
    if torch.is_autocast_enabled(hidden.device.type):  # the backward pass runs outside of it
        hidden = hidden.to(torch.get_autocast_dtype(hidden.device.type))
    if transform is None and type(head) is torch.nn.Linear:
        logps: Tensor = _LabelLogps.apply(hidden, head.weight, head.bias, labels, chunk)
        return logps

    def of_chunk(part: Tensor, wanted: Tensor) -> Tensor:
        logits = _at_least_float32(head(part))
        if transform is not None:
            logits = transform(logits)
        return logits.log_softmax(-1).gather(-1, wanted[:, None])[:, 0]

    parts = zip(hidden.split(chunk), labels.split(chunk), strict=True)
    return torch.cat([checkpoint(of_chunk, *part, use_reentrant=False) for part in parts])


def logits_of(model: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Return the logits of a few hidden states, ``(..., vocabulary)``, as the model itself would: for sampling."""
    logits: Tensor = model.get_output_embeddings()(hidden)
    transform = _logit_transform(model)
    return logits if transform is None else transform(logits)


def _vocabulary(model: PreTrainedModel) -> int:
    return int(model.config.get_text_config().vocab_size)


def _at_least_float32(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _logit_transform(model: PreTrainedModel) -> Callable[[Tensor], Tensor] | None:
    """Return what a model does to the logits behind its head, from its configuration; None for most models."""
    config = model.config.get_text_config()
    cap = getattr(config, "final_logit_softcapping", None) or getattr(config, "logits_soft_cap", None)  # Gemma
    if cap:
        return lambda z: torch.tanh(z / cap) * cap
    scale = getattr(config, "logit_scale", None) or getattr(config, "lm_head_multiplier", None)  # Cohere, Falcon-H1
    divisor = getattr(config, "logits_scaling", None)  # Granite
    if config.model_type == "hyperclovax":  # the same name, the other way round
        scale, divisor = divisor, None
    if scale is not None and scale != 1:
        return lambda z: z * scale
    if divisor is not None and divisor != 1:
        return lambda z: z / divisor
    return None


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Compare the logits of this module with the model's own, on one token.

    Raises:
        InputError: they differ: the model does something behind its last hidden states that is not known here.
    """
    ids = torch.zeros((1, 1), dtype=torch.long, device=model.device)
    hidden = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state
    found, expected = logits_of(model, hidden).float(), model(input_ids=ids, use_cache=False).logits.float()
    largest = (found - expected).abs().max().item()
    if largest > 1e-2 * max(1.0, expected.abs().max().item()):  # room for bfloat16
        raise InputError(
            "the LM head of this model is not understood: log-probabilities would be wrong",
            expected="logits = head(last hidden state), capped or scaled as the configuration says",
            found=f"logits that differ by up to {largest:.3g} ({type(model).__name__})",
            remedy="add what the model does to its logits to selfcontrast/lm_head.py, or take another model",
        )


class _LabelLogps(torch.autograd.Function):
    """A linear head, log-softmax and the choice of the labels in one; the backward pass makes the logits again.

    With upstream gradients ``g``, the gradient of the logits is ``g_i * (onehot(label_i) - softmax_i)``; it is formed in
    place for one chunk, and goes into the gradients of hidden states and head at once.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
        cast_weight, cast_bias = _cast(weight, bias, hidden.dtype)
        kind = torch.promote_types(hidden.dtype, torch.float32)
        logps = torch.empty(len(hidden), dtype=kind, device=hidden.device)
        normaliser = torch.empty_like(logps)
        for i in range(0, len(hidden), chunk):
            part = slice(i, i + chunk)
            logits = torch.nn.functional.linear(hidden[part], cast_weight, cast_bias).to(kind)
            normaliser[part] = logits.logsumexp(-1)
            logps[part] = logits.gather(-1, labels[part, None])[:, 0] - normaliser[part]
        ctx.save_for_backward(hidden, weight, bias, labels, normaliser)
        ctx.chunk = chunk
        return logps

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels, normaliser = ctx.saved_tensors
        for_hidden, for_weight, for_bias = ctx.needs_input_grad[:3]
        cast_weight, cast_bias = _cast(weight, bias, hidden.dtype)
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        # Sums over chunks in float32 at least: bfloat16 would lose the small ones.
        grad_weight = torch.zeros_like(weight, dtype=normaliser.dtype) if for_weight else None
        grad_bias = torch.zeros_like(bias, dtype=normaliser.dtype) if bias is not None and for_bias else None
        for i in range(0, len(hidden), ctx.chunk):
            part = slice(i, i + ctx.chunk)
            g = upstream[part, None]
            logits = torch.nn.functional.linear(hidden[part], cast_weight, cast_bias).to(normaliser.dtype)
            grad = logits.sub_(normaliser[part, None]).exp_().mul_(-g)
            grad.scatter_add_(1, labels[part, None], g)
            if grad_bias is not None:
                grad_bias += grad.sum(0)
            grad = grad.to(hidden.dtype)
            if grad_hidden is not None:
                torch.mm(grad, cast_weight, out=grad_hidden[part])
            if grad_weight is not None:
                if grad_weight.dtype == hidden.dtype:
                    grad_weight.addmm_(grad.T, hidden[part])
                else:
                    grad_weight += grad.T @ hidden[part]
        return (
            grad_hidden,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None if grad_bias is None or bias is None else grad_bias.to(bias.dtype),
            None,
            None,
        )


def _cast(weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor | None]:
    """Return the head in the type of the hidden states, which under mixed precision is not that of the weights."""
    return weight.to(dtype), None if bias is None else bias.to(dtype)
