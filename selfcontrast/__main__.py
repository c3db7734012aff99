"""Commands beside the workflow: ``python -m selfcontrast check | plan | show | export | lint STUDY``, and others."""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from selfcontrast import calibration
from selfcontrast.architectures import check_architectures
from selfcontrast.checkpoint_checks import check_checkpoints
from selfcontrast.config import check_files, input_files, load_study
from selfcontrast.consoles import accept_any_text
from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.exporting import command as exporting
from selfcontrast.judging.price import judge_price
from selfcontrast.judging.question_checks import check_questions
from selfcontrast.linting import command as linting
from selfcontrast.linting.needs import check_annotated
from selfcontrast.linting.tokenizers import check_tokenizers
from selfcontrast.planning.machines import MACHINES
from selfcontrast.planning.report import describe_plan
from selfcontrast.progress import follow_to_the_end
from selfcontrast.schema import Study
from selfcontrast.sources import check_times
from selfcontrast.sweep import arms_of, models_of

RESULTS = Path("results")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 2 with a message alone for what the user can mend.

    A command gives the text to print, or its exit code.
    """
    accept_any_text()
    parser = argparse.ArgumentParser(prog="selfcontrast", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (function, text) in COMMANDS.items():
        command = commands.add_parser(name, help=text)
        command.add_argument("study", help="name under config/, or path of a YAML file")
        command.set_defaults(work=lambda args, function=function: function(args.study))
    command = commands.add_parser("lint", help="check preference data: a file of records, or the data sets of a study")
    linting.add_flags(command)
    command.set_defaults(work=lambda args: linting.lint(args, RESULTS))
    command = commands.add_parser(
        "export", help="write preference sets, answers and models in the layouts of other tools"
    )
    exporting.add_flags(command)
    command.set_defaults(work=lambda args: exporting.export(args, RESULTS))
    command = commands.add_parser("plan", help="what a study will cost: jobs, tokens, hours, memory, disk")
    command.add_argument("study", help="name under config/, or path of a YAML file")
    command.add_argument("--machine", choices=sorted(MACHINES), help="device to price it for; a GPU or one CPU core")
    command.set_defaults(work=lambda args: describe_plan(load_study(args.study), machine=args.machine))
    command = commands.add_parser("schema", help="print the JSON schema of study files, for editors")
    command.set_defaults(work=lambda args: schema())
    command = commands.add_parser("progress", help="turn snakemake's output on standard input into short lines")
    command.set_defaults(work=lambda args: follow_to_the_end(sys.stdin, sys.stdout))
    command = commands.add_parser("calibrate", help="print the win rates of published judgements (AlpacaEval's layout)")
    command.add_argument("folder", type=Path, help="folder of <model>/<annotator>/annotations.json")
    command.add_argument("--leaderboard", type=Path, help="CSV file to compare with; exit code 1 if a number differs")
    command.set_defaults(work=lambda args: calibrate(args.folder, args.leaderboard))
    args = parser.parse_args(argv)
    try:
        outcome = args.work(args)
    except SelfContrastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if isinstance(outcome, int):  # the exit code of a command that printed by itself
        return outcome
    if outcome is not None:
        print(outcome)
    return 0


def check(name: str) -> str:
    """Return one paragraph on what a study will run."""
    study = load_study(name)
    check_files(study)
    check_times(input_files(study))
    check_architectures(study)
    check_checkpoints(study)
    check_tokenizers(study)
    check_questions(study)
    check_annotated(study)
    lines = [f"{study.name}: {study.description}"]
    for dataset in study.datasets:
        arms = arms_of(study, dataset)
        trained = sum(a.is_trained for a in arms.values()) * len(study.seeds) * len(models_of(study, dataset))
        lines.append(f"  {dataset}: {len(arms)} arms, {len(study.seeds)} seeds, {trained} trainings")
    lines += [f"  judge {key}: {judge_price(study, key)}" for key in study.evaluation.judges]
    return "\n".join(lines)


def show(name: str) -> str:
    """Return the main table of a finished study and where the rest is."""
    root = _finished(name)
    table = (root / "tables" / "main.md").read_text(encoding="utf-8")
    figures = ", ".join(sorted(p.as_posix() for p in root.glob("figures/*/*.svg")))
    return f"\n{table}\nTables:  {root.as_posix()}/tables/\nFigures: {figures} (and .pdf)"


def publish(name: str) -> str:
    """Copy the tables, figures, cost and report of a finished study to results/published/<study>/ and return how many."""
    root = _finished(name)
    target = RESULTS / "published" / root.name
    if target.exists():
        shutil.rmtree(target)
    tables = [p for p in root.glob("tables/*") if p.name not in ("run.json", "manifest.json")] + [
        *root.glob("cost/*.tsv")
    ]
    figures = [*root.glob("figures/*/*.svg"), *root.glob("figures/*/*.pdf")]
    for folder, files in (("tables", tables), ("figures", figures)):
        (target / folder).mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, target / folder / file.name)
    report = root / "report.html"
    if report.is_file():
        shutil.copyfile(report, target / report.name)
    n_files = len(tables) + len(figures) + report.is_file()
    return f"{n_files} files copied to {target.as_posix()}/"


def calibrate(folder: Path, leaderboard: Path | None) -> int:
    """Print the win rates of published judgements; return 1 if one differs from the leaderboard or cannot be read, else 0."""
    text, is_well = calibration.report(folder, leaderboard)
    print(text)
    return 0 if is_well else 1


def schema() -> str:
    """Return the JSON schema of a study file; ``name`` comes from the file's name."""
    described = Study.model_json_schema()
    described["required"].remove("name")
    return json.dumps(described, indent=2)


def _finished(name: str) -> Path:
    """Return the folder of a finished study, or raise InputError."""
    root = RESULTS / load_study(name).name
    if not (root / "tables" / "main.md").is_file():
        remedy = f"run snakemake --cores all --config study={name}"
        raise InputError("the study has no tables yet", where=f"{root.as_posix()}/tables/main.md", remedy=remedy)
    return root


COMMANDS: dict[str, tuple[Callable[[str], str], str]] = {
    "check": (check, "check a study without running it"),
    "show": (show, "print the main table of a finished study"),
    "publish": (publish, "copy its small tables, figures and report to results/published/"),
}


if __name__ == "__main__":
    sys.exit(main())
