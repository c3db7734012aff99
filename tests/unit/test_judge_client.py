"""The judge client against a real server on loopback that fails in every way it can."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from judge_server import FAULTS, NOT_BILLED, FaultyServer, completion

from selfcontrast.errors import InputError, StepError
from selfcontrast.judging.client import Connection, Tally, ask
from selfcontrast.judging.exchange import Request, read_reply
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.replies import Replies
from selfcontrast.records import Message

ROOT = Path(__file__).resolve().parents[2]
PRICES = Prices(input=10.0, output=30.0)
PADDING = "." * 200
"""So that 100 tokens are no more than a question can have."""

PAID = PRICES.of(100, 10)
"""What every whole answer of the test server costs: it counts 100 and 10 tokens."""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfcontrast.judging.limits.FIRST_PAUSE_S", 0.01)


def question(i: int, **more: object) -> Request:
    return Request(
        "judge", "", (Message("user", f"question {i}" + PADDING),), {"temperature": 0, "max_tokens": 16}, "t", **more
    )  # type: ignore[arg-type]


def echo(body: dict) -> dict:
    return completion(body["messages"][-1]["content"].removesuffix(PADDING))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Tally]:
    def run(requests: list[Request], url: str, *, failures: int = 0, logprobs: bool = False, **more: object) -> Tally:
        replies = Replies(tmp_path / "replies.jsonl")
        try:
            connection = Connection(url, **{"in_flight": 32, "timeout_s": 3.0, **more})  # type: ignore[arg-type]
            return ask(requests, connection, replies, needs_logprobs=logprobs, allowed_failures=failures)
        finally:
            replies.close()

    return run


def stored(folder: Path) -> dict[str, str]:
    """Return the text of every stored reply by the key of its request."""
    lines = (folder / "replies.jsonl").read_bytes().split(b"\n")
    records = [json.loads(line) for line in lines if line]
    replies = [r for r in records if "reply" in r]
    assert len({r["key"] for r in replies}) == len(replies), "a request has two replies"
    return {r["key"]: read_reply(r["reply"]).text for r in replies}


# Faults


def test_faults_lose_nothing_pay_nothing_twice_and_mix_nothing_up(run, tmp_path: Path) -> None:
    """400 questions, each behind 0 to 3 random faults, 32 at once: each is answered once, and its reply is its own."""
    rng = random.Random(0)
    faults = [f for f in FAULTS if f != "429 slow"]  # each of these stops all requests for a second
    requests = [question(i) for i in range(400)]
    plans = {r.messages[0].content: rng.sample(faults, rng.randint(0, 3)) for r in requests}
    with FaultyServer(echo, lambda body: plans[body["messages"][-1]["content"]]) as server:
        tally = run(requests, server.url)
    assert stored(tmp_path) == {r.key: f"question {i}" for i, r in enumerate(requests)}
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 400
    assert (tally.asked, tally.cached, tally.failed.total()) == (400, 0, 0)
    assert tally.retried.total() == sum(map(len, plans.values()))
    assert 16 < server.most_in_flight <= 32


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_alone_is_survived(fault: str, run, tmp_path: Path) -> None:
    with FaultyServer(echo, lambda body: [fault]) as server:
        assert run([question(0)], server.url, timeout_s=0.3).asked == 1
    assert stored(tmp_path) == {question(0).key: "question 0"}


@pytest.mark.parametrize("fault", FAULTS)
def test_lasting_fault_is_no_reply_and_no_text(fault: str, run, tmp_path: Path) -> None:
    """Two attempts, then it is a failure: counted under its reason, nothing stored, asked again by the next run."""
    with FaultyServer(echo, lambda body: [fault] * 2) as server:
        tally = run([question(0)], server.url, timeout_s=0.3, retries=1, failures=1)
        assert (tally.asked, tally.failed.total()) == (0, 1)
        assert stored(tmp_path) == {}
        assert run([question(0)], server.url).asked == 1


def test_too_many_failures_end_the_run_with_a_message(run) -> None:
    with FaultyServer(echo, lambda body: ["500"] * 2) as server, pytest.raises(StepError, match="most often: HTTP 500"):
        run([question(i) for i in range(50)], server.url, retries=1, failures=3)
    assert server.seen.total() < 100


def test_endpoint_that_is_not_there_is_told(run) -> None:
    with FaultyServer(echo) as server:
        url = server.url
    with pytest.raises(StepError, match="most often: no connection"):
        run([question(0)], url, retries=1)


def test_what_cannot_get_better_is_not_tried_again(run) -> None:
    with FaultyServer(echo, lambda body: ["400"]) as server:
        assert run([question(0)], server.url, failures=1).failed == {
            'rejected (HTTP 400): {"error": {"message": "try later"}}': 1
        }
    assert server.seen.total() == 1


@pytest.mark.parametrize(
    ("fault", "told"), [("401", "refuses the API key"), ("404", "does not know this URL or model")]
)
def test_wrong_key_or_model_ends_the_run_at_once(fault: str, told: str, run) -> None:
    with FaultyServer(echo, lambda body: [fault] * 9) as server, pytest.raises(StepError, match=told):
        run([question(i) for i in range(200)], server.url, api_key="sk-secret", failures=1000)
    assert server.seen.total() <= 64


def test_api_key_is_sent_and_shown_nowhere(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FaultyServer(echo, lambda body: ["400"]) as server:
        server.answer = echo
        tally = run([question(0), question(0, repeat=1)], server.url, api_key="sk-secret", failures=2)
    assert all("authorization: bearer sk-secret" in head.lower() for head in server.headers)
    shown = [
        repr(Connection(server.url, "sk-secret")),
        repr(tally),
        (tmp_path / "replies.jsonl").read_text(),
        caplog.text,
    ]
    assert not [text for text in shown if "sk-secret" in text]


def test_retry_after_is_honoured(run) -> None:
    with FaultyServer(echo, lambda body: ["429 slow"]) as server:
        started = time.monotonic()
        run([question(0)], server.url)
    assert time.monotonic() - started >= 1.0


def test_server_without_logprobs_is_refused_for_a_judge_that_needs_them(run, tmp_path: Path) -> None:
    with FaultyServer(echo) as server, pytest.raises(StepError, match="gives no log-probabilities"):
        run([question(i) for i in range(100)], server.url, logprobs=True)
    assert stored(tmp_path) == {}


# Cache


def test_second_run_asks_nothing(run, tmp_path: Path) -> None:
    with FaultyServer(echo) as server:
        run([question(i) for i in range(20)], server.url)
        before = (tmp_path / "replies.jsonl").read_bytes()
        assert run([question(i) for i in range(20)], "http://127.0.0.1:1").cached == 20
    assert (tmp_path / "replies.jsonl").read_bytes() == before


def test_equal_requests_are_asked_once(run) -> None:
    with FaultyServer(echo) as server:
        assert run([question(1)] * 5 + [question(2)], server.url).asked == 2
    assert server.answered.total() == 2


def test_key_follows_from_everything_but_the_endpoint() -> None:
    base = Request("judge", "r", (Message("user", "q"),), {"max_tokens": 1}, "t")
    others = [
        Request("other", "r", base.messages, base.sampling, "t"),
        Request("judge", "s", base.messages, base.sampling, "t"),
        Request("judge", "r", (Message("system", "q"),), base.sampling, "t"),
        Request("judge", "r", (Message("user", "Q"),), base.sampling, "t"),
        Request("judge", "r", base.messages, {"max_tokens": 2}, "t"),
        Request("judge", "r", base.messages, base.sampling, "u"),
        Request("judge", "r", base.messages, base.sampling, "t", repeat=1),
    ]
    assert len({r.key for r in [base, *others]}) == 8


def test_unfinished_last_line_is_removed_and_asked_again(run, tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    with FaultyServer(echo) as server:
        run([question(0), question(1)], server.url)
        lines = path.read_bytes().splitlines(keepends=True)
        path.write_bytes(lines[0] + lines[1][:40])
        assert run([question(0), question(1)], server.url).asked == 1
    assert len(stored(tmp_path)) == 2


def test_damaged_row_is_named(run, tmp_path: Path) -> None:
    (tmp_path / "replies.jsonl").write_bytes(b'{"key": "a", "reply": {}, "usd": 0}\n{"key": \n')
    with pytest.raises(InputError, match="row 2"):
        Replies(tmp_path / "replies.jsonl")


def test_line_separators_inside_a_reply_are_no_line_ends(run, tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\u2029d\ud800"
    with FaultyServer(lambda body: completion(text)) as server:
        run([question(0)], server.url)
        assert run([question(0)], server.url).cached == 1
    replies = Replies(tmp_path / "replies.jsonl")
    assert read_reply(replies.raw(question(0).key)).text == text
    replies.close()


def test_two_processes_do_not_write_one_file(tmp_path: Path) -> None:
    first = Replies(tmp_path / "replies.jsonl")
    with pytest.raises(StepError, match="another process"):
        Replies(tmp_path / "replies.jsonl")
    first.close()


# Money


def test_cap_holds_at_32_requests_in_flight_and_is_nearly_used_up(run, tmp_path: Path) -> None:
    """An answer costs $0.0013; the most a question can cost is more, so what stays unspent is less than that most."""
    most = PRICES.most(question(10))
    assert most > PAID
    cap = 40 * PAID
    with FaultyServer(echo, delay_s=0.01) as server, pytest.raises(StepError, match="spending cap is reached"):
        run([question(i) for i in range(100)], server.url, prices=PRICES, cap_usd=cap)
    assert cap - most <= server.answered.total() * PAID <= cap + 1e-12
    assert len(stored(tmp_path)) == server.answered.total()


def test_cap_counts_earlier_runs_and_a_higher_one_goes_on(run, tmp_path: Path) -> None:
    requests = [question(i) for i in range(20)]
    with FaultyServer(echo) as server:
        for cap in (10 * PAID, 10 * PAID):
            with pytest.raises(StepError, match="cap"):
                run(requests, server.url, prices=PRICES, cap_usd=cap)
        assert server.answered.total() <= 10
        run(requests, server.url, prices=PRICES, cap_usd=30 * PAID)
    assert set(server.answered.values()) == {1}
    assert len(stored(tmp_path)) == 20


def test_replies_that_never_arrive_count_as_paid(run, tmp_path: Path) -> None:
    """Each attempt that was cut may have been charged: with a cap of two of them there is no third."""
    most = PRICES.most(question(0))
    with FaultyServer(echo, lambda body: ["cut"] * 9) as server, pytest.raises(StepError, match="never arrived"):
        run([question(0)], server.url, prices=PRICES, cap_usd=2.5 * most)
    assert server.seen.total() == 2


@pytest.mark.parametrize("fault", sorted(NOT_BILLED))
def test_refusals_cost_nothing(fault: str, run, tmp_path: Path) -> None:
    with FaultyServer(echo, lambda body: [fault] * 2) as server:
        run([question(0)], server.url, prices=PRICES, cap_usd=1.1 * PRICES.most(question(0)))
    replies = Replies(tmp_path / "replies.jsonl")
    assert (replies.spent_usd, replies.unsure_usd) == (pytest.approx(PAID), 0)
    replies.close()


def test_reply_without_usage_counts_as_the_most_it_can_have_cost(run, tmp_path: Path) -> None:
    with FaultyServer(lambda body: {**completion("x"), "usage": None}) as server:
        run([question(0)], server.url, prices=PRICES)
    replies = Replies(tmp_path / "replies.jsonl")
    assert replies.spent_usd == pytest.approx(PRICES.most(question(0)))
    replies.close()


# Pace


def test_requests_for_each_minute_are_not_exceeded(run) -> None:
    """At 1,200 a minute 21 requests take 20 intervals of 50 ms."""
    with FaultyServer(echo) as server:
        started = time.monotonic()
        run([question(i) for i in range(21)], server.url, requests_per_min=1200)
    assert 1.0 <= time.monotonic() - started < 2.0


def test_tokens_for_each_minute_are_not_exceeded(run) -> None:
    tokens = question(0).likely_input_tokens + 16
    with FaultyServer(echo) as server:
        started = time.monotonic()
        run([question(i) for i in range(10)], server.url, tokens_per_min=60 * tokens * 10)
    assert 0.9 <= time.monotonic() - started < 1.9


# Kills

CRASH = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from test_judge_client import PRICES, question
from selfcontrast.judging.client import Connection, ask
from selfcontrast.judging.replies import Replies
replies = Replies(Path(sys.argv[3]))
ask([question(i) for i in range(300)], Connection(sys.argv[4], in_flight=8, prices=PRICES, cap_usd=3.0), replies)
"""


def test_killed_run_goes_on_and_repeats_at_most_what_was_under_way(run, tmp_path: Path) -> None:
    """SIGKILL three times: what had arrived is there; of the rest, at most 8 answers a kill were under way."""
    command = [sys.executable, "-c", CRASH, str(ROOT), str(ROOT / "tests/unit"), str(tmp_path / "replies.jsonl")]
    with FaultyServer(echo, delay_s=0.02) as server:
        for n_answers in (40, 100, 160):
            process = subprocess.Popen([*command, server.url])
            while server.answered.total() < n_answers and process.poll() is None:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        tally = run([question(i) for i in range(300)], server.url, prices=PRICES, cap_usd=3.0)
        repeated = server.answered.total() - 300
    assert tally.cached >= 160 - 3 * 16
    assert repeated <= 3 * 8
    assert stored(tmp_path) == {question(i).key: f"question {i}" for i in range(300)}
    replies = Replies(tmp_path / "replies.jsonl")
    assert replies.spent_usd >= server.answered.total() * PAID - 1e-9
    assert replies.unsure_usd <= 3 * 8 * PRICES.most(question(100))
    replies.close()
