"""The untrained model of the pocket world: a word-level tokenizer and a small Llama, both in the Hugging Face layout."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from selfcontrast.world import language

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)

SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", "<system>")


def vocabulary() -> list[str]:
    """Return every word of the pocket world as the tokenizer sees it: words with their leading space, punctuation."""
    texts = list(language.NAMES + language.OPENERS + language.CLOSERS + language.RUDE + language.OFF_TOPIC)
    texts += language.GREETING
    for attribute in language.ATTRIBUTES.values():
        texts += attribute.values
        texts += [p.replace("{v}", "") for p in (attribute.statement, *attribute.answers)]
        question = attribute.question.replace("{name}", "")
        texts += [question, question[0].upper() + question[1:]]
    words = {w for text in texts for w in re.findall(r"\w+", text)} | {"and"}
    marks = {m for text in texts for m in re.findall(r"[^\w\s]", text)} | {".", ",", "?", "!"}
    return sorted(marks) + sorted(f"▁{w}" for w in words)


def build_tokenizer(*, max_length: int) -> PreTrainedTokenizerFast:
    """Return the word-level tokenizer; decoding gives back the exact text of any pocket-world sentence."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocab = {token: i for i, token in enumerate((*SPECIAL_TOKENS, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="always"), pre_tokenizers.Punctuation("isolated")]
    )
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>", "<system>"],
        model_max_length=max_length,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


INITIALIZER_RANGE = 0.06
"""Standard deviation of the initial weights. Llama's 0.02 is made for widths of thousands: at width 128 it costs three times
the training steps before the model learns to copy a fact from the prompt."""


def build_model(*, n_layers: int, width: int, n_heads: int, max_length: int, seed: int) -> LlamaForCausalLM:
    """Return an untrained Llama of the given size in float32; the same seed gives the same weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(SPECIAL_TOKENS) + len(vocabulary()),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=n_layers,
        num_attention_heads=n_heads,
        num_key_value_heads=n_heads,
        max_position_embeddings=max_length,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        initializer_range=INITIALIZER_RANGE,
        tie_word_embeddings=True,  # copying a word is what the model has to learn
    )
    return LlamaForCausalLM(config)
