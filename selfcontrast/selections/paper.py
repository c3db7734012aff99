"""The SFT target against a pool, with the arithmetic of the reference code, accidents included.

Source: THUDM/Self-Contrast at a21d01d, src/construct_synthetic_data.py and src/compute_embeddings.py. Only the order of
the texts under `alldedup` differs: the reference code iterates over a set, so that its choice changes with the process.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, field_validator

from selfcontrast.errors import InputError
from selfcontrast.records import TARGET, Candidates, PromptPool
from selfcontrast.schema import Strict
from selfcontrast.texts import is_blank


class Params(Strict):
    """Parameters of the selection."""

    pool: str = Field(description="id under `pools`")
    scorer: str = Field(description="id under `scorers`: similarity to the target")
    mode: str = Field(
        description="`all`, `alldedup`, `last-P` or `lastdedup-P`; P is read as decimals: 75 is 0.75, 5 is 0.5"
    )
    empty: Literal["official", "drop_first"] = Field(
        "official",
        description="official: empty answers take places in the window and are dropped after it; drop_first: before",
    )

    @field_validator("mode")
    @classmethod
    def _known_mode(cls, value: str) -> str:
        if not re.fullmatch(r"all|alldedup|last-\d+|lastdedup-\d+", value):
            raise ValueError("`mode` is all, alldedup, last-P or lastdedup-P, where P are digits")
        return value


def largest_n(pool_size: int, params: dict[str, object]) -> int:
    """Return how many negatives a prompt with ``pool_size`` responses can give at most."""
    return pool_size


def ratio_of(mode: str) -> float:
    """Return the ratio of ``last-P`` or ``lastdedup-P`` as the reference code reads it: P / 10 ** len(P)."""
    digits = mode.split("-", 1)[1]
    return int(digits) / 10 ** len(digits)


def lowest_ranks(scores: Sequence[float]) -> list[int]:
    """Return the ascending rank of each score; equal scores share the lowest (``rank_list``)."""
    ordered = sorted(scores)
    return [ordered.index(score) for score in scores]


def candidate_positions(texts: Sequence[str], ranks: Sequence[int], *, k: int, mode: str, empty: str) -> list[int]:
    """Return the positions of the answers from which ``k`` negatives are drawn, ascending."""
    n = len(texts)
    considered = [i for i in range(n) if empty == "official" or not is_blank(texts[i])]
    # Under `drop_first` the ranks of the others close up: empty answers take no place in the widened window either.
    rank = dict(zip(considered, lowest_ranks([ranks[i] for i in considered]), strict=True))
    if "dedup" in mode:
        first = {texts[i]: i for i in reversed(considered)}
        considered = sorted(first.values())
    if mode.startswith("last") and considered:
        ordered = sorted(rank[i] for i in considered)
        window = int(n * ratio_of(mode))
        if "dedup" in mode:
            limit = ordered[min(window, len(considered) - 1)]
        else:
            limit = max(ordered[min(window, len(considered) - 1)], k)
        considered = [i for i in considered if rank[i] < limit]
    return [i for i in considered if not is_blank(texts[i])]


def candidates(pool: PromptPool, *, n: int, rng: random.Random, params: Params) -> Candidates:
    """Return the target as chosen and the reference code's candidates.

    Raises:
        InputError: mode `all` and fewer than ``n`` answers that are not empty: the reference code stops there.
    """
    texts = [a.text for a in pool.answers]
    ranks = lowest_ranks([a.score if a.score is not None else 0.0 for a in pool.answers])
    kept = candidate_positions(texts, ranks, k=n, mode=params.mode, empty=params.empty)
    if params.mode == "all" and len(kept) < n:
        raise InputError(
            f"mode `all` cannot draw {n} negatives for prompt {pool.prompt_id}",
            found=f"{len(kept)} answers that are not empty",
            remedy="the reference code stops here too; lower n, or use the kind `target`, which leaves the prompt out",
        )
    rejected = tuple(pool.answers[i].response_id for i in kept)
    return Candidates(TARGET, rejected, {"outside the window, repeated or empty": len(texts) - len(kept)})
