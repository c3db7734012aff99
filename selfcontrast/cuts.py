"""Counts of texts of which a model read a part only: their names, and the warning where there are many."""

from __future__ import annotations

import logging
from collections import Counter

WARN_BEYOND = 0.01
"""Share of cut texts above which a step and the linter warn."""

BY_REWARD_MODEL = "cut_by_reward_model"
"""Texts of which a reward model saw the end alone."""

TARGETS_BY_EMBEDDER = "cut_by_embedder_targets"
ANSWERS_BY_EMBEDDER = "cut_by_embedder_answers"
"""Targets and answers of which an embedding model saw the beginning alone."""

TIED_BY_EMBEDDER = "tied_by_embedder_cut"
"""Answers that the embedding model could not tell from another text of their prompt, since one of both was cut."""

PREFIXES = ("cut_by_", "tied_by_")
"""Beginnings of all these names, by which tables find them among the counts of a step."""

log = logging.getLogger(__name__)


def count_cut(counts: Counter[str], name: str, n: int, total: int, *, remedy: str) -> None:
    """Add to a count unless there is nothing to count, and warn if it is more than ``WARN_BEYOND`` of the total."""
    if n:
        counts[name] += n
    if n > WARN_BEYOND * total:
        log.warning("%s: %d of %d texts (%.1f %%); %s", name.replace("_", " "), n, total, 100 * n / total, remedy)
