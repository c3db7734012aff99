"""A small Hugging Face hub on loopback: the routes that fetching data sets and models asks for, served from a dictionary."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER = "fedcba9876543210fedcba9876543210fedcba98"


@dataclass
class FakeHub:
    """What the hub holds, and what it was asked.

    Attributes:
        repos: files by repository and commit.
        branches: commits by branch.
        gated: repositories whose files need the token.
        break_off: paths whose download ends after half of the bytes, as often as the number says.
        sent: bytes that are sent for a path in place of its own; as many as those, or the client will notice.
    """

    repos: dict[str, dict[str, dict[str, bytes]]]
    branches: dict[str, str] = field(default_factory=lambda: {"main": COMMIT})
    gated: set[str] = field(default_factory=set)
    token: str = "hf_" + "x" * 20
    break_off: dict[str, int] = field(default_factory=dict)
    sent: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    tokens: list[str | None] = field(default_factory=list)
    url: str = ""


def etag_of(path: str, content: bytes) -> str:
    """Return the hash by which the hub and its cache name a file: SHA-256 of weights, Git's for the others."""
    if path.endswith(".safetensors"):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, *, body: bool) -> None:
        hub = self.hub
        path = self.path.partition("?")[0].replace("%2F", "/")
        hub.asked.append(f"{self.command} {path}")
        hub.tokens.append(self.headers.get("Authorization"))
        if found := re.fullmatch(r"/api/(?:datasets|models)/([^/]+/[^/]+)/(revision|tree)/([^/]+)", path):
            repo, what, revision = found.groups()
        elif found := re.fullmatch(r"(?:/datasets)?/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            repo, revision, what = found.groups()
        else:
            return self.refuse(404, "no such route")
        if repo not in hub.repos:
            return self.refuse(404, "Repository not found", "RepoNotFound")
        commit = hub.branches.get(revision, revision)
        if commit not in hub.repos[repo]:
            return self.refuse(404, "Invalid rev id", "RevisionNotFound")
        files = hub.repos[repo][commit]
        if what == "revision":
            return self.send({"_id": "1", "id": repo, "sha": commit, "siblings": [{"rfilename": f} for f in files]})
        if what == "tree":
            return self.send(
                [{"type": "file", "path": p, "size": len(c), "oid": etag_of(p, c)[:40]} for p, c in files.items()]
            )
        if repo in hub.gated and self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.refuse(401, "Access to this data set is restricted", "GatedRepo")
        if what not in files:
            return self.refuse(404, "Entry not found", "EntryNotFound")
        content = files[what]
        self.send_response(200)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("ETag", f'"{etag_of(what, content)}"')
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            breaks = hub.break_off.get(what, 0)
            hub.break_off[what] = max(0, breaks - 1)
            content = hub.sent.get(what, content)
            self.wfile.write(content[: len(content) // 2] if breaks else content)
            self.close_connection = True

    def send(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def refuse(self, status: int, message: str, code: str = "") -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve a hub at ``hub.url`` while the block runs."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
