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

from selfcontrast.datasets._records import check_dialogue, field, read_records, split_turns
from selfcontrast.errors import InputError
from selfcontrast.records import BadRecord, Dialogue
from selfcontrast.sources import HubSource

LICENCE = "Apache-2.0, not to compete with OpenAI; non-commercial by the card of berkeley-nest/Nectar"
HAS_REJECTED = True
HUB = HubSource("berkeley-nest/Nectar", {"train": ("data/rlaif.parquet",)}, default=("train",))


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    for row, record in read_records(path):
        turns = split_turns(field(record, "prompt", str, path=path, row=row))
        answers = field(record, "answers", list, path=path, row=row)
        if turns is None:
            raise InputError(
                r"`prompt` does not start with \n\nHuman:",
                where=f"{path}, row {row}",
                remedy="check that the file has the layout of Nectar",
            )
        for answer in answers:
            field(answer, "answer", str, path=path, row=row)
            field(answer, "rank", (int, float), path=path, row=row)
        yield _dialogue(turns, answers, row)


def _dialogue(turns: list[Any], answers: list[dict[str, Any]], row: int) -> Dialogue | BadRecord:
    ranked = sorted(answers, key=lambda a: float(a["rank"]))
    if not turns or turns[-1].role != "assistant" or turns[-1].content:
        return BadRecord("the prompt does not end with an open answer", row)
    if [float(a["rank"]) for a in ranked].count(1.0) != 1 or float(ranked[0]["rank"]) != 1.0:
        return BadRecord("the ranks do not name one best answer", row)
    if any(marker in a["answer"] for a in answers for marker in ("Human:", "Assistant:")):
        return BadRecord("an answer has turns of its own", row)
    best, *others = [a["answer"] for a in ranked]
    return check_dialogue(turns[:-1], best, others, row=row)
