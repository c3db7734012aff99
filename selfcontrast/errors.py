"""The errors that a user can mend, each with one message: what is wrong, expected, found, where, what to do."""

from __future__ import annotations


class SelfContrastError(Exception):
    """An error whose message is enough for the user: printed without a traceback, exit code 2."""

    def __init__(self, message: str, *, expected: str = "", found: str = "", where: str = "", remedy: str = "") -> None:
        parts = [message.rstrip(".")]
        parts += [f"{label}: {text}" for label, text in _labelled(expected, found, where, remedy) if text]
        super().__init__("\n  ".join(parts))


def _labelled(expected: str, found: str, where: str, remedy: str) -> list[tuple[str, str]]:
    return [("expected", expected), ("found", found), ("where", where), ("what to do", remedy)]


class ConfigError(SelfContrastError):
    """The study file asks for something impossible or unknown."""


class InputError(SelfContrastError):
    """A file is not what the step needs."""


class StepError(SelfContrastError):
    """A step cannot do its work with valid input, for example because memory or a device is missing."""
