"""A tokenizer whose ids can be worked out by hand, and chat templates of published checkpoints for it."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def byte_tokenizer(**special: str) -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each byte, whose id is its value, and BOS 256, EOS 257."""
    tokenizer = Tokenizer(models.BPE({char: i for i, char in enumerate(bytes_in_order())}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokens = {"bos_token": "<s>", "eos_token": "</s>"} | special
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **tokens)


def bytes_in_order() -> list[str]:
    """Return the character that stands for each byte in a byte-level vocabulary (GPT-2's table)."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(hidden)) for b in range(256)]


def with_template(chat: str, *control: str, plain: Sequence[str] = (), **special: str) -> PreTrainedTokenizerFast:
    """Return the byte tokenizer with a chat template and added tokens, which have the ids from 258 on.

    Args:
        control: names of special tokens.
        plain: names of added tokens that are not special.
        special: names of BOS and EOS.
    """
    tokenizer = byte_tokenizer(**special)
    added = [AddedToken(name, special=True, normalized=False) for name in control]
    tokenizer.add_tokens(added, special_tokens=True)
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in plain])
    tokenizer.chat_template = chat
    return tokenizer
