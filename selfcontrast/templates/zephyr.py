"""Zephyr: a header line for each role; every turn ends with the tokenizer's EOS and a newline.

Source: tokenizer_config.json of HuggingFaceH4/zephyr-7b-beta. The headers are plain text there, no tokens of their own.
System turn: a turn of its own; none where the dialogue has none.
End of a turn: the tokenizer's EOS.
"""

CHAT = (
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TOKENS = ()
END = ""
