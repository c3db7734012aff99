"""Which replies a verdict is read from: in every layout that servers send, and in none that the judge did not finish."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from judge_server import FaultyServer, completion

from selfcontrast import plugins
from selfcontrast.errors import StepError
from selfcontrast.judging.cases import Case, Judged
from selfcontrast.judging.client import Connection, Tally, ask
from selfcontrast.judging.exchange import CUT, read_reply
from selfcontrast.judging.formats import Entry, write_formats
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.panel import EMPTY, NO_REPLY, NO_VERDICT, Panel, judge
from selfcontrast.judging.replies import Replies

VERDICTS = {"pairwise": "[[A]]", "mt_bench": "[[5]]", "arena_hard": "[[A>B]]"}
"""A verdict of every judge that reads texts."""

PRICES = Prices(input=10.0, output=30.0)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcontrast.judging.limits.FIRST_PAUSE_S", 0.01)


class Asked:
    """One case before one judge whose every reply is ``raw``, twice: the second run must not ask what the first has."""

    def __init__(
        self, folder: Path, kind: str, raw: Any, *, repeats: int = 1, failures: int = 0, **params: Any
    ) -> None:
        module = plugins.load("judges", kind)
        panel = Panel(module, module.Params(**params), "judge", repeats=repeats)
        self.tallies: list[Tally] = []
        self.runs: list[Judged] = []
        self.spent: list[float] = []
        self.files: dict[str, Any] = {}
        answer = raw if callable(raw) else lambda body: raw
        with FaultyServer(answer) as server:
            for _ in range(2):
                replies = Replies(folder / "replies.jsonl")
                try:
                    (judged,) = judge(
                        [Case(("What?",), ("mine",), ("theirs",))],
                        panel,
                        replies,
                        self._ask(server, replies, module, failures),
                    )
                    write_formats(
                        folder / "files",
                        module.FILES,
                        [Entry("1", judged)],
                        replies,
                        generator="g",
                        baseline="b",
                        judge="j",
                    )
                finally:
                    replies.close()
                self.runs.append(judged)
                self.spent.append(replies.spent_usd)
        self.n_answered = server.answered.total()
        self.judged = self.runs[-1]

    def _ask(self, server: FaultyServer, replies: Replies, module: Any, failures: int) -> Callable[..., None]:
        def send(requests: list[Any]) -> None:
            connection = Connection(server.url, retries=2, prices=PRICES, cap_usd=9.0)
            needs = module.NEEDS_LOGPROBS
            self.tallies.append(ask(requests, connection, replies, needs_logprobs=needs, allowed_failures=failures))

        return send

    @property
    def is_paid_once(self) -> bool:
        games = sum(map(len, self.judged.verdicts))
        return (
            self.n_answered == self.tallies[0].asked == games == self.tallies[1].cached
            and self.spent[0] == self.spent[1]
        )


def message(text: str = "[[A]]", *, finish: Any = "stop", usage: Any = None, **more: Any) -> dict[str, Any]:
    """Return a chat completion whose message has more keys, or others."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text, **more}, "finish_reason": finish}
    return {"choices": [choice], **({} if usage is None else {"usage": usage})}


def responses(*items: Any, status: str = "completed", **more: Any) -> dict[str, Any]:
    return {
        "object": "response",
        "status": status,
        "output": [*items],
        "usage": {"input_tokens": 7, "output_tokens": 3},
        **more,
    }


def said(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def without_finish(tokens: int) -> dict[str, Any]:
    raw = message(usage={"prompt_tokens": 9, "completion_tokens": tokens})
    del raw["choices"][0]["finish_reason"]
    return raw


THOUGHT = {"type": "thinking", "thinking": [{"type": "text", "text": "[[B]]"}]}

READ = {
    "text": message(),
    "parts": message([{"type": "text", "text": "I say "}, {"type": "text", "text": "[[A]]"}]),  # type: ignore[arg-type]
    "parts with thoughts": message([THOUGHT, {"type": "reasoning", "text": "[[B]]"}, {"type": "text", "text": "[[A]]"}]),  # type: ignore[arg-type]
    "parts that are texts": message(["I say ", "[[A]]"]),  # type: ignore[arg-type]
    "parts with values": message([{"type": "text", "text": {"value": "[[A]]", "annotations": []}}]),  # type: ignore[arg-type]
    "thoughts beside": message(reasoning_content="[[B]]"),
    "no tool calls": message(tool_calls=[], refusal=None, function_call=None),
    "usage of floats": message(usage={"prompt_tokens": 12.0, "completion_tokens": 3.0}),
    "usage of texts": message(usage={"prompt_tokens": "12", "completion_tokens": "3"}),
    "usage of half tokens": message(usage={"prompt_tokens": 11.5, "completion_tokens": 2.5}),
    "usage of nulls": message(usage={"prompt_tokens": None, "completion_tokens": None}),
    "usage of words": message(usage={"prompt_tokens": "many", "completion_tokens": -3}),
    "usage of no numbers": message(usage={"prompt_tokens": math.nan, "completion_tokens": math.inf}),
    "usage of truths": message(usage={"prompt_tokens": True, "completion_tokens": [3]}),
    "usage is a list": message(usage=[12, 3]),
    "usage is a text": message(usage="15"),
    "no finish": without_finish(3),
    "finish is null": message(finish=None),
    "finish of TGI": message(finish="eos_token"),
    "finish of Gemini": message(finish="STOP"),
    "finish of Anthropic": message(finish="end_turn"),
    "message of Anthropic": {
        **{"type": "message", "content": [{"type": "thinking", "thinking": "[[B]]"}, {"type": "text", "text": "[[A]]"}]},
        **{"stop_reason": "end_turn", "usage": {"input_tokens": 12, "output_tokens": 3}},
    },
    "response": responses({"type": "reasoning", "summary": [{"type": "summary_text", "text": "[[B]]"}]}, said("[[A]]")),
    "old completion": {"choices": [{"text": "[[A]]", "finish_reason": "stop"}]},
}  # fmt: skip


@pytest.mark.parametrize("layout", READ)
def test_verdict_is_read_in_every_layout_and_paid_once(layout: str, tmp_path: Path) -> None:
    asked = Asked(tmp_path, "pairwise", READ[layout])
    assert asked.judged.verdicts == ((1.0, 0.0),)  # the first place wins both games
    assert (asked.judged.score.value, asked.judged.null, asked.judged.missing) == (0.5, "", ())
    assert asked.is_paid_once


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [
        *(("usage of floats", (12, 3)), ("usage of texts", (12, 3)), ("usage of half tokens", (12, 3))),
        *(("usage of nulls", (None, None)), ("usage of words", (None, None)), ("usage of no numbers", (None, None))),
        *(("usage of truths", (None, None)), ("usage is a list", (None, None)), ("text", (None, None))),
        *(("message of Anthropic", (12, 3)), ("response", (7, 3))),
    ],
)
def test_tokens_are_counted_or_unknown(layout: str, tokens: tuple[int | None, int | None], tmp_path: Path) -> None:
    reply = read_reply(READ[layout])
    assert (reply.input_tokens, reply.output_tokens) == tokens
    asked = Asked(tmp_path, "pairwise", READ[layout])
    if tokens[0] is not None:
        assert asked.spent[0] == pytest.approx(2 * PRICES.of(*tokens))
    else:  # as much as it can have cost
        assert asked.spent[0] > 2 * PRICES.of(100, 1000)


UNREAD = {
    "cut": (message(finish="length"), CUT),
    "cut, of Gemini": (message(finish="MAX_TOKENS"), CUT),
    "cut, of Mistral": (message(finish="model_length"), CUT),
    "cut, in parts": (message([{"type": "text", "text": "[[A]]"}], finish="length"), CUT),  # type: ignore[arg-type]
    "cut, told by its tokens": (without_finish(1024), CUT),
    "cut, of Anthropic": ({"content": [{"type": "text", "text": "[[A]]"}], "stop_reason": "max_tokens"}, CUT),
    "cut, in a choice of Anthropic's words": (
        {"choices": [{"message": {"content": "[[A]]"}, "stop_reason": "max_tokens"}]},
        CUT,
    ),
    "cut response": (
        responses(said("[[A]]"), status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        CUT,
    ),
    "incomplete response": (responses(said("[[A]]"), status="incomplete"), CUT),
    "filtered": (message(finish="content_filter"), "ended by content_filter"),
    "filtered response": (
        responses(said("[[A]]"), status="incomplete", incomplete_details={"reason": "content_filter"}),
        "ended by content_filter",
    ),
    "filtered without a text": (message(None, finish="content_filter"), "ended by content_filter"),  # type: ignore[arg-type]
    "filtered, of Gemini": (message(finish="SAFETY"), "ended by SAFETY"),
    "finish that nobody knows": (message(finish={"type": "odd"}), "ended by {'type': 'odd'}"),
    "refusal": (message(None, refusal="I cannot."), "the judge refused"),  # type: ignore[arg-type]
    "refusal beside a text": (message(refusal="I cannot."), "the judge refused"),
    "refusal in a part": (message([{"type": "refusal", "refusal": "I cannot."}]), "the judge refused"),  # type: ignore[arg-type]
    "tool call": (
        message(None, finish="tool_calls", tool_calls=[{"id": "1", "type": "function"}]),  # type: ignore[arg-type]
        "a tool call instead of a text",
    ),
    "tool call beside a text": (message(finish="tool_calls", tool_calls=[{"id": "1"}]), "ended by tool_calls"),
    "no text": (message(None), EMPTY),  # type: ignore[arg-type]
    "blank text": (message(" \n"), EMPTY),
    "number for a text": (message(3), EMPTY),  # type: ignore[arg-type]
    "thoughts alone": (message([THOUGHT]), EMPTY),  # type: ignore[arg-type]
    "odd parts": (message([None, 3, {"type": "image_url"}, {"type": "text"}, [[]]]), EMPTY),  # type: ignore[arg-type]
    "no message": ({"choices": [{"finish_reason": "stop", "message": None}]}, EMPTY),
    "message that is a list": ({"choices": [{"finish_reason": "stop", "message": []}]}, EMPTY),
    "no choice": ({"choices": [], "usage": {"prompt_tokens": 3}}, "no choice in the reply"),
    "choices that are null": ({"choices": None}, "no choice in the reply"),
    "choice that is null": ({"choices": [None]}, "no choice in the reply"),
    "no verdict": (message("Well."), NO_VERDICT),
}


@pytest.mark.parametrize("layout", UNREAD)
def test_reply_that_is_no_answer_is_a_null_with_its_reason_and_paid_once(layout: str, tmp_path: Path) -> None:
    raw, reason = UNREAD[layout]
    asked = Asked(tmp_path, "pairwise", raw)
    assert asked.judged.verdicts == ((None, None),)
    assert (asked.judged.score.value, asked.judged.null) == (None, reason)
    assert asked.judged.missing == (reason, reason)
    assert asked.is_paid_once


@pytest.mark.parametrize("kind", VERDICTS)
def test_no_judge_of_texts_reads_a_verdict_in_a_text_that_was_cut(kind: str, tmp_path: Path) -> None:
    whole = Asked(tmp_path / "whole", kind, message(VERDICTS[kind]))
    assert whole.judged.score.value is not None
    cut = Asked(tmp_path / "cut", kind, message(f"It could be {VERDICTS[kind]}, but", finish="length"))
    assert (cut.judged.score.value, cut.judged.null) == (None, CUT)
    assert cut.is_paid_once


def test_one_cut_game_leaves_no_score(tmp_path: Path) -> None:
    rest = [message(finish="length"), message()]
    asked = Asked(tmp_path, "pairwise", lambda body: rest.pop(0))
    assert asked.judged.verdicts[0].count(None) == 1
    assert (asked.judged.score.value, asked.judged.null, asked.judged.missing) == (None, CUT, (CUT,))


def test_cut_repeat_takes_no_part_and_is_counted(tmp_path: Path) -> None:
    rest = [message("[[5]]"), message("[[9]]", finish="length")]
    asked = Asked(tmp_path, "mt_bench", lambda body: rest.pop(0), repeats=2)
    assert (asked.judged.score.value, asked.judged.null, asked.judged.missing) == (5.0, "", (CUT,))


def top(*pairs: tuple[str, Any]) -> dict[str, Any]:
    likeliest = [{"token": token, "logprob": logprob} for token, logprob in pairs]
    return {
        "content": [{"token": likeliest[0]["token"], "logprob": likeliest[0]["logprob"], "top_logprobs": likeliest}]
    }


def test_log_probabilities_of_the_first_token_count_though_one_token_is_a_cut(tmp_path: Path) -> None:
    """AlpacaEval asks for one token: its every reply is cut."""
    raw = completion("m", logprobs=top(("m", math.log(0.8)), ("M", math.log(0.2))), finish_reason="length")
    asked = Asked(tmp_path, "alpaca_eval", raw, prompt="own")
    assert asked.judged.score.value == pytest.approx(0.8) or asked.judged.score.value == pytest.approx(0.2)
    assert asked.is_paid_once


def test_of_two_first_tokens_of_one_spelling_the_likelier_counts() -> None:
    """The last one did: a rare token that is spelled `m` too took the verdict from the likely one."""
    pairs = ("m", math.log(0.8)), ("M", math.log(0.1)), ("m", math.log(0.001))
    for order in (pairs, pairs[::-1]):
        found = read_reply(completion("m", logprobs=top(*order))).first_logprobs
        assert found == {"m": math.log(0.8), "M": math.log(0.1)}


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (completion("m", logprobs=top(("m", math.nan))), "log-probabilities that are no numbers below 0"),
        (completion("m", logprobs=top(("m", "-1"))), "log-probabilities that are no numbers below 0"),
        (completion("m", logprobs={"content": [3]}), "log-probabilities that are no numbers below 0"),
        (completion("m", logprobs=top(("m", -0.1)), finish_reason="content_filter"), "ended by content_filter"),
        (completion("m", logprobs=None, finish_reason="content_filter"), "ended by content_filter"),
        (completion("maybe", logprobs=top(("maybe", -0.1)), finish_reason="length"), NO_VERDICT),
    ],
)
def test_log_probabilities_that_say_nothing_are_a_null(raw: Any, reason: str, tmp_path: Path) -> None:
    asked = Asked(tmp_path, "alpaca_eval", raw, prompt="own")
    assert (asked.judged.score.value, asked.judged.null) == (None, reason)
    assert asked.is_paid_once


def test_server_without_log_probabilities_is_refused_though_its_reply_is_cut(tmp_path: Path) -> None:
    with pytest.raises(StepError, match="gives no log-probabilities"):
        Asked(tmp_path, "alpaca_eval", completion("m", finish_reason="length"), prompt="own")


@pytest.mark.parametrize(
    "raw",
    [
        {"error": {"message": "overloaded"}},
        {"choices": [], "error": {"message": "overloaded"}},
        message(finish="error"),
        message(finish="abort"),
        {"choices": [{"message": {"content": "[[A]]"}, "error": {"code": 502}}]},
        responses(said("[[A]]"), status="failed"),
    ],
)
def test_server_that_broke_off_is_asked_again_as_after_a_500(raw: Any, tmp_path: Path) -> None:
    asked = Asked(tmp_path, "mt_bench", raw, failures=1)
    assert (asked.judged.null, asked.tallies[0].failed.total()) == (NO_REPLY, 1)
    assert asked.n_answered == 2 * 3  # two runs of three attempts
    rest = [raw, message("[[5]]")]
    assert Asked(tmp_path / "later", "mt_bench", lambda body: rest.pop(0)).judged.score.value == 5.0


@pytest.mark.parametrize("kind", ["pairwise", "mt_bench", "arena_hard"])
@pytest.mark.parametrize("layout", ["cut", "no choice", "refusal in a part", "message that is a list", "response"])
def test_files_of_every_layout_are_written(kind: str, layout: str, tmp_path: Path) -> None:
    raw = {**READ, **{name: raw for name, (raw, _) in UNREAD.items()}}[layout]
    Asked(tmp_path, kind, raw)
    text = {"cut": "[[A]]", "response": "[[A]]"}.get(layout)
    if kind == "pairwise":
        (row,) = json.loads((tmp_path / "files/annotations.json").read_text())
        assert row["raw_completion"] == (raw["choices"] or [None])[0] if "choices" in raw else raw
        return
    (file,) = (tmp_path / "files").glob("*.jsonl")
    (row,) = map(json.loads, file.read_text().splitlines())
    assert [game["judgment"] for game in row.get("games", [row])] == [text] * (2 if kind == "arena_hard" else 1)


def test_files_have_the_text_of_parts(tmp_path: Path) -> None:
    asked = Asked(tmp_path, "mt_bench", message([THOUGHT, {"type": "text", "text": "[[5]]"}]))  # type: ignore[arg-type]
    row = json.loads((tmp_path / "files/j_single.jsonl").read_text())
    assert (row["judgment"], row["score"], asked.judged.score.value) == ("[[5]]", 5.0, 5.0)
