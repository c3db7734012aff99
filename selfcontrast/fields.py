"""Fields of records that somebody else wrote, with their types checked: nothing is converted in silence."""

from __future__ import annotations

import math
from typing import Any

_NAMES = {
    str: "a text",
    list: "a list",
    dict: "an object",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


class MisfitError(Exception):
    """A record lacks a field, or has one of another type.

    Attributes:
        reason: one of few fixed phrases, since records are counted by it.
        found: what is there instead.
    """

    def __init__(self, reason: str, found: str = "") -> None:
        super().__init__(f"{reason}; found {found}" if found else reason)
        self.reason = reason
        self.found = found


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in words."""
    kind = float if isinstance(value, int) and not isinstance(value, bool) else type(value)
    return _NAMES.get(kind, kind.__name__)


def field(record: Any, key: str, *kinds: type) -> Any:
    """Return ``record[key]``.

    Args:
        kinds: ``str``, ``list``, ``dict`` or ``float``, which stands for every finite number; true and false are none.

    Raises:
        MisfitError: the field is missing or null, or is of no such kind.
    """
    value = record.get(key) if isinstance(record, dict) else None
    if value is None:
        found = ", ".join(record) if isinstance(record, dict) and key not in record else kind_of(value)
        raise MisfitError(f"`{key}` is missing", found if isinstance(record, dict) else kind_of(record))
    for kind in kinds:
        if _is_number(value) if kind is float else isinstance(value, kind):
            return value
    raise MisfitError(f"`{key}` is not {' or '.join(_NAMES[kind] for kind in kinds)}", kind_of(value))


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float can hold
        return False


def text(record: Any, key: str) -> str:
    """Return a field that is a text.

    Raises:
        MisfitError: it is something else, or missing.
    """
    value: str = field(record, key, str)
    return value


def texts(record: Any, key: str) -> list[str]:
    """Return a field that is a list of texts.

    Raises:
        MisfitError: it is something else, or missing.
    """
    values: list[str] = field(record, key, list)
    for value in values:
        if not isinstance(value, str):
            raise MisfitError(f"`{key}` is not a list of texts", f"{kind_of(value)} in the list")
    return values
