"""UltraChat-200k: ``{"prompt", "prompt_id", "messages": [{"content", "role"}, ...]}``, parquet.

The last assistant turn is the target, everything before it the prompt. There are no rejected answers.

Layout: HuggingFaceH4/ultrachat_200k, splits ``*_sft``. Licence of the data: MIT.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, messages_field, read_dialogues
from selfcontrast.records import BadRecord, Dialogue
from selfcontrast.sources import HubSource

LICENCE = "MIT"
HAS_REJECTED = False
HUB = HubSource(
    "HuggingFaceH4/ultrachat_200k",
    {"train_sft": ("data/train_sft-*.parquet",), "test_sft": ("data/test_sft-*.parquet",)},
    default=("train_sft",),
)


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    messages = messages_field(record, "messages")
    if not messages or messages[-1].role != "assistant":
        return BadRecord("the dialogue does not end with an answer", row)
    return check_dialogue(messages[:-1], messages[-1].content, [], row=row)
