"""Filters: which answers of a pool may become negatives, by their scores."""
