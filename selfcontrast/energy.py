"""Energy of the GPUs that a process sees, from NVML's counters."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any


def read_joules() -> float | None:
    """Return the energy that the visible GPUs have taken since their driver was loaded, in joules.

    None without the package nvidia-ml-py, without a driver, or on GPUs before Volta, which do not count. A difference of two
    readings holds for one job alone if no other uses its GPUs.
    """
    try:
        import pynvml
    except ImportError:
        return None
    with suppress(pynvml.NVMLError):
        pynvml.nvmlInit()
        try:
            handles = [_handle(pynvml, name) for name in _visible(pynvml)]
            return sum(pynvml.nvmlDeviceGetTotalEnergyConsumption(h) for h in handles) / 1000
        finally:
            pynvml.nvmlShutdown()
    return None


def _visible(pynvml: Any) -> list[str]:
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip()]
    return [str(i) for i in range(pynvml.nvmlDeviceGetCount())]


def _handle(pynvml: Any, name: str) -> Any:
    by_index = pynvml.nvmlDeviceGetHandleByIndex
    by_uuid = pynvml.nvmlDeviceGetHandleByUUID
    return by_index(int(name)) if name.isdigit() else by_uuid(name)
