"""ChatML: every turn between `<|im_start|>` with its role and `<|im_end|>`.

Source: tokenizer_config.json of cognitivecomputations/dolphin-2.5-mixtral-8x7b. Qwen's adds a system prompt of its own; this
one does not.
System turn: a turn of its own; none where the dialogue has none.
End of a turn: `<|im_end|>`.
"""

CHAT = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TOKENS = ("<|im_end|>", "<|im_start|>")
END = "<|im_end|>"
