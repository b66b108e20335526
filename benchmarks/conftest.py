"""One framework a process: the benchmarks ask a worker for epochs, since frameworks fight over threads. What is
timed is the answer to a request, which adds about a tenth of a millisecond to each side of a pair.

The table of all figures is written after each test that has added to it, so that a run that is killed leaves what
it has measured.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import quick
from children import BACKENDS
from epochs import Worker
from photographs import make_photographs
from table import table

CUTS = {"linear": "avgpool", "block": "layer4.0"}
LONG = 1.0
"""seconds: how long each longer part of a test took is told at the end"""


class Files:
    """Where the table goes, and how many of its rows are there."""

    folder = Path(".benchmarks")
    rows = 0

    @classmethod
    def write(cls) -> None:
        if len(table.rows) > cls.rows:
            table.write(cls.folder)
            cls.rows = len(table.rows)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--table",
        metavar="DIR",
        default=".benchmarks",
        help="where benchmarks.json and benchmarks.md go, the table of all figures (default: %(default)s)",
    )
    parser.addoption(
        "--quick",
        action="store_true",
        help="only pairs that take seconds, in minutes; fails where a ratio is not half of that in quick.json",
    )
    parser.addoption(
        "--keep", action="store_true", help="with --quick: write this run's ratios to quick.json, to be held to"
    )


def pytest_configure(config: pytest.Config) -> None:
    Files.folder = Path(config.getoption("--table", ".benchmarks")).absolute()
    if config.option.durations is None:  # so that whoever looks sees what grows
        config.option.durations, config.option.durations_min = 0, LONG


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--quick"):
        left_out = [item for item in items if not quick.is_quick(item.nodeid)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def pytest_runtest_logfinish() -> None:
    Files.write()


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--quick") and session.config.getoption("--keep"):
        quick.keep(table.rows)
    elif session.config.getoption("--quick") and quick.regressions(table.rows):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(trylast=True)  # what is looked for is at the end
def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not table.rows:
        return
    Files.write()
    terminalreporter.section("figures, each beside its peer and what was asked for")
    # Off a terminal nobody says how wide it is, and a table that wraps is hard to read.
    width = terminalreporter._tw.fullwidth if terminalreporter.isatty else 160
    terminalreporter.write_line(table.text(max(width, 120)))
    terminalreporter.write_line(f"\nwritten to {Files.folder}: benchmarks.json, benchmarks.md")
    if terminalreporter.config.getoption("--quick"):
        terminalreporter.section("beside an earlier run")
        for line in quick.summary(table.rows):
            terminalreporter.write_line(line)


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first of them, with a cache of its own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    return BACKENDS[0]


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder a class of JPEG files: HEADSTART_BENCH_PHOTOS, or some that are made now."""
    given = os.environ.get("HEADSTART_BENCH_PHOTOS")
    return Path(given) if given else make_photographs(tmp_path_factory.mktemp("made") / "photographs")


@pytest.fixture(scope="module")
def process_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Worker]]:
    """Gives a backend's process, one for all cuts of a module, since a framework takes seconds to start. That of
    another backend is ended."""
    running: list[Worker] = []

    def end() -> None:
        while running:
            running.pop().close()

    def of(backend: str) -> Worker:
        if not running or running[0].backend != backend:
            end()
            running.append(Worker(backend, tmp_path_factory.mktemp("cache")))
        return running[0]

    yield of
    end()


@pytest.fixture(
    scope="module",
    params=[(backend, head) for backend in BACKENDS for head in CUTS],
    ids=lambda pair: "-".join(pair),
)
def worker(request: pytest.FixtureRequest, process_of: Callable[[str], Worker]) -> Worker:
    backend, head = request.param
    process_of(backend).prepare(head, CUTS)
    return process_of(backend)
