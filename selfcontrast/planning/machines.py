"""Machines and the constants of the cost model, each with its source."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Machine:
    """A GPU, or a CPU core, as the cost model sees it.

    Attributes:
        flops: dense operations a second of one device, in the type that models compute in.
        bandwidth: bytes a second from the device's memory.
        memory: bytes of one device.
        train_share: share of ``flops`` that training reaches.
        score_share: share of ``flops`` that forward passes over known tokens reach.
        sample_share: share of the roofline (weights and cache read once a step, or ``flops``) that sampling reaches.
        start_s: seconds until a job with a model begins to work: imports, weights.
        step_s: seconds that a small job without a model takes.
        source: where the constants come from.
    """

    name: str
    flops: float
    bandwidth: float
    memory: float
    train_share: float
    score_share: float
    sample_share: float
    start_s: float
    step_s: float
    source: str


_ASSUMED = (
    "operations, bandwidth and memory: the vendor's data sheet; shares (training 0.40, scoring 0.45, sampling 0.50 of the "
    "roofline) and 90 s a start: assumed, not measured"
)


def _gpu(name: str, flops: float, bandwidth: float, memory: float) -> Machine:
    return Machine(name, flops, bandwidth, memory, 0.40, 0.45, 0.50, 90.0, 1.0, _ASSUMED)


MACHINES = {
    "h200": _gpu("H200", 989e12, 4.8e12, 141e9),
    "h100": _gpu("H100 SXM", 989e12, 3.35e12, 80e9),
    "a100": _gpu("A100 80 GB", 312e12, 2.04e12, 80e9),
    "rtx4090": _gpu("RTX 4090", 165e12, 1.01e12, 24e9),
    "cpu": Machine(
        "one CPU core",
        107e9,
        10e9,
        12e9,
        train_share=0.30,
        score_share=0.30,
        sample_share=0.30,
        start_s=4.0,
        step_s=0.4,
        source="107 GFLOP/s a core and 4 s a start: measured (docs/performance.md); shares: fitted to the published run of "
        "`tiny` (selfcontrast/planning/machines.py)",
    ),
}
"""Devices by the name of the flag --machine."""
