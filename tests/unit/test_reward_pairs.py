"""Pairs of a reward model: ties, nulls and repeats are counted, held-out prompts apart, nothing of evaluation, no chance."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from selfcontrast.records import Answer, PromptPool
from selfcontrast.reward_pairs import (
    ALSO_HELD_OUT,
    NO_LABEL,
    NO_PAIR,
    REPEATED,
    TIES,
    PairSets,
    RewardPair,
    draw_pairs,
    make_pairs,
)

LABELLED = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"), st.one_of(st.none(), st.just(float("nan")), st.sampled_from([0.0, 0.5, 1.0]))
    )
)


def pool_of(prompt_id: str, *answers: tuple[str, float | None]) -> PromptPool:
    return PromptPool(prompt_id, "t", tuple(Answer(f"sft.{i}", text, s) for i, (text, s) in enumerate(answers)))


def many(n: int) -> tuple[list[PromptPool], list[str]]:
    """Return prompts with four answers each, of which the later in the alphabet is the better."""
    pools = [pool_of(f"p{i}", *((f"{c}{i}", x / 4) for x, c in enumerate("abcd"))) for i in range(n)]
    return pools, [f"prompt {i}" for i in range(n)]


def made(n: int = 8, *, never: tuple[str, ...] = (), seed: int = 1, held_out: float = 0.25) -> PairSets:
    pools, prompts = many(n)
    return make_pairs(pools, prompts, 2, held_out=held_out, never=never, seed=seed)


def test_all_that_yields_no_pair_is_counted() -> None:
    """Texts a, b, c of which a and b are tied: of three pairs two are left."""
    counts: Counter[str] = Counter()
    pool = pool_of("p", ("a", 1.0), ("b", 1.0), ("a", 0.0), ("c", 0.5), ("d", None), ("e", float("nan")))
    pairs = draw_pairs(pool, "q", 10, seed=0, counts=counts)
    assert sorted(pairs, key=lambda p: p.chosen) == [RewardPair("q", "a", "c"), RewardPair("q", "b", "c")]
    assert counts == {NO_LABEL: 2, REPEATED: 1, TIES: 1, NO_PAIR: 0}
    assert draw_pairs(pool_of("p", ("a", 1.0), ("b", 1.0)), "q", 10, seed=0, counts=counts) == []
    assert (counts[NO_PAIR], counts[TIES]) == (1, 2)


@given(LABELLED, st.integers(1, 40), st.integers(0, 5))
def test_pairs_are_ordered_by_label_different_and_as_many_as_there_are(
    answers: list[tuple[str, float | None]], n: int, seed: int
) -> None:
    first: dict[str, float] = {}
    for text, label in answers:
        if label is not None and label == label:
            first.setdefault(text, label)
    possible = sum(first[a] != first[b] for a in first for b in first) // 2
    counts: Counter[str] = Counter()
    pairs = draw_pairs(pool_of("p", *answers), "q", n, seed=seed, counts=counts)
    assert len(pairs) == len(set(pairs)) == min(n, possible)
    assert all(first[p.chosen] > first[p.rejected] for p in pairs)
    assert counts[NO_LABEL] + counts[REPEATED] + len(first) == len(answers)


def test_prompts_are_learned_from_or_held_out() -> None:
    sets = made(8)
    prompts = [{p.prompt for p in pairs} for pairs in (sets.learned, sets.held_out)]
    assert (len(prompts[0]), len(prompts[1])) == (6, 2)
    assert not prompts[0] & prompts[1]
    assert all(p.chosen > p.rejected for p in [*sets.learned, *sets.held_out])


def test_prompts_of_the_evaluation_are_left_out_and_counted() -> None:
    sets = made(8, never=("prompt 3", "prompt 5", "elsewhere"))
    assert not {"prompt 3", "prompt 5"} & {p.prompt for p in [*sets.learned, *sets.held_out]}
    assert sets.counts[ALSO_HELD_OUT] == 2


def test_draw_rests_on_seed_and_prompt_alone() -> None:
    """The same twice, other pairs by another seed, and those of a prompt whatever other prompts there are."""
    assert made() == made()
    assert made(seed=2).learned != made().learned
    pools, prompts = many(8)
    alone = draw_pairs(pools[5], prompts[5], 2, seed=1, counts=Counter())
    both = [*made().learned, *made().held_out]
    assert [p for p in both if p.prompt == "prompt 5"] == alone
    order = list(range(8))
    random.Random(0).shuffle(order)
    turned = make_pairs([pools[i] for i in order], [prompts[i] for i in order], 2, held_out=0.25, never=(), seed=1)
    assert {p.prompt for p in turned.held_out} == {p.prompt for p in made().held_out}
