"""A Hugging Face hub on loopback that takes uploads: the routes of HfApi.create_repo and upload_folder, kept in memory."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repo:
    """One repository."""

    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass
class UploadHub:
    """What the hub holds, by ``models/owner/name`` or ``datasets/owner/name``, and what it was asked.

    Attributes:
        token: the only one it knows, of the user ``me`` in the organisation ``lab``.
        role: what that token may do.
    """

    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_" + "x" * 20
    role: str = "write"
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def written(self) -> list[str]:
        """Return the requests that change something."""
        return [line for line in self.asked if line.startswith("POST") and "validate-yaml" not in line]


class _Handler(BaseHTTPRequestHandler):
    hub: UploadHub

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.hub
        path = self.path.partition("?")[0]
        hub.asked.append(f"{self.command} {path}")
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != f"Bearer {hub.token}":
            return self.send({"error": "Invalid user token."}, 401)
        if path == "/api/whoami-v2":
            token = {"role": hub.role, "displayName": "t"}
            return self.send({"name": "me", "type": "user", "orgs": [{"name": "lab"}], "auth": {"accessToken": token}})
        if path == "/api/validate-yaml":
            return self.send({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            kind = f"{asked.get('type', 'model')}s"
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            private = asked.get("private", asked.get("visibility") == "private")
            hub.repos.setdefault(f"{kind}/{name}", Repo(private))
            return self.send({"url": f"{hub.url}/{name}", "name": name, "id": name})
        found = re.fullmatch(r"/api/(models|datasets)/([^/]+/[^/]+)(?:/(\w+)/main)?", path)
        repo = hub.repos.get(f"{found[1]}/{found[2]}") if found else None
        if found is None or repo is None:
            return self.send({"error": "Repository not found"}, 404, "RepoNotFound")
        if found[3] == "preupload":
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            return self.send({"files": files})
        if found[3] == "commit":
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    repo.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            done = {"commitUrl": f"{hub.url}/{found[2]}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            return self.send(done)
        siblings = [{"rfilename": name} for name in repo.files]
        return self.send({"_id": "1", "id": found[2], "sha": COMMIT, "private": repo.private, "siblings": siblings})

    def send(self, value: object, status: int = 200, code: str = "") -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(hub: UploadHub) -> Iterator[UploadHub]:
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
