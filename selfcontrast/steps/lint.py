"""Check a data set before anything trains on it, and stop the run where it has errors or lacks what an arm needs.

In: the record file, its dialogues, the encoded splits, the base model's tokenizer. Out: findings.tsv. CPU, streaming; a few
minutes for 200,000 dialogues.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import InputError


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        required=True,
        help="files or folders of records",
    )
    parser.add_argument("--dialogues", type=Path, required=True, metavar="MANIFEST", help="of the step prompts")
    parser.add_argument("--prompts", type=Path, required=True, metavar="MANIFEST", help="of the step encode")
    parser.add_argument("--base", required=True, help="folder or hub id of the base model")
    parser.add_argument(
        "--against", type=Path, nargs="+", default=[], metavar="FILE", help="questions on which the arms are evaluated"
    )
    parser.add_argument(
        "--needs",
        type=json.loads,
        default={},
        metavar="JSON",
        help="who needs how many rejected answers: sweep.Need by user",
    )
    parser.add_argument("--graded", nargs="+", default=[], metavar="SPLIT", help="splits whose answers `grade` scores")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the findings."""
    from selfcontrast.checkpoints import embedding_rows, load_tokenizer
    from selfcontrast.linting import findings as found
    from selfcontrast.linting.across import HeldOut
    from selfcontrast.linting.needs import check_needs, short_findings
    from selfcontrast.linting.passes import check_encoded, check_records, check_templates
    from selfcontrast.linting.reading import benchmark_items
    from selfcontrast.rendering import renderer_of_base, settings_of
    from selfcontrast.sweep import Need
    from selfcontrast.world.grader import read_prompt

    spec = step.spec
    dialogues, encoded = step.open(args.dialogues), step.open(args.prompts)
    where = ", ".join(map(str, args.records))
    needs = {user: Need(*need) for user, need in args.needs.items()}
    rejected = Counter(map(len, encoded.table("pool.parquet", ["rejected"])["rejected"]))
    check_needs(needs, rejected, where=where)
    code = spec["trust_remote_code"]
    tokenizer, n_rows = (
        load_tokenizer(args.base, trust_remote_code=code),
        embedding_rows(args.base, trust_remote_code=code),
    )
    renderer = renderer_of_base(tokenizer, spec["template"], rows=n_rows, **settings_of(spec))
    held_out = [HeldOut.index(path.name, benchmark_items(path)) for path in args.against]
    files = [file for path in args.records for file in artifacts.files_of(path)]
    findings = [
        *check_records(files, plugins.load("datasets", spec["adaptor"])),
        *check_encoded(encoded, dialogues, renderer, max_length=spec["max_length"], held_out=held_out),
        *check_templates({"encode": encoded.manifest["template_sha256"], "base model": renderer.digest}),
        *short_findings(needs, rejected),
    ]
    totals = found.totals(findings)
    if totals["error"] and spec["errors"] == "stop":
        raise InputError(
            "the data set has errors on which nothing should be trained",
            found="\n\n" + found.to_text(findings) + "\n",
            where=where,
            remedy="mend the data or choose another adaptor; docs/linting.md explains each check. "
            "To train in spite of them, set `lint: report` for this data set",
        )
    for split in args.graded:
        for prompt in encoded.table(f"{split}.parquet", ["prompt"])["prompt"]:
            read_prompt(prompt)
    with artifacts.atomic(step.folder / "findings.tsv") as partial:
        partial.write_text(found.to_tsv(findings), encoding="utf-8")
    step.add_output("findings.tsv")
    step.report = {"findings": totals}


if __name__ == "__main__":
    cli.leave(main())
