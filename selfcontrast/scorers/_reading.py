"""How much of a text an embedding model reads, and the parts into which a longer one can be divided."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from selfcontrast import cuts
from selfcontrast.errors import InputError
from selfcontrast.records import TARGET, PromptPool

NO_LIMIT = 10_000_000
"""Tokenizers that know no limit state a huge number, or infinity."""


@dataclass(frozen=True)
class Reading:
    """Counts tokens as the embedding model does.

    Attributes:
        tokenizer: of the model.
        longest: tokens that the model reads of a text, its special tokens and prompt included.
        prompt: text that the model's files put before every text.
        lowers: whether the model lowers the case of a text before it is tokenised.
        where: name of the model, for messages.
    """

    tokenizer: Any
    longest: int
    prompt: str = ""
    lowers: bool = False
    where: str = ""

    def cut(self, texts: Sequence[str]) -> dict[str, bytes]:
        """Return the texts that the model reads a part of only, each with a hash of the ids that it reads."""
        long = [t for t, ids in zip(texts, self._ids(texts), strict=True) if len(ids) > self.longest]
        return {t: _digest(ids) for t, ids in zip(long, self._ids(long, truncation=True), strict=True)}

    def read(self, texts: Sequence[str]) -> list[bytes]:
        """Return a hash of the ids that the model reads of each text."""
        return [_digest(ids) for ids in self._ids(texts, truncation=True)]

    def pieces(self, text: str) -> list[str]:
        """Return a text in consecutive pieces of ``longest`` tokens each, the last one shorter; together they are the text.

        A piece ends where a token ends. Its beginning may have more tokens than it had inside the text: then the piece ends
        earlier, so that the model reads all of it. That holds for models that read more tokens than a word has letters.
        """
        return list(self._pieces(text)) if self.cut([text]) else [text]

    def _pieces(self, text: str) -> Iterator[str]:
        if not getattr(self.tokenizer, "is_fast", False):
            raise InputError(
                "the embedding model's tokenizer cannot say where a token stands in a text",
                where=self.where,
                remedy="set `long_texts: cut` for the scorer, or take a model with a fast tokenizer",
            )
        ends = self._ends(text)
        room = max(1, self.longest - len(self._ids([""])[0]))
        first, start = 0, 0
        while first < len(ends):
            last = min(first + room, len(ends))
            piece = text[start : ends[last - 1]]
            while last - first > 1 and (excess := len(self._ids([piece])[0]) - self.longest) > 0:
                last = max(first + 1, last - excess)
                piece = text[start : ends[last - 1]]
            if last == len(ends):
                piece = text[start:]
            if piece:  # empty where a character has several tokens
                yield piece
            first, start = last, max(start, ends[last - 1])

    def _ends(self, text: str) -> list[int]:
        """Return where in a text each of its tokens ends, ascending."""
        encoded = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [end for _, end in encoded["offset_mapping"]]

    def _ids(self, texts: Sequence[str], *, truncation: bool = False) -> list[list[int]]:
        if not texts:
            return []
        given = [self.prompt + (t.lower() if self.lowers else t) for t in texts]
        limit = {"truncation": True, "max_length": self.longest} if truncation else {"truncation": False}
        ids: list[list[int]] = self.tokenizer(given, verbose=False, **limit)["input_ids"]
        return ids


def reading_of(model: Any, where: str) -> Reading | None:
    """Return how a sentence-transformers model reads texts; None if it reads texts of any length.

    Raises:
        InputError: the model has a limit, and it is not known how it counts.
    """
    longest = model.max_seq_length
    if longest is None or longest > NO_LIMIT:
        return None
    tokenizer = model.tokenizer
    if not hasattr(tokenizer, "model_max_length"):
        if longest >= 1_000_000:  # of models that look words up: more than any text has
            return None
        raise InputError(
            "the embedding model reads a part of long texts only, and its tokenizer cannot count their tokens",
            found=type(tokenizer).__name__,
            where=where,
            remedy="take a model with a tokenizer of transformers",
        )
    prompt = model.prompts.get(model.default_prompt_name) or "" if model.default_prompt_name else ""
    return Reading(tokenizer, int(longest), prompt, bool(getattr(model[0], "do_lower_case", False)), where)


def count_cut_texts(pools: Iterable[PromptPool], reading: Reading, counts: Counter[str]) -> None:
    """Count what an embedding model reads a part of only, targets and answers apart, and the ties that come of it.

    Args:
        counts: added to, by ``cuts.add``.
    """
    for pool in pools:
        answers = [a.text for a in pool.answers if a.response_id != TARGET]
        texts = list(dict.fromkeys([pool.target, *answers]))
        cut = reading.cut(texts)
        alike: dict[bytes, list[str]] = {}
        if cut:
            for text, read in zip(texts, reading.read(texts), strict=True):
                alike.setdefault(read, []).append(text)
        tied = {t for same in alike.values() if len(same) > 1 and any(s in cut for s in same) for t in same}
        cuts.add(counts, cuts.TARGETS_BY_EMBEDDER, pool.target in cut, 1)
        cuts.add(counts, cuts.ANSWERS_BY_EMBEDDER, sum(answer in cut for answer in answers), len(answers))
        cuts.add(counts, cuts.TIED_BY_EMBEDDER, sum(answer in tied for answer in answers), len(answers))


def _digest(ids: Sequence[int]) -> bytes:
    return hashlib.blake2b(",".join(map(str, ids)).encode(), digest_size=16).digest()
