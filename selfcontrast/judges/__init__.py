"""Judges: what a language model is asked about an answer, how its reply is read, and what the verdicts amount to."""
