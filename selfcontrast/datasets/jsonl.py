"""Your own data: JSON lines with ``prompt`` or ``messages``, ``response`` and, if you have it, ``rejected``.

``{"prompt": "Name a prime.", "response": "7", "rejected": "9"}``, or with a history
``{"messages": [{"role": "user", "content": "..."}, ...], "response": "..."}``, whose last turn is the user's.
``rejected`` is a text or a list of texts.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from selfcontrast.datasets._records import check_dialogue, field, messages_field, read_records
from selfcontrast.records import BadRecord, Dialogue, Message

LICENCE = "yours"
HAS_REJECTED = True


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    for row, record in read_records(path):
        if "messages" in record:
            prompt = messages_field(record, "messages", path=path, row=row)
        else:
            prompt = [Message("user", field(record, "prompt", str, path=path, row=row))]
        response = field(record, "response", str, path=path, row=row)
        rejected = (
            field(record, "rejected", (str, list), path=path, row=row) if record.get("rejected") is not None else []
        )
        rejected = [rejected] if isinstance(rejected, str) else rejected
        for answer in rejected:
            field({"rejected": answer}, "rejected", str, path=path, row=row)
        yield check_dialogue(prompt, response, rejected, row=row)
