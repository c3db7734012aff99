"""The plan as text, and the ledger that compares it with what a run did cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from selfcontrast.artifacts import read_json
from selfcontrast.errors import ConfigError
from selfcontrast.judging.price import has_price, judge_price
from selfcontrast.planning.machines import MACHINES, Machine
from selfcontrast.planning.stage import Stage
from selfcontrast.planning.stages import lengths_of, plan_study
from selfcontrast.schema import Study
from selfcontrast.sweep import models_of

STEP_OF = {"score_pool": "score", "score_answers": "score"}
"""Step of a rule, where it has another name."""


def default_machine(study: Study) -> str:
    """Return the machine that a study is priced for unless one is named: a CPU core if no model asks for a GPU."""
    return "h100" if any(m.gpus for m in study.models.values()) else "cpu"


def describe_plan(
    study: Study, *, machine: str | None = None, jobs: Mapping[str, int] | None = None, results: Path | None = None
) -> str:
    """Return the plan of a study as a table.

    Args:
        machine: name in ``MACHINES``; by default that of ``default_machine``.
        jobs: jobs that are left to do, by rule: the plan is cut down to them.
        results: folder of the study's results.

    Raises:
        ConfigError: unknown machine, or a model of unknown size.
    """
    name = machine or default_machine(study)
    if name not in MACHINES:
        raise ConfigError(f"unknown machine `{name}`", remedy=f"machines: {', '.join(MACHINES)}")
    chosen, folder = MACHINES[name], results or Path("results", study.name)
    stages = plan_study(study, chosen, results=folder)
    if jobs is not None:
        stages = [_cut(s, jobs[s.rule]) for s in stages if jobs.get(s.rule)]
    unit = "GPU-hours" if any(s.devices for s in stages) else "core-hours"
    rows = [["stage", "jobs", "answers", "M tokens", unit, "longest job", "GiB a device", "GB on disk"]]
    rows += [_row(s) for s in stages]
    total = Stage("total", 0)
    for stage in stages:
        total = total.join(stage)
    hours = sum(s.hours for s in stages if s.devices or unit == "core-hours")
    rows.append(["total", str(total.jobs), "", "", f"{hours:,.2f}", "", "", _number(total.disk / 1e9)])
    lines = [f"Plan of `{study.name}` for {chosen.name}", "", *_columns(rows), ""]
    if jobs is None or jobs.get("judge"):
        lines += _judges(study, folder)
    lines += _notes(study, stages, chosen, folder)
    return "\n".join(lines)


def _cut(stage: Stage, jobs: int) -> Stage:
    share = min(1.0, jobs / stage.jobs)
    return replace(
        stage,
        jobs=jobs,
        answers=stage.answers * share,
        tokens=stage.tokens * share,
        seconds=stage.seconds * share,
        disk=stage.disk * share,
    )


def _row(s: Stage) -> list[str]:
    longest = f"{s.longest / 3600:,.1f} h" if s.longest >= 3600 else f"{s.longest:,.0f} s"
    memory = _number(s.memory / 2**30)
    return [
        s.rule,
        str(s.jobs),
        f"{s.answers:,.0f}" if s.answers else "",
        _number(s.tokens / 1e6),
        f"{s.hours:,.2f}",
        longest,
        memory,
        _number(s.disk / 1e9),
    ]


def _number(value: float) -> str:
    return "" if value == 0 else f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]
    return [lines[0], "  ".join("-" * w for w in widths), *lines[1:]]


def _judges(study: Study, results: Path) -> list[str]:
    """Return what each judge costs, what was spent on it before, and the sum."""
    prices = {key: judge_price(study, key) for key in study.evaluation.judges}
    lines = []
    for key, price in prices.items():
        run = results / "judges" / key / "run.json"
        spent = read_json(run)["spent_usd"] if run.is_file() else 0.0
        before = f"; ${spent:.2f} spent before, and what is answered is not paid again" if spent else ""
        lines.append(f"judge {key}: {price}{before}")
    if len(prices) > 1:
        unknown = sum(p.usd is None for p in prices.values())
        more = f", and {unknown} of unknown price" if unknown else ""
        lines.append(f"Judges in all: about ${sum(p.usd or 0.0 for p in prices.values()):.2f}{more}.")
    return lines


def _notes(study: Study, stages: Iterable[Stage], machine: Machine, results: Path) -> list[str]:
    notes = []
    for dataset in study.datasets:
        for model in models_of(study, dataset):
            found = lengths_of(study, dataset, model, results=results)
            said = {"measured": "measured", "study": "as the study expects", "assumed": "assumed from max_length"}
            notes.append(
                f"{dataset}, {model}: {found.prompt:.0f} tokens a prompt, {found.response:.0f} a response "
                f"({said[found.source]})"
            )
    too_large = [s for s in stages if s.memory > machine.memory and s.devices]
    notes += [
        f"DOES NOT FIT: {s.rule} needs about {s.memory / 2**30:.0f} GiB on each device, which has "
        f"{machine.memory / 2**30:.0f}; see models.<id>.execution and gpus"
        for s in too_large
    ]
    if not study.keep_policies:
        notes.append("Weights of arms are removed after their evaluation; keep_policies keeps them.")
    notes.append(f"Constants: {machine.source}.")
    return notes


def ledger(study: Study, runs: Mapping[str, Mapping[str, Any]], *, results: Path) -> list[dict[str, Any]]:
    """Return one row for each step with a model or data: what was planned and what it took.

    Args:
        runs: sums over the jobs of each step: ``jobs``, ``wall_s``, ``tokens``, ``gpu_s``, ``gpu_kj``, and the name of its
            ``gpu`` or None.
        results: folder of the study, whose measured lengths the plan uses.
    """
    gpu = next((run["gpu"] for run in runs.values() if run["gpu"]), None)
    machine = MACHINES[machine_of(gpu)]
    planned: dict[str, Stage] = {}
    for stage in plan_study(study, machine, results=results):
        step = STEP_OF.get(stage.rule, stage.rule)
        planned[step] = planned[step].join(stage) if step in planned else stage
    return [
        {
            "stage": step,
            "planned_for": machine.name,
            "planned_jobs": planned[step].jobs,
            "jobs": run["jobs"],
            "planned_tokens": round(planned[step].tokens),
            "tokens": run["tokens"],
            "planned_s": round(planned[step].seconds, 1),
            "wall_s": round(run["wall_s"], 1),
            "fact_over_plan": round(run["wall_s"] / planned[step].seconds, 2),
            "planned_gpu_s": round(planned[step].seconds * planned[step].devices, 1),
            "gpu_s": run["gpu_s"],
            "gpu_kj": run["gpu_kj"],
            "planned_usd": "",
            "usd": "",
        }
        for step, run in runs.items()
        if step in planned
    ]


UNKNOWN = "unknown"
"""Dollars of a judge whose price the study does not say."""


def dollars(study: Study, judge: str, run: Mapping[str, Any]) -> float | str:
    """Return what a judge has cost over all runs, given its run.json; ``UNKNOWN`` if it has no price.

    Args:
        judge: id under `evaluation.judges`, or one that was removed from there.
    """
    spent = float(run["spent_usd"])
    known = study.evaluation.judges.get(judge)
    return spent if spent or (known is not None and has_price(known)) else UNKNOWN


def judge_ledger(study: Study, runs: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one row for each judge of the study, with the columns of ``ledger``: what was planned and what it cost.

    Args:
        runs: run.json of each judge.
    """
    rows = []
    for key, run in runs.items():
        if key in study.evaluation.judges:
            planned = judge_price(study, key).usd
            row: dict[str, Any] = dict.fromkeys(LEDGER, "")
            row |= {"stage": f"judge {key}", "planned_jobs": 1, "jobs": 1, "wall_s": round(run["wall_s"], 1)}
            row |= {"planned_usd": UNKNOWN if planned is None else round(planned, 4), "usd": dollars(study, key, run)}
            rows.append(row)
    return rows


LEDGER = (
    "stage",
    "planned_for",
    "planned_jobs",
    "jobs",
    "planned_tokens",
    "tokens",
    "planned_s",
    "wall_s",
    "fact_over_plan",
    "planned_gpu_s",
    "gpu_s",
    "gpu_kj",
    "planned_usd",
    "usd",
)
"""Columns of the ledger."""


def machine_of(gpu: str | None) -> str:
    """Return the machine whose constants fit a GPU's name; a CPU core for None, an H100 for a GPU that is not known."""
    if gpu is None:
        return "cpu"
    known = {"H200": "h200", "H100": "h100", "A100": "a100", "4090": "rtx4090"}
    return next((machine for part, machine in known.items() if part in gpu), "h100")
