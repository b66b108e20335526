"""The conformance suite bites: a backend with a fault fails it, in the test that says what is wrong, and passes
that test without the fault."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from planted import FAULTS

pytestmark = [pytest.mark.of("torch"), pytest.mark.slow]  # of the suite itself, which changes seldom
PLANTED = Path(__file__).with_name("planted.py")


class Outcomes:
    """What became of each test, as a plugin of pytest."""

    def __init__(self) -> None:
        self.by_test: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        test = report.nodeid.split("::", 1)[1]
        if report.failed:
            self.by_test[test] = "failed"
        elif report.when == "call" or report.skipped:
            self.by_test.setdefault(test, report.outcome)


@pytest.fixture(scope="module")
def outcomes() -> Mapping[str, str]:
    """Test of a class of `planted` -> "passed", "failed" or "skipped": for each fault the one that has to fail,
    and all of these without any. One run in this process, so that the framework is there already."""
    tests = sorted({test for _, test in FAULTS.values()})
    asked = [f"TestPassing::{test}" for test in tests]
    asked += [f"Test{name}::{test}" for name, (_, test) in FAULTS.items()]
    plugin = Outcomes()
    pytest.main(["-q", "-p", "no:cacheprovider", *(f"{PLANTED}::{test}" for test in asked)], plugins=[plugin])
    assert plugin.by_test.keys() == set(asked)
    return plugin.by_test


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault: str, outcomes: Mapping[str, str]) -> None:
    _, test = FAULTS[fault]
    assert outcomes[f"TestPassing::{test}"] == "passed", "it fails without the fault, too"
    assert outcomes[f"Test{fault}::{test}"] == "failed"
