r"""Nectar: ``{"prompt": "\n\nHuman: ...\n\nAssistant: ", "answers": [{"answer", "model", "rank"}, ...]}``, parquet.

Rank 1 is the best answer and becomes the target; the others are the data set's own negatives, best first. Ranks may be
whole numbers or floats. A record whose ranks do not start at 1, or name 1 twice, cannot be used.

Layout: berkeley-nest/Nectar. Licence of the data: Apache-2.0 on the condition that they are not used to compete with OpenAI;
its card calls the whole release a non-commercial research preview.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, read_dialogues, split_turns
from selfcontrast.fields import MisfitError, field, text
from selfcontrast.records import BadRecord, Dialogue
from selfcontrast.sources import HubSource
from selfcontrast.texts import is_blank

LICENCE = "Apache-2.0, not to compete with OpenAI; non-commercial by the card of berkeley-nest/Nectar"
HAS_REJECTED = True
HUB = HubSource("berkeley-nest/Nectar", {"train": ("data/rlaif.parquet",)}, default=("train",))


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    turns = split_turns(text(record, "prompt"))
    answers = [(field(a, "rank", float), text(a, "answer")) for a in field(record, "answers", list)]
    if turns is None:
        raise MisfitError(r"`prompt` does not start with \n\nHuman:", repr(record["prompt"][:60]))
    if not turns or turns[-1].role != "assistant" or not is_blank(turns[-1].content):
        return BadRecord("the prompt does not end with an open answer", row)
    ranked = sorted(answers, key=lambda a: float(a[0]))
    ranks = [float(rank) for rank, _ in ranked]
    if ranks.count(1.0) != 1 or ranks[0] != 1.0:
        return BadRecord("the ranks do not name one best answer", row)
    if any(marker in answer for _, answer in answers for marker in ("Human:", "Assistant:")):
        return BadRecord("an answer has turns of its own", row)
    best, *others = [answer for _, answer in ranked]
    return check_dialogue(turns[:-1], best, others, row=row)
