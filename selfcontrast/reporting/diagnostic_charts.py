"""Figures of plotly.js that explain a study: what a scorer knows, what the negatives are, and their gradients."""

from __future__ import annotations

from typing import Any

import pandas as pd

from selfcontrast.reporting.blocks import number
from selfcontrast.reporting.charts import COLOURS, CURVE, GREY, Figure, axis, slider_of

SETS = {"pool": GREY, "candidates": CURVE, "negatives": COLOURS[0]}


def histograms(bars: pd.DataFrame, scorer: str) -> Figure:
    """Return how alike to the target pool, candidates and negatives of one selection are, with a slider over n."""
    ns = sorted(int(n) for n in bars["n"].unique())
    traces: list[dict[str, Any]] = []
    for n in ns:
        for name, colour in SETS.items():
            part = bars[(bars["n"] == n) & (bars["set"] == name)]
            total = int(part["count"].sum())
            traces.append(
                {
                    "type": "scatter",
                    "mode": "lines",
                    "x": [number(v) for v in ((part["low"] + part["high"]) / 2).tolist()],
                    "y": [number(v) for v in (100 * part["count"] / max(1, total)).tolist()],
                    "line": {"shape": "hvh", "color": colour, "width": 1.8},
                    "fill": "tozeroy" if name == "pool" else "none",
                    "fillcolor": f"{colour}30",
                    "name": name,
                    "visible": n == ns[-1],
                    "hovertemplate": f"{name}, n = {n}: %{{y:.1f}} % of {total} at %{{x:.2f}}<extra></extra>",
                }
            )
    layout: dict[str, Any] = {
        "xaxis": axis(f"{scorer} to the target"),
        "yaxis": axis("share of the set (%)", rangemode="tozero"),
        "height": 320,
        "legend": {"orientation": "h", "y": 1.12},
    }
    if len(ns) > 1:
        slider = slider_of([(str(n), [m == n for m in ns for _ in SETS]) for n in ns])
        layout |= {"sliders": [slider | {"active": len(ns) - 1}], "height": 400}
    return {"data": traces, "layout": layout}


def similarity(rows: pd.DataFrame, judge: str) -> Figure:
    """Return boxes of a scorer's values at each level of the judge's score: quartiles, and whiskers from 5 to 95 %."""
    total = max(1, int(rows["responses"].sum()))
    box = {
        "type": "box",
        "x": [f"{s:g} ({100 * n / total:.0f} %)" for s, n in zip(rows["judge_score"], rows["responses"], strict=True)],
        "lowerfence": [number(v) for v in rows["q05"]],
        "q1": [number(v) for v in rows["q25"]],
        "median": [number(v) for v in rows["q50"]],
        "q3": [number(v) for v in rows["q75"]],
        "upperfence": [number(v) for v in rows["q95"]],
        "mean": [number(v) for v in rows["mean"]],
        "line": {"color": CURVE},
        "showlegend": False,
    }
    return {
        "data": [box],
        "layout": {
            "xaxis": axis(f"{judge} of the response (share of the pool)", type="category"),
            "yaxis": axis(f"{rows['scorer'].iloc[0]} to the target"),
            "height": 360,
        },
    }


def gradient(rows: pd.DataFrame) -> Figure:
    """Return the variance of a prompt's gradient over n, in units of a single pair's: predicted, its floor, measured."""
    rows = rows.sort_values("n")
    shared, pair = float(rows["zeta10"].iloc[0]), float(rows["zeta11"].iloc[0])
    ns = [int(n) for n in rows["n"]]
    fine = [ns[0] * (ns[-1] / ns[0]) ** (i / 60) for i in range(61)] if len(ns) > 1 else [float(n) for n in ns]
    line = {"type": "scatter", "mode": "lines"}
    value, low, high = (rows[c] / pair for c in ("measured", "low", "high"))
    errors = {
        "type": "data",
        "symmetric": False,
        "array": [number(v) for v in (high - value).clip(lower=0)],
        "arrayminus": [number(v) for v in (value - low).clip(lower=0)],
    }
    traces = [
        {
            **line,
            "x": fine,
            "y": [number((shared + (pair - shared) / n) / pair) for n in fine],
            "name": "predicted from pairs",
            "line": {"color": CURVE},
        },
        {
            **line,
            "x": [ns[0], ns[-1]],
            "y": [number(shared / pair)] * 2,
            "name": "floor: prompt and target",
            "line": {"color": GREY, "dash": "dash"},
        },
        {
            "type": "scatter",
            "mode": "markers",
            "x": ns,
            "y": [number(v) for v in value],
            "error_y": errors,
            "name": "measured",
            "marker": {"color": COLOURS[0], "size": 8},
        },
    ]
    over = axis("negatives for each prompt, n", type="log", tickvals=ns, ticktext=[str(n) for n in ns])
    return {
        "data": traces,
        "layout": {
            "xaxis": over,
            "yaxis": axis("variance of a prompt's gradient (of a pair's)", rangemode="tozero"),
            "height": 380,
            "legend": {"orientation": "h", "y": -0.24},
        },
    }
