"""Add up what every stage of a finished study cost.

In: run.json of every step. Out: cost.tsv. Unlike every other table it differs from run to run, and nothing depends on it.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from selfcontrast import artifacts, cli

TOKENS = ("sampled_tokens", "scored_tokens", "trained_tokens")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the table."""
    runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(step.folder.parent.rglob("run.json")):
        run = artifacts.read_json(path)
        if run["step"] != "cost":
            runs[run["step"]].append(run)
    lines = ["\t".join(["stage", "jobs", "wall_s", "cpu_s", "peak_rss_mb", *TOKENS])]
    for stage, rows in sorted(runs.items(), key=lambda item: -sum(r["wall_s"] for r in item[1])):
        sums = [f"{sum(r[key] for r in rows):.1f}" for key in ("wall_s", "cpu_s")]
        tokens = [str(sum(r.get(key, 0) for r in rows)) for key in TOKENS]
        lines.append("\t".join([stage, str(len(rows)), *sums, str(max(r["peak_rss_mb"] for r in rows)), *tokens]))
    with artifacts.atomic(step.folder / "cost.tsv") as partial:
        partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    step.add_output("cost.tsv")


if __name__ == "__main__":
    cli.leave(main())
