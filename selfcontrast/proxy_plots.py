"""Figures that set a proxy against the truth."""

from __future__ import annotations

from collections.abc import Callable

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from selfcontrast.metrics._shown import units
from selfcontrast.plotting import CURVE, LINES, Tables, method_name, note
from selfcontrast.schema import Study

COLOURS = (CURVE, *LINES[1:])
"""Of the methods that train, in their order; the SFT model is grey."""


def overoptimisation(study: Study, tables: Tables) -> Figure:
    """Draw the mean truth of every arm over its mean proxy, with both intervals; arms that the proxy selected have a ring."""
    frame, rewards = tables["proxy"], tables["rewards"]
    keys = list(dict.fromkeys(zip(frame["dataset"], frame["model"], frame["proxy"], strict=True)))
    figure, grid = plt.subplots(1, len(keys), figsize=(4.6 * len(keys), 3.6), squeeze=False)
    methods = [m for m in study.methods if m in set(frame["method"])]
    trained = [m for m in methods if study.methods[m].train]
    colours = {m: COLOURS[trained.index(m) % len(COLOURS)] if m in trained else LINES[0] for m in methods}
    for ax, (dataset, model, proxy) in zip(grid[0], keys, strict=True):
        part = frame[(frame["dataset"] == dataset) & (frame["model"] == model) & (frame["proxy"] == proxy)]
        for method, rows in part.groupby("method", sort=False):
            ax.errorbar(
                rows["proxy_mean"],
                rows["truth_mean"],
                xerr=_bars(rows, "proxy"),
                yerr=_bars(rows, "truth"),
                fmt="o",
                ms=4,
                capsize=2,
                lw=1.0,
                color=colours[str(method)],
            )
        ringed = part[part["by_proxy"].astype(bool)]
        ax.plot(ringed["proxy_mean"], ringed["truth_mean"], "o", ms=11, mfc="none", mec="black", mew=1.0)
        ax.set_xlabel(f"mean {proxy} of an answer (proxy)")
        ax.set_ylabel(f"mean {study.evaluation.judge} of an answer (truth)")
        if len(keys) > 1:
            ax.set_title(f"{dataset}, {model}", fontsize=9)
    handles = [Line2D([], [], color=colours[m], marker="o", ms=4, lw=1.0, label=method_name(m)) for m in methods]
    ring = Line2D([], [], color="black", marker="o", ms=9, mfc="none", lw=0, label="selected by the proxy")
    handles += [ring] if frame["by_proxy"].astype(bool).any() else []
    figure.legend(handles=handles, loc="outside upper center", ncols=min(3, len(handles)))
    right = [f"{r['reward_model']} {100 * r['held_out_accuracy']:.1f} %" for _, r in rewards.iterrows()]
    text = f"Bars: 95 % over {units('prompts', len(study.seeds))}."
    note(figure, f"{text} Held-out pairs in the right order: {', '.join(right)}" if right else text)
    return figure


def _bars(rows: pd.DataFrame, what: str) -> list[pd.Series]:
    mean = rows[f"{what}_mean"]
    return [(mean - rows[f"{what}_low"]).clip(lower=0), (rows[f"{what}_high"] - mean).clip(lower=0)]


FIGURES: dict[str, Callable[[Study, Tables], Figure]] = {"overoptimisation": overoptimisation}
