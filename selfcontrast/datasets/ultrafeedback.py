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

from selfcontrast.datasets._records import check_dialogue, field, messages_field, read_records
from selfcontrast.records import WRONG_WAY_ROUND, BadRecord, Dialogue, Message
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
    number_or_none = (int, float, type(None))
    for row, record in read_records(path):
        chosen, rejected = (messages_field(record, side, path=path, row=row) for side in ("chosen", "rejected"))
        scores = [field(record, f"score_{side}", number_or_none, path=path, row=row) for side in ("chosen", "rejected")]
        yield _dialogue(chosen, rejected, scores, row)


def _dialogue(
    chosen: list[Message], rejected: list[Message], scores: list[float | None], row: int
) -> Dialogue | BadRecord:
    if not chosen or not rejected or chosen[-1].role != "assistant" or rejected[-1].role != "assistant":
        return BadRecord("the dialogue does not end with an answer", row)
    if chosen[:-1] != rejected[:-1]:
        return BadRecord("the prompts of chosen and rejected differ", row)
    better, worse = scores
    if better is None or worse is None or isnan(better) or isnan(worse):
        return BadRecord("a score is missing", row)
    if better == worse:
        return BadRecord("chosen and rejected answer have the same score", row)
    if better < worse:
        return BadRecord(WRONG_WAY_ROUND, row)
    return check_dialogue(chosen[:-1], chosen[-1].content, [rejected[-1].content], row=row)
