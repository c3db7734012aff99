"""Prompt templates of judges: filled in one pass, hashed for the key of a request, and read back from a filled prompt."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from selfcontrast.records import Message

_SLOT = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Template:
    """Messages with slots such as ``{answer}``; other braces stand for themselves.

    Attributes:
        name: what it is for.
        messages: ``(role, text)`` in order.
    """

    name: str
    messages: tuple[tuple[str, str], ...]

    @cached_property
    def digest(self) -> str:
        """Return a hash of the wording."""
        return hashlib.sha256(json.dumps(self.messages).encode()).hexdigest()

    def fill(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """Return the messages with the slots filled; slots inside a value stay as they are.

        Raises:
            KeyError: a slot has no value.
        """
        return tuple(Message(role, _SLOT.sub(lambda m: values[m[1]], text)) for role, text in self.messages)

    def read(self, messages: Sequence[Message]) -> dict[str, str] | None:
        """Return the values with which the template was filled, or None if it was another one."""
        if [m.role for m in messages] != [role for role, _ in self.messages]:
            return None
        found: dict[str, str] = {}
        for message, pattern in zip(messages, self._patterns, strict=True):
            match = pattern.fullmatch(message.content)
            if match is None:
                return None
            found |= match.groupdict()
        return found

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[str], ...]:
        return tuple(re.compile(_as_pattern(text), re.DOTALL) for _, text in self.messages)


def _as_pattern(text: str) -> str:
    literals, slots = _SLOT.split(text)[::2], _SLOT.findall(text)
    groups = [f"(?P<{slot}>.*?)" for slot in slots] + [""]
    return "".join(re.escape(a) + b for a, b in zip(literals, groups, strict=True))


def verdict_text(text: str) -> str:
    """Return what a judge says behind its thoughts; nothing if it never ended thinking.

    Some servers leave the thoughts of a reasoning model in the text, between ``<think>`` and ``</think>``.
    """
    _, ended, rest = text.rpartition("</think>")
    if ended:
        return rest
    return "" if "<think>" in text else text


def one_verdict(pattern: re.Pattern[str], text: str) -> str | None:
    """Return the only thing that group 1 of ``pattern`` finds in a judge's text; None if nothing, or two different things."""
    found = set(pattern.findall(verdict_text(text)))
    return found.pop() if len(found) == 1 else None
