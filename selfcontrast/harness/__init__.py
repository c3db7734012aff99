"""Benchmarks by lm-evaluation-harness: definitions that are pinned, one run of them, and the tables of the results."""
