"""What every judge owes: a judge that knows the grades is understood, and whatever else a judge says is no score."""

from __future__ import annotations

from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfcontrast import plugins
from selfcontrast.judging.cases import Case, Judged, mean_score
from selfcontrast.judging.exchange import Reply, read_reply
from selfcontrast.judging.pocket import completion, judge

QUICK = settings(deadline=None, derandomize=True, max_examples=60)
PARAMS: dict[str, dict[str, Any]] = {"alpaca_eval": {"prompt": "own"}}
"""Parameters to try a judge with, where its defaults need something that is not there."""

JUDGES = [
    pytest.param(module := plugins.load("judges", name), module.Params(**PARAMS.get(name, {})), id=name)
    for name in plugins.names("judges")
]
GRADES = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])


def case_of(answer: str, opponent: str, question: str = "What is it?") -> Case:
    return Case((question,), (answer,), (opponent,))


def play(
    case: Case, module: ModuleType, params: Any, grades: dict[str, float], bias: float = 0.0
) -> list[float | None]:
    """Return the verdicts of a judge that knows the grades, through messages and raw replies."""
    verdicts = []
    for game in module.games(case, params):
        messages = game.template.fill(game.values)
        said = judge(messages, module, params, lambda _, answer: grades[answer], bias=bias)
        body = {"model": "m", "messages": [{"content": m.content} for m in messages], **game.sampling}
        verdicts.append(module.read(read_reply(completion(said, body)), game, params))
    return verdicts


@pytest.mark.parametrize(("module", "params"), JUDGES)
@given(mine=GRADES, theirs=GRADES, question=st.text(max_size=40))
@QUICK
def test_truth_in_truth_out(module: ModuleType, params: Any, mine: float, theirs: float, question: str) -> None:
    """A judge without bias gives the better answer more than half, the worse one less, equals half; ratings follow grades."""
    grades = {"mine": mine, "theirs": theirs}
    score, other = (
        module.settle(play(case_of(*pair, question), module, params, grades), params)
        for pair in (("mine", "theirs"), ("theirs", "mine"))
    )
    assert score.value is not None
    assert other.value is not None
    assert score.weight > 0
    sign = (mine > theirs) - (mine < theirs)
    if module.COMPARES:
        assert (score.value > 0.5) - (score.value < 0.5) == sign
        assert 0 <= score.value <= 1
    elif abs(mine - theirs) == 1:
        assert (score.value > other.value) - (score.value < other.value) == sign
    else:
        assert (score.value - other.value) * sign >= 0


@pytest.mark.parametrize(("module", "params"), [p for p in JUDGES if p.values[0].COMPARES])
def test_swapping_the_answers_turns_the_score_round(module: ModuleType, params: Any) -> None:
    grades = {"a": 0.75, "b": 0.25}
    first, second = (
        module.settle(play(case_of(*pair), module, params, grades), params).value for pair in (("a", "b"), ("b", "a"))
    )
    assert first + second == pytest.approx(1)


@pytest.mark.parametrize(("module", "params"), JUDGES)
@given(
    text=st.text() | st.text(alphabet="[]ABC<>=0123456789. \nmM"), finish=st.sampled_from(["stop", "length", "None"])
)
@QUICK
def test_any_text_is_a_verdict_in_range_or_none(module: ModuleType, params: Any, text: str, finish: str) -> None:
    for game in module.games(case_of("x", "y"), params):
        verdict = module.read(Reply(text, None, finish, None, None), game, params)
        assert verdict is None or -2 <= verdict <= 10


@pytest.mark.parametrize(("module", "params"), JUDGES)
def test_empty_and_thought_only_replies_are_no_verdict(module: ModuleType, params: Any) -> None:
    for text in ("", "I cannot judge this.", "<think>[[A]] [[5]] [[A>B]]", "[[rating]]", "[[D]]"):
        for game in module.games(case_of("x", "y"), params):
            assert module.read(Reply(text, None, "stop", None, None), game, params) is None


@pytest.mark.parametrize(("module", "params"), JUDGES)
def test_missing_verdict_leaves_no_score(module: ModuleType, params: Any) -> None:
    n = len(module.games(case_of("x", "y"), params))
    assert module.settle([], params).value is None
    for i in range(n):
        assert module.settle([None if j == i else 1.0 for j in range(n)], params).value is None


@pytest.mark.parametrize(("module", "params"), JUDGES)
def test_missing_answer_is_not_judged(module: ModuleType, params: Any) -> None:
    """None is no answer; an empty text is one."""
    assert module.games(replace(case_of("x", "y"), answers=(None,)), params) == []
    assert module.games(case_of("", ""), params) != []
    if module.COMPARES:
        assert module.games(replace(case_of("x", "y"), opponents=(None,)), params) == []
        assert module.games(replace(case_of("x", "y"), opponents=None), params) == []


@pytest.mark.parametrize(("module", "params"), JUDGES)
def test_every_game_uses_one_of_the_templates_and_bounds_the_reply(module: ModuleType, params: Any) -> None:
    for game in module.games(case_of("x {answer} {y}", "y"), params):
        assert game.template in module.templates(params)
        assert game.sampling["max_tokens"] >= 1
        assert ("top_logprobs" in game.sampling) == module.NEEDS_LOGPROBS
        filled = game.template.fill(game.values)
        assert game.template.read(filled) == dict(game.values)
        assert any("x {answer} {y}" in m.content for m in filled)


@pytest.mark.parametrize(("module", "params"), JUDGES)
def test_details_are_numbers_also_where_nothing_was_judged(module: ModuleType, params: Any) -> None:
    grades = {"mine": 1.0, "theirs": 0.5}
    case = case_of("mine", "theirs")
    verdicts = tuple(play(case, module, params, grades))
    judged = [
        Judged(case, (verdicts,), mean_score([module.settle(verdicts, params)])),
        Judged(case, (tuple(None for _ in verdicts),), mean_score([]), "no reply"),
        Judged(case, ((),), mean_score([]), "no answer to judge"),
    ]
    assert all(isinstance(v, float) and v == v for v in module.details(judged, params).values())
    assert module.details([], params) == {}
