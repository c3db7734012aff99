"""Overhead of the judge client for each request, with 32 in flight, against a server on loopback.

    python benchmarks/bench_judge.py

Three clients ask the same requests: a bare one (the HTTP library alone), the judge client, and the judge client with money
counted. The server answers at once, so that all of the time is overhead; then it takes 200 ms, as a very fast judge does. The
processor's time is this process's alone; the time on the clock also holds what other processes of the machine take. The last
figure is the time on the clock as a ratio to that of a client without any overhead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from selfcontrast.judging.client import Connection, ask
from selfcontrast.judging.exchange import Request
from selfcontrast.judging.limits import Prices
from selfcontrast.judging.replies import Replies
from selfcontrast.records import Message

IN_FLIGHT = 32
PROMPT = "How good is this answer? " * 100
BODY = json.dumps(
    {
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "[[A]]"}}],
        "usage": {"prompt_tokens": 600, "completion_tokens": 3},
    }
).encode()


def serve(ports: multiprocessing.Queue, delay_s: float) -> None:
    """Answer every request with the same body after ``delay_s``."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = [
                    int(h.split(b":")[1]) for h in head.lower().split(b"\r\n") if h.startswith(b"content-length")
                ]
                await reader.readexactly(length)
                if delay_s:
                    await asyncio.sleep(delay_s)
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async def main() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        ports.put(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(main())


def bare(requests: list[Request], url: str) -> None:
    """Ask everything with the HTTP library alone."""
    import httpx2

    async def main() -> None:
        limits = httpx2.Limits(max_connections=IN_FLIGHT, max_keepalive_connections=IN_FLIGHT)
        async with httpx2.AsyncClient(limits=limits, timeout=60, trust_env=False) as http:
            todo = iter(requests)

            async def work() -> None:
                for request in todo:
                    (await http.post(f"{url}/chat/completions", json=request.body)).json()

            await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))

    asyncio.run(main())


def judged(prices: Prices, cap_usd: float | None) -> Callable[[list[Request], str], None]:
    """Return a function that asks everything with the judge client, replies stored and synced."""

    def run(requests: list[Request], url: str) -> None:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            replies = Replies(Path(folder) / "replies.jsonl")
            ask(requests, Connection(url, in_flight=IN_FLIGHT, prices=prices, cap_usd=cap_usd), replies)
            replies.close()

    return run


def measure(run: Callable[[list[Request], str], None], url: str, n: int, repeats: int) -> tuple[float, float]:
    """Return seconds on the clock and of the processor, each the least of some runs of ``n`` requests."""
    wall, cpu = [], []
    for _ in range(repeats):
        requests = [Request("m", "", (Message("user", f"{i} {PROMPT}"),), {"max_tokens": 8}, "t") for i in range(n)]
        start = time.perf_counter(), time.process_time()
        run(requests, url)
        wall.append(time.perf_counter() - start[0])
        cpu.append(time.process_time() - start[1])
    return min(wall), min(cpu)


def main() -> None:
    """Print milliseconds for each request, and ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    for delay_s in (0.0, 0.2):
        ports: multiprocessing.Queue = multiprocessing.Queue()
        server = multiprocessing.Process(target=serve, args=(ports, delay_s), daemon=True)
        server.start()
        url = f"http://127.0.0.1:{ports.get()}/v1"
        runs = {"bare": bare, "judge": judged(Prices(), None), "judge, money": judged(Prices(10, 30), 1e6)}
        least = delay_s / IN_FLIGHT
        print(f"server takes {1000 * delay_s:.0f} ms; {args.requests} requests, {IN_FLIGHT} in flight; ms a request")
        for name, run in runs.items():
            wall, cpu = (s / args.requests for s in measure(run, url, args.requests, args.repeats))
            ratio = f"; ratio {wall / least:.2f}" if least else ""
            print(f"  {name:13s} processor {1000 * cpu:.2f}, clock beyond the wait {1000 * (wall - least):.2f}{ratio}")
        server.terminate()


if __name__ == "__main__":
    main()
