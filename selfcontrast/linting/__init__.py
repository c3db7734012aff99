"""Checks of preference data before anything trains on it: each asks one question of every row."""
