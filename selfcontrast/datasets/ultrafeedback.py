"""UltraFeedback binarized: ``{"chosen": [{"content", "role"}, ...], "rejected": [...], "score_chosen", ...}``, parquet.

Both lists hold the whole dialogue, the user's turns included. The last turn of chosen is the target, that of rejected the
data set's own negative. ``score_chosen`` must be above ``score_rejected``: a pair with equal scores does not say which answer
is better, and one with the scores the other way round contradicts itself; neither is used.

Layout: HuggingFaceH4/ultrafeedback_binarized, splits ``*_prefs``. Licence of the data: MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import isnan
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, messages_field, read_dialogues
from selfcontrast.fields import field
from selfcontrast.records import WRONG_WAY_ROUND, BadRecord, Dialogue
from selfcontrast.sources import HubSource

LICENCE = "MIT"
HAS_REJECTED = True
HUB = HubSource(
    "HuggingFaceH4/ultrafeedback_binarized",
    {"train_prefs": ("data/train_prefs-*.parquet",), "test_prefs": ("data/test_prefs-*.parquet",)},
    default=("train_prefs",),
)


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    chosen, rejected = (messages_field(record, side) for side in ("chosen", "rejected"))
    better, worse = (_score(record, f"score_{side}") for side in ("chosen", "rejected"))
    if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return BadRecord("the dialogue does not end with an answer", row)
    if chosen[:-1] != rejected[:-1]:
        return BadRecord("the prompts of chosen and rejected differ", row)
    if better is None or worse is None:
        return BadRecord("a score is missing", row)
    if better == worse:
        return BadRecord("chosen and rejected answer have the same score", row)
    if better < worse:
        return BadRecord(WRONG_WAY_ROUND, row)
    return check_dialogue(chosen[:-1], chosen[-1].content, [rejected[-1].content], row=row)


def _score(record: Any, key: str) -> float | None:
    """Return a score; None where it is null or NaN, as parquet files write a missing one."""
    value = record.get(key)
    if (key in record and value is None) or (isinstance(value, float) and isnan(value)):
        return None
    return float(field(record, key, float))
