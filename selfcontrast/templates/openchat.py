"""OpenChat 3.5: `GPT4 Correct User:` and `GPT4 Correct Assistant:`, every turn ended by a token of its own.

Source: tokenizer_config.json of openchat/openchat-3.5-0106.
System turn: its content and the end of turn, without a header. That is how the model's authors write it (discussion 5 of
openchat/openchat_3.5); their template file would write `GPT4 Correct System:`.
End of a turn: `<|end_of_turn|>`.
"""

CHAT = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ 'GPT4 Correct ' + message['role'].title() + ': ' }}{% endif %}"
    "{{ message['content'] + '<|end_of_turn|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ 'GPT4 Correct Assistant:' }}{% endif %}"
)
TOKENS = ("<|end_of_turn|>",)
END = "<|end_of_turn|>"
