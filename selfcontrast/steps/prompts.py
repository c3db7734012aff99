"""Read a data set through its adaptor into canonical dialogues, and count what was left out and why.

In: files of records. Out: dialogues.jsonl.gz. CPU, streaming; minutes for 200,000 dialogues.

Files are read in the order of their names, whatever the order in which they are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from selfcontrast import artifacts, cli, plugins, sources
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue

REPEATED = "the prompt occurs in an earlier record"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument(
        "--records",
        type=Path,
        nargs="+",
        required=True,
        help="files in the adaptor's record layout, or folders of them",
    )
    parser.add_argument(
        "--made-by",
        type=Path,
        metavar="MANIFEST",
        help="of the step that wrote the records; they are checked against it",
    )
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the dialogues."""
    adaptor = plugins.load("datasets", step.spec["adaptor"])
    if args.made_by is None:
        files = sources.record_files(args.records)
    else:
        files = sources.record_files(artifacts.files_of(step.open(args.made_by).path(args.records[0].name)))
    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    hashes = sources.hashes_of(files)
    content = sources.content_hash(list(hashes.values()))
    sources.check_content(content, step.spec["sha256"], where=where)
    cli.log.info("%d files of records, SHA-256 of their contents %s", len(files), content)
    counts: Counter[str] = Counter()
    records = _read_all(adaptor, files)
    kept = _kept(records, counts, stop=step.spec["bad_records"] == "error")
    n = artifacts.write_jsonl(step.folder / "dialogues.jsonl.gz", kept, compress=True)
    if n == 0:
        (step.folder / "dialogues.jsonl.gz").unlink()
        raise InputError(
            "the data set is empty",
            found=_reasons(counts) or "no record",
            where=where,
            remedy="check the file and its adaptor",
        )
    step.add_output("dialogues.jsonl.gz")
    step.inputs["records"] = content
    if len(files) > 1:
        step.inputs |= {f"records/{name}": digest for name, digest in hashes.items()}
    step.report = {
        "records": n + counts.total(),
        "kept": n,
        "dropped": dict(sorted(counts.items())),
        "licence": adaptor.LICENCE,
    }


def _read_all(adaptor: ModuleType, files: Sequence[Path]) -> Iterator[tuple[Path, str, Dialogue | BadRecord]]:
    """Yield (file, its name, what a record became), one file after the other."""
    for file, name in zip(files, sources.names_of(files), strict=True):
        for found in adaptor.read(file):
            yield file, name, found


def _kept(
    records: Iterator[tuple[Path, str, Dialogue | BadRecord]], counts: Counter[str], *, stop: bool
) -> Iterator[dict[str, Any]]:
    """Yield the usable dialogues once for each prompt; count the others, or stop at the first."""
    seen: set[str] = set()
    for file, name, dialogue in records:
        if isinstance(dialogue, Dialogue):
            messages = [{"role": m.role, "content": m.content} for m in dialogue.messages]
            prompt_id = hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:16]
            if prompt_id not in seen:
                seen.add(prompt_id)
                yield {
                    "prompt_id": prompt_id,
                    "messages": messages,
                    "target": dialogue.target,
                    "rejected": dialogue.rejected,
                    "file": name,
                    "row": dialogue.row,
                }
                continue
            dialogue = BadRecord(REPEATED, dialogue.row)
        if stop and dialogue.reason != REPEATED:
            raise InputError(
                f"a record cannot be used: {dialogue.reason}",
                where=f"{file}, row {dialogue.row}",
                remedy="mend the row, or set `bad_records: drop` for this data set to leave such records out and count them",
            )
        counts[dialogue.reason] += 1


def _reasons(counts: Counter[str]) -> str:
    return "; ".join(f"{n} records dropped: {reason}" for reason, n in counts.items())


if __name__ == "__main__":
    cli.leave(main())
