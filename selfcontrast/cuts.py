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

REMEDIES = {
    BY_REWARD_MODEL: "raise `max_length` of the scorer, if the reward model reads longer texts",
    **dict.fromkeys(
        (TARGETS_BY_EMBEDDER, ANSWERS_BY_EMBEDDER, TIED_BY_EMBEDDER),
        "set `long_texts: chunks` for the scorer, or take an embedding model that reads longer texts",
    ),
}
"""What can be done about each of them."""

_READ = "read for "
"""Before the name of a count: how many texts were looked at for it. ``settle`` takes these counts away."""

log = logging.getLogger(__name__)


def add(counts: Counter[str], name: str, n: int, total: int) -> None:
    """Add the cut texts of a part of the work to a count of ``REMEDIES``, until ``settle`` is called at the end of it."""
    counts[name] += n
    counts[_READ + name] += total


def settle(counts: Counter[str]) -> None:
    """Leave of what ``add`` has counted the counts that are not 0, and warn of each that is large."""
    for name, remedy in REMEDIES.items():
        if _READ + name in counts:
            n, total = counts.pop(name), counts.pop(_READ + name)
            count_cut(counts, name, n, total, remedy=remedy)


def count_cut(counts: Counter[str], name: str, n: int, total: int, *, remedy: str) -> None:
    """Add to a count unless there is nothing to count, and warn if it is more than ``WARN_BEYOND`` of the total."""
    if n:
        counts[name] += n
    if n > WARN_BEYOND * total:
        log.warning("%s: %d of %d texts (%.1f %%); %s", name.replace("_", " "), n, total, 100 * n / total, remedy)
