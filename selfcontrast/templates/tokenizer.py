"""The checkpoint's own chat template, as its tokenizer brings it.

Source: the checkpoint.
System turn: as the checkpoint's template writes it, or refuses it.
End of a turn: the tokenizer's EOS.
"""

CHAT = ""
TOKENS = ()
END = ""
