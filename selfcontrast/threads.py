"""Threads of a step on the CPU, and the same bits from a process's first operation on."""

from __future__ import annotations

VECTOR_FUNCTIONS = ("cos", "sin", "exp", "log", "sqrt", "tanh", "erf")
"""Functions that PyTorch leaves to the vector library of MKL, and that models use."""


def use_threads(threads: int) -> None:
    """Compute on ``threads`` threads on the CPU, and choose the kernels of MKL before the first of them runs."""
    import torch

    torch.set_num_threads(threads)
    choose_kernels()


def choose_kernels() -> None:
    """Call each vector function of MKL once, on one number and therefore on one thread.

    MKL 2024.2, which PyTorch's packages for x86 carry, chooses its kernels at the first call. Where two threads make that
    call at once, one of them may take a kernel of low accuracy this one time (a cosine is off by 1.5e-4): in one process of a
    hundred here, which then had wrong rotary embeddings for one batch. Source: https://github.com/pytorch/pytorch/issues/188792.
    """
    import torch

    for dtype in (torch.float32, torch.float64):
        one = torch.ones(1, dtype=dtype)
        for name in VECTOR_FUNCTIONS:
            getattr(torch, name)(one)
