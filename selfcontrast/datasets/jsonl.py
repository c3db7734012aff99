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

from selfcontrast.datasets._records import check_dialogue, messages_field, read_dialogues
from selfcontrast.fields import MisfitError, field, text, texts
from selfcontrast.records import BadRecord, Dialogue, Message

LICENCE = "yours"
HAS_REJECTED = True
HUB = None


def read(path: Path) -> Iterator[Dialogue | BadRecord]:
    """Yield one dialogue, or the reason why there is none, for each record."""
    return read_dialogues(path, dialogue)


def dialogue(record: Any, row: int) -> Dialogue | BadRecord:
    """Return what becomes of one record; raise ``MisfitError`` if it is not of this layout."""
    if record.get("messages") is not None:
        prompt = messages_field(record, "messages")
    elif record.get("prompt") is not None:
        prompt = [Message("user", text(record, "prompt"))]
    else:
        raise MisfitError("`prompt` and `messages` are missing", ", ".join(record))
    if record.get("response") is None and prompt and prompt[-1].role == "assistant":
        response = prompt.pop().content
    else:
        response = text(record, "response")
    return check_dialogue(prompt, response, _rejected(record), row=row)


def _rejected(record: dict[str, Any]) -> list[str]:
    if record.get("rejected") is None:
        return []
    answers = field(record, "rejected", str, list)
    return [answers] if isinstance(answers, str) else texts(record, "rejected")
