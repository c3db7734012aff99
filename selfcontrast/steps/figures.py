"""Draw one figure from the tables, as PDF and SVG.

In: tables. Out: <figure>.pdf, <figure>.svg. CPU, seconds.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli
from selfcontrast.schema import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--tables", type=Path, required=True, metavar="MANIFEST", help="of the step tables")
    parser.add_argument("--figure", required=True, help="name of the figure")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Draw the figure."""
    import pandas as pd

    from selfcontrast import diagnostic_plots, plotting, proxy_plots

    study = Study.model_validate(step.spec["study"])
    opened = step.open(args.tables)
    tables = {
        n.removesuffix(".tsv"): pd.read_csv(
            opened.path(n), sep="\t", keep_default_na=False, na_values=[""], dtype={"seed": str}
        )
        for n in opened.manifest["outputs"]
        if n.endswith(".tsv")
    }
    drawn = plotting.FIGURES | diagnostic_plots.FIGURES | proxy_plots.FIGURES
    figure = drawn[args.figure](study, tables)
    for suffix in ("pdf", "svg"):
        with artifacts.atomic(step.folder / f"{args.figure}.{suffix}") as partial:
            plotting.save(figure, partial, suffix)
        step.add_output(f"{args.figure}.{suffix}")


if __name__ == "__main__":
    cli.leave(main())
