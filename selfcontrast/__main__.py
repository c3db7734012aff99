"""Commands beside the workflow: ``python -m selfcontrast check STUDY``, ``show STUDY``, ``schema``, ``progress``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from selfcontrast.config import Study, check_files, find_study, load_study
from selfcontrast.errors import InputError, SelfContrastError
from selfcontrast.progress import follow
from selfcontrast.sweep import arms_of


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; 2 with a message alone for what the user can mend."""
    parser = argparse.ArgumentParser(prog="selfcontrast", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("check", "check a study without running it"),
        ("show", "print the main table of a finished study"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("study", help="name under config/, or path of a YAML file")
    commands.add_parser("schema", help="print the JSON schema of study files, for editors")
    commands.add_parser("progress", help="turn snakemake's output on standard input into short lines of progress")
    args = parser.parse_args(argv)
    try:
        if args.command == "check":
            print(check(args.study))
        elif args.command == "show":
            print(show(args.study))
        elif args.command == "schema":
            print(schema())
        else:
            follow(sys.stdin, sys.stdout)
    except SelfContrastError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 2
    return 0


def check(name: str) -> str:
    """Return one paragraph on what a study will run."""
    study = load_study(name)
    check_files(study)
    lines = [f"{study.name}: {study.description}"]
    for dataset in study.datasets:
        arms = arms_of(study, dataset)
        trained = sum(a.is_trained for a in arms.values()) * len(study.seeds) * len(study.models)
        lines.append(f"  {dataset}: {len(arms)} arms, {len(study.seeds)} seeds, {trained} trainings")
    return "\n".join(lines)


def schema() -> str:
    """Return the JSON schema of a study file; ``name`` comes from the file's name."""
    described = Study.model_json_schema()
    described["required"].remove("name")
    return json.dumps(described, indent=2)


def show(name: str) -> str:
    """Return the main table of a finished study and where the rest is."""
    study = load_study(find_study(name).as_posix())
    root = Path("results") / study.name
    table = root / "tables" / "main.md"
    if not table.is_file():
        raise InputError(
            "the study has no tables yet", where=str(table), remedy=f"run snakemake --cores all --config study={name}"
        )
    figures = ", ".join(sorted(p.as_posix() for p in root.glob("figures/*/*.svg")))
    return f"\n{table.read_text(encoding='utf-8')}\nTables:  {root.as_posix()}/tables/\nFigures: {figures} (and .pdf)"


if __name__ == "__main__":
    sys.exit(main())
