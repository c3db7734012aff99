"""Tables of how far a study can be trusted: which arm is best, where variance comes from, what could be seen, trends."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

from selfcontrast.artifacts import Artifact
from selfcontrast.cells import Cell
from selfcontrast.stats import LEVEL
from selfcontrast.stats.power import smallest_difference
from selfcontrast.stats.trend import find_trend
from selfcontrast.stats.variance import split_variance
from selfcontrast.tables import UNPOOLED, compare_arms, compared_pairs


def best_table(cells: list[Cell]) -> pd.DataFrame:
    """Return for each metric the best arm, and the paired difference of every other to it, with Holm's correction.

    ``distinguishable`` is whether an arm is worse at the 5 % level after correction. That the best was picked from the same
    numbers makes small differences look a little larger than they are.
    """
    rows = []
    for cell in cells:
        for metric in cell.merits:
            values = {arm: v for arm, v in cell.values(metric).items() if not np.isnan(v).all()}
            if not values:
                continue
            best = max(values, key=lambda a: np.nanmean(values[a]))
            itself = [best, best, 0.0, 0.0, 0.0, 1.0, 1.0]
            rows.append([*cell.key, metric, *itself, False, 0.0, 0.0, 1.0, 1.0, "none"])
            for row, unpooled in compare_arms(cell, metric, [(a, best) for a in values if a != best]):
                rows.append([*cell.key, metric, *row[:-1], row[-2] < 1 - LEVEL, *unpooled])
    columns = ["dataset", "model", "metric", "arm", "best", "difference", "low", "high", "p", "p_holm"]
    return pd.DataFrame(rows, columns=[*columns, "distinguishable", *UNPOOLED])


def variance_table(cells: list[Cell]) -> pd.DataFrame:
    """Return for each arm and metric what prompts, seeds, their interaction and single answers add to the variance."""
    rows = []
    for cell in cells:
        for metric in cell.metrics:
            for arm, answers in cell.answers(metric).items():
                c = split_variance(answers)
                counts = [c.n_prompts, c.n_seeds, c.n_samples]
                parts = [c.prompts, c.seeds, c.interaction, c.samples]
                rows.append([*cell.key, arm, metric, *counts, *parts, c.spread().se])
    columns = ["dataset", "model", "arm", "metric", "prompts", "seeds", "samples", "var_prompts", "var_seeds"]
    return pd.DataFrame(rows, columns=[*columns, "var_interaction", "var_samples", "standard_error"])


def power_table(cells: list[Cell]) -> pd.DataFrame:
    """Return for each comparison the smallest difference that it could see, as it is and with twice as much of each.

    The components are those of the paired differences, prompt by prompt, seed by seed and sample by sample.
    """
    rows = []
    for cell in cells:
        for metric in cell.compared:
            answers = cell.answers(metric)
            for a, b in compared_pairs(cell, metric):
                c = split_variance(answers[a] - answers[b])
                larger = [smallest_difference(c, **{what: 2}) for what in ("prompts", "seeds", "samples")]
                parts = [c.prompts, c.seeds, c.interaction, c.samples]
                rows.append(
                    [*cell.key, metric, a, b, c.n_prompts, *parts, c.spread().se, smallest_difference(c), *larger]
                )
    columns = ["dataset", "model", "metric", "arm", "compared_to", "prompts", "var_prompts", "var_seeds"]
    columns += ["var_interaction", "var_samples", "standard_error", "smallest", "twice_prompts", "twice_seeds"]
    return pd.DataFrame(rows, columns=[*columns, "twice_samples"])


def trend_table(cells: list[Cell]) -> pd.DataFrame:
    """Return for each method and selection with several n whether each metric rises with it."""
    rows = []
    for cell in cells:
        sweeps: defaultdict[tuple[str, str], dict[int, str]] = defaultdict(dict)
        for arm_id, arm in cell.arms.items():
            if arm.is_trained:
                sweeps[arm.method, arm.selection][arm.n] = arm_id
        for (method, selection), by_n in sweeps.items():
            for metric in cell.metrics if len(by_n) > 1 else ():
                values = cell.values(metric)
                if not all(arm in values for arm in by_n.values()):
                    continue
                trend = find_trend({n: values[arm] for n, arm in by_n.items()}, cell.resamples_of(metric))
                e, ns = trend.slope, " ".join(str(n) for n in sorted(by_n))
                found = [e.value, e.low, e.high, trend.p, trend.page_p, trend.direction]
                rows.append([*cell.key, method, selection, metric, ns, *found])
    columns = ["dataset", "model", "method", "selection", "metric", "n", "per_doubling", "low", "high", "p"]
    return pd.DataFrame(rows, columns=[*columns, "page_p", "direction"])


def stored_table(cells: list[Cell], manifest_of: Callable[[Cell], Path], name: str) -> pd.DataFrame:
    """Return one table that a step wrote for each data set and model, as one."""
    frames = []
    for cell in cells:
        frame = pd.DataFrame(Artifact.open(manifest_of(cell)).table(f"{name}.parquet"))
        frame.insert(0, "dataset", cell.layout.dataset)
        frame.insert(1, "model", cell.layout.model)
        frames.append(frame)
    return pd.concat([f for f in frames if len(f)] or frames, ignore_index=True)


def gradient_table(cells: list[Cell]) -> pd.DataFrame:
    """Return the variance of the gradient over n, predicted and measured; without ``figures.gradient``, no rows."""
    shown = cells[0].study.figures.gradient
    if shown is not None:
        return stored_table(cells, lambda cell: cell.layout.gradient(shown.pool), "gradient")
    columns = ["dataset", "model", "pool", "prompts", "negatives", "n", "predicted", "measured", "low", "high"]
    return pd.DataFrame(columns=[*columns, "zeta10", "zeta11"])
