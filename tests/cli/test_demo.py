"""`headstart demo`: the first comparison, and where its report is shown."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path

import pytest
from commands import disturbed, headstart

from headstart.cli import checks
from headstart.cli.browsers import Browser, browser
from headstart.cli.demo import show_page
from headstart.data import sources


def recorder(folder: Path) -> tuple[str, Path]:
    """A browser, as BROWSER names one, that writes down what it is to show, and where."""
    script, shown = folder / "browser", folder / "shown"
    script.write_text(f'#!/bin/sh\necho "$1" > {shown}\n')
    script.chmod(0o755)
    return f"{script} %s", shown


@pytest.fixture
def another_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """For browsers, of which Python looks for those that there are once a process."""
    monkeypatch.setattr(webbrowser, "_tryorder", None)
    monkeypatch.setattr(webbrowser, "_browsers", {})


FEW = "lambda all=sources._bundled_digits(): tuple(part[:240] for part in all)"
"""what stands for the bundled digits, whose number this command does not ask for"""


@pytest.fixture
def few_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process and in that of a backend."""
    code = f"from headstart.data import sources\nsources._bundled_digits = {FEW}"
    monkeypatch.setenv("PYTHONPATH", disturbed(tmp_path / "site", code)["PYTHONPATH"])
    monkeypatch.setattr(sources, "_bundled_digits", eval(FEW, {"sources": sources}))


@pytest.mark.of("torch")  # the comparison itself is tested in all of them
@pytest.mark.usefixtures("few_digits", "another_look")
def test_it_trains_and_opens_the_report(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    named, shown = recorder(tmp_path)
    monkeypatch.setenv("BROWSER", named)
    monkeypatch.chdir(tmp_path)
    # In one epoch both run the network over all images once, and chance says which is the quicker.
    code, out, err = headstart("demo", "--out", "demo", "--epochs", 4, "--backend", backend)
    assert code == 0, err
    comparison = json.loads((tmp_path / "demo/compare.json").read_text())
    assert comparison["data"]["train"] + comparison["data"]["val"] == 240
    rows = comparison["rows"]
    assert [(row["backend"], row["mode"]) for row in rows] == [(backend, "frozen"), (backend, "cached")]
    assert rows[1]["extracted"] == 240
    assert shown.read_text() == f"{(tmp_path / 'demo/report.html').as_uri()}\n"
    assert "the same frozen trunk" in out
    said = " ".join(out.split())
    assert f"Take {backend} cached: accuracy " in said, "with the same score the quicker"
    assert f"{backend} frozen has the same, and took longer." in said
    assert "the report: " not in out


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
@pytest.mark.usefixtures("another_look")
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
    there: Browser = browser()
    assert getattr(there.program, "name", None) == program
    assert there.words.startswith(words)
    finding = checks._browser()
    assert finding.state == ("note" if program is None else "ok") and there.words in finding.found
