"""`headstart demo`: the first comparison, and where its report is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import webbrowser
from pathlib import Path

import pytest

from headstart.cli import checks
from headstart.cli.browsers import Browser, browser
from headstart.cli.demo import show_page


def recorder(folder: Path) -> tuple[str, Path]:
    """A browser, as BROWSER names one, that writes down what it is to show, and where."""
    script, shown = folder / "browser", folder / "shown"
    script.write_text(f'#!/bin/sh\necho "$1" > {shown}\n')
    script.chmod(0o755)
    return f"{script} %s", shown


@pytest.mark.of("torch")  # the comparison itself is tested in all of them
def test_it_trains_and_opens_the_report(tmp_path: Path, backend: str) -> None:
    named, shown = recorder(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "headstart", "demo", "--out", "demo", "--epochs", "1", "--backend", backend],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "BROWSER": named},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "demo/compare.json").read_text())["rows"]
    assert [(row["backend"], row["mode"]) for row in rows] == [(backend, "frozen"), (backend, "cached")]
    assert shown.read_text() == f"{(tmp_path / 'demo/report.html').as_uri()}\n"
    assert "the same frozen trunk" in done.stdout
    said = " ".join(done.stdout.split())
    assert f"Take {backend} cached: accuracy " in said, "with the same score the quicker"
    assert f"{backend} frozen has the same, and took longer." in said
    assert "the report: " not in done.stdout


@pytest.mark.neutral
@pytest.mark.parametrize("asked", [True, False])
def test_the_address_is_printed_where_no_page_opens(
    asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    named, shown = recorder(tmp_path)
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    if not asked:
        monkeypatch.setenv("BROWSER", named)
    page = tmp_path / "report.html"
    show_page(page, open_page=asked)
    assert capsys.readouterr().out == f"the report: {page.as_uri()}\n"
    assert not shown.exists()


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("programs", "variables", "program", "words"),
    [
        (["chromium"], {}, None, "chromium is installed, but there is no display (DISPLAY, WAYLAND_DISPLAY and"),
        ([], {}, None, "there is no display"),
        (["chromium"], {"DISPLAY": ":0"}, "chromium", "chromium"),
        (["w3m"], {"DISPLAY": ":0"}, None, "only w3m is installed, which shows pages in a terminal"),
        ([], {"DISPLAY": ":0"}, None, "none is installed"),
        (["w3m"], {"BROWSER": "w3m %s"}, "w3m", "w3m"),
        ([], {"BROWSER": "gone %s"}, None, "BROWSER names gone, which is no program here"),
    ],
)
def test_the_doctor_says_what_would_open(
    programs: list[str],
    variables: dict[str, str],
    program: str | None,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By what the demo itself asks, on machines with other programs than this one."""
    for name in programs:
        (tmp_path / name).symlink_to("/bin/true")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"PATH": str(tmp_path), "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(webbrowser, "_tryorder", None)  # it looks once a process
    monkeypatch.setattr(webbrowser, "_browsers", {})
    there: Browser = browser()
    assert getattr(there.program, "name", None) == program
    assert there.words.startswith(words)
    finding = checks._browser()
    assert finding.state == ("note" if program is None else "ok") and there.words in finding.found
