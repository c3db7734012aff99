"""Pairs of graded answers for a reward model: of each prompt a few, drawn at random; prompts are learned from or held out."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations

from selfcontrast.records import PromptPool
from selfcontrast.seeds import derive_seed

REPEATED, NO_LABEL = "repeated_answers", "answers_without_label"
TIES, NO_PAIR, ALSO_HELD_OUT = "tied_pairs", "prompts_without_pair", "prompts_of_evaluation"


@dataclass(frozen=True)
class RewardPair:
    """Two answers to one prompt, of which the first has the higher label."""

    prompt: str
    chosen: str
    rejected: str


@dataclass(frozen=True)
class PairSets:
    """What a reward model learns from and what it is checked on.

    Attributes:
        learned: pairs of the prompts that it learns from, in the order of the prompts.
        held_out: pairs of the other prompts of the pool.
        counts: pairs passed over and answers and prompts left out, by reason; 0 is counted too.
    """

    learned: list[RewardPair]
    held_out: list[RewardPair]
    counts: Counter[str]


def draw_pairs(pool: PromptPool, prompt: str, n: int, *, seed: int, counts: Counter[str]) -> list[RewardPair]:
    """Return up to ``n`` pairs of different texts with different labels, in a random order of the prompt's own.

    Each text counts once, with the label of its first occurrence; answers whose label is None or NaN are left out.

    Args:
        pool: answers to ``prompt``; their ``score`` is the label.
        counts: of ``REPEATED``, ``NO_LABEL``, ``TIES`` (tied pairs drawn before there were n) and ``NO_PAIR``; added to.
    """
    labels: dict[str, float] = {}
    for answer in pool.answers:
        if answer.score is None or math.isnan(answer.score):
            counts[NO_LABEL] += 1
        elif answer.text in labels:
            counts[REPEATED] += 1
        else:
            labels[answer.text] = answer.score
    candidates = list(combinations(labels, 2))
    random.Random(derive_seed(seed, "pairs", pool.prompt_id)).shuffle(candidates)
    pairs: list[RewardPair] = []
    for one, other in candidates:
        if len(pairs) == n:
            break
        if labels[one] == labels[other]:
            counts[TIES] += 1
            continue
        better, worse = (one, other) if labels[one] > labels[other] else (other, one)
        pairs.append(RewardPair(prompt, better, worse))
    counts[NO_PAIR] += not pairs
    return pairs


def make_pairs(
    pools: Iterable[PromptPool], prompts: Sequence[str], n: int, *, held_out: float, never: Collection[str], seed: int
) -> PairSets:
    """Return the pairs of all prompts; which prompts are held out depends on the seed and their ids alone.

    Args:
        pools: answers with their labels.
        prompts: texts of their prompts.
        n: pairs for each prompt, at most.
        held_out: share of the prompts, rounded, at least one, that is not learned from.
        never: texts of prompts that policies are evaluated on: equal prompts of the pool are left out and counted.
    """
    counts: Counter[str] = Counter(dict.fromkeys((REPEATED, NO_LABEL, TIES, NO_PAIR, ALSO_HELD_OUT), 0))
    by_prompt: dict[str, list[RewardPair]] = {}
    for pool, prompt in zip(pools, prompts, strict=True):
        if prompt in never:
            counts[ALSO_HELD_OUT] += 1
        elif pairs := draw_pairs(pool, prompt, n, seed=seed, counts=counts):
            by_prompt[pool.prompt_id] = pairs
    order = sorted(by_prompt, key=lambda prompt_id: derive_seed(seed, "held out", prompt_id))
    kept_back = set(order[: max(1, round(held_out * len(order)))])
    sets: tuple[list[RewardPair], list[RewardPair]] = ([], [])
    for prompt_id, pairs in by_prompt.items():
        sets[prompt_id in kept_back].extend(pairs)
    return PairSets(*sets, counts)
