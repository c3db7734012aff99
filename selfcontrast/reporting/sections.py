"""The other sections of a report: evidence, judges, answers, negatives, training, data, cost, versions, citation."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from selfcontrast.reporting import answers, charts, diagnostic_charts, headline
from selfcontrast.reporting.blocks import Block, Chart, Picture, Section, Text, Widget, pairs_table, table_of
from selfcontrast.reporting.citation import bibtex
from selfcontrast.reporting.material import Material

TABLES = {
    "comparisons": (
        "Paired comparisons",
        "arm minus compared to, prompt by prompt; p holm is corrected over a data set, model and metric. variance says whose "
        "variance of seeds was used; unpooled is by the comparison's own.",
    ),
    "best": (
        "Differences to the best",
        "Every arm minus the best of its metric, paired by prompt, with Holm's correction. variance and unpooled as below.",
    ),
    "power": (
        "Smallest visible differences",
        "What would be found with 80 % power, as it is and with twice the prompts, seeds or samples, by each comparison's "
        "own variance and without Holm's correction.",
    ),
    "variance": (
        "Variance by source",
        "What prompts, seeds, their interaction and single answers add; an estimate below 0 stands for none.",
    ),
    "trend": ("Trend over n", ""),
    "data": ("Records and prompts", "What each stage read, kept and dropped, by reason."),
    "selections": (
        "Selections",
        "Prompts that took part, and those with too few candidates, for each selection, n and seed.",
    ),
    "negatives": (
        "Negatives",
        "Shares over all negatives of a selection; false: as good as the target by the truth, where there is one.",
    ),
    "gradient": ("Variance of the gradient", ""),
    "similarity": ("Similarity and judge", ""),
    "benchmarks": ("Benchmarks", "Scores on public benchmarks, with their n."),
}
"""Titles and notes of tables; one that is not here is shown under its name."""

DRAWN = {"scaling", "filters", "similarity", "length", "negatives", "gradient"}
"""Figures of the study that the page draws itself; others are shown as the pictures that they are."""

SHOWN_ELSEWHERE = {"metrics", "trend", "similarity", "histograms"}


def sections_of(material: Material) -> list[Section]:
    """Return all sections that have something to show, in order."""
    makers: tuple[Callable[[Material], Section], ...] = (
        headline.headline,
        headline.scaling,
        headline.filters,
        evidence,
        judges,
        more,
        browser,
        negatives,
        training,
        data,
        cost,
        versions,
        cite,
    )
    return [section for section in (make(material) for make in makers) if section.blocks]


def _named(material: Material, *names: str) -> list[Block]:
    found: list[Block] = []
    for name in names:
        frame = material.tables.get(name)
        if frame is not None and len(frame):
            title, note = TABLES.get(name, (name.replace("_", " ").capitalize(), ""))
            found.append(table_of(name, title, note, frame))
    return found


def evidence(material: Material) -> Section:
    """Return which differences are real, and which could have been seen."""
    lead = (
        "Which differences are more than noise, and which this study could have seen at all. A comparison that finds nothing "
        "says little where the smallest visible difference is large."
    )
    return Section(
        "evidence", "Comparisons and power", lead, tuple(_named(material, "best", "comparisons", "power", "variance"))
    )


def judges(material: Material) -> Section:
    """Return what the study's language models say; nothing where it has none."""
    blocks: list[Block] = []
    for name, frame in material.judges.items():
        judge = material.study.evaluation.judges.get(name)
        kind = f"{judge.kind}, {judge.model}; " if judge is not None else ""
        blocks.append(
            table_of(
                f"judge-{name}",
                f"Judge {name}",
                f"{kind}one row for each arm, seed and figure, with n and nulls.",
                frame,
            )
        )
    lead = (
        "What language models that judge say of the same answers, with the standard error of each figure, and how many "
        "judgements have no score."
    )
    return Section("judges", "Judges", lead, tuple(blocks))


def more(material: Material) -> Section:
    """Return every table and figure that no other section shows."""
    known = SHOWN_ELSEWHERE | {
        "comparisons",
        "best",
        "power",
        "variance",
        "data",
        "selections",
        "negatives",
        "gradient",
    }
    blocks = _named(material, *(name for name in material.tables if name not in known))
    for name, svg in material.pictures.items():
        if name not in DRAWN:
            source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            blocks.append(Picture(f"picture-{name}", name.replace("_", " ").capitalize(), "", source))
    return Section("more", "More results", "Other tables and figures that this study made.", tuple(blocks))


def browser(material: Material) -> Section:
    """Return the answers themselves, prompt by prompt."""
    lead = (
        "The answers behind the numbers. Choose two arms: a prompt is a win of the first where its mean score over seeds "
        f"and samples is higher. {answers.sentences(material.browsers)}"
    )
    blocks = (Widget("answers", "", "", "browser", list(material.browsers)),) if material.browsers else ()
    return Section("prompts", "Prompt by prompt", lead, blocks)


def negatives(material: Material) -> Section:
    """Return what the negatives are, and what more of them do to the gradient."""
    blocks: list[Block] = []
    for cell in material.cells:
        bars = material.part("histograms", cell)
        if len(bars) and "count" in bars:
            for selection, part in bars.groupby("selection", sort=False):
                title = f"{material.prefix(cell)}{selection}"
                note = f"Similarity to the target; {_false_share(material, cell, str(selection))}curves: first seed."
                figure = diagnostic_charts.histograms(part, str(part["scorer"].iloc[0]))
                blocks.append(Chart(f"histogram-{cell[0]}-{cell[1]}-{selection}", title, note, figure))
        rows = material.part("gradient", cell)
        if len(rows):
            prompts, responses = (int(rows[c].iloc[0]) for c in ("prompts", "negatives"))
            note = f"DPO at the SFT model; n = {prompts} prompts with {responses} responses each. Bars: 95 % intervals."
            blocks.append(
                Chart(
                    f"gradient-{cell[0]}-{cell[1]}",
                    f"{material.prefix(cell)}variance of the gradient",
                    note,
                    diagnostic_charts.gradient(rows),
                )
            )
    blocks += _named(material, "negatives", "gradient")
    lead = (
        "What is drawn as a negative. A filter does what it is for if it lowers the share of negatives that are as good as "
        "the target below that of the pool."
    )
    return Section("negatives-section", "Negatives", lead, tuple(blocks))


def _false_share(material: Material, cell: tuple[str, str], selection: str) -> str:
    """Return the share of false negatives over all n and seeds, beside the pool's; empty where nothing tells the truth."""
    rows = material.part("negatives", cell)
    rows = (
        rows[rows["selection"] == selection].dropna(subset="false_negatives")
        if "false_negatives" in rows
        else rows.iloc[:0]
    )
    total = int(rows["negatives"].sum()) if len(rows) else 0
    if not total:
        return ""
    false, pool = (
        100 * float((rows[c] * rows["negatives"]).sum()) / total for c in ("false_negatives", "false_in_pool")
    )
    return f"{false:.1f} % of the negatives are as good as the target (pool {pool:.1f} %), n = {total} over all n and seeds; "


def training(material: Material) -> Section:
    """Return the curves of every training."""
    lead = (
        "One line for each arm, the mean over its seeds, with a band from the lowest to the highest seed; each point is a "
        "mean of the steps around it. A loss that does not fall, or a margin that runs away, explains a number better than a "
        "method does."
    )
    blocks = (Widget("training-curves", "", "", "curves", list(material.curves)),) if material.curves else ()
    return Section("training", "Training", lead, blocks)


def data(material: Material) -> Section:
    """Return what the numbers stand on: what was read, dropped and left out."""
    lead = "Everything that was read, and everything that was left out, by its reason: nothing is dropped uncounted."
    return Section("data-section", "Data", lead, tuple(_named(material, "data", "selections")))


def cost(material: Material) -> Section:
    """Return what the study cost, stage by stage."""
    blocks: list[Block] = []
    titles = {
        "cost": ("Every stage", "Sums over jobs; peaks are those of one job."),
        "ledger": ("Plan and fact", "What was planned, and what it took."),
    }
    stages = material.costs.get("cost", pd.DataFrame())
    if len(stages):
        figure = charts.bars(stages["stage"].tolist(), stages["wall_s"].tolist(), "seconds, over all jobs")
        total, jobs = float(stages["wall_s"].sum()), int(stages["jobs"].sum())
        blocks.append(
            Chart(
                "cost-stages",
                f"{total:,.0f} s in {jobs} jobs",
                "Jobs that ran side by side are counted each.",
                figure,
                is_wide=True,
            )
        )
    for name, frame in material.costs.items():
        title, note = titles.get(name, (name.capitalize(), ""))
        if len(frame):
            blocks.append(table_of(f"cost-{name}", title, note, frame))
    lead = "Times of the last run of each job; they differ from run to run, and no other number on this page depends on them."
    return Section("cost-section", "Cost", lead, tuple(blocks))


def versions(material: Material) -> Section:
    """Return what made the study: versions, seeds, hashes, and the study file as it was understood."""
    p = material.provenance
    blocks: list[Block] = []
    if p:
        facts = {
            "selfcontrast": p["selfcontrast"],
            "python": p["python"],
            **p["packages"],
            "requirements.lock (SHA-256)": p["lock_sha256"],
        }
        facts |= {f"records of {d}: {key}": value for d, found in p["records"].items() for key, value in found.items()}
        facts |= {f"checkpoint {name}: commit": commit for name, commit in p.get("checkpoints", {}).items()}
        facts |= {"root seed": p["seed"], "training seeds": ", ".join(map(str, p["seeds"]))}
        blocks.append(pairs_table("versions", "Versions and data", "", ("what", "value"), facts))
        blocks.append(
            pairs_table(
                "manifests",
                "Manifests",
                "SHA-256 of each step's manifest, which lists the hashes of its files.",
                ("manifest", "SHA-256"),
                p["manifests"],
            )
        )
        blocks.append(
            Text("study", "The study as it was understood", "", json.dumps(p["study"], indent=2, ensure_ascii=False))
        )
    lead = "What made these numbers. Two runs with the same hashes had the same inputs and wrote the same bytes."
    return Section("versions-section", "Versions and hashes", lead, tuple(blocks))


def cite(material: Material) -> Section:
    """Return how the software, and the paper whose method it measures, are cited."""
    c: Mapping[str, Any] = material.citation
    blocks = (Text("bibtex", "", str(c.get("message", "")), bibtex(c)),) if c else ()
    return Section("cite", "How to cite", "From CITATION.cff of the software.", blocks)
