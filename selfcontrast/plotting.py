"""Figures, drawn from the tables alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from selfcontrast.metric_names import shown_metrics
from selfcontrast.schema import Study
from selfcontrast.tables import ALL_SEEDS

Tables = Mapping[str, pd.DataFrame]

# Okabe and Ito's colours, which readers with colour-blindness can tell apart; grey is the baseline.
CURVE = "#0072B2"
LINES = ("#6B6B6B", "#D55E00", "#009E73", "#CC79A7", "#E69F00")
DASHES = ("-", "--", "-.", ":", (0, (3, 1, 1, 1)))

plt.rcParams.update(
    {
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.alpha": 0.25,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "svg.hashsalt": "selfcontrast",
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "figure.constrained_layout.use": True,
        "figure.constrained_layout.wspace": 0.06,
    }
)


def save(figure: Figure, path: Path, suffix: str) -> None:
    """Write a figure without the date, so that the same tables give the same bytes."""
    dates = {"pdf": {"CreationDate": None}, "svg": {"Date": None}}
    figure.savefig(path, format=suffix, metadata=dates[suffix])


def scaling(study: Study, tables: Tables) -> Figure:
    """Draw each metric over the number of negatives, with intervals, and other arms as horizontal lines."""
    known = shown_metrics(study)
    return _over_n(study, tables, [m for m, s in known.items() if s.is_merit and not s.judge and not s.proxy])


def judges(study: Study, tables: Tables) -> Figure:
    """Draw what the judges say over the number of negatives, as ``scaling`` does for the other metrics."""
    return _over_n(study, tables, [m for m, shown in shown_metrics(study).items() if shown.judge])


def _over_n(study: Study, tables: Tables, wanted: Iterable[str]) -> Figure:
    frame = _over_seeds(tables["metrics"])
    metrics = [m for m in wanted if m in set(frame["metric"])]
    figure, axes = _grid(frame, metrics, width=3.5, height=3.2)
    known = shown_metrics(study)
    for (dataset, model, metric), ax in axes.items():
        part, shown = _part(frame, dataset, model, metric), known[metric]
        for i, arm in enumerate(study.figures.lines):
            rows = part[part["arm"] == arm]
            colour, dash = LINES[i % len(LINES)], DASHES[i % len(DASHES)]
            if shown.against_sft and rows.empty and i == 0:
                ax.axhline(50, color=colour, ls=dash, lw=1.3, label=_arm_label(arm))
            for _, row in rows.iterrows():
                value, low, high = (shown.factor * row[c] for c in ("value", "low", "high"))
                ax.axhspan(low, high, color=colour, alpha=0.10, lw=0)
                ax.axhline(value, color=colour, ls=dash, lw=1.3, label=_arm_label(arm))
        curve = part[(part["method"] + "-" + part["selection"]) == study.figures.scaling].sort_values("n")
        y, low, high = (shown.factor * curve[c] for c in ("value", "low", "high"))
        ax.errorbar(
            curve["n"],
            y,
            yerr=[y - low, high - y],
            color=CURVE,
            marker="o",
            ms=4,
            capsize=2.5,
            lw=1.6,
            label=f"{_method_label(study.figures.scaling)}",
        )
        ax.set_xscale("log", base=2)
        ax.set_xticks(curve["n"].tolist(), [str(n) for n in curve["n"]])
        ax.minorticks_off()
        ax.set_xlabel("negatives for each prompt, n")
        ax.set_ylabel(shown.axis)
    _legend_below(figure, axes)
    note(figure, _left_out(study, tables["selections"]))
    return figure


def filters(study: Study, tables: Tables) -> Figure:
    """Draw the selections at one n against each other, with the SFT model as a line."""
    frame = _over_seeds(tables["metrics"])
    method, known = study.figures.scaling.split("-")[0], shown_metrics(study)
    metrics = [m for m in ("win_vs_sft", "score") if m in set(frame["metric"])]
    figure, axes = _grid(
        frame,
        metrics,
        width=4.4,
        height=0.9
        + 0.34 * frame[(frame["n"] == study.figures.ablation_n) & (frame["method"] == method)]["selection"].nunique(),
    )
    for (dataset, model, metric), ax in axes.items():
        part = _part(frame, dataset, model, metric)
        shown = frame[(frame["n"] == study.figures.ablation_n) & (frame["method"] == method)]
        order = _part(shown, dataset, model, metrics[-1]).sort_values("value")["selection"].tolist()
        rows = _part(shown, dataset, model, metric).set_index("selection").loc[order].reset_index()
        y = np.arange(len(rows))
        value, low, high = (known[metric].factor * rows[c] for c in ("value", "low", "high"))
        ax.errorbar(value, y, xerr=[value - low, high - value], fmt="o", ms=5, capsize=2.5, color=CURVE, lw=1.4)
        ax.set_yticks(y, [selection_label(study, s) for s in rows["selection"]])
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.grid(axis="y", visible=False)
        ax.set_xlabel(known[metric].axis)
        baseline = part[part["n"] == 0]
        at = 50.0 if known[metric].against_sft else known[metric].factor * float(baseline["value"].iloc[0])
        ax.axvline(at, color=LINES[0], lw=1.3, label="SFT")
        ax.legend(loc="lower right")
    figure.suptitle(f"Which answers may be negatives (n = {study.figures.ablation_n})", fontsize=10)
    return figure


def length(study: Study, tables: Tables) -> Figure:
    """Draw the mean length of the answers of every arm."""
    frame = _over_seeds(tables["metrics"])
    n_arms = frame["arm"].nunique()
    figure, axes = _grid(frame, ["length"], width=5.6, height=0.9 + 0.24 * n_arms)
    for (dataset, model, metric), ax in axes.items():
        rows = _part(frame, dataset, model, metric).iloc[::-1]
        y = np.arange(len(rows))
        ax.errorbar(
            rows["value"],
            y,
            xerr=[rows["value"] - rows["low"], rows["high"] - rows["value"]],
            fmt="o",
            ms=4,
            capsize=2.5,
            color=CURVE,
            lw=1.3,
        )
        ax.set_yticks(
            y,
            [
                f"{_method_label(a.rsplit('-', 1)[0])}{'' if n == 0 else f', n = {n}'}"
                for a, n in zip(rows["arm"], rows["n"], strict=True)
            ],
        )
        ax.set_ylim(-0.6, len(rows) - 0.4)
        ax.grid(axis="y", visible=False)
        baseline = rows[rows["n"] == 0]["value"].iloc[0]
        ax.axvline(baseline, color=LINES[0], lw=1.3)
        ax.set_xlabel("mean length of an answer (tokens); vertical line: SFT")
    return figure


def similarity(study: Study, tables: Tables) -> Figure:
    """Draw the distribution of similarity at each level of the true score, over the pool that negatives come from."""
    frame = tables["similarity"]
    pairs = list(dict.fromkeys(zip(frame["dataset"], frame["model"], strict=True)))
    if not pairs:
        figure, ax = plt.subplots(figsize=(4.5, 1.6))
        ax.axis("off")
        ax.text(
            0.5,
            0.5,
            "This study names no scorer to plot against its judge\n(figures.similarity)",
            ha="center",
            va="center",
        )
        return figure
    figure, grid = plt.subplots(1, len(pairs), figsize=(4.6 * len(pairs), 3.2), squeeze=False)
    for ax, (dataset, model) in zip(grid[0], pairs, strict=True):
        rows = frame[(frame["dataset"] == dataset) & (frame["model"] == model)]
        boxes = [
            {
                "med": r["q50"],
                "q1": r["q25"],
                "q3": r["q75"],
                "whislo": r["q05"],
                "whishi": r["q95"],
                "mean": r["mean"],
                "fliers": [],
            }
            for _, r in rows.iterrows()
        ]
        positions = np.arange(len(rows))
        ax.bxp(boxes, positions=positions, showfliers=False, widths=0.6, medianprops={"color": CURVE, "lw": 1.8})
        labels = [
            f"{s:g}\n({100 * n / rows['responses'].sum():.0f} %)"
            for s, n in zip(rows["judge_score"], rows["responses"], strict=True)
        ]
        ax.set_xticks(positions, labels)
        ax.set_xlabel(f"{study.evaluation.judge} of the response (share of the pool)")
        ax.set_ylabel(f"{rows['scorer'].iloc[0]} similarity to the target")
        ax.set_title(
            f"{dataset}: Pearson {rows['pearson'].iloc[0]:.2f}, Spearman {rows['spearman'].iloc[0]:.2f}", fontsize=9
        )
        ax.grid(axis="x", visible=False)
    note(figure, "Box: quartiles and median; whiskers: 5 to 95 %")
    return figure


FIGURES: dict[str, Callable[[Study, Tables], Figure]] = {
    "scaling": scaling,
    "filters": filters,
    "similarity": similarity,
    "length": length,
    "judges": judges,
}


def _over_seeds(metrics: pd.DataFrame) -> pd.DataFrame:
    return metrics[metrics["seed"] == ALL_SEEDS]


def _part(frame: pd.DataFrame, dataset: str, model: str, metric: str) -> pd.DataFrame:
    return frame[(frame["dataset"] == dataset) & (frame["model"] == model) & (frame["metric"] == metric)]


def _grid(
    frame: pd.DataFrame, metrics: list[str], *, width: float, height: float
) -> tuple[Figure, dict[tuple[str, str, str], Axes]]:
    """Return axes by (dataset, model, metric): a row for each data set and model, a column for each metric."""
    pairs = list(dict.fromkeys(zip(frame["dataset"], frame["model"], strict=True)))
    figure, grid = plt.subplots(
        len(pairs), len(metrics), figsize=(width * len(metrics), height * len(pairs)), squeeze=False
    )
    axes = {}
    for row, (dataset, model) in zip(grid, pairs, strict=True):
        for ax, metric in zip(row, metrics, strict=True):
            axes[dataset, model, metric] = ax
            if len(pairs) > 1:
                ax.set_title(f"{dataset}, {model}", fontsize=9)
            ax.yaxis.set_major_locator(MaxNLocator(6))
    return figure, axes


_METHODS = {"sft": "SFT", "dpo": "DPO", "spin": "SPIN", "selfcontrast": "Self-Contrast"}


def _method_label(method_selection: str) -> str:
    method, selection = method_selection.split("-")
    label = method_name(method)
    return label if selection == "none" else f"{label} ({selection})"


def method_name(method: str) -> str:
    """Return what a method is called in figures."""
    return _METHODS.get(method, method)


def _arm_label(arm: str) -> str:
    return _method_label(arm.rsplit("-", 1)[0])


def selection_label(study: Study, selection: str) -> str:
    """Return what a selection keeps, in words where it is a filter."""
    params = study.selections[selection].params
    chosen = params.get("filter", {})
    share = chosen.get("keep")
    name = {"least": "least similar", "most": "most similar"}.get(chosen.get("kind", ""), "")
    text = f"{name} {100 * share:g} %" if name and share else selection
    return f"{text}, no repeats" if params.get("dedup") and name else text


def _left_out(study: Study, selections: pd.DataFrame) -> str:
    """Return one sentence: how many prompts could not give enough negatives, for each n of the curve."""
    selection = study.figures.scaling.split("-")[1]
    rows = selections[selections["selection"] == selection]
    short = rows.groupby("n")["too_few_candidates"]
    parts = [f"n={n}: {_range(values)}" for n, values in short]
    total = f"{_range(rows['prompts'])} for each data set and seed"
    return f"Prompts left out for want of candidates, of {total}: {', '.join(parts)}. Bars and bands: 95 % intervals."


def _range(values: pd.Series) -> str:
    """Return whole numbers as one number, or from the lowest to the highest."""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"


def _legend_below(figure: Figure, axes: dict[tuple[str, str, str], Axes]) -> None:
    entries: dict[str, Artist] = {}
    for ax in axes.values():
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=min(5, len(entries)))


def note(figure: Figure, text: str) -> None:
    """Write one small line below a figure."""
    figure.supxlabel(text, fontsize=7.5, color="#444444")
