"""The errors that a user can mend, each with one message: what is wrong, expected, found, where, what to do."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError


class SelfContrastError(Exception):
    """An error whose message is enough for the user: printed without a traceback, exit code 2."""

    def __init__(self, message: str, *, expected: str = "", found: str = "", where: str = "", remedy: str = "") -> None:
        if where and (own := _PLACE.search(message)):
            # The message is that of another error, of which somebody else knows where it comes from.
            place = f"{where}\n  what to do: {own[2]}"
            if own[1] == "where":
                place = where if own[2] in where else f"{where}, {own[2]}"
            message, where = f"{message[: own.start()]}\n  where: {place}{message[own.end() :]}", ""
        parts = [message.rstrip(".")]
        parts += [f"{label}: {text}" for label, text in _labelled(expected, found, where, remedy) if text]
        super().__init__("\n  ".join(parts))


_PLACE = re.compile(r"\n  (where|what to do): (.*)")
"""The first line of a message that says where its cause is or, if it does not, what to do."""


def _labelled(expected: str, found: str, where: str, remedy: str) -> list[tuple[str, str]]:
    return [("expected", expected), ("found", found), ("where", where), ("what to do", remedy)]


class ConfigError(SelfContrastError):
    """The study file asks for something impossible or unknown."""


class InputError(SelfContrastError):
    """A file is not what the step needs."""


class StepError(SelfContrastError):
    """A step cannot do its work with valid input, for example because memory or a device is missing."""


def first_problem(error: ValidationError, prefix: str) -> str:
    """Return the first problem that pydantic found, in one sentence, and how many more there are."""
    # An unknown key goes before a missing one: a misspelled key is both.
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    key = ".".join([prefix, *(str(x) for x in first["loc"])]).strip(".") or "the study"
    more = f" (and {len(problems) - 1} more behind it)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        return f"unknown key `{key}`; config/README.md lists the keys{more}"
    if first["type"] == "missing":
        return f"key `{key}` is missing{more}"
    found = "" if first["type"] == "value_error" else f"; found {first['input']!r}"
    return f"key `{key}`: {first['msg'].removeprefix('Value error, ')}{found}{more}"
