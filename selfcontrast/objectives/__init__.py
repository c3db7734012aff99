"""Objectives: the loss of a group of one chosen and k rejected responses.

A plug-in is a function ``loss(batch, params) -> (batch,)`` over ``records.GroupBatch``, and a constant ``NEEDS`` that names
what it reads beyond the log-probabilities and lengths of whole responses:

- ``drift``: the mean log-ratio of answers to other prompts.
- ``score``: the score of every negative, so that the selection needs a scorer.
- ``shared``: log-probabilities of the first tokens alone, as many as both responses of a pair have.
"""
