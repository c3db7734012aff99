"""Which token ids a model has an embedding for: a tokenizer may know more names than its checkpoint has rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selfcontrast.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

READ = ("bos_token", "eos_token", "pad_token", "unk_token")
"""Special tokens that some step may put before a model; others, such as one for images, stay unused."""


@dataclass(frozen=True)
class Rows:
    """Rows of a model's embedding.

    Attributes:
        n: rows of the checkpoint; None if they are not known.
        added: ids of tokens that the chat template brings, to which the step ``sft`` gives rows.
    """

    n: int | None = None
    added: frozenset[int] = frozenset()

    def lacking(self, ids: Iterable[int]) -> list[int]:
        """Return the ids that have no row, each once, in ascending order."""
        n = self.n
        return [] if n is None else sorted({i for i in ids if i >= n} - self.added)

    def lacking_specials(self, tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
        """Return the special tokens without a row, by their role."""
        named = {role: getattr(tokenizer, role) for role in READ}
        ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in named.items() if token is not None}
        return {role: f"{named[role]} ({role}, id {i})" for role, i in ids.items() if self.lacking([i])}

    def check(self, tokenizer: PreTrainedTokenizerBase, ids: Iterable[int], *, where: str) -> None:
        """Raise InputError if one of the ids has no row.

        Args:
            where: what the ids were made from.
        """
        if missing := self.lacking(ids):
            tokens = tokenizer.convert_ids_to_tokens(missing[:3])
            self._refuse(", ".join(f"{t} (id {i})" for t, i in zip(tokens, missing, strict=False)), where)

    def check_specials(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raise InputError if a special token that a step may put before the model has no row."""
        if missing := self.lacking_specials(tokenizer):
            self._refuse(", ".join(missing.values()), str(tokenizer.name_or_path))

    def _refuse(self, found: str, where: str) -> None:
        raise InputError(
            "the tokenizer makes a token that the model has no embedding for",
            expected=f"ids below {self.n}, the rows of the embedding",
            found=found,
            where=where,
            remedy="take the tokenizer that belongs to the checkpoint; or give the checkpoint more rows "
            "(model.resize_token_embeddings(len(tokenizer)), then save_pretrained) and train them; or, where it is the pad "
            "token alone, name another pad_token in tokenizer_config.json",
        )


ALL = Rows()
"""Rows that are not known: no id lacks one."""
