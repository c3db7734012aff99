"""Add up what every stage of a finished study cost, and compare it with the plan.

In: run.json of every step. Out: cost.tsv, ledger.tsv. Unlike every other table they differ from run to run, and nothing
depends on them.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli
from selfcontrast.planning.report import UNKNOWN, dollars, judge_ledger, ledger
from selfcontrast.schema import Study

TOKENS = ("sampled_tokens", "scored_tokens", "trained_tokens")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the tables."""
    results, study = step.folder.parent, Study.model_validate(step.spec["study"])
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    judges: dict[str, dict[str, Any]] = {}
    for path in sorted(results.rglob("run.json")):
        run = artifacts.read_json(path)
        if run["step"] == "judge":
            judges[path.parent.name] = run
            run["usd"] = dollars(study, path.parent.name, run)
        if run["step"] not in ("cost", "report"):  # what comes behind, from an earlier run
            runs[run["step"]].append(run)
    rows = sorted((_sum(stage, jobs) for stage, jobs in runs.items()), key=lambda r: -r["wall_s"])
    _write(step, "cost.tsv", rows)
    sums = {
        r["stage"]: {
            "jobs": r["jobs"],
            "wall_s": r["wall_s"],
            "tokens": sum(r[key] for key in TOKENS),
            "gpu_s": r["gpu_s"],
            "gpu_kj": r["gpu_kj"],
            "gpu": next((run["gpu"] for run in runs[r["stage"]] if run["gpu"]), None),
        }
        for r in rows
    }
    _write(step, "ledger.tsv", [*ledger(study, sums, results=results), *judge_ledger(study, judges)])


def _sum(stage: str, jobs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "stage": stage,
        "jobs": len(jobs),
        "wall_s": round(sum(j["wall_s"] for j in jobs), 1),
        "cpu_s": round(sum(j["cpu_s"] for j in jobs), 1),
        "gpu_s": round(sum(j.get("gpu_s", 0.0) for j in jobs), 1),
        "gpu_kj": round(sum(j.get("gpu_joules", 0.0) for j in jobs) / 1000, 1),
        "peak_rss_mb": max(j["peak_rss_mb"] for j in jobs),
        "peak_gpu_mb": max(j.get("peak_gpu_mb", 0) for j in jobs),
        **{key: sum(j.get(key, 0) for j in jobs) for key in TOKENS},
        **_dollars([j["usd"] for j in jobs if "usd" in j]),
    }


def _dollars(spent: Sequence[float | str]) -> dict[str, Any]:
    """Return what judges have cost in all, and how many of them have no price; nothing where there is none."""
    known = [usd for usd in spent if usd != UNKNOWN]
    total: float | str = round(sum(map(float, known)), 6) if known else UNKNOWN if spent else ""
    return {"usd": total, "judges_without_price": len(spent) - len(known) if spent else ""}


def _write(step: cli.Step, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    lines = ["\t".join(rows[0]) if rows else ""] + ["\t".join(map(str, row.values())) for row in rows]
    with artifacts.atomic(step.folder / Path(name)) as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    step.add_output(name)


if __name__ == "__main__":
    cli.leave(main())
