"""Scorers: one number for each response of a pool, higher is better or more alike."""
