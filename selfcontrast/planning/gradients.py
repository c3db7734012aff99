"""What the variance of the gradient costs: a backward pass for each answer, sketched."""

from __future__ import annotations

from selfcontrast.planning.costs import BYTES, Lengths, forward
from selfcontrast.planning.machines import Machine
from selfcontrast.planning.shapes import shape_of
from selfcontrast.planning.stage import Stage
from selfcontrast.schema import Model

PASS_S = 0.012
"""Seconds of a backward pass by itself, beyond its operations and the sketch of its gradient: measured on one core."""

SKETCH_BYTES = 30
"""Bytes that the sketch of a gradient moves for each weight: 3 ns at a core's 10 GB/s, measured with 29 and 100 M weights."""

SIGN_S = 9e-9
"""Seconds to draw the sign of a weight, once in a job, on a core whatever the device: measured with 29 and 100 M weights."""


def gradient_stage(model: Model, machine: Machine, lengths: Lengths, *, prompts: int, negatives: int) -> Stage:
    """Return the stage of the rule gradient_noise: a backward pass for each target and each response.

    The sketch reads every weight's gradient, whatever the length of the response, and keeps a byte for each weight.
    """
    shape = shape_of(model)
    passes, length = prompts * (negatives + 1), lengths.prompt + lengths.response
    operations = 3 * forward(shape, passes * length, head_tokens=passes * lengths.response, context=length / 2)
    worked = operations / (machine.flops * machine.train_share) + passes * PASS_S
    worked += shape.weights * (SIGN_S + passes * SKETCH_BYTES / machine.bandwidth)
    seconds = machine.start_s + worked
    memory = 2 * float(shape.weights * BYTES[model.dtype]) + shape.weights
    devices = model.inference_gpus if model.gpus else 0
    return Stage("gradient_noise", 1, devices, passes, passes * length, seconds, seconds, memory)
