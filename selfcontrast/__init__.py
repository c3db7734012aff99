"""Self-Contrast Bench: a reproducible benchmark of feedback-free alignment from self-generated negatives."""

__version__ = "0.1.0"
