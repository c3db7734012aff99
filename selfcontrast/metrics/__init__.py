"""Metrics: one number for each evaluated answer; tables average them and say how sure the average is."""
