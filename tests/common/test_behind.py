"""Work that a thread does behind its caller."""

from __future__ import annotations

import threading

import pytest

from headstart.common.behind import Behind

pytestmark = pytest.mark.neutral


def test_calls_are_made_in_order_by_another_thread_and_all_of_them() -> None:
    made = []
    with Behind(2, "test") as behind:
        for k in range(20):
            behind(lambda k: made.append((k, threading.current_thread().name)), k)
    assert [k for k, _ in made] == list(range(20))
    assert {name for _, name in made} == {"test_0"}


def test_no_more_wait_than_may() -> None:
    go, started = threading.Event(), []
    with Behind(2, "test") as behind:
        behind(go.wait)
        behind(started.append, 1)
        threading.Timer(0.05, go.set).start()
        behind(started.append, 2)  # waits for the first
        assert go.is_set()
    assert started == [1, 2]


def test_an_error_is_raised_later_and_what_comes_behind_it_is_done() -> None:
    made = []

    def fails() -> None:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk"), Behind(3, "test") as behind:
        behind(fails)
        behind(made.append, 1)
    assert made == [1]
    with pytest.raises(OSError, match="the disk"), Behind(1, "test") as behind:
        behind(fails)
        behind(made.append, 2)
        pytest.fail("it should have been raised")


def test_an_error_of_the_body_is_the_cause_and_tells_of_the_other() -> None:
    def fails() -> None:
        raise OSError("the disk")

    with pytest.raises(KeyboardInterrupt) as caught, Behind(3, "test") as behind:
        behind(fails)
        raise KeyboardInterrupt
    assert caught.value.__notes__ == ["what was handed over before could not be finished either: the disk"]
