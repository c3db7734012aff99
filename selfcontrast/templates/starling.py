"""Starling's reward models: Llama 2's `[INST]` with an EOS before `[/INST]`, as their authors wrote it.

Source: the model card of berkeley-nest/Starling-RM-7B-alpha.
System turn: the format has none; it is put before the first user turn, with an empty line between them.
Refused: a dialogue that does not begin with a user turn.
End of a turn: the tokenizer's EOS.
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
    "{{ '[INST] ' + (system if loop.first else '') + message['content'] + ' ' + eos_token + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
TOKENS = ()
END = ""
