"""JSON in which a key that an object gives twice is an error: Python's own reader silently takes the last one."""

from __future__ import annotations

import json
from typing import Any


class DuplicateKeyError(ValueError):
    """An object of a JSON text gives a key twice."""


def loads(text: str | bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        DuplicateKeyError: an object gives a key twice, at whatever depth.
        ValueError: the text is not JSON, or is nested too deeply to be read.
    """
    try:
        return json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise DuplicateKeyError(f"the key {json.dumps(twice, ensure_ascii=False)[:80]} is given twice in one object")
    return found
