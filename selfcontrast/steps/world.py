"""Write one data set of the pocket world in the record layout of a public one.

Out: the record file. CPU, about a second for a thousand dialogues.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from selfcontrast import cli
from selfcontrast.world.layouts import write_records


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    return cli.run_step(cli.step_parser(__doc__).parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the records."""
    spec = step.spec
    write_records(step.folder / "records", layout=spec["layout"], dialogues=spec["dialogues"], seed=spec["seed"])
    step.add_output("records")
    step.report = {"records": spec["dialogues"], "layout": spec["layout"]}


if __name__ == "__main__":
    cli.leave(main())
