"""Exports of a finished study: preference sets, answers and models in the layouts that other tools read."""
