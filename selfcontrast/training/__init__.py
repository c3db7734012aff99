"""Training: the loop, supervised fine-tuning, and preference training on groups."""
