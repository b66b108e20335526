"""`headstart doctor`, as a process, on machines that lack something or have something broken."""

from __future__ import annotations

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.cli import checks
from headstart.cli.findings import Finding
from headstart.contract import registry
from headstart.store import FeatureStore
from headstart.store.keys import trunk_key

SECRET = "hunter2secret"
RAISES = "raise ImportError('libplanted.so: cannot open shared object file')"
ABORTS = "import os; os.abort()"
SLEEPS = "import time; time.sleep(600)"


def plant(folder: Path, **code: str) -> str:
    """A folder for PYTHONPATH with a package of each backend's modules; `code`: what importing the first does."""
    for name in registry.names():
        first, *others = registry.describe(name).modules
        for module in (first, *others):
            (folder / module).mkdir(parents=True, exist_ok=True)
            (folder / module / "__init__.py").write_text(code.get(name, RAISES) if module == first else "")
    return str(folder)


def doctor(tmp_path: Path, *words: str, **environment: str) -> tuple[int, str, dict[str, Any]]:
    """Exit code, all that was printed, and what --json has."""
    file = tmp_path / "doctor.json"
    names = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "doctor", "--json", str(file), *words],
        capture_output=True,
        text=True,
        env={**names, **environment},
        timeout=120,
    )
    assert file.exists(), done.stderr
    return done.returncode, done.stdout + done.stderr, json.loads(file.read_text())


def of(figures: dict[str, Any], about: str) -> list[dict[str, str]]:
    return [finding for finding in figures["findings"] if finding["about"] == about]


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub that answers."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def leave_damaged_shard(root: Path) -> None:
    """A cache with a shard that a repair has set aside."""
    key = trunk_key(
        graph=["x"],
        weights_digest="w",
        preprocess={"size": 224},
        precision="float32",
        dtype="float16",
        label={"model": "resnet18_half", "weights": "none", "cut": "layer3"},
    )
    folder = FeatureStore(root).folder(key)
    with folder.writer((3,), "float16", {"backend": "numpy"}) as writer:
        writer.add([f"{1:032x}"], np.ones((1, 3), np.float16))
    (shard,) = folder.path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    assert FeatureStore(root).verify(repair=True).set_aside


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.neutral
@pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a folder that even root cannot write")
def test_what_is_broken_is_found_and_breaks_nothing(tmp_path: Path) -> None:
    torch, keras, jax = registry.names()
    before = time.monotonic()
    code, out, figures = doctor(
        tmp_path,
        "--seconds",
        "8",
        PYTHONPATH=plant(tmp_path / "planted", **{torch: RAISES, keras: ABORTS, jax: SLEEPS}),
        HEADSTART_CACHE="/sys/kernel",
        HEADSTART_CACHE_SHARED=f"s3://user:{SECRET}@bucket/team",
        HEADSTART_SOME_TOKEN=SECRET,
        HF_ENDPOINT=f"http://user:{SECRET}@127.0.0.1:{closed_port()}",
    )
    assert time.monotonic() - before < 60
    assert code == 1
    assert SECRET not in out + json.dumps(figures)
    (raises,), (aborts,), (sleeps,) = (of(figures, f"backend {name}") for name in (torch, keras, jax))
    assert {raises["state"], aborts["state"], sleeps["state"]} == {"problem"}
    assert "ImportError: libplanted.so: cannot open" in raises["found"]
    assert "pip install 'headstart[torch]'" in raises["mend"]
    assert "signal 6" in aborts["found"]
    assert "no answer within 8 s" in sleeps["found"]
    assert [line for line in of(figures, "cache") if line["state"] == "problem" and "/sys/kernel" in line["found"]]
    (shared,) = of(figures, "shared cache")
    assert shared["state"] == "problem"
    (unreachable,) = of(figures, "model hub")
    assert unreachable["state"] == "note"
    assert "http://127.0.0.1" in unreachable["found"] and "cannot be reached" in unreachable["found"]
    assert figures["counts"]["problem"] >= 5


@pytest.mark.neutral
def test_what_is_there_is_told(tmp_path: Path, hub: str) -> None:
    leave_damaged_shard(tmp_path / "cache")
    code, out, figures = doctor(
        tmp_path,
        PYTHONPATH=plant(tmp_path / "planted"),
        HEADSTART_CACHE_SHARED=f"{tmp_path}{os.pathsep}file://{tmp_path}/cache{os.pathsep}{tmp_path / 'gone'}",
        HF_ENDPOINT=hub,
    )
    assert of(figures, "model hub") == [
        {"about": "model hub", "state": "ok", "found": f"{hub} can be reached", "mend": ""}
    ]
    cache = of(figures, "cache")
    assert "features of 1 trunk," in cache[0]["found"]
    assert any(line["state"] == "note" and "1 damaged files were set aside" in line["found"] for line in cache)
    assert not [line for line in cache if line["state"] == "problem"]
    assert [line["state"] for line in of(figures, "shared cache")][::2] == ["ok", "problem"]
    assert code == 1
    assert figures.keys() == {"counts", "findings"}
    assert all(line.keys() == {"about", "state", "found", "mend"} for line in figures["findings"])
    assert {"headstart", "Python", "CPUs", "memory", "data root", "weights", "browser"} <= {
        line["about"] for line in figures["findings"]
    }
    assert re.search(r"\d+ problems?, \d+ notes?\n", out)


@pytest.mark.slow("keras", "jax")  # test_log has a process of each
def test_nothing_is_wrong_where_nothing_is(tmp_path: Path, backend: str) -> None:
    code, out, figures = doctor(tmp_path, HEADSTART_BACKEND=backend, HF_HUB_OFFLINE="1")
    assert code == 0, out
    assert figures["counts"]["problem"] == 0
    (asked,) = of(figures, f"backend {backend}")
    assert "device auto is " in asked["found"] and "cpu" in asked["found"]
    (default,) = of(figures, "default backend")
    assert default["found"] == f"{backend}, as HEADSTART_BACKEND names it"
    (offline,) = of(figures, "model hub")
    assert "HF_HUB_OFFLINE" in offline["found"]


@pytest.mark.neutral
def test_every_extra_is_looked_for() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {*checks.EXTRAS, *registry.names(), "weights"} == project["optional-dependencies"].keys()


@pytest.mark.neutral
@pytest.mark.parametrize(
    "value",
    [
        f"s3://user:{SECRET}@bucket/team",
        f"s3://user:a:{SECRET}@bucket/team",
        f"s3://user:a/{SECRET}@bucket/team",
        f"s3://user:a:b/{SECRET}@bucket/team",
        f"s3://user@bucket/team?token={SECRET}",
        f"/mnt/team:s3://user:{SECRET}@bucket/team",
        f"https://bucket.example/team?X-Amz-Signature={SECRET}&sig={SECRET}",
    ],
)
def test_no_value_shows_a_secret(value: str) -> None:
    assert SECRET not in checks.shown_value(value)


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        (f"http://user:{SECRET}@mirror:8080/hf?token={SECRET}", "http://mirror:8080/hf"),
        (f"http://user:a/{SECRET}@mirror/", "***"),
        (f"http://user:12/{SECRET}@mirror/", "***"),
    ],
)
def test_an_address_is_shown_without_its_secret(url: str, shown: str) -> None:
    assert checks.shown_address(url) == shown


@pytest.mark.neutral
def test_a_finding_holds_no_secret_and_is_one_line() -> None:
    finding = Finding("x", "note", f"a\nb https://u:{SECRET}@host/", f"--token {SECRET}")
    assert SECRET not in str(finding)
    assert finding.found.startswith("a b ")
    with pytest.raises(ValueError, match="expected one of ok, note, problem"):
        Finding("x", "bad", "")
