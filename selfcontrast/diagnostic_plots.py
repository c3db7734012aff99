"""Figures that explain a study: what its negatives are, and what more of them do to the gradient."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from selfcontrast.plotting import CURVE, LINES, Tables, note, selection_label
from selfcontrast.schema import Study

COLUMNS = 4
"""Panels side by side."""

SETS = {"pool": LINES[0], "candidates": CURVE, "negatives": LINES[1]}


def negatives(study: Study, tables: Tables) -> Figure:
    """Draw for each selection how alike to the target the pool, its candidates and the drawn negatives are.

    Every panel says which share of the negatives is as good as the target, beside that of the pool. A selection is shown at
    the n of the ablation, or else at its largest; those without a scorer have no panel.
    """
    bars = _of_one_n(tables["histograms"], study.figures.ablation_n)
    keys = list(dict.fromkeys(zip(bars["dataset"], bars["model"], bars["selection"], strict=True)))
    if not keys:
        return _empty("No selection of this study has a scorer\nby which its negatives could be drawn")
    several = len({key[:2] for key in keys}) > 1
    n_columns = min(COLUMNS, len(keys))
    n_rows = -(-len(keys) // n_columns)
    figure, grid = plt.subplots(
        n_rows, n_columns, figsize=(2.6 * n_columns, 2.1 * n_rows + 0.7), squeeze=False, sharex=True, sharey=True
    )
    for ax in grid.flat[len(keys) :]:
        ax.axis("off")
    for ax, key in zip(grid.flat, keys, strict=False):
        _panel(ax, _rows(bars, key), _rows(tables["negatives"], key))
        label = selection_label(study, key[2])
        ax.set_title(f"{key[0]}, {key[1]}: {label}" if several else label, fontsize=8.5)
    for ax in grid[:, 0]:
        ax.set_ylabel("share of the set (%)")
    for i, ax in enumerate(grid.flat[: len(keys)]):
        if i + n_columns >= len(keys):
            ax.set_xlabel(f"{' or '.join(dict.fromkeys(bars['scorer']))} similarity", fontsize=8.5)
            ax.tick_params(labelbottom=True)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(SETS))
    truth = ", ".join(dict.fromkeys(str(t) for t in tables["negatives"]["truth"].dropna()))
    note(
        figure,
        f"False: as good as the target by {truth or 'no scorer'}. Repeated: an earlier text of the same group. "
        "Histograms: first seed; shares: all seeds",
    )
    return figure


def gradient(study: Study, tables: Tables) -> Figure:
    """Draw the variance of a prompt's gradient over n: the curve that pairs predict, its floor, and what was measured."""
    frame = tables["gradient"]
    keys = list(dict.fromkeys(zip(frame["dataset"], frame["model"], strict=True)))
    figure, grid = plt.subplots(1, len(keys), figsize=(4.2 * len(keys), 3.2), squeeze=False)
    for ax, (dataset, model) in zip(grid[0], keys, strict=True):
        rows = frame[(frame["dataset"] == dataset) & (frame["model"] == model)].sort_values("n")
        shared, pair = rows["zeta10"].iloc[0], rows["zeta11"].iloc[0]
        n = np.geomspace(1, rows["n"].max(), 100)
        ax.plot(n, (shared + (pair - shared) / n) / pair, color=CURVE, lw=1.6, label="predicted from pairs")
        ax.axhline(shared / pair, color=LINES[0], ls="--", lw=1.2, label="floor: what prompt and target share")
        value, low, high = (rows[c] / pair for c in ("measured", "low", "high"))
        ax.errorbar(
            rows["n"],
            value,
            yerr=[(value - low).clip(lower=0), (high - value).clip(lower=0)],
            color=LINES[1],
            fmt="o",
            ms=4,
            capsize=2.5,
            lw=1.2,
            label="measured on other negatives",
        )
        ax.set_xscale("log", base=2)
        ax.set_xticks(rows["n"].tolist(), [str(x) for x in rows["n"]])
        ax.minorticks_off()
        ax.set_ylim(bottom=0)
        ax.set_xlabel("negatives for each prompt, n")
        ax.set_ylabel("variance of a prompt's gradient\n(of a single pair's)")
        if len(keys) > 1:
            ax.set_title(f"{dataset}, {model}", fontsize=9)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=1 if len(keys) == 1 else 3)
    first = frame.iloc[0]
    note(
        figure,
        f"DPO at the SFT model, {first['prompts']} prompts x {first['negatives']} responses. Bars: 95 % over prompts",
    )
    return figure


def _of_one_n(bars: pd.DataFrame, wanted: int) -> pd.DataFrame:
    if bars.empty:
        return bars
    by_selection = bars.groupby(["dataset", "model", "selection"])["n"]
    shown = by_selection.transform(lambda n: wanted if (n == wanted).any() else n.max())
    return bars[bars["n"] == shown]


def _rows(frame: pd.DataFrame, key: tuple[str, str, str]) -> pd.DataFrame:
    dataset, model, selection = key
    return frame[(frame["dataset"] == dataset) & (frame["model"] == model) & (frame["selection"] == selection)]


def _panel(ax: Axes, bars: pd.DataFrame, rows: pd.DataFrame) -> None:
    for name, colour in SETS.items():
        part = bars[bars["set"] == name]
        edges = np.append(part["low"].to_numpy(), part["high"].iloc[-1])
        share = 100 * part["count"].to_numpy() / max(1, part["count"].sum())
        ax.stairs(
            share, edges, color=colour, lw=1.4, fill=name == "pool", alpha=0.3 if name == "pool" else 1, label=name
        )
    rows = rows[rows["n"] == bars["n"].iloc[0]]
    lines = [f"n = {bars['n'].iloc[0]}"]
    if rows["false_negatives"].notna().any():
        false, pool = (100 * rows[c].mean() for c in ("false_negatives", "false_in_pool"))
        lines.append(f"false {false:.1f} % (pool {pool:.1f} %)")
    lines.append(f"repeated {100 * rows['repeated'].mean():.1f} %")
    ax.text(0.03, 0.96, "\n".join(lines), transform=ax.transAxes, va="top", fontsize=7.5)


def _empty(text: str) -> Figure:
    figure, ax = plt.subplots(figsize=(4.5, 1.6))
    ax.axis("off")
    ax.text(0.5, 0.5, text, ha="center", va="center")
    return figure


FIGURES: dict[str, Callable[[Study, Tables], Figure]] = {"negatives": negatives, "gradient": gradient}
