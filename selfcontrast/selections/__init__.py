"""Selections: which responses to a prompt become chosen, and which are candidates for rejected."""
