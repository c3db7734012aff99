"""The only place where a dialogue becomes token ids: sampling, training and evaluation all read its result."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from selfcontrast.errors import InputError
from selfcontrast.records import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SPEAKER = {"system": "System", "user": "Human", "assistant": "Assistant"}


class Renderer:
    """Turns prompts and responses into token ids with one template and one tokenizer.

    Prompt and response are tokenised apart, so that the ids of a prompt never depend on what follows. A prompt starts
    with exactly one BOS, if the tokenizer has one; a complete response ends with exactly one EOS.

    Args:
        template: ``tokenizer`` uses the chat template that the checkpoint brings; ``dialogue`` writes
            ``Human: ...`` and ``Assistant: ...`` turns, for checkpoints that bring none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        self.tokenizer = tokenizer
        self.template = template
        if tokenizer.eos_token_id is None:
            raise InputError(
                "the tokenizer has no EOS token",
                where=str(tokenizer.name_or_path),
                remedy="set eos_token in its tokenizer_config.json",
            )
        if template == "tokenizer" and not tokenizer.chat_template:
            raise InputError(
                "the tokenizer brings no chat template",
                where=str(tokenizer.name_or_path),
                remedy="set `template: dialogue` for this model in the study file",
            )

    @property
    def digest(self) -> str:
        """Return a hash of everything that turns text into ids beside the tokenizer's vocabulary."""
        source = self.tokenizer.chat_template if self.template == "tokenizer" else repr(sorted(_SPEAKER.items()))
        specials = repr(sorted(self.tokenizer.special_tokens_map.items()))
        return hashlib.sha256(f"{self.template}\0{source}\0{specials}".encode()).hexdigest()

    def prompt_text(self, messages: Sequence[Message]) -> str:
        """Return the rendered prompt, up to where the answer starts."""
        if self.template == "tokenizer":
            turns = [{"role": m.role, "content": m.content} for m in messages]
            return str(self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        return "\n\n".join([f"{_SPEAKER[m.role]}: {m.content}" for m in messages] + ["Assistant:"])

    def prompt_ids(self, messages: Sequence[Message]) -> list[int]:
        """Return the ids of a prompt, BOS first."""
        ids = self._ids(self.prompt_text(messages))
        bos = self.tokenizer.bos_token_id
        if bos is None:
            return ids
        return [bos, *(ids[1:] if ids[:1] == [bos] else ids)]

    def response_ids(self, text: str) -> list[int]:
        """Return the ids of a complete response, EOS last."""
        return [*self._ids(text), int(self.tokenizer.eos_token_id)]

    def response_text(self, ids: Sequence[int]) -> str:
        """Return the text of sampled ids, without special tokens."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
