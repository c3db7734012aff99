"""Objectives: the loss of a group of one chosen and k rejected responses."""
