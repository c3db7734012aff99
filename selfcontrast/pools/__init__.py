"""Pools: which responses to a prompt there are to choose from."""
