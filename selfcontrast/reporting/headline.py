"""The first sections of a report: every arm with its metrics, and what more negatives and other filters change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pandas as pd

from selfcontrast.main_table import ALIKE, variance_note
from selfcontrast.metric_names import HEADLINE
from selfcontrast.metrics._shown import Shown, units
from selfcontrast.plotting import selection_label
from selfcontrast.reporting import charts, diagnostic_charts
from selfcontrast.reporting.blocks import Block, Chart, Section, Table, Text, mark, table_of
from selfcontrast.reporting.material import Material


def headline(material: Material) -> Section:
    """Return the main table, the sentence that it comes to, and every arm as a dot."""
    study = material.study
    lead = (
        f"Every arm on the same held-out prompts, with 95 % intervals over {units('prompts', len(study.seeds))}. Bold: the "
        f"best arm of a metric; {ALIKE}: not distinguishable from it (paired by prompt, 5 % level, Holm's correction). "
        "n: answers."
    )
    blocks: list[Block] = [
        Text(f"best-{i}", "", sentence)
        for i, sentence in enumerate(s for cell in material.cells for s in _best_sentences(material, cell))
    ]
    blocks.append(_main_table(material))
    for cell in material.cells:
        part = material.metrics[(material.metrics["dataset"] == cell[0]) & (material.metrics["model"] == cell[1])]
        for metric, shown in material.shown.items():
            rows = part[part["metric"] == metric]
            if rows["value"].notna().any():
                title = f"{material.prefix(cell)}{shown.head}, every arm"
                base = _baseline(rows, shown)
                note = f"{len(rows)} arms; dashed: the SFT model." if base is not None else f"{len(rows)} arms."
                figure = charts.dots(rows, shown, labels=rows["arm"].tolist(), baseline=base, slider=True)
                blocks.append(Chart(f"dots-{cell[0]}-{cell[1]}-{metric}", title, note, figure))
    blocks.append(
        table_of(
            "metrics",
            "All metrics, seed by seed",
            "The interval of one seed is over prompts: it is about that training, not about the method. Over all seeds: "
            "variance says whose variance of seeds was used; unpooled is by the arm's own.",
            material.tables["metrics"],
            is_open=False,
        )
    )
    lead = " ".join(filter(None, [lead, variance_note(material.metrics), f"Judge: {study.evaluation.judge}."]))
    return Section("headline", "Headline", lead, tuple(blocks))


def _baseline(rows: pd.DataFrame, shown: Shown) -> float | None:
    if shown.against_sft:
        return 0.5
    found = rows[(rows["n"] == 0)]["value"].dropna()
    return float(found.iloc[0]) if len(found) else None


def _best_sentences(material: Material, cell: tuple[str, str]) -> Iterator[str]:
    best = material.part("best", cell)
    rows = best[best["metric"] == HEADLINE] if len(best) else best
    if rows.empty:
        return
    name = rows["best"].iloc[0]
    others = rows[rows["arm"] != name]
    alike = int((~others["distinguishable"].astype(bool)).sum())
    part = material.metrics
    row = part[
        (part["dataset"] == cell[0]) & (part["model"] == cell[1]) & (part["metric"] == HEADLINE) & (part["arm"] == name)
    ].iloc[0]
    shown = material.shown[HEADLINE]
    yield (
        f"{material.prefix(cell)}{name} has the best {shown.head}: "
        f"{shown.interval(row['value'], row['low'], row['high'])}, "
        f"n = {int(row['answers'])} answers to {int(row['prompts'])} prompts. "
        f"{alike} of the other {len(others)} arms cannot be told from it. "
        "That the best was picked from the same numbers makes small leads look a little larger than they are."
    )


def _main_table(material: Material) -> Table:
    several = len(material.cells) > 1
    best = material.tables.get("best", pd.DataFrame())
    flags: dict[tuple[Any, ...], tuple[bool, bool]] = {}
    for row in best.to_dict("records"):
        is_best = row["arm"] == row["best"]
        flags[row["dataset"], row["model"], row["metric"], row["arm"]] = (
            is_best,
            not is_best and not row["distinguishable"],
        )
    rows: list[list[Any]] = []
    for (dataset, model, arm), part in material.metrics.groupby(["dataset", "model", "arm"], sort=False):
        first, by_metric = part.iloc[0], part.set_index("metric")
        head = [dataset, model] if several else []
        cells = []
        for metric, shown in material.shown.items():
            is_best, is_alike = flags.get((dataset, model, metric, arm), (False, False))
            cells.append(
                _cell(shown, by_metric.loc[[metric]].iloc[0], is_best, is_alike) if metric in by_metric.index else None
            )
        rows.append([*head, arm, int(first["n"]), *cells, first["method"], first["selection"]])
    columns = [
        *(("data set", "model") if several else ()),
        "arm",
        "n",
        *(shown.head for shown in material.shown.values()),
        "method",
        "selection",
    ]
    note = f"{len(rows)} arms, {len(material.study.seeds)} training seeds. Click a column to sort; words filter in any order."
    return Table("main", "Main table", note, tuple(columns), rows)


def _cell(shown: Shown, row: pd.Series, is_best: bool, is_alike: bool) -> dict[str, Any] | None:
    count = int(row["answers"])
    if not count:
        return {"t": "no value", "n": "n=0"}
    value = shown.factor * float(row["value"])
    text, _, interval = shown.interval(*(float(row[c]) for c in ("value", "low", "high"))).partition(" ")
    nulls = f", {int(row['nulls'])} null" if row["nulls"] else ""
    return mark(value, text, interval=interval, n=f"n={count}{nulls}", best=is_best, alike=is_alike)


def scaling(material: Material) -> Section:
    """Return each metric over the number of negatives, and whether it rises."""
    study, blocks = material.study, list[Block]()
    for cell in material.cells:
        part = material.metrics[(material.metrics["dataset"] == cell[0]) & (material.metrics["model"] == cell[1])]
        for metric, shown in material.shown.items():
            rows = part[part["metric"] == metric]
            figure = charts.over_n(rows, shown, curve=study.figures.scaling, lines=study.figures.lines)
            if figure is not None:
                low, high = int(rows["answers"].min()), int(rows["answers"].max())
                n = f"n = {low if low == high else f'{low} to {high}'} answers an arm"
                title = f"{material.prefix(cell)}{shown.head} over n"
                blocks.append(
                    Chart(
                        f"scaling-{cell[0]}-{cell[1]}-{metric}", title, f"Bars and bands: 95 % intervals; {n}.", figure
                    )
                )
    blocks += _tables(
        material,
        "trend",
        "Trend over n",
        "Change for each doubling of n with its interval, p and Page's test; direction: at the 5 % level.",
    )
    lead = (
        "What more negatives change. A rise with n is evidence for the method only where it exceeds the intervals and the "
        f"prompts are the same for every n (this study: {study.comparison.prompt_set} prompts, "
        f"{study.comparison.negatives} negatives, {study.comparison.budget.replace('_', ' ')})."
    )
    if not any(isinstance(b, Chart) for b in blocks):
        blocks.insert(0, Text("scaling-none", "", "No method of this study has arms of several n."))
    return Section("scaling", "Number of negatives", lead, tuple(blocks))


def filters(material: Material) -> Section:
    """Return the selections at one n, and what the filter's scorer knows of the truth."""
    study, blocks = material.study, list[Block]()
    method, n = study.figures.scaling.split("-")[0], study.figures.ablation_n
    for cell in material.cells:
        part = material.metrics[(material.metrics["dataset"] == cell[0]) & (material.metrics["model"] == cell[1])]
        for metric in (m for m in (HEADLINE, "win_vs_sft") if m in material.shown):
            shown = material.shown[metric]
            all_rows = part[part["metric"] == metric]
            rows = all_rows[(all_rows["method"] == method) & (all_rows["n"] == n)]
            if rows["value"].notna().any():
                labels = [selection_label(study, s) for s in rows["selection"]]
                labels = labels if len(set(labels)) == len(labels) else rows["selection"].tolist()
                base = _baseline(all_rows, shown)
                figure = charts.dots(rows, shown, labels=labels, baseline=base, slider=False)
                title = f"{material.prefix(cell)}{shown.head} of the selections, n = {n}"
                count = f"n = {int(rows['answers'].min())} answers each at least"
                blocks.append(
                    Chart(f"filters-{cell[0]}-{cell[1]}-{metric}", title, f"Dashed: the SFT model; {count}.", figure)
                )
        box = material.part("similarity", cell)
        if len(box):
            found = box.iloc[0]
            note = (
                f"{int(box['responses'].sum())} responses of pool {found['pool']}; {_correlations(found)}"
                "Boxes: quartiles; whiskers: 5 to 95 %."
            )
            title = f"{material.prefix(cell)}{found['scorer']} at each {study.evaluation.judge}"
            blocks.append(
                Chart(
                    f"similarity-{cell[0]}-{cell[1]}",
                    title,
                    note,
                    diagnostic_charts.similarity(box, study.evaluation.judge),
                )
            )
    if not blocks:
        blocks.append(Text("filters-none", "", f"This study has no arms of {method} at n = {n} to compare."))
    lead = (
        f"The selections of {method} at {n} negatives. A filter matters if the most similar answers as negatives, the "
        "control, do worse than the least similar ones; similarity can stand in for the judge only as far as its boxes "
        "rise from left to right."
    )
    return Section("filters", "Filters", lead, tuple(blocks))


def _correlations(row: pd.Series) -> str:
    if row[["pearson", "spearman"]].isna().any():
        return "no correlation, since one of the two does not vary. "
    return f"Pearson {row['pearson']:.2f}, Spearman {row['spearman']:.2f}. "


def _tables(material: Material, name: str, title: str, note: str) -> list[Block]:
    frame = material.tables.get(name)
    return [] if frame is None or frame.empty else [table_of(name, title, note, frame)]
