"""Candidates of the kinds `target` and `ranked`, and the draw of negatives from them."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from selfcontrast.filters import least, most
from selfcontrast.records import TARGET, Answer, PromptPool
from selfcontrast.selection import Draw, Selected, draw_negatives, select_groups
from selfcontrast.selections import ranked, target

ROOT = Path(__file__).resolve().parents[2]
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEF"  # 32 distinct texts
HALF = {"kind": "least", "keep": 0.5}


def pool_of(
    texts: Iterable[str], scores: Iterable[float] | None = None, *, prompt_id: str = "p", answer: str = "the target"
) -> PromptPool:
    """Return a pool whose answers are ``s.0``, ``s.1``, ... in the given order; without scores the score is None."""
    texts = list(texts)
    listed = [None] * len(texts) if scores is None else list(scores)
    answers = [Answer(f"s.{i}", t, s) for i, (t, s) in enumerate(zip(texts, listed, strict=True))]
    return PromptPool(prompt_id, answer, tuple(answers))


def draw(n: int, *, common_n: int = 0, nested: bool = True, seed: int = 0) -> Draw:
    return Draw(n=n, common_n=common_n, nested=nested, seed=seed)


def select(pools: list[PromptPool], how: Draw, kind: str = "target", **params: object) -> Selected:
    return select_groups(pools, how, kind=kind, params={"pool": "s", **params})


def candidate_ids(pool: PromptPool, kind: str = "target", **params: object) -> tuple[list[int], dict[str, int]]:
    """Return the numbers of the candidates in their order, and the counts above 0 of what was left out."""
    module = {"target": target, "ranked": ranked}[kind]
    checked = module.Params(pool="s", **params)
    found = module.candidates(pool, n=1, rng=random.Random(0), params=checked)
    return [int(r.removeprefix("s.")) for r in found.rejected], {k: v for k, v in found.left_out.items() if v}


def drawn(pool: PromptPool, how: Draw, **params: object) -> set[str]:
    return set(select([pool], how, **params).groups[0].rejected)


# Candidates of the kind `target`


def test_target_is_chosen_and_every_answer_is_a_candidate_in_pool_order() -> None:
    (group,) = select([pool_of("dbca")], draw(4)).groups
    assert (group.chosen, group.rejected) == (TARGET, ("s.0", "s.1", "s.2", "s.3"))


def test_least_keeps_the_lowest_scores_in_pool_order() -> None:
    """Scores .4 .1 .9 .2, half of four: .1 and .2 are the lowest, at 1 and 3."""
    assert candidate_ids(pool_of("abcd", [0.4, 0.1, 0.9, 0.2]), scorer="x", filter=HALF) == ([1, 3], {"filtered": 2})


def test_most_keeps_the_highest_scores_in_pool_order() -> None:
    """Scores .4 .1 .9 .2, half of four: .9 and .4 are the highest, at 2 and 0."""
    pool = pool_of("abcd", [0.4, 0.1, 0.9, 0.2])
    assert candidate_ids(pool, scorer="x", filter={"kind": "most", "keep": 0.5}) == ([0, 2], {"filtered": 2})


def test_of_equal_scores_the_earlier_answer_is_kept() -> None:
    """Least: .1 at 3, then the first of the three .3. Most: the first two of the three .3."""
    scores = [0.3, 0.3, 0.3, 0.1]
    assert least.keep(scores, least.Params(keep=0.5)) == [0, 3]
    assert most.keep(scores, most.Params(keep=0.5)) == [0, 1]


@pytest.mark.parametrize("module", [least, most])
@pytest.mark.parametrize(
    ("size", "keep", "kept"),
    [
        (32, 0.75, 24),
        (32, 0.5, 16),
        (5, 0.5, 2),  # 2.5, rounded down
        (100, 0.29, 29),  # 28.999999999999996 in floating point
        (10, 0.7, 7),  # 7.000000000000001 or 6.99..., by the order of operations
        (32, 1.0, 32),
        (3, 0.1, 0),
    ],
)
def test_filters_round_the_kept_number_down(module: ModuleType, size: int, keep: float, kept: int) -> None:
    assert module.n_kept(size, module.Params(keep=keep)) == kept
    assert len(module.keep([float(i) for i in range(size)], module.Params(keep=keep))) == kept


@pytest.mark.parametrize("keep", [0, -0.5, 1.01, float("nan")])
def test_keep_is_a_fraction(keep: float) -> None:
    with pytest.raises(ValidationError, match="keep"):
        least.Params(keep=keep)


def test_empty_answers_and_answers_equal_to_the_target_are_left_out_and_counted() -> None:
    pool = pool_of(["", " \n\t", "right", " right ", "wrong", "Right"], answer="right\n")
    assert candidate_ids(pool) == ([4, 5], {"empty": 2, "equal to the target": 2})


def test_filter_looks_at_the_pool_with_its_empty_answers() -> None:
    """The empty answer is the least similar and takes one of the two kept places; one candidate is left."""
    pool = pool_of(["", "a", "b", "c"], [0.0, 0.1, 0.2, 0.3])
    assert candidate_ids(pool, scorer="x", filter=HALF) == ([1], {"filtered": 2, "empty": 1})


def test_dedup_keeps_the_first_occurrence_in_pool_order() -> None:
    assert candidate_ids(pool_of("abacb"), dedup=True) == ([0, 1, 3], {"repeated text": 2})
    assert candidate_ids(pool_of("abacb")) == ([0, 1, 2, 3, 4], {})


def test_dedup_comes_before_the_filter() -> None:
    """Unique texts a b c d; half of four is two: a (.1) and b (.2). Without dedup half of eight: every a and b."""
    pool = pool_of("abcdabab", [0.1, 0.2, 0.3, 0.4, 0.1, 0.2, 0.1, 0.2])
    assert candidate_ids(pool, scorer="x", dedup=True, filter=HALF) == ([0, 1], {"repeated text": 4, "filtered": 2})
    assert candidate_ids(pool, scorer="x", filter=HALF) == ([0, 1, 4, 6], {"filtered": 4})


def test_dedup_leaves_ties_to_the_earlier_answer() -> None:
    """All scores equal: of the unique texts a (0), b (1), c (3), d (5) the first two stay, wherever texts repeat."""
    pool = pool_of("abacad", [0.5] * 6)
    assert candidate_ids(pool, scorer="x", dedup=True, filter=HALF)[0] == [0, 1]


texts_and_scores = st.lists(
    st.tuples(st.sampled_from(["", " ", "a", "b", "c", "the target"]), st.sampled_from([0.0, 0.25, 0.5, 1.0])),
    max_size=12,
)


@given(texts_and_scores, st.sampled_from([None, "least", "most"]), st.floats(0.01, 1), st.booleans())
def test_every_answer_is_a_candidate_or_counted_once(
    rows: list[tuple[str, float]], kind: str | None, keep: float, dedup: bool
) -> None:
    pool = pool_of([t for t, _ in rows], [s for _, s in rows])
    chosen_filter = {"kind": kind, "keep": keep} if kind else {"kind": "all"}
    ids, left_out = candidate_ids(pool, scorer="x", filter=chosen_filter, dedup=dedup)
    assert len(ids) + sum(left_out.values()) == len(rows)
    assert ids == sorted(set(ids))
    assert all(rows[i][0].strip() not in ("", "the target") for i in ids)


def test_filter_that_reads_scores_needs_a_scorer() -> None:
    with pytest.raises(ValidationError, match="the filter `least` needs a `scorer`"):
        target.Params(pool="s", filter=HALF)


def test_largest_n_of_target_is_what_the_filter_keeps() -> None:
    half = {"pool": "s", "scorer": "x", "filter": HALF}
    assert target.largest_n(32, {"pool": "s"}) == 32
    assert target.largest_n(32, half) == 16
    assert target.largest_n(7, half) == 3


# Candidates of the kind `ranked`


@pytest.mark.parametrize("scores", [[0.2, 0.8], [0.8, 0.2]])
def test_ranked_prefers_the_higher_score(scores: list[float]) -> None:
    (group,) = select([pool_of("ab", scores)], draw(1), "ranked", scorer="x").groups
    better = scores.index(0.8)
    assert (group.chosen, group.rejected) == (f"s.{better}", (f"s.{1 - better}",))


def test_ranked_gives_no_pair_for_equal_scores() -> None:
    selected = select(
        [pool_of("abc", [0.5] * 3, prompt_id="tie"), pool_of("ab", [0, 1])], draw(1), "ranked", scorer="x"
    )
    assert selected.short == ["tie"]
    assert [g.prompt_id for g in selected.groups] == ["p"]
    assert selected.left_out == {"equal scores": 2, "not drawn": 1}


def test_ranked_leaves_out_an_empty_worse_answer() -> None:
    selected = select([pool_of(["", "a"], [0.0, 1.0])], draw(1), "ranked", scorer="x")
    assert selected.groups == []
    assert selected.left_out == {"empty": 1}


def test_ranked_draws_every_pair_equally_often() -> None:
    """Three answers scored 1, 2, 3 over 600 prompts: three pairs, 200 times each; 80 is seven standard deviations."""
    pools = [pool_of("abc", [1, 2, 3], prompt_id=str(i)) for i in range(600)]
    pairs = Counter((g.chosen, *g.rejected) for g in select(pools, draw(1), "ranked", scorer="x").groups)
    assert set(pairs) == {("s.1", "s.0"), ("s.2", "s.0"), ("s.2", "s.1")}
    assert all(abs(count - 200) < 80 for count in pairs.values())


@pytest.mark.parametrize("texts", ["", "a"])
def test_ranked_gives_no_pair_for_fewer_than_two_answers(texts: str) -> None:
    selected = select([pool_of(texts, [1.0] * len(texts))], draw(1), "ranked", scorer="x")
    assert (selected.groups, selected.short) == ([], ["p"])


def test_ranked_refuses_answers_without_scores() -> None:
    with pytest.raises(ValueError, match="needs scores"):
        candidate_ids(pool_of("ab"), "ranked", scorer="x")


def test_ranked_gives_one_negative() -> None:
    assert [ranked.largest_n(size, {}) for size in (0, 1, 2, 32)] == [0, 0, 1, 1]


# The draw


@pytest.mark.parametrize("kind", [{}, {"dedup": True}, {"scorer": "x", "filter": {"kind": "least", "keep": 0.75}}])
def test_nested_set_for_8_is_inside_the_set_for_16(kind: dict[str, object]) -> None:
    for seed in range(10):
        pool = pool_of(LETTERS, range(32), prompt_id=f"p{seed}")
        sets = {n: drawn(pool, draw(n, seed=seed), **kind) for n in (1, 2, 4, 8, 16)}
        assert [len(s) for s in sets.values()] == [1, 2, 4, 8, 16]
        assert sets[1] < sets[2] < sets[4] < sets[8] < sets[16]


def test_independent_sets_are_drawn_anew_for_each_n() -> None:
    """A set of 8 out of 32 lies inside one of 16 by chance with probability 16!/8!/(32!/24!) = 0.0012."""
    pools = [pool_of(LETTERS, prompt_id=str(i)) for i in range(20)]
    sets = {n: [set(g.rejected) for g in select(pools, draw(n, nested=False)).groups] for n in (8, 16)}
    inside = sum(small < large for small, large in zip(sets[8], sets[16], strict=True))
    assert inside < 5


@pytest.mark.parametrize("nested", [True, False])
def test_negatives_are_distinct_and_in_pool_order(nested: bool) -> None:
    candidates = tuple(f"s.{i}" for i in range(32))
    for n in (1, 5, 16, 32):
        negatives = draw_negatives("p", candidates, draw(n, nested=nested))
        assert len(negatives) == n
        assert list(negatives) == [c for c in candidates if c in negatives]


def test_filter_changes_only_what_it_removes() -> None:
    """Of 16 negatives drawn from 32, those that pass `least` 0.75 stay; only the removed ones are replaced."""
    for seed in range(10):
        pool = pool_of(LETTERS, range(32), prompt_id=f"p{seed}")
        passed = {f"s.{i}" for i in range(24)}
        unfiltered = drawn(pool, draw(16))
        filtered = drawn(pool, draw(16), scorer="x", filter={"kind": "least", "keep": 0.75})
        assert unfiltered & passed <= filtered <= passed
        assert len(filtered - unfiltered) == len(unfiltered - passed) > 0


def test_nested_draw_does_not_depend_on_the_order_of_the_candidates() -> None:
    candidates = tuple(f"s.{i}" for i in range(20))
    assert set(draw_negatives("p", candidates, draw(6))) == set(draw_negatives("p", candidates[::-1], draw(6)))


@pytest.mark.parametrize("nested", [True, False])
def test_draw_depends_on_the_prompt_and_the_seed_alone(nested: bool) -> None:
    """Other prompts of the pool, their order and their number leave a prompt's negatives as they are."""
    pools = [pool_of(LETTERS, prompt_id=str(i)) for i in range(6)]
    together = {g.prompt_id: g.rejected for g in select(pools[::-1], draw(4, nested=nested)).groups}
    alone = {p.prompt_id: select([p], draw(4, nested=nested)).groups[0].rejected for p in pools}
    other_seed = {g.prompt_id: g.rejected for g in select(pools, draw(4, nested=nested, seed=1)).groups}
    assert together == alone
    assert len(set(alone.values())) == len(pools)
    assert all(alone[i] != other_seed[i] for i in alone)


@pytest.mark.parametrize("nested", [True, False])
def test_every_candidate_is_drawn_equally_often(nested: bool) -> None:
    """Two of 8 for each of 2000 prompts: 500 times each, standard deviation 19; 100 is five of them."""
    candidates = tuple(f"s.{i}" for i in range(8))
    how = draw(2, nested=nested)
    times = Counter(c for i in range(2000) for c in draw_negatives(f"p{i}", candidates, how))
    assert all(abs(times[c] - 500) < 100 for c in candidates)


# Prompts with too few candidates


def test_common_n_keeps_the_same_prompts_for_every_n() -> None:
    """Pools of 4, 16 and 20 answers; common_n = 16 leaves the last two for every n."""
    pools = [pool_of(LETTERS[:size], prompt_id=str(size)) for size in (4, 16, 20)]
    for n in (1, 2, 4, 8, 16):
        selected = select(pools, draw(n, common_n=16))
        assert [g.prompt_id for g in selected.groups] == ["16", "20"]
        assert selected.short == ["4"]


def test_without_common_n_prompts_vanish_as_n_grows() -> None:
    pools = [pool_of(LETTERS[:size], prompt_id=str(size)) for size in (4, 16, 20)]
    left = {n: [g.prompt_id for g in select(pools, draw(n)).groups] for n in (4, 5, 16, 17, 21)}
    assert left == {4: ["4", "16", "20"], 5: ["16", "20"], 16: ["16", "20"], 17: ["20"], 21: []}


def test_n_above_common_n_asks_for_n() -> None:
    pools = [pool_of(LETTERS[:size], prompt_id=str(size)) for size in (4, 8)]
    assert select(pools, draw(6, common_n=2)).short == ["4"]


def test_candidates_are_counted_after_the_filter_and_without_empties() -> None:
    """8 answers, half kept, one of the kept empty: 3 candidates, so that n = 4 is short and n = 3 is not."""
    pool = pool_of(["", *"abcdefg"], range(8))
    assert select([pool], draw(4), scorer="x", filter=HALF).short == ["p"]
    assert select([pool], draw(3), scorer="x", filter=HALF).short == []


def test_selected_counts_all_prompts_also_the_short_ones() -> None:
    pools = [
        pool_of(["", "a", "b"], prompt_id="0"),
        pool_of(["", "the target"], prompt_id="1"),
        pool_of([], prompt_id="2"),
    ]
    selected = select(pools, draw(1))
    assert selected.n_answers == [3, 2, 0]
    assert selected.n_candidates == [2, 0, 0]
    assert selected.short == ["1", "2"]
    assert selected.left_out == {"empty": 2, "equal to the target": 1}


# Other processes

SCRIPT = """
import json
from selfcontrast.records import Answer, PromptPool
from selfcontrast.selection import Draw, select_groups
texts = [chr(97 + (7 * i) % 13) * (1 + i % 2) for i in range(32)]
pools = [
    PromptPool(f"p{j}", "target", tuple(Answer(f"s.{i}", t, (5 * i + j) % 11 / 11) for i, t in enumerate(texts)))
    for j in range(5)
]
least = {"kind": "least", "keep": 0.75}
kinds = [
    ("target", 4, {"pool": "s", "scorer": "x", "filter": least}),
    ("target", 4, {"pool": "s", "dedup": True}),
    ("ranked", 1, {"pool": "s", "scorer": "x"}),
    ("paper", 4, {"pool": "s", "scorer": "x", "mode": "alldedup"}),
    ("paper", 4, {"pool": "s", "scorer": "x", "mode": "lastdedup-75"}),
]
for kind, n, params in kinds:
    for nested in (True, False):
        selected = select_groups(pools, Draw(n, 0, nested, 3), kind=kind, params=params)
        print(json.dumps([[g.prompt_id, g.chosen, g.rejected] for g in selected.groups]))
"""


def test_groups_are_the_same_in_every_process() -> None:
    """Python orders sets of strings by PYTHONHASHSEED; the choice of the reference code followed it."""
    outputs = set()
    for seed in ("0", "1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    (output,) = outputs
    assert output.count("p4") == 10
