"""One framework a process: the benchmarks ask a worker for epochs, since frameworks fight over threads. What is
timed is the answer to a request, which adds about a tenth of a millisecond to each side of a pair."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from children import BACKENDS, Child

LINEAR_FLOOR = 50.0
CUTS = {"linear": "avgpool", "block": "layer4.0"}

# (backend, head) -> what the summary prints
speedups: dict[tuple[str, str], dict[str, float]] = {}


class Worker(Child):
    """Prepared for one cut, runs epochs."""

    def __init__(self, backend: str, head: str, cache: Path) -> None:
        script = Path(__file__).with_name("worker.py")
        super().__init__(backend, [sys.executable, "-P", str(script), backend, str(cache)])
        self.head = head
        self.facts = self.ask(do="prepare", cut=CUTS[head])

    def check_floor(self) -> None:
        """Once both of a pair were timed: remember the speed-up, and fail where it is below the floor."""
        speedup = self.medians["uncached"] / self.medians["cached"]
        ratio = self.facts["flops_ratio"]
        floor = LINEAR_FLOOR if self.head == "linear" else ratio / 2
        speedups[self.backend, self.head] = {
            **self.medians,
            "speedup": speedup,
            "floor": floor,
            "flops_ratio": ratio,
        }
        assert speedup >= floor, f"{self.backend} {self.head}: {speedup:.1f}x is below the floor of {floor:.1f}x"


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first of them, with a cache of its own."""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    return BACKENDS[0]


@pytest.fixture(
    scope="module",
    params=[(backend, head) for backend in BACKENDS for head in CUTS],
    ids=lambda pair: "-".join(pair),
)
def worker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    made = Worker(*request.param, tmp_path_factory.mktemp("cache"))
    yield made
    made.close()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not speedups:
        return
    terminalreporter.section("cached against uncached training epochs")
    terminalreporter.write_line(
        f"{'backend':<9}{'head':<8}{'uncached s':>12}{'cached s':>12}{'speed-up':>10}{'floor':>8}"
        f"{'FLOPs ratio':>13}"
    )
    for (backend, head), row in speedups.items():
        terminalreporter.write_line(
            f"{backend:<9}{head:<8}{row['uncached']:>12.4f}{row['cached']:>12.5f}{row['speedup']:>9.1f}x"
            f"{row['floor']:>7.1f}x{row['flops_ratio']:>12.1f}x"
        )
