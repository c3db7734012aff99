"""An endpoint on loopback that fails as told: each question has a list of faults that come before its answer."""

from __future__ import annotations

import asyncio
import json
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

FAULTS = ("429", "429 slow", "500", "503", "hang", "half", "not json", "other json", "cut", "empty")
"""What a server does instead of answering; each of them ends after the first time, or the next fault takes its place."""

USAGE = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}

NOT_BILLED = {"429", "429 slow", "500", "503"}


def completion(text: str, **more: Any) -> dict[str, Any]:
    """Return the body of a chat completion."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}, **more}
    return {"id": "x", "model": "m", "choices": [choice], "usage": USAGE}


class FaultyServer:
    """Answers with ``answer(body)`` after the faults that ``plan(body)`` lists; counts what it saw, by question.

    Attributes:
        answered: how often a whole answer was sent.
        most_in_flight: the largest number of requests under way at once.
    """

    def __init__(
        self,
        answer: Callable[[dict[str, Any]], Any],
        plan: Callable[[dict[str, Any]], Sequence[str]] = lambda body: (),
        *,
        delay_s: float = 0.0,
    ) -> None:
        self.answer, self.plan, self.delay_s = answer, plan, delay_s
        self.seen: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.headers: list[str] = []
        self.in_flight = self.most_in_flight = 0
        self.port = 0

    def __enter__(self) -> FaultyServer:
        """Start it."""
        started = threading.Event()
        self.thread = threading.Thread(target=lambda: asyncio.run(self._serve(started)), daemon=True)
        self.thread.start()
        assert started.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self.loop.call_soon_threadsafe(self.end.set)
        self.thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def _serve(self, started: threading.Event) -> None:
        self.loop, self.end = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        await self.end.wait()
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.headers.append(head)
                (length,) = [
                    line.split(":")[1] for line in head.split("\r\n") if line.lower().startswith("content-length:")
                ]
                body = json.loads(await reader.readexactly(int(length)))
                self.in_flight += 1
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                try:
                    if not await self._reply(body, reader, writer):
                        return
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()

    async def _reply(self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Return whether the connection stays open."""
        question = body["messages"][-1]["content"]
        faults = self.plan(body)
        fault = faults[self.seen[question]] if self.seen[question] < len(faults) else ""
        self.seen[question] += 1
        await asyncio.sleep(self.delay_s)
        whole = json.dumps(self.answer(body)).encode()
        if fault == "hang":
            await reader.read()  # until the client gives up
            return False
        if fault == "cut":
            return False
        if fault == "half":
            writer.write(http(200, whole, length=len(whole))[: -len(whole) // 2])
            await writer.drain()
            return False
        if fault.isdigit() or fault == "429 slow":
            headers = "Retry-After: 1\r\n" if "slow" in fault else ""
            writer.write(http(int(fault.split()[0]), b'{"error": {"message": "try later"}}', headers=headers))
        elif fault:
            writer.write(http(200, {"not json": b"<html>", "other json": b'{"a": 1}', "empty": b""}[fault]))
        else:
            self.answered[question] += 1
            writer.write(http(200, whole))
        await writer.drain()
        return True


def http(status: int, body: bytes, *, headers: str = "", length: int | None = None) -> bytes:
    """Return a whole HTTP response."""
    size = len(body) if length is None else length
    return f"HTTP/1.1 {status} X\r\nContent-Length: {size}\r\n{headers}\r\n".encode() + body
