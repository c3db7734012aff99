"""When a text counts as empty, and which characters no text may have."""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
"""Unicode's categories of control and format characters, and of spaces."""

_FILLERS = frozenset(
    {
        *map(chr, range(0xFE00, 0xFE10)),  # variation selectors
        *map(chr, range(0xE0000, 0xE1000)),  # tags, more variation selectors, and what Unicode reserves for their like
        *map(chr, range(0xFFF0, 0xFFF9)),  # reserved for characters that a reader does not see
        *"\u034f\u17b4\u17b5\u180b\u180c\u180d\u180f\u2065",  # marks without a shape of their own
        *"\u115f\u1160\u3164\uffa0",  # Hangul fillers: letters by category
        "\u2800",  # Braille pattern without a dot
    }
)
"""Characters of other categories that show nothing: default ignorable code points, and the blank Braille pattern."""

_HALF_PAIR = re.compile("[\ud800-\udfff]")


def is_blank(text: str) -> bool:
    """Return whether a text shows nothing: it has no character, or only spaces and invisible ones such as U+200B."""
    return all(c in _FILLERS or unicodedata.category(c) in _INVISIBLE for c in text)


def fault_of(text: str) -> str:
    """Return why a text cannot be used whatever it says: no tokenizer or file takes half a character; empty if it can."""
    if "\0" in text:
        return "a text has a NUL character"
    return "a text has half a surrogate pair" if _HALF_PAIR.search(text) else ""
