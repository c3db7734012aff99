"""Judge a list of cases: games into requests, replies into verdicts, verdicts into scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from selfcontrast.judging.cases import Case, Game, Judged, Score, mean_score
from selfcontrast.judging.exchange import Request, read_reply
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.replies import Replies

NO_ANSWER = "no answer to judge"
NO_REPLY = "no reply"
NO_VERDICT = "no verdict in the reply"


@dataclass(frozen=True)
class Panel:
    """A judge: its plug-in with parameters, and the model behind it.

    Attributes:
        repeats: how often each request is asked.
    """

    module: ModuleType
    params: Any
    model: str
    revision: str = ""
    repeats: int = 1

    def requests(self, games: Sequence[Game]) -> list[list[Request]]:
        """Return one row for each repeat, with one request for each game."""
        filled = [(g, g.template.fill(g.values)) for g in games]
        return [
            [Request(self.model, self.revision, m, g.sampling, g.template.digest, repeat) for g, m in filled]
            for repeat in range(self.repeats)
        ]


def judge(cases: Sequence[Case], panel: Panel, replies: Replies, ask: Callable[[list[Request]], None]) -> list[Judged]:
    """Return every case judged, in order.

    Args:
        ask: sees to it that ``replies`` holds as many of the replies as can be had; called once.
    """
    played = [panel.module.games(case, panel.params) for case in cases]
    asked = [panel.requests(games) for games in played]
    ask([request for rows in asked for row in rows for request in row])
    return [_judged(*parts, panel, replies) for parts in zip(cases, played, asked, strict=True)]


def _judged(case: Case, games: list[Game], asked: list[list[Request]], panel: Panel, replies: Replies) -> Judged:
    module, params = panel.module, panel.params
    verdicts = tuple(
        tuple(
            _verdict(module.read(read_reply(replies.raw(r.key)), g, params)) if r.key in replies else None
            for g, r in zip(games, row, strict=True)
        )
        for row in asked
    )
    keys = tuple(tuple(r.key for r in row) for row in asked)
    score = mean_score([module.settle(row, params) for row in verdicts]) if games else Score(None)
    null = ""
    if score.value is None:
        missing = any(r.key not in replies for row in asked for r in row)
        null = NO_ANSWER if not games else NO_REPLY if missing else NO_VERDICT
    return Judged(case, verdicts, score, null, keys, tuple(g.template.name for g in games))


def _verdict(read: float | None) -> float | None:
    """Return a verdict that was read; NaN and infinity are none, and counted as such."""
    return read if read is not None and math.isfinite(read) else None


@dataclass(frozen=True)
class Plan:
    """What asking would cost.

    Attributes:
        requests: different requests whose reply is not there yet.
        likely_usd: with a token for every four bytes of prompt, and replies as long as they may be.
        most_usd: what it cannot exceed if each request is sent once.
    """

    requests: int
    likely_usd: float
    most_usd: float


def plan(requests: Sequence[Request], prices: Prices, replies: Replies | None = None) -> Plan:
    """Return the price of what ``replies`` does not hold."""
    todo = {r.key: r for r in requests if replies is None or r.key not in replies}.values()
    return Plan(len(todo), sum(map(prices.likely, todo)), sum(map(prices.most, todo)))
