"""The kind `paper` against the reference code's arithmetic, as described in words; THUDM/Self-Contrast at a21d01d.

Expectations by hand come first. Below them the arithmetic is written a second time from its description and compared
with ours on random pools. An answer of whitespace alone counts as empty in both.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from selfcontrast.errors import InputError
from selfcontrast.records import TARGET, Answer, PromptPool
from selfcontrast.selection import Draw, Selected, select_groups
from selfcontrast.selections import paper

ROOT = Path(__file__).resolve().parents[2]
DISTINCT = [f"text {i}" for i in range(32)]
TEN_UNIQUE = [f"text {i % 10}" for i in range(32)]
TEN_SCORES = [float(i % 10) for i in range(32)]
ONE_UNIQUE = ["text"] * 32


def pool_of(
    texts: Sequence[str], scores: Iterable[float], *, prompt_id: str = "p", target: str = "target"
) -> PromptPool:
    pairs = zip(texts, scores, strict=True)
    return PromptPool(prompt_id, target, tuple(Answer(f"s.{i}", t, s) for i, (t, s) in enumerate(pairs)))


def candidates(
    texts: Sequence[str], scores: Iterable[float], mode: str, *, k: int, empty: str = "official"
) -> list[int]:
    """Return the positions of the candidates, in their order."""
    params = paper.Params(pool="s", scorer="x", mode=mode, empty=empty)
    found = paper.candidates(pool_of(texts, scores), n=k, rng=random.Random(0), params=params)
    assert found.chosen == TARGET
    assert sum(found.left_out.values()) == len(texts) - len(found.rejected)
    return [int(r.removeprefix("s.")) for r in found.rejected]


def select(pools: list[PromptPool], n: int, mode: str, *, empty: str = "official") -> Selected:
    how = Draw(n=n, common_n=0, nested=False, seed=0)
    return select_groups(pools, how, kind="paper", params={"pool": "s", "scorer": "x", "mode": mode, "empty": empty})


# lastdedup


@pytest.mark.parametrize("k", [1, 16, 24])
def test_lastdedup_75_of_32_distinct_answers_leaves_ranks_0_to_23(k: int) -> None:
    """The window is min(int(32 * 0.75), 32 - 1) = 24, and ranks below 24 stay."""
    assert candidates(DISTINCT, range(32), "lastdedup-75", k=k) == list(range(24))


def test_candidates_are_the_low_ranks_but_stand_in_pool_order() -> None:
    """Scores fall with the position, so that ranks 0 to 23 are the positions 31 to 8."""
    assert candidates(DISTINCT, range(32, 0, -1), "lastdedup-75", k=16) == list(range(8, 32))


def test_lastdedup_75_cannot_serve_25_of_32_distinct_answers() -> None:
    pool = pool_of(DISTINCT, range(32))
    assert select([pool], 24, "lastdedup-75").short == []
    assert select([pool], 25, "lastdedup-75").short == ["p"]


def test_ten_unique_texts_give_nine_candidates() -> None:
    """The window is min(24, 10 - 1) = 9: the most similar unique text always goes. First occurrences are at 0 to 9."""
    assert candidates(TEN_UNIQUE, TEN_SCORES, "lastdedup-75", k=9) == list(range(9))


def test_prompt_with_nine_candidates_is_dropped_and_counted_for_ten_negatives() -> None:
    pools = [pool_of(TEN_UNIQUE, TEN_SCORES, prompt_id="few"), pool_of(DISTINCT, range(32), prompt_id="many")]
    nine, ten = select(pools, 9, "lastdedup-75"), select(pools, 10, "lastdedup-75")
    assert [g.prompt_id for g in nine.groups] == ["few", "many"]
    assert [g.prompt_id for g in ten.groups] == ["many"]
    assert ten.short == ["few"]
    assert ten.n_candidates == [9, 24]
    assert ten.left_out == {"outside the window, repeated or empty": 23 + 8}


@pytest.mark.parametrize("mode", ["lastdedup-75", "lastdedup-05", "lastdedup-99"])
def test_one_unique_text_is_always_dropped(mode: str) -> None:
    assert candidates(ONE_UNIQUE, [0.5] * 32, mode, k=1) == []


def test_lastdedup_keeps_the_first_occurrence() -> None:
    """Texts b a b a c, likeness to the target c > b > a: m = min(int(5 * .99), 2) = 2 leaves b at 0 and a at 1."""
    assert candidates("babac", [0.2, 0.1, 0.2, 0.1, 0.9], "lastdedup-99", k=1) == [0, 1]


def test_window_of_lastdedup_is_counted_on_the_raw_pool() -> None:
    """16 unique texts in 32 answers: 75 % of 32 is 24, capped at 15. Nearly everything stays, not 75 %."""
    texts, scores = [f"text {i % 16}" for i in range(32)], [i % 16 for i in range(32)]
    assert candidates(texts, scores, "lastdedup-75", k=1) == list(range(15))


# Empty answers


BLANKS = ["", " ", "  ", "\n", "\t"]


def test_five_empty_answers_take_places_in_the_window() -> None:
    """They are the five least similar of 32 distinct texts: 24 - 5 = 19 candidates, ranks 5 to 23."""
    texts = BLANKS + DISTINCT[5:]
    assert candidates(texts, range(32), "lastdedup-75", k=16) == list(range(5, 24))
    assert select([pool_of(texts, range(32))], 24, "lastdedup-75").short == ["p"]


def test_five_empty_answers_take_no_places_under_drop_first() -> None:
    """The window stays 24 wide and now begins at position 5: 24 candidates, 5 to 28."""
    texts = BLANKS + DISTINCT[5:]
    assert candidates(texts, range(32), "lastdedup-75", k=24, empty="drop_first") == list(range(5, 29))
    assert select([pool_of(texts, range(32))], 24, "lastdedup-75", empty="drop_first").short == []


def test_five_equal_empty_answers_take_five_places_without_dedup() -> None:
    """They share rank 0; thr = sorted(0 0 0 0 0 5 6 ...)[24] = 24: ranks 5 to 23 stay, 19 candidates."""
    texts, scores = [""] * 5 + DISTINCT[5:], [0] * 5 + list(range(5, 32))
    assert candidates(texts, scores, "last-75", k=1) == list(range(5, 24))
    assert candidates(texts, scores, "last-75", k=1, empty="drop_first") == list(range(5, 29))


def test_five_equal_empty_answers_take_one_place_with_dedup() -> None:
    """28 unique texts, ranks 0 5 6 ... 31; the one at place 24 has rank 28: the empty one and ranks 5 to 27 stay."""
    texts, scores = [""] * 5 + DISTINCT[5:], [0] * 5 + list(range(5, 32))
    assert candidates(texts, scores, "lastdedup-75", k=1) == list(range(5, 28))


# last


@pytest.mark.parametrize(("k", "kept"), [(1, 3), (2, 3), (3, 3), (4, 4), (16, 16), (32, 32)])
def test_last_widens_its_window_to_k(k: int, kept: int) -> None:
    """10 % of 32 is rank 3; ranks below max(3, k) stay, so that the ratio has no effect for k above 3."""
    assert candidates(DISTINCT, range(32), "last-10", k=k) == list(range(kept))


def test_lastdedup_does_not_widen_its_window() -> None:
    assert candidates(DISTINCT, range(32), "lastdedup-10", k=16) == [0, 1, 2]
    assert select([pool_of(DISTINCT, range(32))], 16, "lastdedup-10").short == ["p"]


def test_widened_window_holds_the_empty_answers_unless_they_are_dropped_first() -> None:
    """Five empty, ranks 0 to 4; k = 16 widens 10 % to ranks below 16: 11 candidates, or 16 behind the empty ones."""
    texts = BLANKS + DISTINCT[5:]
    assert candidates(texts, range(32), "last-10", k=16) == list(range(5, 16))
    assert candidates(texts, range(32), "last-10", k=16, empty="drop_first") == list(range(5, 21))


def test_last_keeps_duplicates() -> None:
    """Texts 0 1 0 1 2 3, ranks 0 2 0 2 4 5: thr = (0 0 2 2 4 5)[int(6 * .75) = 4] = 4."""
    assert candidates("010123", [0, 1, 0, 1, 2, 3], "last-75", k=1) == [0, 1, 2, 3]


def test_last_can_lose_all_answers_to_a_tie() -> None:
    """All share rank 0, and 0 is not below the threshold 0; only the widening to k lets them back in."""
    assert candidates(ONE_UNIQUE, [0.5] * 32, "last-75", k=1) == list(range(32))
    assert candidates("abcd", [0.1, 0.9, 0.9, 0.9], "last-50", k=1) == [0]


# all and alldedup


def test_all_keeps_duplicates_and_drops_empty_answers() -> None:
    assert candidates(["a", "", "a", " ", "b"], [0] * 5, "all", k=3) == [0, 2, 4]


def test_all_stops_where_a_prompt_has_too_few_answers() -> None:
    texts = BLANKS + DISTINCT[5:]
    assert len(candidates(texts, range(32), "all", k=27)) == 27
    with pytest.raises(InputError, match=r"28 negatives for prompt p\n  found: 27 answers"):
        candidates(texts, range(32), "all", k=28)


def test_alldedup_keeps_the_most_similar_text_too() -> None:
    assert candidates(TEN_UNIQUE, TEN_SCORES, "alldedup", k=10) == list(range(10))


def test_alldedup_drops_and_counts_a_prompt_with_too_few_texts() -> None:
    selected = select([pool_of(TEN_UNIQUE, TEN_SCORES)], 11, "alldedup")
    assert (selected.groups, selected.short) == ([], ["p"])


@pytest.mark.parametrize("mode", ["all", "alldedup"])
def test_answer_equal_to_the_target_stays_a_candidate(mode: str) -> None:
    """The reference code does not compare with the target; the kind `target` does."""
    params = paper.Params(pool="s", scorer="x", mode=mode)
    found = paper.candidates(pool_of(["a", "target"], [0.1, 1.0]), n=1, rng=random.Random(0), params=params)
    assert found.rejected == ("s.0", "s.1")


# Ratio, ranks, parameters


@pytest.mark.parametrize(
    ("mode", "ratio"),
    [
        ("lastdedup-75", 0.75),
        ("last-5", 0.5),
        ("last-05", 0.05),
        ("lastdedup-100", 0.1),
        ("last-10", 0.1),
        ("last-0", 0.0),
    ],
)
def test_ratio_is_a_fraction_of_ten_to_the_number_of_digits(mode: str, ratio: float) -> None:
    assert paper.ratio_of(mode) == ratio


@pytest.mark.parametrize(("digits", "kept"), [("75", 24), ("5", 16), ("05", 1), ("100", 3), ("10", 3), ("0", 0)])
def test_digits_decide_how_many_answers_lastdedup_keeps(digits: str, kept: int) -> None:
    """int(32 * .75), int(32 * .5), int(32 * .05) = int(1.6), int(32 * .1) = int(3.2): `100` keeps 3 and not all."""
    assert candidates(DISTINCT, range(32), f"lastdedup-{digits}", k=1) == list(range(kept))


def test_equal_scores_share_the_lowest_rank() -> None:
    """Ten texts in 32 answers: the first two occur four times, the others three times."""
    ranks = paper.lowest_ranks(TEN_SCORES)
    assert ranks[:10] == [0, 4, 8, 11, 14, 17, 20, 23, 26, 29]
    assert ranks == [ranks[i % 10] for i in range(32)]


@pytest.mark.parametrize("mode", ["", "last", "last-", "last-7.5", "lastdedup", "dedup-75", "all-75", "last--5", "ALL"])
def test_unknown_mode_is_refused(mode: str) -> None:
    with pytest.raises(ValidationError, match="`mode` is all, alldedup, last-P or lastdedup-P"):
        paper.Params(pool="s", scorer="x", mode=mode)


def test_prompt_set_shrinks_as_n_grows() -> None:
    """Unique texts 3, 10, 32 under lastdedup-75: 2, 9, 24 candidates."""
    pools = [
        pool_of([f"text {i % u}" for i in range(32)], [i % u for i in range(32)], prompt_id=str(u)) for u in (3, 10, 32)
    ]
    left = {n: [g.prompt_id for g in select(pools, n, "lastdedup-75").groups] for n in (1, 2, 4, 8, 16)}
    assert left == {1: ["3", "10", "32"], 2: ["3", "10", "32"], 4: ["10", "32"], 8: ["10", "32"], 16: ["32"]}


def test_negatives_stand_in_pool_order() -> None:
    (group,) = select([pool_of(DISTINCT, range(32))], 16, "lastdedup-75").groups
    numbers = [int(r.removeprefix("s.")) for r in group.rejected]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 16
    assert max(numbers) < 24


SCRIPT = """
from selfcontrast.records import Answer, PromptPool
from selfcontrast.selection import Draw, select_groups
texts = [f"u{i % 8}" for i in range(32)]
pools = [PromptPool(f"p{j}", "t", tuple(Answer(f"s.{i}", t, 0.5) for i, t in enumerate(texts))) for j in range(9)]
params = {"pool": "s", "scorer": "x", "mode": "alldedup"}
print([g.rejected for g in select_groups(pools, Draw(2, 0, False, 42), kind="paper", params=params).groups])
"""


def test_alldedup_chooses_the_same_in_every_process() -> None:
    """The reference code drew {u1, u2}, {u8, u3} and {u5, u3} with one seed under three values of PYTHONHASHSEED."""
    outputs = set()
    for seed in ("0", "1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=ROOT, env=env, capture_output=True, text=True, check=True
        )
        outputs.add(done.stdout)
    assert len(outputs) == 1


# The arithmetic a second time, from its description


def ranks_in_words(similarities: Sequence[float]) -> list[int]:
    """Rank in ascending order, 0 the least similar: how many answers are less similar. Ties share the lowest rank."""
    return [sum(other < mine for other in similarities) for mine in similarities]


def candidates_in_words(outputs: list[str], similarities: list[float], mode: str, k: int) -> list[int] | None:
    """Return the positions of the reference code's candidates; None where it stops with a ValueError."""
    n, ranks, positions = len(outputs), ranks_in_words(similarities), range(len(outputs))
    first_occurrences = [i for i in positions if outputs[i] not in outputs[:i]]
    if mode == "all":
        chosen = [i for i in positions if outputs[i].strip()]
        return None if len(chosen) < k else chosen
    if mode == "alldedup":
        return [i for i in first_occurrences if outputs[i].strip()]
    name, digits = mode.split("-")
    ratio = float(f"0.{digits}")
    if name == "last":
        threshold = sorted(ranks)[int(n * ratio)]
        inside = [i for i in positions if ranks[i] < max(threshold, k)]
    else:
        m = min(int(n * ratio), len(first_occurrences) - 1)
        threshold = sorted(ranks[i] for i in first_occurrences)[m]
        inside = [i for i in first_occurrences if ranks[i] < threshold]
    return [i for i in inside if outputs[i].strip()]


def drop_first_in_words(outputs: list[str], similarities: list[float], mode: str, k: int) -> list[int] | None:
    """Return the candidates as if the empty answers had never been sampled, but with the window of the whole pool."""
    filled = [i for i in range(len(outputs)) if outputs[i].strip()]
    if mode in ("all", "alldedup") or not filled:
        return candidates_in_words(outputs, similarities, mode, k)
    name, digits = mode.split("-")
    window = int(len(outputs) * float(f"0.{digits}"))
    if name == "lastdedup":
        filled = [i for i in filled if outputs[i] not in outputs[:i]]
    ranks = {
        i: sum(similarities[j] < similarities[i] for j in range(len(outputs)) if outputs[j].strip()) for i in filled
    }
    threshold = sorted(ranks.values())[min(window, len(filled) - 1)]
    return [i for i in filled if ranks[i] < (max(threshold, k) if name == "last" else threshold)]


MODES = ["all", "alldedup"] + [
    f"{name}-{p}"
    for name in ("last", "lastdedup")
    for p in ("75", "5", "05", "100", "10", "0", "29", "57", "99", "999")
]
TEXTS = ["", " ", "\n\t", "a", "a ", "b", "c", "d", "e", "f", "g", "h"]
SIMILARITIES = [-0.5, 0.0, 0.1, 0.3, 0.3000001, 0.7, 1.0]


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[str], list[float]]:
    """Pools of 1 to 40 answers with repeats, empties and ties.

    Equal texts are mostly equally similar; sometimes they are not, as when an embedding depends on its batch.
    """
    outputs = draw(st.lists(st.sampled_from(TEXTS), min_size=1, max_size=40))
    if draw(st.booleans()):
        outputs = [f"{text}{i}" if text.strip() and draw(st.booleans()) else text for i, text in enumerate(outputs)]
    if draw(st.integers(0, 4)):
        likeness = {text: draw(st.sampled_from(SIMILARITIES) | st.floats(-1, 1)) for text in dict.fromkeys(outputs)}
        return outputs, [likeness[text] for text in outputs]
    return outputs, [draw(st.sampled_from(SIMILARITIES)) for _ in outputs]


@settings(max_examples=300, deadline=None)
@given(pools(), st.sampled_from(MODES), st.integers(1, 34))
def test_code_does_what_the_words_say(pool: tuple[list[str], list[float]], mode: str, k: int) -> None:
    outputs, similarities = pool
    expected = candidates_in_words(outputs, similarities, mode, k)
    if expected is None:
        with pytest.raises(InputError):
            candidates(outputs, similarities, mode, k=k)
    else:
        assert candidates(outputs, similarities, mode, k=k) == expected


@settings(max_examples=150, deadline=None)
@given(pools(), st.sampled_from(MODES), st.integers(1, 34))
def test_drop_first_does_what_the_words_say(pool: tuple[list[str], list[float]], mode: str, k: int) -> None:
    outputs, similarities = pool
    expected = drop_first_in_words(outputs, similarities, mode, k)
    if expected is None:
        with pytest.raises(InputError):
            candidates(outputs, similarities, mode, k=k, empty="drop_first")
    else:
        assert candidates(outputs, similarities, mode, k=k, empty="drop_first") == expected


@settings(max_examples=100, deadline=None)
@given(pools(), st.sampled_from([m for m in MODES if m.startswith("lastdedup")]))
def test_lastdedup_never_keeps_the_most_similar_unique_text(pool: tuple[list[str], list[float]], mode: str) -> None:
    outputs, similarities = pool
    first = {text: similarities[outputs.index(text)] for text in outputs}
    kept = candidates(outputs, similarities, mode, k=1)
    assert all(similarities[i] < max(first.values()) for i in kept)
    assert len(kept) <= len(first) - 1
