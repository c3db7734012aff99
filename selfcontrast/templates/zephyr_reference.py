"""Zephyr as THUDM/Self-Contrast really uses it: training reads another prompt than sampling, by accident.

In training a dialogue without system turn gets a system prompt that asks for the style of a pirate, and most newlines are
missing; sampling and evaluation write an empty system turn. A switch for runs that repeat the published code with its
accidents; for all others take `zephyr`.

Source: THUDM/Self-Contrast at a21d01d: `build_zephyr_prompt` of src/utils.py (sampling) and the template `zephyr` of its
copy of LLaMA-Factory (training).
System turn: takes the place of the pirate's or of the empty one.
End of a turn: the tokenizer's EOS.
"""

_SYSTEM = "{% set system = messages[0]['content'] if messages[0]['role'] == 'system' else '' %}"

CHAT = (
    _SYSTEM + "{{ '<|system|>\n' + system + eos_token + '\n' }}"
    "{% for message in messages %}{% if message['role'] != 'system' %}"
    "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
TRAINING_CHAT = (
    _SYSTEM + "{% set pirate = 'You are a friendly chatbot who always responds in the style of a pirate' %}"
    "{{ '<|system|>\n' + (system or pirate) + eos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + eos_token + '<|assistant|>' }}"
    "{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
)
TOKENS = ()
END = ""
