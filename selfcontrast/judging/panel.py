"""Judge a list of cases: games into requests, replies into verdicts, verdicts into scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from selfcontrast.judging.cases import Case, Game, Judged, Score, mean_score
from selfcontrast.judging.exchange import CUT, Request, read_reply, why_no_verdict
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.replies import Replies

NO_ANSWER = "no answer to judge"
NO_REPLY = "no reply"
NO_VERDICT = "no verdict in the reply"
EMPTY = "an empty reply"


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
    read = [[_read(r, g, panel, replies) for g, r in zip(games, row, strict=True)] for row in asked]
    verdicts = tuple(tuple(verdict for verdict, _ in row) for row in read)
    keys = tuple(tuple(r.key for r in row) for row in asked)
    score = mean_score([panel.module.settle(row, panel.params) for row in verdicts]) if games else Score(None)
    missing = tuple(why for row in read for _, why in row if why)
    null = ""
    if score.value is None:
        null = NO_ANSWER if not games else NO_REPLY if NO_REPLY in missing else (*missing, NO_VERDICT)[0]
    return Judged(case, verdicts, score, null, keys, tuple(g.template.name for g in games), missing)


def _read(request: Request, game: Game, panel: Panel, replies: Replies) -> tuple[float | None, str]:
    """Return the verdict of a game, or None and why there is none.

    A judge that was cut may have quoted a verdict before it came to its own, so its text is not read.
    """
    if request.key not in replies:
        return None, NO_REPLY
    reply = read_reply(replies.raw(request.key))
    why = why_no_verdict(reply, request)
    if why and not (why == CUT and panel.module.NEEDS_LOGPROBS):
        return None, why
    verdict = _verdict(panel.module.read(reply, game, panel.params))
    if verdict is not None:
        return verdict, ""
    return None, NO_VERDICT if reply.text.strip() else EMPTY


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
