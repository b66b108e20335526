"""A hub on this machine: as much of the Hugging Face hub's protocol as downloads use, and its ways of failing.

As there, `/{repo}/resolve/{revision}/{file}` answers with a redirect to another host, which has the bytes, and the
redirect's headers say commit, sha256 and size.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from headstart.models import hub

PLACES = ("HF_HUB_CACHE", "HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_ENDPOINT", "HUGGINGFACE_HUB_CACHE")


@dataclass
class Repo:
    """A repository: commits that hold files."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    main: str = ""
    gated: bool = False


@dataclass
class Request:
    """What was asked and answered."""

    method: str
    path: str
    range: str | None
    authorized: bool
    status: int = 0
    sent: int = 0
    """bytes of the body"""


class HubServer:
    """Use it with `with`. Everything that is public may be changed while it runs."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.breaks_off: list[int] = []
        """after how many bytes each of the next bodies ends"""
        self.fails: list[int] = []
        """statuses of the next answers"""
        self.knows_ranges = True
        self.other_bytes: dict[str, bytes] = {}
        """sha256 -> what is sent instead of the file that has it"""
        self.files: dict[str, bytes] = {}
        """path -> file that the store has besides"""
        self.pause: threading.Event | None = None
        """bodies go on after their first half when this is set"""
        self.paused = threading.Event()
        self._front, self._store = (_server(self, handler) for handler in (_Front, _Store))

    def add(self, repo: str, files: dict[str, bytes]) -> str:
        """Commit `files`; main is that commit now. Returns its id."""
        state = self.repos.setdefault(repo, Repo())
        contents = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        text = repr((repo, len(state.commits), sorted(contents.items())))
        state.main = hashlib.sha1(text.encode()).hexdigest()
        state.commits[state.main] = dict(files)
        return state.main

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._front.server_address[1]}"

    @property
    def store(self) -> str:
        # by another name: huggingface_hub 1.33 follows a redirect to the hub's own host, whatever the port, and
        # what the redirect itself says of the file is lost then
        return f"http://localhost:{self._store.server_address[1]}"

    def sent(self) -> int:
        """Bytes of files that were sent so far."""
        return sum(request.sent for request in self.requests if request.path.startswith("/bytes/"))

    def gets(self) -> list[Request]:
        """The requests for bytes."""
        return [request for request in self.requests if request.path.startswith("/bytes/")]

    def blob(self, sha256: str) -> bytes | None:
        files = (content for r in self.repos.values() for c in r.commits.values() for content in c.values())
        return next((content for content in files if hashlib.sha256(content).hexdigest() == sha256), None)

    def __enter__(self) -> HubServer:
        for server in (self._front, self._store):
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.pause is not None:
            self.pause.set()
        for server in (self._front, self._store):
            server.shutdown()
            server.server_close()


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client may go when it likes; anything else is a mistake here."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def keep_apart(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let this process know neither the user's data, cache, token and settings nor the real hub."""
    monkeypatch.setenv("HEADSTART_DATA", str(folder / "data"))
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    for name in PLACES:
        monkeypatch.delenv(name, raising=False)
    # huggingface_hub has read its variables already
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(folder / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    point_to(monkeypatch, "http://127.0.0.1:9")
    monkeypatch.setattr(hub, "RETRY_SECONDS", 0.001)


def point_to(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextlib.contextmanager
def local_hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub that this process uses within it; see `keep_apart`."""
    with HubServer() as server:
        point_to(monkeypatch, server.endpoint)
        yield server
        huggingface_hub.close_session()


def _server(hub: HubServer, handler: type[_Handler]) -> _Server:
    return _Server(("127.0.0.1", 0), type("Handler", (handler,), {"hub": hub}))


class _Handler(http.server.BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._begin()

    def do_GET(self) -> None:
        self._begin()

    def _begin(self) -> None:
        authorized = "authorization" in self.headers
        self.request_made = Request(self.command, self.path, self.headers.get("Range"), authorized)
        self.hub.requests.append(self.request_made)
        if self.hub.fails:
            self._answer(self.hub.fails.pop(0))
        else:
            self._respond()

    def _respond(self) -> None:
        raise NotImplementedError

    def _answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.request_made.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self._answer(status, {"X-Error-Code": code, "X-Error-Message": code})

    def log_message(self, *_: Any) -> None: ...


class _Front(_Handler):
    """What huggingface.co answers."""

    def _respond(self) -> None:
        parts = self.path.strip("/").split("/")
        if parts[:2] == ["api", "models"]:
            return self._about("/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main")
        if parts[2:3] != ["resolve"]:
            return self._error(404, "NotFound")
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._error(401, "RepoNotFound")
        if repo.gated and not self.request_made.authorized:
            return self._error(403, "GatedRepo")
        commit = repo.main if revision == "main" else revision
        if commit not in repo.commits:
            return self._error(404, "RevisionNotFound")
        content = repo.commits[commit].get(file)
        if content is None:
            return self._error(404, "EntryNotFound")
        sha256 = hashlib.sha256(content).hexdigest()
        headers = {
            "X-Repo-Commit": commit,
            "X-Linked-Etag": f'"{sha256}"',
            "X-Linked-Size": str(len(content)),
            "ETag": f'"{sha256}"',
            "Location": f"{self.hub.store}/bytes/{sha256}",
        }
        return self._answer(302, headers)

    def _about(self, name: str, revision: str) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            return self._error(401, "RepoNotFound")
        commit = repo.main if revision == "main" else revision
        body = json.dumps({"id": name, "sha": commit, "siblings": []}).encode()
        return self._answer(200, {"Content-Type": "application/json"}, body)


class _Store(_Handler):
    """The other host, which has the bytes."""

    def _respond(self) -> None:
        hub, sha256 = self.hub, self.path.rpartition("/")[2]
        content = hub.files.get(self.path) or hub.other_bytes.get(sha256, hub.blob(sha256))
        if content is None:
            return self._answer(404)
        start, stop, status = 0, len(content), 200
        if self.request_made.range and hub.knows_ranges:
            first, _, last = self.request_made.range.removeprefix("bytes=").partition("-")
            start, status = int(first), 206
            stop = min(stop, int(last) + 1) if last else stop
            if start >= len(content):
                return self._answer(416)
        self.request_made.status = status
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(content)}")
        self.send_header("Content-Length", str(stop - start))
        self.send_header("ETag", f'"{sha256}"')
        self.end_headers()
        if self.command != "GET":
            return None
        body = content[start:stop]
        if hub.breaks_off and len(body) > 1:
            body = body[: hub.breaks_off.pop(0)]
            self.close_connection = True
        half = len(body) // 2 if hub.pause is not None else len(body)
        for part in (body[:half], body[half:]):
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except OSError:  # whoever asked has gone
                self.close_connection = True
                return None
            self.request_made.sent += len(part)
            if hub.pause is not None and part is not body:
                hub.paused.set()
                hub.pause.wait(30)
        return None
