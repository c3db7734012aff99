"""Training curves of every arm, thinned to what a figure can show."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from selfcontrast.reporting.blocks import number

POINTS = 60
"""Points of a curve; each is the mean of the steps around it."""

FIRST = ("loss", "margin", "accuracy", "kl", "chosen_logp", "rejected_logp", "grad_norm", "lr")
"""Figures of a step, in the order in which they are offered; others come behind them."""

History = Sequence[Mapping[str, float]]


def thin(values: Sequence[float], points: int = POINTS) -> list[float]:
    """Return the means of at most ``points`` consecutive parts of nearly equal length; NaN where a part has no value."""
    parts = np.array_split(np.asarray(values, dtype=float), min(points, len(values)))
    return [float(np.nanmean(p)) if not np.isnan(p).all() else float("nan") for p in parts]


def curves_of(histories: Iterable[tuple[str, str, int, History]]) -> list[dict[str, Any]]:
    """Return the curves: for each trained thing its steps, and for each figure the mean, lowest and highest over seeds.

    Seeds of an arm have the same steps; where one has fewer, the curve ends with the shortest.

    Args:
        histories: group (data set and model), arm, seed, records of its steps.
    """
    by_arm: dict[tuple[str, str], list[History]] = {}
    for group, arm, _, records in histories:
        if records:
            by_arm.setdefault((group, arm), []).append(records)
    found = []
    for (group, arm), seeds in by_arm.items():
        n_steps = min(len(records) for records in seeds)
        names = [name for name in dict.fromkeys(k for r in seeds[0] for k in r) if name != "step"]
        names.sort(key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
        figures = {}
        for name in names:
            rows = np.array([thin([r.get(name, np.nan) for r in records[:n_steps]]) for records in seeds])
            if not np.isnan(rows).all():
                figures[name] = [_numbers(rows.mean(0)), _numbers(rows.min(0)), _numbers(rows.max(0))]
        steps = thin([r["step"] for r in seeds[0][:n_steps]])
        found.append(
            {
                "group": group,
                "arm": arm,
                "seeds": len(seeds),
                "n_steps": n_steps,
                "steps": _numbers(np.array(steps)),
                "figures": figures,
            }
        )
    return found


def _numbers(values: Any) -> list[Any]:
    return [number(float(f"{v:.4g}")) for v in values.tolist()]
