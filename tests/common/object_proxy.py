"""A proxy before an object server, for tests: it passes requests on, and answers some of them as networks and
servers on a bad day do.

    with proxied(server, lambda request: "500" if request.number % 3 == 0 else None) as proxy: ...

What it can do to a request, by name (`FAULTS`):

* "drop": pass it on, so that a write lands, and close the connection instead of answering
* "cut": pass the answer on, and break off in the middle of its body
* "500", "503" (with Retry-After), "403": answer so, and pass nothing on
* "short": leave out the second half of the body, and say that it is as long as what is left
* "flip": turn a bit of the body around
* "stale": give a listing the answer that the first request for the same one was given
* "gone": answer that there is no such object
"""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

FAULTS = ("drop", "cut", "500", "503", "403", "short", "flip", "stale", "gone")
SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
REFUSAL = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
FAILURE = b"<Error><Code>InternalError</Code><Message>We encountered an internal error.</Message></Error>"
ABSENCE = b"<Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>"
ANSWERS = {"500": (500, FAILURE), "503": (503, SLOW_DOWN), "403": (403, REFUSAL), "gone": (404, ABSENCE)}
HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@dataclass(frozen=True)
class Request:
    """One request, as it came to the proxy."""

    method: str
    path: str
    """with its query"""
    number: int
    """of this proxy's requests, from 0 on"""

    @property
    def is_listing(self) -> bool:
        return self.method == "GET" and "list-type=" in self.path


Rule = Callable[[Request], str | None]
"""which of `FAULTS` befalls a request, None for none of them"""


@dataclass
class ObjectProxy:
    """A running proxy. The environment says that obstore goes by way of it."""

    endpoint: str
    """`http://127.0.0.1:PORT`"""
    rule: Rule
    """may be replaced at any time"""
    requests: list[Request] = field(default_factory=list)
    """all that came"""
    faults: list[tuple[Request, str]] = field(default_factory=list)
    """what was done to which of them"""
    listings: dict[str, tuple[int, list[tuple[str, str]], bytes]] = field(default_factory=dict)
    """the first answers to listings"""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def judge(self, method: str, path: str) -> str | None:
        with self.lock:
            request = Request(method, path, len(self.requests))
            self.requests.append(request)
            fault = self.rule(request)
            if fault is not None:
                assert fault in FAULTS, fault
                self.faults.append((request, fault))
            return fault

    def forget(self) -> None:
        """Count from zero, and of listings from now on keep the first answers."""
        with self.lock:
            self.requests.clear()
            self.faults.clear()
            self.listings.clear()


@contextlib.contextmanager
def proxied(endpoint: str, rule: Rule = lambda request: None) -> Iterator[ObjectProxy]:
    """A proxy before the server at `endpoint`, in a thread; AWS_ENDPOINT_URL is the proxy's meanwhile."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = ObjectProxy(endpoint=f"http://127.0.0.1:{server.server_address[1]}", rule=rule)
    server.proxy, server.upstream = proxy, urlsplit(endpoint).netloc  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        with patch.dict(os.environ, {"AWS_ENDPOINT_URL": proxy.endpoint}):
            yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Any
    timeout = 30

    def _pass_on(self) -> None:
        proxy: ObjectProxy = self.server.proxy
        content = self.rfile.read(int(self.headers.get("content-length") or 0))
        fault = proxy.judge(self.command, self.path)
        if fault in ANSWERS:
            status, body = ANSWERS[fault]
            self._answer(status, [("Retry-After", "1")] if fault == "503" else [], body)
            return
        if fault == "stale" and self.path in proxy.listings:
            self._answer(*proxy.listings[self.path])
            return
        status, headers, body = self._upstream(content)
        if "list-type=" in self.path:
            proxy.listings.setdefault(self.path, (status, headers, body))
        if fault == "drop":
            self._hang_up()
        elif fault == "short":
            self._answer(status, headers, body[: len(body) // 2])
        elif fault == "flip" and body:
            middle = len(body) // 2
            self._answer(status, headers, body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])
        else:
            self._answer(status, headers, body, cut=fault == "cut")

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on  # noqa: N815

    def _upstream(self, content: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
            connection.request(self.command, self.path, content or None, headers | _length(self.command, content))
            answer = connection.getresponse()
            body = answer.read()
            kept = [(name, value) for name, value in answer.getheaders() if name.lower() not in HOP]
            if self.command == "HEAD":
                kept.append(("Content-Length", answer.getheader("content-length") or "0"))
            return answer.status, kept, body
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if cut else body)
        if cut:
            self._hang_up()

    def _hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_RDWR)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        pass


def _length(method: str, content: bytes) -> dict[str, str]:
    return {"Content-Length": str(len(content))} if content or method in ("PUT", "POST") else {}
