"""Mistral Instruct: the user's turns between `[INST]` and `[/INST]`, answers ended by EOS.

Source: tokenizer_config.json of mistralai/Mistral-7B-Instruct-v0.2. `[INST]` is plain text there, no token of its own.
System turn: the format has none; it is put before the first user turn, with an empty line between them.
Refused: a dialogue that does not begin with a user turn.
End of a turn: the tokenizer's EOS; a user's turn ends with `[/INST]`.
"""

CHAT = (
    "{% if messages[0]['role'] == 'system' %}"
    "{% set system = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
    "{% else %}"
    "{% set system = '' %}{% set turns = messages %}"
    "{% endif %}"
    "{% if turns[0]['role'] != 'user' %}{{ raise_exception('the first turn is not the user\\'s') }}{% endif %}"
    "{{ bos_token }}"
    "{% for message in turns %}"
    "{% if message['role'] == 'user' %}"
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' }}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
TOKENS = ()
END = ""
