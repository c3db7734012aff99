"""Write tasks for lm-evaluation-harness from the held-out prompts of a pocket world.

In: the encoded splits. Out: tasks/, the definitions as YAML and their questions as JSON lines; `lm-eval run --include_path .`
in that folder runs them on any model. CPU, a second.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the tasks."""
    from selfcontrast.harness.pocket import DATA, DEFINITIONS, questions

    spec = step.spec
    split = step.open(args.prompts).table(f"{spec['split']}.parquet", ["prompt_id", "prompt"])
    rows = questions(zip(split["prompt_id"], split["prompt"], strict=True), seed=spec["seed"])
    with artifacts.atomic(step.folder / "tasks") as partial:
        partial.mkdir()
        artifacts.write_jsonl(partial / DATA, rows)
        for name, text in DEFINITIONS.items():
            (partial / f"{name}.yaml").write_text(text, encoding="utf-8")
    step.add_output("tasks")
    step.report = {"questions": len(rows)}


if __name__ == "__main__":
    cli.leave(main())
