r"""HH-RLHF: ``{"chosen": "\n\nHuman: ...\n\nAssistant: ...", "rejected": ...}``, JSON lines, gzipped or not.

The prompt is everything before the last ``Assistant:`` turn, which must be the same in both texts; the chosen last answer
is the target, the rejected one the data set's own negative.

Layout: Anthropic/hh-rlhf, subsets helpful-* and harmless-base; red-team-attempts has another one. Licence of the data: MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, read_dialogues, split_turns
from selfcontrast.fields import MisfitError, text
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
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    texts = [text(record, side) for side in ("chosen", "rejected")]
    chosen, rejected = map(split_turns, texts)
    if chosen is None or rejected is None:
        found = repr(texts[0 if chosen is None else 1][:60])
        raise MisfitError(r"a text does not start with \n\nHuman: or \n\nAssistant:", found)
    if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return BadRecord("the dialogue does not end with an answer", row)
    if chosen[:-1] != rejected[:-1]:
        return BadRecord("the prompts of chosen and rejected differ", row)
    return check_dialogue(chosen[:-1], chosen[-1].content, [rejected[-1].content], row=row)
