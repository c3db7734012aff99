"""Texts as checks compare them: words without case and punctuation, and hashes of eight bytes."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from selfcontrast.records import Message

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_MULTIPLIER = 0x9E3779B97F4A7C15


def words(text: str) -> list[str]:
    """Return the words of a text: case folded, compatible characters made equal (NFKC), punctuation left out."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def normalised(text: str) -> str:
    """Return the words of a text with single spaces; a text without any word as it is, but stripped."""
    return " ".join(words(text)) or text.strip()


@lru_cache(maxsize=1 << 18)
def digest(text: str) -> int:
    """Return eight bytes of the BLAKE2 hash of a text: the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def prompt_digest(messages: Sequence[Message], *, normalise: bool) -> int:
    """Return a hash of a whole prompt, roles and turns included."""
    parts = [f"{m.role}\0{normalised(m.content) if normalise else m.content}" for m in messages]
    return digest.__wrapped__("\0\0".join(parts))


def ngrams(text_words: Sequence[str], lengths: Collection[int]) -> Iterator[tuple[int, NDArray]]:
    """Yield (n, hashes of every n words in a row) for each n of ``lengths`` that the text has words for, n ascending.

    The hashes are ``(len(text_words) - n + 1,)`` in uint64: a polynomial of those of the words, modulo 2**64.
    """
    import numpy as np

    longest = max((n for n in lengths if n <= len(text_words)), default=0)
    if longest == 0:
        return
    hashes = np.fromiter(map(digest, text_words), np.uint64, len(text_words))
    total = np.zeros(len(hashes) + 1, np.uint64)
    for n in range(1, longest + 1):
        total = total[:-1] * np.uint64(_MULTIPLIER) + hashes[n - 1 :]
        if n in lengths:
            yield n, total
