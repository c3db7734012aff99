"""Tables as figures of plotly.js: plain mappings, so that nothing but the page needs plotly."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from typing import Any

import pandas as pd

from selfcontrast.metrics._shown import Shown
from selfcontrast.reporting.blocks import number

CURVE = "#2f81c4"
GREY = "#808894"
COLOURS = ("#d9730d", "#2a9d76", "#b65fa3", "#c99a06", "#8a6fd1", "#c2504a", "#4f9aa8")
DASHES = ("dash", "dot", "dashdot", "longdash", "longdashdot")
ROW = 22
"""Height of an arm in a figure, in pixels."""

Figure = dict[str, Any]


def scale(shown: Shown, values: pd.Series) -> list[Any]:
    """Return values as they are shown: rates in percent."""
    return [number(v) for v in (shown.factor * values).tolist()]


def interval_text(shown: Shown, row: pd.Series) -> str:
    """Return a value, its interval, and the answers and prompts behind it, for hovering."""
    value, low, high = (float(row[c]) for c in ("value", "low", "high"))
    unit = " %" if shown.is_rate else ""
    written = "no value" if isnan(value) else shown.interval(value, low, high) + unit
    return f"<b>{row['arm']}</b><br>{written}<br>n = {int(row['answers'])} answers to {int(row['prompts'])} prompts"


def _errors(shown: Shown, rows: pd.DataFrame) -> dict[str, Any]:
    upper, lower = rows["high"] - rows["value"], rows["value"] - rows["low"]
    return {
        "type": "data",
        "symmetric": False,
        "array": scale(shown, upper),
        "arrayminus": scale(shown, lower),
        "thickness": 1.4,
        "width": 4,
    }


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title, and room for its labels."""
    return {"title": {"text": title}, "automargin": True, **more}


def _band(rows: tuple[float, float], xs: list[float], colour: str, group: str) -> dict[str, Any]:
    low, high = rows
    return {
        "type": "scatter",
        "x": [*xs, *reversed(xs)],
        "y": [*(low for _ in xs), *(high for _ in xs)],
        "fill": "toself",
        "fillcolor": f"{colour}1f",
        "line": {"width": 0},
        "mode": "lines",
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": group,
    }


def over_n(rows: pd.DataFrame, shown: Shown, *, curve: str, lines: Sequence[str]) -> Figure | None:
    """Return a metric over the number of negatives: the sweeps as curves, other arms as lines with bands.

    Args:
        rows: of ``metrics.tsv``, over all seeds, of one data set, model and metric.
        shown: how the metric is shown.
        curve: ``method-selection`` that is drawn first and thickest.
        lines: arms drawn as horizontal lines.
    """
    rows = rows.assign(sweep=rows["method"] + "-" + rows["selection"])
    sweeps = [s for s, part in rows.groupby("sweep", sort=False) if part["n"].nunique() > 1]
    sweeps.sort(key=lambda s: s != curve)
    if not sweeps:
        return None
    ns = sorted(int(n) for n in rows[rows["sweep"].isin(sweeps)]["n"].unique())
    ends = [ns[0] / 1.15, ns[-1] * 1.15]
    traces: list[dict[str, Any]] = []
    for i, arm in enumerate(lines):
        found = rows[rows["arm"] == arm]
        colour = GREY if i == 0 else COLOURS[(i - 1) % len(COLOURS)]
        for _, row in found.iterrows():
            value, low, high = scale(shown, row[["value", "low", "high"]].astype(float))
            if value is None:
                continue
            xs = [ends[0], *map(float, ns), ends[1]]
            traces.append(_band((low, high), ends, colour, arm))
            line = {"color": colour, "dash": DASHES[i % len(DASHES)], "width": 1.6}
            hover = {"text": [interval_text(shown, row)] * len(xs), "hovertemplate": "%{text}<extra></extra>"}
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": xs,
                    "y": [value] * len(xs),
                    "name": arm,
                    "legendgroup": arm,
                    "line": line,
                    **hover,
                }
            )
    for i, sweep in enumerate(sweeps):
        part = rows[rows["sweep"] == sweep].sort_values("n")
        colour = CURVE if sweep == curve else COLOURS[(len(lines) + i) % len(COLOURS)]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "x": [int(n) for n in part["n"]],
                "y": scale(shown, part["value"]),
                "error_y": _errors(shown, part),
                "name": sweep,
                "line": {"color": colour, "width": 2.4 if sweep == curve else 1.6},
                "marker": {"size": 7},
                "text": [interval_text(shown, row) for _, row in part.iterrows()],
                "hovertemplate": "%{text}<extra></extra>",
            }
        )
    ticks = {"type": "log", "tickvals": ns, "ticktext": [str(n) for n in ns]}
    layout = {
        "xaxis": axis("negatives for each prompt, n", **ticks),
        "yaxis": axis(shown.head),
        "height": 400,
        "legend": {"orientation": "h", "y": -0.24},
    }
    return {"data": traces, "layout": layout}


def dots(rows: pd.DataFrame, shown: Shown, *, labels: Sequence[str], baseline: float | None, slider: bool) -> Figure:
    """Return one dot with its interval for each row, best on top; with a slider that shows the arms of one n.

    Args:
        rows: as in ``over_n``, like the next.
        labels: how each row is called.
        baseline: of the SFT model, a vertical line; None: no line.
        slider: whether to offer one, if there are several n.
    """
    rows = rows.assign(label=list(labels)).dropna(subset="value").sort_values("value")
    order = rows["label"].tolist()
    ns = sorted(int(n) for n in rows["n"].unique())
    slider = slider and len(ns) > 1
    traces = []
    for n in ns if slider else [None]:
        part = rows if n is None else rows[rows["n"] == n]
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": scale(shown, part["value"]),
                "y": part["label"].tolist(),
                "error_x": _errors(shown, part),
                "marker": {"size": 8, "color": GREY if n == 0 else CURVE},
                "text": [interval_text(shown, row) for _, row in part.iterrows()],
                "hovertemplate": "%{text}<extra></extra>",
                "showlegend": False,
            }
        )
    layout: dict[str, Any] = {
        "xaxis": axis(shown.head, zeroline=False),
        "yaxis": {
            "automargin": True,
            "categoryorder": "array",
            "categoryarray": order,
            "range": [-0.7, len(order) - 0.3],
        },
        "height": 110 + ROW * max(4, len(order)) + (70 if slider else 0),
    }
    if baseline is not None:
        at = shown.factor * baseline
        layout["shapes"] = [
            {
                "type": "line",
                "x0": at,
                "x1": at,
                "yref": "paper",
                "y0": 0,
                "y1": 1,
                "line": {"color": GREY, "width": 1.4, "dash": "dash"},
            }
        ]
    if slider:
        layout["sliders"] = [slider_of([("all", [True] * len(ns)), *((str(n), [m == n for m in ns]) for n in ns)])]
    return {"data": traces, "layout": layout}


def slider_of(steps: Sequence[tuple[str, list[bool]]]) -> dict[str, Any]:
    """Return a slider over n, each step with the traces that it shows."""
    return {
        "currentvalue": {"prefix": "n: "},
        "pad": {"t": 48},
        "steps": [{"label": label, "method": "restyle", "args": [{"visible": seen}]} for label, seen in steps],
    }


def bars(labels: Sequence[str], values: Sequence[float], label: str) -> Figure:
    """Return horizontal bars, the first on top."""
    trace = {
        "type": "bar",
        "orientation": "h",
        "x": [number(v) for v in reversed(values)],
        "y": list(reversed(labels)),
        "marker": {"color": CURVE},
        "hovertemplate": "%{y}: %{x:,.1f}<extra></extra>",
    }
    return {
        "data": [trace],
        "layout": {
            "xaxis": axis(label),
            "yaxis": {"automargin": True},
            "height": 90 + ROW * len(labels),
            "showlegend": False,
        },
    }
