"""Data sets: adaptors from a record layout to canonical dialogues."""
