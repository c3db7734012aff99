"""Text to token ids where control tokens come from the template alone: what a user wrote, ``</s>`` say, stays text.

A control token is one that the tokenizer holds to be special, the ends of turns among them. A text that contains none of
their names is tokenised as it stands. For one that does, the control tokens that the template wrote get other names, under
which a copy of the tokenizer knows them; the copy takes the old names for text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NONCHARACTERS = tuple(map(chr, range(0xFDD0, 0xFDF0)))
"""Code points that Unicode keeps for use inside of a program; names and stand-ins are written between two of them."""

Render = Callable[[list[str]], str]
"""Puts texts into a template."""


class Escaper:
    """Tokenises rendered texts; of the tokenizer only its vocabulary and its added tokens at this time count.

    Attributes:
        control: names of the control tokens, longest first, as the tokenizer matches them.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = [t for t in tokenizer.added_tokens_decoder.values() if t.special]
        self._special.sort(key=lambda t: (-len(t.content), t.content))
        self.control = tuple(t.content for t in self._special)
        self._pattern = re.compile("|".join(map(re.escape, self.control)) or r"(?!)")
        self._copies: dict[str, Any] = {}

    def contains_control(self, texts: Sequence[str]) -> bool:
        """Return whether one of the texts has the name of a control token in it."""
        return any(self._pattern.search(text) for text in texts)

    def encode(self, texts: list[str], render: Render) -> list[int]:
        """Return the ids of ``render(texts)``; control tokens come from ``render`` alone.

        A tokenizer without a Rust back-end cannot be copied: there the names in the texts become control tokens.
        """
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        if backend is None or not self.contains_control(texts):
            return list(self._tokenizer(render(texts), add_special_tokens=False)["input_ids"])
        name, stand_in = self._free_characters(texts)
        number = {token: i for i, token in enumerate(self.control)}
        hidden = [self._pattern.sub(lambda m: f"{stand_in}{number[m[0]]}{stand_in}", text) for text in texts]
        renamed = self._pattern.sub(lambda m: f"{name}{number[m[0]]}{name}", render(hidden))
        shown = re.sub(f"{stand_in}(\\d+){stand_in}", lambda m: self.control[int(m[1])], renamed)
        copy, original = self._copy(backend, name)
        return [original.get(i, i) for i in copy.encode(shown, add_special_tokens=False).ids]

    def _free_characters(self, texts: Sequence[str]) -> tuple[str, str]:
        free = [c for c in NONCHARACTERS if not any(c in text for text in texts)]
        if len(free) < 2:
            raise InputError(
                "a text has the name of a control token and every code point that Unicode keeps for internal use",
                found=repr(texts[-1])[:80],
                remedy="remove the record",
            )
        return free[0], free[1]

    def _copy(self, backend: Any, name: str) -> tuple[Any, dict[int, int]]:
        """Return a tokenizer that knows the control tokens as ``name``, number, ``name`` alone, and the ids for its own."""
        from tokenizers import AddedToken, Tokenizer

        if name not in self._copies:
            copy = Tokenizer.from_str(backend.to_str())
            copy.no_truncation()
            copy.no_padding()
            names = [f"{name}{i}{name}" for i in range(len(self._special))]
            copy.add_tokens(
                [
                    AddedToken(n, lstrip=t.lstrip, rstrip=t.rstrip, single_word=t.single_word, normalized=False)
                    for n, t in zip(names, self._special, strict=True)
                ]
            )
            copy.encode_special_tokens = True  # special tokens are read as text; the added names are not special
            ids = self._tokenizer.convert_tokens_to_ids(list(self.control))
            original = {copy.token_to_id(n): i for n, i in zip(names, ids, strict=True)}
            self._copies[name] = copy, original
        return self._copies[name]
