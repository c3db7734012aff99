"""Chat templates: how a dialogue becomes the text that a model reads, and what ends a turn."""
