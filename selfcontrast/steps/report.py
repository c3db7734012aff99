"""Write the report of a finished study: one HTML file with its tables, figures and answers, which needs no network.

In: tables, figures, cost, the answers and scores of every arm, histories of the trainings, summaries of the judges,
CITATION.cff. Out: ../report.html, beside the folder of the manifest. CPU, seconds. Since it shows what the study cost, it
differs from run to run; nothing depends on it.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli
from selfcontrast.schema import Study

LARGEST = 20 << 20
"""Bytes of a report, beyond which a browser is slow to open it."""


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--tables", type=Path, required=True, metavar="MANIFEST", help="of the step tables")
    parser.add_argument("--cost", type=Path, required=True, metavar="MANIFEST", help="of the step cost")
    parser.add_argument(
        "--figures", type=Path, required=True, nargs="+", metavar="MANIFEST", help="of the step figures"
    )
    parser.add_argument("--citation", type=Path, required=True, help="CITATION.cff of the software")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the report."""
    from selfcontrast.cells import read_cells
    from selfcontrast.reporting import answers, citation, curves, page, reading, sections
    from selfcontrast.reporting.material import Material

    study, root = Study.model_validate(step.spec["study"]), step.folder.parent
    cells = read_cells(study, root, step.spec["arms"])
    made = step.open(args.tables)
    browsers = [reading.read_browser(cell, budget=answers.BUDGET // len(cells)) for cell in cells]
    material = Material(
        study=study,
        tables=reading.read_tables(made),
        costs=reading.read_tables(step.open(args.cost)),
        judges=reading.read_judges(study, root),
        provenance=reading.read_provenance(made),
        browsers=browsers,
        curves=curves.curves_of(reading.read_histories(study, cells)),
        pictures=_pictures(args.figures, step),
        citation=citation.read_citation(args.citation.read_text(encoding="utf-8"), where=str(args.citation)),
    )
    found = sections.sections_of(material)
    text = page.render(study.name, study.description, _facts(material.provenance, study, cells), found)
    report = root / "report.html"
    with artifacts.atomic(report) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
    step.add_output(f"../{report.name}")
    step.report = {
        "bytes": report.stat().st_size,
        "prompts_shown": {f"{b['dataset']}/{b['model']}": len(b["shown"]) for b in browsers},
        "texts": sum(b["texts"] for b in browsers),
        "texts_cut": sum(b["cut"] for b in browsers),
    }
    if step.report["bytes"] > LARGEST:
        cli.log.warning("%s has %.1f MiB and will be slow to open", report, step.report["bytes"] / 2**20)


def _pictures(manifests: Sequence[Path], step: cli.Step) -> dict[str, str]:
    found = {}
    for manifest in sorted(manifests):
        figure = step.open(manifest)
        name = manifest.parent.name
        found[name] = figure.path(f"{name}.svg").read_text(encoding="utf-8")
    return found


def _facts(provenance: Mapping[str, Any], study: Study, cells: Sequence[Any]) -> dict[str, str]:
    splits = {d: s.splits.model_dump()[study.evaluation.split] for d, s in study.datasets.items()}
    return {
        "arms": str(sum(len(c.arms) for c in cells)),
        "training seeds": str(len(study.seeds)),
        f"{study.evaluation.split} prompts": ", ".join(
            f"{n} {d}" if len(splits) > 1 else str(n) for d, n in splits.items()
        ),
        "answers a prompt": str(study.evaluation.samples),
        "data": ", ".join(study.datasets),
        "models": ", ".join(study.models),
        "software": f"selfcontrast {provenance['selfcontrast']}",
    }


if __name__ == "__main__":
    cli.leave(main())
