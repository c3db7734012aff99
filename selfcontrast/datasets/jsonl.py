"""Your own data: records with ``prompt`` or ``messages``, ``response`` and, if you have it, ``rejected``.

``{"prompt": "Name a prime.", "response": "7", "rejected": "9"}``; or with a history, whose last turn is the user's
``{"messages": [{"role": "user", "content": "..."}, ...], "response": "..."}``; or with the response as the last of the
``messages``, an assistant's. ``rejected`` is a text or a list of texts, best first. A key that is null counts as absent;
other keys are not read. JSON lines or parquet.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from selfcontrast.datasets._records import check_dialogue, field, messages_field, read_records
from selfcontrast.records import BadRecord, Dialogue, Message

LICENCE = "yours"
HAS_REJECTED = True
HUB = None


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    for row, with_nulls in read_records(path):
        record = {key: value for key, value in with_nulls.items() if value is not None}
        if "messages" in record:
            prompt = messages_field(record, "messages", path=path, row=row)
        else:
            prompt = [Message("user", field(record, "prompt", str, path=path, row=row))]
        if "response" not in record and prompt and prompt[-1].role == "assistant":
            response = prompt.pop().content
        else:
            response = field(record, "response", str, path=path, row=row)
        yield check_dialogue(prompt, response, _rejected(record, path, row), row=row)


def _rejected(record: dict[str, Any], path: Path, row: int) -> list[str]:
    if "rejected" not in record:
        return []
    answers = field(record, "rejected", (str, list), path=path, row=row)
    if isinstance(answers, str):
        return [answers]
    return [field({"rejected": answer}, "rejected", str, path=path, row=row) for answer in answers]
