"""Llama 3 Instruct: every turn has its role between two header tokens and ends with `<|eot_id|>`.

Source: tokenizer_config.json of meta-llama/Meta-Llama-3-8B-Instruct; contents are stripped there too.
System turn: a turn of its own; none where the dialogue has none. Llama 3.1 adds dates; this template does not.
End of a turn: `<|eot_id|>`.
"""

CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{{ message['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
TOKENS = ("<|end_header_id|>", "<|eot_id|>", "<|start_header_id|>")
END = "<|eot_id|>"
