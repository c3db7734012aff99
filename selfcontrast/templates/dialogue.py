"""Turns that begin with `Human:` and `Assistant:`, for checkpoints that bring no chat template.

Source: the transcripts of anthropics/hh-rlhf.
System turn: a turn that begins with `System:`.
End of a turn: the tokenizer's EOS ends the answer; earlier turns end with an empty line alone.
"""

CHAT = (
    "{% set speaker = {'system': 'System', 'user': 'Human', 'assistant': 'Assistant'} %}"
    "{% for message in messages %}{{ speaker[message['role']] + ': ' + message['content'] + '\n\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
TOKENS = ()
END = ""
