"""Progress that is handed on to another process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from headstart.common import progress

pytestmark = pytest.mark.neutral


@pytest.fixture
def reports() -> Iterator[list[tuple[str, int, int | None]]]:
    told: list[tuple[str, int, int | None]] = []
    progress.report_to(lambda *report: told.append(report))
    yield told
    progress.report_to(None)


def test_the_end_is_reported_however_soon_it_comes(reports: list[tuple[str, int, int | None]]) -> None:
    with progress.track("images", 100) as advance:
        for _ in range(10):
            advance(10)
    assert reports[0] == ("images", 10, 100) and reports[-1] == ("images", 100, 100)
    assert len(reports) < 10, "not every step"
