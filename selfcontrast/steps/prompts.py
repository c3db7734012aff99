"""Read a data set through its adaptor into canonical dialogues, and count what was left out and why.

In: a record file. Out: dialogues.jsonl.gz. CPU, streaming; minutes for 200,000 dialogues.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from selfcontrast import artifacts, cli, plugins
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue

REPEATED = "the prompt occurs in an earlier record"


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags and run the step."""
    parser = cli.step_parser(__doc__)
    parser.add_argument("--records", type=Path, required=True, help="file in the adaptor's record layout")
    return cli.run_step(parser.parse_args(argv), work)


def work(args: argparse.Namespace, step: cli.Step) -> None:
    """Write the dialogues."""
    adaptor = plugins.load("datasets", step.spec["adaptor"])
    counts: Counter[str] = Counter()
    kept = _kept(adaptor.read(args.records), args.records, counts, stop=step.spec["bad_records"] == "error")
    n = artifacts.write_jsonl(step.folder / "dialogues.jsonl.gz", kept, compress=True)
    if n == 0:
        (step.folder / "dialogues.jsonl.gz").unlink()
        raise InputError(
            "the data set is empty",
            found=_reasons(counts) or "no record",
            where=str(args.records),
            remedy="check the file and its adaptor",
        )
    step.add_output("dialogues.jsonl.gz")
    step.inputs["records"] = artifacts.sha256(args.records)
    step.report = {
        "records": n + counts.total(),
        "kept": n,
        "dropped": dict(sorted(counts.items())),
        "licence": adaptor.LICENCE,
    }


def _kept(
    dialogues: Iterator[Dialogue | BadRecord], path: Path, counts: Counter[str], *, stop: bool
) -> Iterator[dict[str, Any]]:
    """Yield the usable dialogues once for each prompt; count the others, or stop at the first."""
    seen: set[str] = set()
    for dialogue in dialogues:
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
                    "row": dialogue.row,
                }
                continue
            dialogue = BadRecord(REPEATED, dialogue.row)
        if stop and dialogue.reason != REPEATED:
            raise InputError(
                f"a record cannot be used: {dialogue.reason}",
                where=f"{path}, row {dialogue.row}",
                remedy="mend the row, or set `bad_records: drop` for this data set to leave such records out and count them",
            )
        counts[dialogue.reason] += 1


def _reasons(counts: Counter[str]) -> str:
    return "; ".join(f"{n} records dropped: {reason}" for reason, n in counts.items())


if __name__ == "__main__":
    cli.leave(main())
