"""Draw the negatives of every prompt from the candidates of a selection."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from selfcontrast import plugins
from selfcontrast.records import Candidates, Group, PromptPool
from selfcontrast.seeds import derive_seed


@dataclass(frozen=True)
class Draw:
    """How negatives are drawn.

    Attributes:
        n: negatives for each prompt.
        common_n: candidates that a prompt must have to take part, whatever ``n``; 0 asks for ``n`` alone.
        nested: draw the first n of one random order, so that the set for n contains those for fewer.
        seed: root of the random streams.
    """

    n: int
    common_n: int
    nested: bool
    seed: int


@dataclass
class Selected:
    """The groups of all prompts and what was left out.

    Attributes:
        groups: one for each prompt that has enough candidates, in prompt order.
        short: ids of the prompts with too few candidates.
        left_out: number of answers that are no candidates, by reason, over all prompts.
        n_candidates: candidates of each prompt.
        n_answers: answers of each prompt.
    """

    groups: list[Group] = field(default_factory=list)
    short: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    n_candidates: list[int] = field(default_factory=list)
    n_answers: list[int] = field(default_factory=list)


def select_groups(pools: Iterable[PromptPool], draw: Draw, *, kind: str, params: dict[str, Any]) -> Selected:
    """Return one group for each prompt with enough candidates; the others are counted, never dropped in silence."""
    module = plugins.load("selections", kind)
    checked = module.Params(**params)
    selected = Selected()
    for pool in pools:
        found = find_candidates(pool, draw, module, checked)
        selected.left_out.update({k: v for k, v in found.left_out.items() if v})
        selected.n_candidates.append(len(found.rejected))
        selected.n_answers.append(len(pool.answers))
        if len(found.rejected) < max(draw.n, draw.common_n):
            selected.short.append(pool.prompt_id)
        else:
            selected.groups.append(
                Group(pool.prompt_id, found.chosen, draw_negatives(pool.prompt_id, found.rejected, draw))
            )
    return selected


def find_candidates(pool: PromptPool, draw: Draw, module: ModuleType, params: Any) -> Candidates:
    """Return what a selection offers for one prompt; random selections draw from a stream of the prompt's own."""
    rng = random.Random(derive_seed(draw.seed, "candidates", pool.prompt_id))
    found: Candidates = module.candidates(pool, n=draw.n, rng=rng, params=params)
    return found


def draw_negatives(prompt_id: str, candidates: tuple[str, ...], draw: Draw) -> tuple[str, ...]:
    """Return ``draw.n`` of the candidates, uniformly without replacement, in pool order.

    Nested draws give every response a random key that depends on nothing but the seed, the prompt and the response, and
    take the smallest keys: so sets for fewer n are contained in those for more, and a filter changes only what it removes.
    """
    if draw.nested:
        key = {c: derive_seed(draw.seed, "negative", prompt_id, c) for c in candidates}
        taken = set(sorted(candidates, key=lambda c: key[c])[: draw.n])
    else:
        rng = random.Random(derive_seed(draw.seed, "negatives", prompt_id, draw.n))
        taken = set(rng.sample(candidates, draw.n))
    return tuple(c for c in candidates if c in taken)
