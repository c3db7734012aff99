"""Operations, memory and bytes of each kind of work; pure arithmetic.

Operations follow the usual count of 2 for each weight and token forward and 4 backward, plus attention (4 x layers x width x
context for each token). Memory of training is that of mixed precision with AdamW: 16 bytes a weight.
"""

from __future__ import annotations

from dataclasses import dataclass

from selfcontrast.planning.machines import Machine
from selfcontrast.planning.shapes import Shape
from selfcontrast.schema import Execution, Model, Optimisation

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

KV_SHARE = 0.9
"""Share of a device's memory that weights and cache of a sampler may take, as vLLM sets aside."""

LARGEST_BATCH = 256
"""Responses that a sampler runs together at most: vLLM's default."""

HF_FACTOR = 0.3
"""Speed of the Hugging Face back-end on a GPU, as a share of vLLM's: assumed. A CPU's constants are its own."""

POOL_BYTES = 9.0
"""Stored bytes for each token of a pool: text and ids, compressed, about 5; the reference's log-probability 4."""


SKETCH_BYTES = 30
"""Bytes that the sketch of a gradient moves for each weight: 3 ns at a core's 10 GB/s, measured with 29 and 100 M weights."""

SIGN_S = 9e-9
"""Seconds to draw the sign of a weight, once in a job, on a core whatever the device: measured with 29 and 100 M weights."""


@dataclass(frozen=True)
class Lengths:
    """Mean tokens of a data set, and where the figures come from: ``measured``, ``study`` or ``assumed``."""

    prompt: float
    response: float
    source: str


def forward(shape: Shape, tokens: float, *, head_tokens: float, context: float) -> float:
    """Return the operations of a forward pass, of which ``head_tokens`` reach the output matrix."""
    attention = 4.0 * shape.layers * shape.width * context
    return tokens * (2.0 * shape.layer_weights + attention) + head_tokens * 2.0 * shape.head_weights


def group_tokens(sharing: str, lengths: Lengths, n: int) -> tuple[float, float]:
    """Return the tokens that run for a group with n negatives, and those of them that reach the output matrix."""
    p, r = lengths.prompt, lengths.response
    if sharing == "none":
        return 2 * n * (p + r), 2 * n * r
    if sharing == "chosen":
        return (n + 1) * (p + r), (n + 1) * r
    return p + (n + 1) * r, (n + 1) * r


def training_operations(
    shape: Shape, *, tokens: float, head_tokens: float, context: float, training: Optimisation, execution: Execution
) -> float:
    """Return the operations of forward and backward passes over so many tokens.

    Adapters save the products for the gradients of the frozen weights; checkpointing costs one more forward pass; the
    output matrix is always run twice forward (lm_head.py).
    """
    layers = forward(shape, tokens, head_tokens=0, context=context)
    head = forward(shape, 0, head_tokens=head_tokens, context=0)
    backward = 1 if training.lora else 2
    return layers * (1 + backward + execution.gradient_checkpointing) + head * (2 + backward)


def training_memory(shape: Shape, model: Model, training: Optimisation, *, tokens: float) -> float:
    """Return the bytes that each device needs while it trains, with ``tokens`` running together."""
    stored = BYTES[model.dtype]
    computed = 2 if training.precision == "bf16" else stored
    if training.lora:
        frozen = 0.6 if training.lora.quantise == "nf4" else stored
        adapters = training.lora.r * shape.layers * (8 * shape.width + 3 * (shape.width + shape.inner))
        states = frozen * shape.weights + 16.0 * adapters
    else:
        held = 4 if training.precision == "bf16" else stored
        states = 4.0 * held * shape.weights
        if model.gpus > 1 and model.execution.strategy in ("fsdp", "zero3"):
            states /= model.gpus
        elif model.gpus > 1 and model.execution.strategy == "zero2":
            states = shape.weights * held * (1 + 3 / model.gpus)
    layer = computed * (8 * shape.width + 2 * shape.kv_width + 4 * shape.inner)
    kept = (
        computed * shape.width * shape.layers + layer
        if model.execution.gradient_checkpointing
        else layer * shape.layers
    )
    return states + tokens * kept


def sampling_seconds(
    shape: Shape, machine: Machine, *, model: Model, answers: float, n_responses: int, lengths: Lengths, devices: int
) -> tuple[float, float]:
    """Return the seconds of sampling so many answers with tensor parallelism, and the bytes each device holds.

    A step reads all weights and the caches of the running answers, or is bound by its operations; prompts run once for
    their answers.
    """
    number = BYTES[model.dtype]
    share = machine.sample_share * (HF_FACTOR if model.gpus and model.backend == "hf" else 1)
    context = lengths.prompt + lengths.response
    weights = shape.weights * number / devices
    cache = shape.kv_bytes(number) / devices
    room = max(0.0, KV_SHARE * machine.memory - weights)
    batch = max(1.0, min(LARGEST_BATCH, answers, room / (cache * context)))
    operations = forward(shape, batch, head_tokens=batch, context=context) / devices
    read = weights + batch * cache * context
    step = max(operations / machine.flops, read / machine.bandwidth) / share
    prefill = forward(shape, answers / n_responses * lengths.prompt, head_tokens=0, context=lengths.prompt / 2)
    seconds = answers / batch * lengths.response * step + prefill / devices / (machine.flops * machine.score_share)
    return seconds, weights + batch * cache * context


def sketch_seconds(shape: Shape, machine: Machine, *, gradients: int) -> float:
    """Return the seconds in which so many gradients of all weights are sketched, with the drawing of the sketch's signs."""
    return shape.weights * (SIGN_S + gradients * SKETCH_BYTES / machine.bandwidth)
