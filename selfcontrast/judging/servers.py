"""Start a judge's server on a free port of loopback, wait until it answers, and end it with the job, however that ends."""

from __future__ import annotations

import http.client
import json
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from selfcontrast.errors import StepError
from selfcontrast.judging.guard import GRACE_S

log = logging.getLogger(__name__)

POLL_S = 0.05
PORT_TRIES = 3
"""Another process may take a free port before the server does."""


def server_command(
    server: Mapping[str, Any], judge: Mapping[str, Any], params: Mapping[str, Any], port: int
) -> list[str]:
    """Return the command line of a server; ``server`` and ``judge`` are keys of the study, ``params`` of the plug-in."""
    kind, more = server["kind"], [str(a) for a in server["args"]]
    if kind == "pocket":
        chosen = ["--judge", judge["kind"], "--params", json.dumps(dict(params)), "--bias", str(server["bias"])]
        return [sys.executable, "-m", "selfcontrast.judging.pocket", *chosen, "--port", str(port), *more]
    if kind == "vllm":
        served = ["--model", server["path"], "--served-model-name", judge["model"], "--seed", "0"]
        # What a request leaves out is vLLM's default, and not the checkpoint's, whose EOS ids are read all the same.
        served += ["--generation-config", "vllm"]
        module = "vllm.entrypoints.openai.api_server"
        return [server["python"], "-m", module, *served, "--host", "127.0.0.1", "--port", str(port), *more]
    if kind == "transformers":
        script = str(Path(__file__).with_name("plain_transformers.py"))
        where = ["--host", "127.0.0.1", "--port", str(port), "--default-seed", "0"]
        return [server["python"], script, "serve", server["path"], *where, *more]
    return [word.replace("{port}", str(port)) for word in server["command"]] + more


def wire_model(server: Mapping[str, Any] | None, model: str) -> str:
    """Return the name of the judge that a server listens to: `transformers serve` knows the path alone."""
    return str(server["path"]) if server is not None and server["kind"] == "transformers" else model


@contextmanager
def serving(
    server: Mapping[str, Any], judge: Mapping[str, Any], params: Mapping[str, Any], log_path: Path
) -> Iterator[str]:
    """Run a server while the block runs; yield the base URL of its API.

    Raises:
        StepError: it ends by itself, or does not answer in time; with the end of its log.
    """
    for attempt in range(1, PORT_TRIES + 1):
        port = _free_port()
        command = server_command(server, judge, params, port)
        with log_path.open("wb") as out:
            try:
                guard = subprocess.Popen(
                    [sys.executable, "-m", "selfcontrast.judging.guard", *command],
                    stdin=subprocess.PIPE,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            except OSError as error:
                raise StepError("the judge's server cannot be started", found=str(error)) from None
        try:
            if _wait(guard, port, server["health"], server["startup_s"]):
                log.info("server of the judge on port %d: %s", port, " ".join(command))
                yield f"http://127.0.0.1:{port}/v1"
                return
            if attempt == PORT_TRIES or not _port_was_taken(log_path):
                raise _no_server(guard, command, server["startup_s"], log_path)
        finally:
            assert guard.stdin is not None
            guard.stdin.close()
            guard.wait(2 * GRACE_S)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def _wait(guard: subprocess.Popen[bytes], port: int, health: str, longest_s: float) -> bool:
    """Return whether the server answers, and is still ours: false once it has ended, or after ``longest_s``."""
    deadline = time.monotonic() + longest_s
    while guard.poll() is None and time.monotonic() < deadline:
        if _status(port, health) < 500:
            return guard.poll() is None
        time.sleep(POLL_S)
    return False


def _status(port: int, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 599
    finally:
        connection.close()


def _port_was_taken(log_path: Path) -> bool:
    return "address already in use" in log_path.read_text(encoding="utf-8", errors="replace").lower()


def _no_server(guard: subprocess.Popen[bytes], command: Sequence[str], startup_s: float, log_path: Path) -> StepError:
    end = log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]
    code = guard.poll()
    found = f"no answer in {startup_s:g} s (startup_s)" if code is None else f"it ended with code {code}"
    return StepError(
        "the judge's server did not come up",
        found=f"{found}; the end of its log: {' | '.join(end)}",
        where=f"{log_path}; command: {' '.join(command)}",
        remedy="mend `server` of the judge in the study file, or start a server yourself and give its `endpoint`",
    )
