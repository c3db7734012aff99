"""What holds a client back: requests and tokens for each minute, money, and pauses between attempts."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from selfcontrast.judging.exchange import Request

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
LONGEST_RETRY_AFTER_S = 900.0
"""A server that asks for a longer pause will not answer today."""


@dataclass(frozen=True)
class Prices:
    """What a judge costs, in US dollars for a million tokens."""

    input: float = 0.0
    output: float = 0.0

    def of(self, input_tokens: int, output_tokens: int) -> float:
        """Return the price of a request in dollars."""
        return (self.input * input_tokens + self.output * output_tokens) / 1e6

    def most(self, request: Request) -> float:
        """Return what a request can cost at most."""
        return self.of(request.most_input_tokens, request.most_output_tokens)

    def likely(self, request: Request) -> float:
        """Return about what a request costs if the judge says as much as it may."""
        return self.of(request.likely_input_tokens, request.most_output_tokens)


class Pace:
    """Spaces the starts of requests evenly, so that no minute has more requests or tokens than allowed."""

    def __init__(self, requests_per_min: float | None, tokens_per_min: float | None) -> None:
        """Take the limits; None is no limit."""
        self._per_request = 60 / requests_per_min if requests_per_min else 0.0
        self._per_token = 60 / tokens_per_min if tokens_per_min else 0.0
        self._free_at = 0.0

    async def wait(self, tokens: int, stopped: asyncio.Event) -> None:
        """Return when a request of about ``tokens`` tokens may start, or once ``stopped`` is set."""
        while (now := time.monotonic()) < self._free_at and not stopped.is_set():
            await sleep(self._free_at - now, stopped)
        self._free_at = max(now, self._free_at) + max(self._per_request, self._per_token * tokens)

    def pause(self, seconds: float) -> None:
        """Let nothing start for some time: the server has asked for it."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class CapError(Exception):
    """The next request might cost more than is left."""


@dataclass
class Budget:
    """Money under a cap: what a request can cost is set aside before it is sent, and settled after.

    Attributes:
        cap: dollars; None is no cap.
        spent: dollars of all requests that have ended, earlier runs included.
    """

    cap: float | None
    spent: float = 0.0
    _reserved: float = 0.0
    _n_reserved: int = 0
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def reserve(self, most: float) -> None:
        """Set ``most`` aside; wait for the end of other requests if it does not fit beside them.

        Raises:
            CapError: it does not fit with no other request under way.
        """
        while self.cap is not None and self.spent + self._reserved + most > self.cap:
            if self._n_reserved == 0:
                raise CapError
            self._settled.clear()
            await self._settled.wait()
        self._reserved += most
        self._n_reserved += 1

    def settle(self, most: float, spent: float) -> None:
        """Give back what was set aside and count what was spent."""
        self._n_reserved -= 1
        self._reserved = self._reserved - most if self._n_reserved else 0.0
        self.spent += spent
        self._settled.set()


async def sleep(seconds: float, stopped: asyncio.Event) -> None:
    """Wait for some time, but not beyond ``stopped``."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopped.wait(), seconds)


def pause_before(attempt: int, key: str, retry_after_s: float) -> float:
    """Return the seconds before attempt number ``attempt`` (the first retry is 1): doubling, jittered, or as asked.

    The jitter follows from the key, so that requests spread and runs repeat.
    """
    longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (attempt - 1))
    return max(retry_after_s, longest * random.Random(f"{key} {attempt}").uniform(0.5, 1.0))


def retry_after_s(headers: Mapping[str, str], now: float) -> float:
    """Return the pause that a server asks for, in seconds: a number or a date; 0 if it asks for none or unreadably."""
    try:
        if "retry-after-ms" in headers:
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        text = headers.get("retry-after", "0")
        if not text[:1].isalpha():
            return max(0.0, float(text))
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now)
    except (ValueError, TypeError):
        return 0.0
