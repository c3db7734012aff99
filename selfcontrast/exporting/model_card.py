"""The model card of an arm: what it is, how it was made, what was measured, and what it is not for."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcontrast.exporting.cards import (
    PROJECT,
    UNKNOWN,
    block,
    checkpoint_name,
    code,
    data_licence,
    data_source,
    escape_markdown,
    front_matter,
    hub_id,
    licence_tags,
    table,
)
from selfcontrast.exporting.folder import Export
from selfcontrast.exporting.targets import Target
from selfcontrast.metric_names import shown_metrics
from selfcontrast.metrics._shown import Shown

PAPER = "2404.00604"
"""arXiv number of Self-Contrast."""

Row = Mapping[str, str]


def model_card(target: Target, export: Export, metrics: Path, *, settings: dict[str, Any], licence: str) -> str:
    """Return the README.md of a policy.

    Args:
        metrics: tables/metrics.tsv of the study.
        settings: spec of its training.
        licence: of the data set, as its adaptor states it.
    """
    study, arm = target.study, target.arm
    model = study.models[target.model]
    rows = _rows(metrics, target)
    source, repo = data_source(target)
    licence = data_licence(target, licence)
    # Of a base model from elsewhere the licence is not known here, and it binds what was trained from it.
    own = licence if model.scratch is not None else UNKNOWN
    kind = study.methods[arm.method].objective.kind if arm.is_trained else "sft"
    head = {
        "base_model": hub_id(model.path),
        "datasets": [repo] if repo else None,
        **licence_tags(own),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["selfcontrast", f"arxiv:{PAPER}", kind, *(["preference-optimization"] if arm.is_trained else [])],
        "metrics": sorted({r["metric"] for r in rows}),
        "model-index": [{"name": target.policy_name, "results": _index(target, rows, repo)}] if rows else None,
    }
    parts = [
        front_matter(head),
        f"# {escape_markdown(target.policy_name)}",
        f"The arm {code(arm.id)}{f' with the training seed {target.seed}' if arm.is_trained else ', the SFT model,'} of the "
        f"study {code(study.name)} ({escape_markdown(study.description)}), made by {PROJECT}.",
        *([] if "template" in export.more else ["**The weights are not in this folder.**"]),
        "## How it was made",
        _making(target, source),
        *_template(export),
        "Settings of the last training, as it ran:",
        block(json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False), "json"),
        "## Results",
        *_results(target, rows),
        "## Intended use and limits",
        "A policy of an experiment on preference training: for comparison with the other arms of its study. It was not made "
        "for use by people, and its safety was not examined. What the table says holds for the held-out prompts of the "
        "study, its judge and its settings of sampling, and for nothing else. A judge that is a model has tastes of its own, "
        "and scores of one study cannot be compared with those of another.",
        *_licences(own, licence),
        "## Hashes",
        table(["step", "SHA-256 of its manifest"], [[code(k), code(v)] for k, v in export.inputs.items()]),
        "`manifest.json` has the hash of every file of this folder, and the manifest of the training.",
    ]
    return "\n\n".join(parts) + "\n"


def _rows(metrics: Path, target: Target) -> list[Row]:
    """Return what was measured of a policy: of the SFT model, which is one for all seeds, over all of them."""
    seed = str(target.seed) if target.arm.is_trained else "all"
    wanted = {"dataset": target.dataset, "model": target.model, "arm": target.arm.id, "seed": seed}
    with metrics.open(encoding="utf-8", newline="") as stream:
        found = csv.DictReader(stream, delimiter="\t")
        return [row for row in found if all(row[key] == value for key, value in wanted.items())]


def _index(target: Target, rows: Sequence[Row], repo: str | None) -> list[dict[str, Any]]:
    """Return the results of a model index; its sizes and intervals are in the arguments of each metric."""
    split = target.study.evaluation.split
    metrics = [
        {
            "type": r["metric"],
            "name": f"{r['metric']} (n = {r['answers']} answers)",
            "value": float(r["value"]),
            "args": {
                "n_prompts": int(r["prompts"]),
                "n_answers": int(r["answers"]),
                "n_nulls": int(r["nulls"]),
                **{key: float(r[key]) for key in ("low", "high") if r[key]},
                "interval": 0.95,
            },
            "verified": False,
        }
        for r in rows
        if r["value"]
    ]
    data = {
        "name": f"{target.dataset} of the study {target.study.name}",
        "type": repo or target.dataset,
        "split": split,
    }
    return [{"task": {"type": "text-generation"}, "dataset": data, "metrics": metrics}]


def _making(target: Target, source: str) -> str:
    study, arm = target.study, target.arm
    model, data = study.models[target.model], study.datasets[target.dataset]
    base = (
        f"a small model from scratch ({model.scratch.n_layers} layers of width {model.scratch.width})"
        if model.scratch is not None
        else code(checkpoint_name(str(model.path)))
    )
    sft = (
        f"supervised fine-tuning on the answers of {data.splits.sft:,} prompts"
        if model.sft is not None
        else "no supervised fine-tuning here (the checkpoint has had it)"
    )
    lines = [f"- Base model: {base}.", f"- Data: {source}.", f"- Then: {sft}."]
    if arm.is_trained:
        method = study.methods[arm.method]
        lines.append(
            f"- Then: preference training on up to {data.splits.pool:,} prompts with {arm.n} rejected answer(s) each, "
            f"chosen by the selection {code(arm.selection)}, objective {code(method.objective.kind)}."
        )
    return "\n".join(lines)


def _template(export: Export) -> list[str]:
    template = export.more.get("template")
    if template is None:
        return []
    counts = [f"{n:,} {escape_markdown(what)}" for what, n in export.counts.items()]
    apart = (
        ' Training read other prompts than sampling and evaluation: `chat_template="training"` renders those.'
        if template["trains_apart"]
        else ""
    )
    return [f"Chat template: {code(template['name'])}; checked: {'; '.join(counts)}.{apart}"]


def _written(shown: Shown, row: Row) -> tuple[str, str]:
    """Return a value and its interval as texts."""
    if not row["value"]:
        return "no value", ""
    value, low, high = (float(row[key] or "nan") for key in ("value", "low", "high"))
    text, _, interval = shown.interval(value, low, high).partition(" ")
    return text, interval if row["low"] else ""


def _results(target: Target, rows: Sequence[Row]) -> list[str]:
    if not rows:
        return ["Nothing was measured of this arm with this seed."]
    e = target.study.evaluation
    known = shown_metrics(target.study)
    cells = [
        [
            escape_markdown(known[r["metric"]].axis),
            *map(escape_markdown, _written(known[r["metric"]], r)),
            *(r[key] for key in ("prompts", "answers", "nulls")),
        ]
        for r in rows
    ]
    heads = ["metric", "value", "95 % interval", "prompts", "answers", "answers without a value"]
    said = (
        f"On the split {code(e.split)} of the study, scored by {code(e.judge)}; {e.samples} answer(s) to each prompt at "
        f"temperature {e.temperature:g} and top-p {e.top_p:g}. "
        + ("One training seed: the intervals are over prompts." if target.arm.is_trained else "")
    ).strip()
    return [said, table(heads, cells)]


def _licences(own: str, data: str) -> list[str]:
    lines = ["## Licence"]
    if own == UNKNOWN:
        lines.append(
            "The licence of the base model binds this one too; it is not known here. See to it before you pass it on."
        )
    else:
        lines.append(f"{escape_markdown(own)}.")
    return [*lines, f"Licence of the training data: {escape_markdown(data)}."]
