r"""HH-RLHF: ``{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}``, JSON lines, gzipped or not.

The prompt is everything before the last ``Assistant:`` turn, which must be the same in both texts; the chosen last answer
is the target, the rejected one the data set's own negative.

Layout: Anthropic/hh-rlhf, subsets helpful-* and harmless-base; red-team-attempts has another one. Licence of the data: MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfcontrast.datasets._records import check_dialogue, field, read_records, split_turns
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue
from selfcontrast.sources import HubSource

LICENCE = "MIT"
HAS_REJECTED = True

_PARTS = ("helpful-base", "helpful-online", "helpful-rejection-sampled", "harmless-base")
HUB = HubSource(
    "Anthropic/hh-rlhf",
    {part: (f"{part}/train.jsonl.gz",) for part in _PARTS}
    | {f"{part}-test": (f"{part}/test.jsonl.gz",) for part in _PARTS},
    default=_PARTS,
)


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    for row, record in read_records(path):
        sides = [split_turns(field(record, side, str, path=path, row=row)) for side in ("chosen", "rejected")]
        chosen, rejected = sides
        if chosen is None or rejected is None:
            raise InputError(
                r"a text does not start with \n\nHuman: or \n\nAssistant:",
                found=repr(record["chosen" if chosen is None else "rejected"][:60]),
                where=f"{path}, row {row}",
                remedy="check that the file has the layout of HH-RLHF",
            )
        if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
            yield BadRecord("the dialogue does not end with an answer", row)
        elif chosen[:-1] != rejected[:-1]:
            yield BadRecord("the prompts of chosen and rejected differ", row)
        else:
            yield check_dialogue(chosen[:-1], chosen[-1].content, [rejected[-1].content], row=row)
