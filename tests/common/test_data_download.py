"""Downloads from a server on this machine that does what servers do: well, badly, and not at all."""

from __future__ import annotations

import hashlib
import http.server
import io
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.common.download import fetch
from headstart.common.errors import DownloadError, SettingError
from headstart.common.progress import track

pytestmark = pytest.mark.neutral

CONTENT = np.random.default_rng(0).bytes(3_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.ranges: list[str | None] = []  # what every request asked for
        self.knows_ranges = True
        self.breaks_off_after: int | None = None
        self.chunked = False
        self.content = CONTENT
        self.url = f"http://127.0.0.1:{self.server_address[1]}/file.bin"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        content, start = self.server.content, 0
        self.close_connection = True
        if self.path != "/file.bin":
            return self.send_error(404)
        if asked and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        body = content[start:]
        sent = body[: self.server.breaks_off_after]
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(f"{len(sent):x}\r\n".encode() + sent + b"\r\n")
            if sent is body or len(sent) == len(body):
                self.wfile.write(b"0\r\n\r\n")
            return None
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(sent)
        return None

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "new" / "file.bin"


def left(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.iterdir())


@pytest.mark.parametrize("chunked", [False, True])
def test_download(server: Server, target: Path, chunked: bool) -> None:
    server.chunked = chunked
    assert fetch(server.url, target, SHA256, len(CONTENT)) == target
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file.bin"]
    assert server.ranges == [None]
    fetch(server.url, target, SHA256)
    assert server.ranges == [None]  # it is there: nobody is asked


def test_what_lies_there_is_verified_not_replaced(server: Server, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"mine")
    with pytest.raises(DownloadError, match=r"sha256 is .*remove it"):
        fetch(server.url, target, SHA256)
    assert target.read_bytes() == b"mine"
    assert server.ranges == []


def test_wrong_digest(server: Server, target: Path) -> None:
    server.content = b"a login page"
    with pytest.raises(DownloadError, match=r"12 bytes with sha256 .*removed.*by hand to .*file\.bin"):
        fetch(server.url, target, SHA256)
    assert left(target) == []


@pytest.mark.parametrize("chunked", [False, True])
def test_resumes_where_it_broke_off(server: Server, target: Path, chunked: bool) -> None:
    server.breaks_off_after = 1_500_000
    server.chunked = chunked
    with pytest.raises(DownloadError, match=r"broke off .*kept in .*file\.bin\.part"):
        fetch(server.url, target, SHA256, len(CONTENT))
    assert left(target) == ["file.bin.part"]
    have = (target.parent / "file.bin.part").stat().st_size
    server.breaks_off_after = None
    fetch(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert left(target) == ["file.bin"]
    assert server.ranges == [None, f"bytes={have}-" if have else None]
    assert have == 1_500_000 or chunked


def test_server_without_ranges_starts_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(CONTENT[:1000])
    server.knows_ranges = False
    fetch(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_partial_that_is_already_whole_asks_nobody(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(CONTENT)
    fetch(server.url, target, SHA256, len(CONTENT))
    assert target.read_bytes() == CONTENT
    assert server.ranges == []


def test_partial_longer_than_the_file_starts_again(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(CONTENT + b"more")
    fetch(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert len(server.ranges) == 2


def test_stale_partial_is_removed_so_that_the_next_attempt_works(server: Server, target: Path) -> None:
    target.parent.mkdir()
    (target.parent / "file.bin.part").write_bytes(b"of another version")
    with pytest.raises(DownloadError, match="removed"):
        fetch(server.url, target, SHA256)
    fetch(server.url, target, SHA256)
    assert target.read_bytes() == CONTENT


def test_more_than_published_is_not_taken(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match="larger than the 100 bytes"):
        fetch(server.url, target, SHA256, nbytes=100)
    assert (target.parent / "file.bin.part").stat().st_size <= 100


def test_not_found(server: Server, target: Path) -> None:
    with pytest.raises(DownloadError, match=r"404.*by hand to"):
        fetch(server.url + "x", target, SHA256)
    assert left(target) == []


def test_connection_refused(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(DownloadError, match=r"refused.*by hand to"):
        fetch(f"http://127.0.0.1:{port}/file.bin", target, SHA256)


def test_folder_that_cannot_be_made(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DownloadError, match="cannot download"):
        fetch(server.url, tmp_path / "file" / "file.bin", SHA256)


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd"])
def test_other_addresses_are_refused(url: str, target: Path) -> None:
    with pytest.raises(SettingError, match="http"):
        fetch(url, target, SHA256)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_progress_is_silent_unless_on_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with track("work", 3) as advance:
        advance()
        advance(2)
    assert capfd.readouterr() == ("", "")
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    with track("work", None) as advance:
        advance()
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with track("work", 3) as advance:
        advance(3)
    assert "work" in terminal.getvalue()
    assert capfd.readouterr().out == ""


def test_of_two_bars_the_outer_one_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with track("outer", 2) as advance:
        with track("inner", 1) as inner:
            inner()
        advance(2)
    with pytest.raises(KeyError), track("failing", 1):
        raise KeyError
    with track("later", 1) as advance:
        advance()
    shown = terminal.getvalue()
    assert "outer" in shown and "later" in shown
    assert "inner" not in shown
