"""A client for any endpoint that speaks OpenAI's chat completions: nothing is lost, paid twice, or taken for an answer."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from selfcontrast.errors import StepError
from selfcontrast.judging.exchange import CUT, Reply, Request, read_reply, why_no_verdict
from selfcontrast.judging.limits import (
    LONGEST_RETRY_AFTER_S,
    Budget,
    CapError,
    Pace,
    Prices,
    pause_before,
    retry_after_s,
    sleep,
)
from selfcontrast.judging.replies import Replies

if TYPE_CHECKING:
    import httpx2

log = logging.getLogger(__name__)

PROGRESS_S = 30.0
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Connection:
    """How an endpoint is reached, and what holds the client back.

    Attributes:
        url: base URL; ``/chat/completions`` is added.
        api_key: sent as a bearer token; never logged or stored.
        in_flight: requests under way at once.
        timeout_s: longest wait for one whole reply.
        retries: attempts after the first one.
        cap_usd: most that may be spent, earlier runs included.
        model: name of the judge at this endpoint, where it is not that of the requests.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    in_flight: int = 8
    requests_per_min: float | None = None
    tokens_per_min: float | None = None
    timeout_s: float = 120.0
    retries: int = 6
    prices: Prices = field(default_factory=Prices)
    cap_usd: float | None = None
    model: str | None = None


@dataclass
class Tally:
    """What became of the requests of one run.

    Attributes:
        cached: requests whose reply was there already.
        asked: requests that got a reply now.
        failed: requests without one, by reason.
        retried: attempts that were repeated, by reason.
    """

    cached: int = 0
    asked: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retried: Counter[str] = field(default_factory=Counter)
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass(frozen=True)
class _Try:
    """How one attempt ended: with ``raw`` and ``reply``, or with a reason.

    Attributes:
        paid: whether the server may have charged for it although no reply arrived.
        final: whether another attempt would end alike.
        fatal: whether every other request would fail as well.
    """

    raw: Any = None
    reply: Reply | None = None
    reason: str = ""
    paid: bool = False
    final: bool = False
    fatal: bool = False
    pause_s: float = 0.0


def ask(
    requests: Sequence[Request],
    connection: Connection,
    replies: Replies,
    *,
    needs_logprobs: bool = False,
    allowed_failures: int = 0,
) -> Tally:
    """Ask what ``replies`` does not hold yet, and store what comes back; equal requests are asked once.

    Args:
        needs_logprobs: refuse a server that leaves out the log-probabilities that a request asks for.
        allowed_failures: requests that may stay without a reply; they are counted, and asked again by the next run.

    Raises:
        StepError: the cap is reached, the endpoint refuses all requests, or too many of them fail. Replies that were under
            way are waited for and stored before.
    """
    todo = {r.key: r for r in requests if r.key not in replies}
    tally = Tally(cached=len({r.key for r in requests}) - len(todo))
    if todo:
        client = _Client(connection, replies, tally, len(todo), needs_logprobs, allowed_failures)
        asyncio.run(client.run(iter(todo.values())))
    return tally


class _Client:
    def __init__(
        self,
        connection: Connection,
        replies: Replies,
        tally: Tally,
        n_requests: int,
        needs_logprobs: bool,
        allowed_failures: int,
    ) -> None:
        self.connection = connection
        self.replies = replies
        self.tally = tally
        self.n_requests = n_requests
        self.needs_logprobs = needs_logprobs
        self.allowed_failures = allowed_failures
        self.pace = Pace(connection.requests_per_min, connection.tokens_per_min)
        self.budget = Budget(connection.cap_usd, replies.spent_usd)
        self.url = f"{connection.url.rstrip('/')}/chat/completions"
        self.stop: StepError | None = None
        self.stopped = asyncio.Event()
        self.told_at = time.monotonic()

    async def run(self, todo: Iterator[Request]) -> None:
        import httpx2

        logging.getLogger("httpx2").setLevel(logging.WARNING)  # it tells of every request
        c = self.connection
        host = urlsplit(c.url).hostname or ""
        async with httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {c.api_key}"} if c.api_key else {},
            timeout=c.timeout_s,
            limits=httpx2.Limits(max_connections=c.in_flight, max_keepalive_connections=c.in_flight),
            trust_env=host not in ("localhost", "127.0.0.1", "::1"),  # no proxy stands between a machine and itself
        ) as http:
            workers = [self._work(http, todo) for _ in range(min(c.in_flight, self.n_requests))]
            # A worker that fails lets the others bring home what is under way: it may be paid already.
            for error in await asyncio.gather(*workers, return_exceptions=True):
                if isinstance(error, BaseException):
                    raise error
        if self.stop is not None:
            raise self.stop

    async def _work(self, http: httpx2.AsyncClient, todo: Iterator[Request]) -> None:
        for request in todo:
            try:
                await self._ask(http, request)
            except BaseException:
                self._halt(StepError("asking the judge was broken off"))
                raise
            if self.stop is not None:
                return

    async def _ask(self, http: httpx2.AsyncClient, request: Request) -> None:
        tried = _Try()
        for attempt in range(1 + self.connection.retries):
            if attempt:
                self.tally.retried[tried.reason] += 1
                await sleep(pause_before(attempt, request.key, tried.pause_s), self.stopped)
            if (found := await self._attempt(http, request)) is None:
                return
            tried = found
            if tried.reply is not None:
                return
            if tried.fatal:
                return self._halt(StepError(tried.reason, where=self.connection.url))
            if tried.final:
                break
            self.pace.pause(tried.pause_s)
        self._fail(tried.reason)

    async def _attempt(self, http: httpx2.AsyncClient, request: Request) -> _Try | None:
        """Send a request once, when pace and budget allow; None if the run was stopped meanwhile."""
        most, spent = self.connection.prices.most(request), 0.0
        try:
            await self.budget.reserve(most)
        except CapError:
            self._halt(self._cap_message(most))
            return None
        try:
            await self.pace.wait(request.likely_input_tokens + request.most_output_tokens, self.stopped)
            if self.stop is not None:
                return None
            sent = self.replies.begin(request, most) if most else None
            tried = await self._send(http, request)
            spent = most if tried.paid else 0.0
            if tried.reply is not None:
                spent = await self._store(request, tried.reply, tried.raw, most, sent)
            elif sent is not None:
                self.replies.end(sent, usd=spent, **{"lost" if tried.paid else "refused": tried.reason})
            return tried
        finally:
            self.budget.settle(most, spent)

    async def _store(self, request: Request, reply: Reply, raw: Any, most: float, sent: int | None) -> float:
        """Store a reply and return what it cost: the most it can have cost, where the server counted no tokens."""
        spent = most
        if reply.input_tokens is not None and reply.output_tokens is not None:
            spent = self.connection.prices.of(reply.input_tokens, reply.output_tokens)
            self.tally.input_tokens += reply.input_tokens
            self.tally.output_tokens += reply.output_tokens
        await self.replies.add(request, raw, usd=spent, sent=sent)
        self.tally.asked += 1
        self._tell()
        return spent

    async def _send(self, http: httpx2.AsyncClient, request: Request) -> _Try:
        import httpx2

        try:
            async with asyncio.timeout(self.connection.timeout_s):
                response = await http.post(self.url, content=self._body(request), headers=JSON)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout):
            return _Try(reason="no connection")
        except (TimeoutError, httpx2.TimeoutException):
            return _Try(reason="no reply in time", paid=True)
        except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
            return _Try(reason=f"the endpoint's URL cannot be used: {error}", fatal=True)
        except httpx2.HTTPError:
            return _Try(reason="the connection was cut", paid=True)
        if response.status_code != 200:
            return self._refusal(response)
        try:
            raw = json.loads(response.content)
            reply = read_reply(raw)
        except (ValueError, RecursionError):  # a ReplyError is a ValueError
            return _Try(reason="a reply could not be read", paid=True)
        if reply.is_broken_off:
            return _Try(reason=f"the server broke a reply off ({reply.finish})", paid=True)
        is_said = reply.text and why_no_verdict(reply, request) in ("", CUT)
        if self.needs_logprobs and reply.first_logprobs is None and is_said:
            return _Try(
                reason="the server gives no log-probabilities (`logprobs` and `top_logprobs` were asked for), and this judge "
                "lives on them; use a server that has them, such as vLLM, or another kind of judge",
                paid=True,
                fatal=True,
            )
        return _Try(raw=raw, reply=reply)

    def _body(self, request: Request) -> bytes:
        renamed = {"model": self.connection.model} if self.connection.model is not None else {}
        return json.dumps({**request.body, **renamed}).encode()

    def _refusal(self, response: httpx2.Response) -> _Try:
        code, text = response.status_code, _error_text(response.content, self.connection.api_key)
        if code in (401, 403):
            return _Try(reason=f"the endpoint refuses the API key (HTTP {code})", fatal=True)
        if 300 <= code < 400 or code in (404, 405):
            return _Try(reason=f"the endpoint does not know this URL or model (HTTP {code}): {text}", fatal=True)
        if code == 429 and "insufficient_quota" in text:
            return _Try(reason=f"the account has no money left (HTTP 429): {text}", fatal=True)
        if code in (408, 409, 425, 429) or code >= 500:
            pause = retry_after_s(response.headers, time.time())
            return _Try(reason=f"HTTP {code}", pause_s=pause, final=pause > LONGEST_RETRY_AFTER_S)
        return _Try(reason=f"rejected (HTTP {code}): {text}", final=True)

    def _fail(self, reason: str) -> None:
        self.tally.failed[reason] += 1
        n_failed = self.tally.failed.total()
        if n_failed > self.allowed_failures:
            (common, _), *_ = self.tally.failed.most_common(1)
            self._halt(
                StepError(
                    "too many requests to the judge failed",
                    expected=f"at most {self.allowed_failures} (max_nulls)",
                    found=f"{n_failed} of {self.tally.asked + n_failed}; most often: {common}",
                    where=self.connection.url,
                    remedy="run again once the endpoint answers: stored replies are not asked for again",
                )
            )

    def _halt(self, error: StepError) -> None:
        self.stop = self.stop or error
        self.stopped.set()

    def _cap_message(self, most: float) -> StepError:
        spent = self.budget.spent
        return StepError(
            "the judge's spending cap is reached",
            expected=f"at most ${self.budget.cap:.2f} (cap_usd)",
            found=f"${spent:.4f} spent, of which ${self.replies.unsure_usd:.4f} for replies that never arrived; the next "
            f"request may cost ${most:.4f}; {self.tally.asked} of {self.n_requests} replies came in this run",
            where=str(self.replies.path),
            remedy="raise cap_usd and run again: stored replies are not paid again",
        )

    def _tell(self) -> None:
        if (now := time.monotonic()) - self.told_at >= PROGRESS_S:
            self.told_at = now
            log.info("%d of %d replies, $%.4f spent", self.tally.asked, self.n_requests, self.budget.spent)


def _error_text(body: bytes, api_key: str | None) -> str:
    text = " ".join(body[:2000].decode("utf-8", "replace").split())[:300]
    return text.replace(api_key, "***") if api_key else text
