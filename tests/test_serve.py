"""examples/serve: a server in a process of its own answers a real client over loopback, and takes in no more than
it says."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.models.exporting.onnx_model import onnx_model, write_onnx
from headstart.testing.samples import shaken, tiny_model

for package in ("fastapi", "uvicorn", "onnx", "onnxruntime"):
    pytest.importorskip(package)
pytestmark = pytest.mark.neutral
SERVE = Path(__file__).parents[1] / "examples" / "serve" / "serve.py"
LIMIT_NBYTES, LIMIT_PIXELS = 100_000, 100_000


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = replace(shaken(tiny_model()), preprocess=Preprocess(14, 16), classes=tuple("abcdefghij"))
    path = tmp_path_factory.mktemp("served") / "m.onnx"
    write_onnx(onnx_model(model), path)
    return path


@contextmanager
def served(log: Path, *words: object) -> Iterator[int]:
    """The port of a server that runs meanwhile. `log`: the file that it says things in."""
    command = [sys.executable, str(SERVE), *map(str, words), "--port", "0"]
    with log.open("wb") as out, subprocess.Popen(command, stderr=out, stdout=subprocess.DEVNULL) as server:
        try:
            running = None
            while running is None:
                assert server.poll() is None, log.read_text()
                time.sleep(0.05)
                running = re.search(r"running on http://127.0.0.1:(\d+)", log.read_text())
            yield int(running[1])
        finally:
            server.terminate()
            try:
                server.wait(15)
            finally:
                server.kill()


@pytest.fixture(scope="module")
def port(file: Path) -> Iterator[int]:
    """Of a server with eight places, that says nothing of errors."""
    log = file.with_name("log")
    limits = ("--max-bytes", LIMIT_NBYTES, "--max-pixels", LIMIT_PIXELS, "--seconds", 1.5)
    with served(log, file, *limits, "--at-once", 2, "--waiting", 6) as port:
        yield port
    assert "Traceback" not in log.read_text() and "ERROR" not in log.read_text()


def ask(port: int, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, Any]]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def photograph(seed: int, format: str = "PNG") -> bytes:
    out = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(pixels).save(out, format)
    return out.getvalue()


def test_photographs_are_answered_as_the_command_answers(port: int, file: Path) -> None:
    model = hs.OnnxModel(file)
    for body in (photograph(0), photograph(1, "JPEG"), photograph(2, "WEBP")):
        status, answer = ask(port, "POST", "/predict?top=3", body)
        (row,) = model.classify([body], top=3).as_list()
        assert (status, answer) == (200, {"classes": row["classes"]})
        assert len(answer["classes"]) == 3
        assert all(name in model.classes and 0 < p < 1 for name, p in answer["classes"])


def test_many_at_once_get_each_its_own(port: int, file: Path) -> None:
    model = hs.OnnxModel(file)
    bodies = [photograph(i) for i in range(24)]
    expected = [row["classes"] for row in model.classify(bodies, top=10).as_list()]
    with ThreadPoolExecutor(8) as clients:  # as many as there are places
        answers = list(clients.map(lambda body: ask(port, "POST", "/predict?top=10", body), bodies))
    assert [status for status, _ in answers] == [200] * 24
    for (_, answer), classes in zip(answers, expected, strict=True):
        assert [name for name, _ in answer["classes"]] == [name for name, _ in classes]
        np.testing.assert_allclose([p for _, p in answer["classes"]], [p for _, p in classes], rtol=1e-4)


def test_health(port: int) -> None:
    about = {"status": "ok", "model": "tiny", "task": "single", "classes": 10, "verified": False, "busy": 0}
    assert ask(port, "GET", "/health") == (200, about)


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 3,600 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(bytes(1000))), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b"", 422, "there is no photograph"),
        (b"<html><body>hello</body></html>", 422, "a web page"),
        (b"GIF89a", 422, "the photograph "),
        (photograph(0)[:400], 422, "breaks off"),
        (bomb(), 422, "60000 x 60000 is 3,600,000,000 pixels, allowed are 100,000"),
        (bytes(LIMIT_NBYTES + 1), 413, "a photograph may have 100,000 bytes"),
    ],
    ids=["nothing", "html", "gif", "half", "bomb", "large"],
)
def test_what_is_no_photograph(port: int, body: bytes, status: int, said: str) -> None:
    received, answer = ask(port, "POST", "/predict", body)
    assert received == status
    assert said in answer["detail"]
    assert ask(port, "POST", "/predict", photograph(0))[0] == 200  # and it goes on


def test_bytes_are_counted_where_nobody_says_how_many(port: int) -> None:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    pieces = (bytes(LIMIT_NBYTES // 10) for _ in range(11))
    connection.request("POST", "/predict", pieces, {"Transfer-Encoding": "chunked"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()
    assert ask(port, "GET", "/health")[1]["busy"] == 0


@pytest.mark.parametrize("path", ["/predict?top=0", "/predict?top=many"])
def test_how_many_classes_is_a_number(port: int, path: str) -> None:
    assert ask(port, "POST", path, photograph(0))[0] == 422


def test_who_sends_nothing_keeps_a_place_for_a_moment_only(port: int) -> None:
    """Eight that promise photographs take the eight places: others are told to come again, until their time is
    up."""
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxx"
    slow = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(8)]
    for one in slow:
        one.settimeout(10)
        one.sendall(head)
    deadline = time.monotonic() + 10
    while ask(port, "GET", "/health")[1]["busy"] < 8 and time.monotonic() < deadline:
        time.sleep(0.02)
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/predict", photograph(0))
    response = connection.getresponse()
    assert (response.status, response.headers["Retry-After"]) == (503, "1")
    connection.close()
    for one in slow:
        assert one.recv(1000).startswith(b"HTTP/1.1 408 ")
        one.close()
    assert ask(port, "POST", "/predict", photograph(0))[0] == 200


def test_who_goes_away_leaves_its_place(port: int) -> None:
    for _ in range(20):
        one = socket.create_connection(("127.0.0.1", port), timeout=30)
        one.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nxx")
        one.close()
    deadline = time.monotonic() + 10
    while ask(port, "GET", "/health")[1]["busy"] and time.monotonic() < deadline:
        time.sleep(0.02)
    assert ask(port, "GET", "/health")[1]["busy"] == 0


def test_a_file_that_is_none_is_said_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"<html>")
    command = [sys.executable, str(SERVE), str(tmp_path / "m.onnx"), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("is a web page; expected an ONNX file that headstart wrote")
