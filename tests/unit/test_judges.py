"""The four judges with expectations worked out by hand, nasty replies, and what scores add up to."""

from __future__ import annotations

import math
import re

import pytest

from selfcontrast.errors import ConfigError, InputError
from selfcontrast.judges import alpaca_eval, arena_hard, mt_bench, pairwise
from selfcontrast.judging.cases import Case, Judged, Score, mean_score, summarise
from selfcontrast.judging.exchange import Reply, ReplyError, read_reply
from selfcontrast.judging.prompts import Template, one_verdict, verdict_text

CASE = Case(("What is 2 + 2?",), ("4",), ("5",))


def said(text: str, logprobs: dict[str, float] | None = None) -> Reply:
    return Reply(text, logprobs, "stop", None, None)


# Prompts


def test_slots_in_values_and_other_braces_stay_as_they_are() -> None:
    template = Template("t", (("user", '{ "q": {question} } {answer}'),))
    (message,) = template.fill({"question": "{answer} \\1 {x}", "answer": "a"})
    assert message.content == '{ "q": {answer} \\1 {x} } a'


def test_digest_follows_the_wording() -> None:
    first, second = (Template("t", (("user", text),)) for text in ("{a}", "{a} "))
    assert first.digest != second.digest
    assert first.digest == Template("other name", first.messages).digest


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("[[A]]", "[[A]]"),
        ("<think>[[A]]</think> [[B]]", " [[B]]"),
        ("<think>[[A]]", ""),
        ("x</think>y</think>z", "z"),
    ],
)
def test_thoughts_are_no_verdict(text: str, seen: str) -> None:
    assert verdict_text(text) == seen


def test_contradiction_is_no_verdict() -> None:
    pattern = re.compile(r"\[\[([AB])\]\]")
    assert one_verdict(pattern, "[[A]] and so [[A]]") == "A"
    assert one_verdict(pattern, "[[A]] no, [[B]]") is None


# Pairwise


@pytest.mark.parametrize(
    ("text", "leading", "following"),
    [
        ("Both are fine. [[A]]", 1.0, 0.0),
        ("[[B]]", 0.0, 1.0),
        ("[[ C ]]", 0.5, 0.5),
        ("[[a]]", None, None),
        ("[A]", None, None),
        ("[[A]] or [[C]]", None, None),
    ],
)
def test_pairwise_verdict_is_that_of_the_judged_answer(text: str, leading: float, following: float) -> None:
    first, second = pairwise.games(CASE, pairwise.Params())
    assert (first.leads, second.leads) == (True, False)
    assert first.values["answer_a"] == second.values["answer_b"] == "4"
    assert [pairwise.read(said(text), g, pairwise.Params()) for g in (first, second)] == [leading, following]


@pytest.mark.parametrize(
    ("verdicts", "score"),
    [([1, 1], 1), ([0, 0], 0), ([1, 0], 0.5), ([0, 1], 0.5), ([1, 0.5], 0.5), ([0.5, 0.5], 0.5), ([1, None], None)],
)
def test_pairwise_win_needs_both_games(verdicts: list[float | None], score: float | None) -> None:
    assert pairwise.settle(verdicts, pairwise.Params()).value == score


def test_position_bias_is_counted() -> None:
    """Of three pairs two follow the place: one the first, one the second. First places: 2 of 6 games, and one of the win."""
    rows = [(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (None, 1.0)]
    judged = [Judged(CASE, (row,), Score(None)) for row in rows]
    assert pairwise.details(judged, pairwise.Params()) == {"flipped": 2 / 3, "first_place_wins": 3 / 6}


# Arena-Hard


@pytest.mark.parametrize(
    ("text", "level"),
    [
        ("my answer ... [[A>>B]]", 2),
        ("[[A>B]]", 1),
        ("[[A=B]]", 0),
        ("[[B>A]]", -1),
        ("[[B>>A]]", -2),
        ("[[A<<B]]", -2),
        ("[[ A >> B ]]", 2),
        ("[[A>B]] [[B<A]]", 1),
        ("[[A>B]] [[A>>B]]", None),
        ("[[A>>>B]]", None),
        ("[[A>A]]", None),
    ],
)
def test_arena_levels(text: str, level: int | None) -> None:
    """In its first game the baseline is A, so that the level of the judged answer is the opposite."""
    first, second = arena_hard.games(CASE, arena_hard.Params())
    assert (first.leads, second.leads) == (False, True)
    found = [arena_hard.read(said(text), g, arena_hard.Params()) for g in (first, second)]
    assert found == ([None, None] if level is None else [-level, level])


@pytest.mark.parametrize(
    ("verdicts", "value", "weight"),
    [([2, 1], 1, 4), ([2, -1], 0.75, 4), ([-2, 0], 0.125, 4), ([0, 0], 0.5, 2), ([1, -1], 0.5, 2), ([2, 2], 1, 6)],
)
def test_strong_verdicts_are_three_battles(verdicts: list[float], value: float, weight: float) -> None:
    assert arena_hard.settle(verdicts, arena_hard.Params()) == Score(value, weight)


def test_arena_score_is_the_share_of_all_battles() -> None:
    """6 battles won, then 1 of 2 won: 7 of 8, not the mean of 1 and 0.5."""
    scores = [arena_hard.settle(v, arena_hard.Params()) for v in ([2, 2], [1, -1])]
    assert summarise(scores).value == 7 / 8


# MT-Bench


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Good. Rating: [[7]]", 7),
        ("[[ 8.5 ]]", 8.5),
        ("[[10]]", 10),
        ("[[0]]", None),
        ("[[11]]", None),
        ("[[-3]]", None),
        ("[[8/10]]", None),
        ("[[rating]]", None),
        ("Rating: 7", None),
        ("[[\uff17]]", None),
        ("[[1e1]]", None),
        ("[[nan]]", None),
        ("[[5]] would be the example, it is [[9]]", None),
    ],
)
def test_rating(text: str, rating: float | None) -> None:
    (game,) = mt_bench.games(Case(("q",), ("a",)), mt_bench.Params())
    assert mt_bench.read(said(text), game, mt_bench.Params()) == rating


def test_second_turn_sees_the_whole_dialogue_and_references_where_they_belong() -> None:
    case = Case(("q1", "q2"), ("a1", "a2"), None, ("r1", "r2"), "math")
    first, second = mt_bench.games(case, mt_bench.Params())
    assert [g.template.name for g in (first, second)] == ["single-math-v1", "single-math-v1-multi-turn"]
    texts = [" ".join(m.content for m in g.template.fill(g.values)) for g in (first, second)]
    assert all(part in texts[0] for part in ("q1", "a1", "r1"))
    assert "q2" not in texts[0]
    assert all(part in texts[1] for part in ("q1", "a1", "q2", "a2", "r1", "r2"))
    plain = mt_bench.games(Case(("q1", "q2"), ("a1", "a2"), None, ("r1", "r2"), "stem"), mt_bench.Params())
    assert [g.template.name for g in plain] == ["single-v1", "single-v1-multi-turn"]


def test_a_third_turn_is_told_and_not_left_unrated() -> None:
    with pytest.raises(InputError, match="two turns"):
        mt_bench.games(Case(("a", "b", "c"), ("d", "e", "f")), mt_bench.Params())


def test_reference_that_is_missing_is_told() -> None:
    with pytest.raises(InputError, match="category coding has no reference answer"):
        mt_bench.games(Case(("q1", "q2"), ("a1", "a2"), category="coding"), mt_bench.Params())


def test_question_with_one_turn_unanswered_is_not_judged() -> None:
    assert mt_bench.games(Case(("q1", "q2"), ("a1", None)), mt_bench.Params()) == []


# AlpacaEval


def game_of_instruction(leads: bool) -> object:
    """Return a game in which the judged answer is shown first, or second."""
    cases = (Case((f"instruction {i}",), ("mine",), ("theirs",)) for i in range(100))
    games = (alpaca_eval.games(c, alpaca_eval.Params(prompt="own"))[0] for c in cases)
    return next(g for g in games if g.leads is leads)


@pytest.mark.parametrize("leads", [True, False])
@pytest.mark.parametrize(
    ("logprobs", "share_of_first"),
    [
        ({"m": math.log(0.8), "M": math.log(0.1), "Both": -5.0}, 8 / 9),
        ({"m": math.log(0.3), "M": math.log(0.6)}, 1 / 3),
        ({"m": -0.1, "The": -2.0}, 1.0),
        ({"M": -0.1}, 0.0),
        ({"The": -0.1, "Model": -3.0}, None),
        ({}, None),
        (None, None),
    ],
)
def test_share_of_a_win_follows_from_log_probabilities(logprobs, share_of_first, leads: bool) -> None:
    found = alpaca_eval.read(said("?", logprobs), game_of_instruction(leads), alpaca_eval.Params(prompt="own"))
    if share_of_first is None:
        assert found is None
    else:
        assert found == pytest.approx(share_of_first if leads else 1 - share_of_first)


def test_spaces_around_a_name_count_only_if_asked_for() -> None:
    reply, game = said("?", {"m": math.log(0.2), " m": math.log(0.4), " M": math.log(0.2)}), game_of_instruction(True)
    exact, stripped = (
        alpaca_eval.read(reply, game, alpaca_eval.Params(prompt="own", strip_tokens=strip)) for strip in (False, True)
    )
    assert (exact, stripped) == (1.0, pytest.approx(0.75))


def test_order_is_drawn_for_about_half_of_the_instructions() -> None:
    switched = sum(alpaca_eval.is_switched(f"instruction {i}") for i in range(1000))
    assert 430 < switched < 570


def test_without_the_package_its_prompt_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alpaca_eval, "find_spec", lambda name: None)
    alpaca_eval._official.cache_clear()
    with pytest.raises(ConfigError, match="pip install alpaca-eval"):
        alpaca_eval.templates(alpaca_eval.Params())
    alpaca_eval._official.cache_clear()


# Sums


def test_summary_is_the_mean_with_the_standard_error_of_a_mean() -> None:
    """0, 1, 1, 0.5: mean 0.625, variance 0.229167, error sqrt(0.229167 / 4)."""
    s = summarise([Score(0.0), Score(1.0), Score(None), Score(1.0), Score(0.5)])
    assert (s.value, s.n, s.nulls) == (0.625, 4, 1)
    assert s.se == pytest.approx(math.sqrt(0.22916666666666666 / 4))


def test_answers_to_one_prompt_are_not_independent() -> None:
    """Two prompts, each won or lost by all four answers: as two values of 1 and 0, 0.7071 / sqrt(2); not 0.19."""
    scores = [Score(1.0)] * 4 + [Score(0.0)] * 4
    clustered = summarise(scores, ["a"] * 4 + ["b"] * 4)
    assert (clustered.value, clustered.n) == (0.5, 8)
    assert clustered.se == pytest.approx(0.5)
    assert summarise(scores).se == pytest.approx(0.18898, abs=1e-5)
    assert math.isnan(summarise(scores, ["a"] * 8).se)


def test_summary_of_nothing_is_no_number() -> None:
    s = summarise([Score(None)])
    assert math.isnan(s.value)
    assert (s.n, s.nulls) == (0, 1)
    assert math.isnan(summarise([Score(1.0)]).se)


def test_weighted_error_is_that_of_a_ratio_of_sums() -> None:
    """(6, 1) and (2, 0.5): ratio 7/8; residuals 6/8 and -6/8; sqrt(2 * (0.75**2 + 0.75**2)) / 8."""
    assert summarise([Score(1.0, 6.0), Score(0.5, 2.0)]).se == pytest.approx(math.sqrt(2 * 2 * 0.75**2) / 8)


def test_repeats_without_a_score_take_no_part() -> None:
    assert mean_score([Score(1.0), Score(None), Score(0.5)]) == Score(0.75, 1.0)
    assert mean_score([Score(None)]) == Score(None)


# Raw replies


@pytest.mark.parametrize(
    "raw",
    [
        None,
        [],
        {},
        "[[A]]",
        {"id": "x", "usage": {"prompt_tokens": 1}},
        {"choices": [], "error": {"message": "overloaded"}},
        {"error": {"message": "overloaded"}},
    ],
)
def test_body_of_another_layout_is_no_reply(raw: object) -> None:
    with pytest.raises(ReplyError):
        read_reply(raw)


def test_filtered_content_is_an_empty_reply() -> None:
    reply = read_reply({"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]})
    assert (reply.text, reply.first_logprobs, reply.finish) == ("", None, "content_filter")
