"""Work that a thread does behind its caller."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

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


@pytest.fixture
def interrupts() -> Iterator[list[float]]:
    """When each Ctrl-C has come: three, 0.05 seconds apart, from 0.05 seconds after the timer is set."""
    times: list[float] = []

    def interrupt(*_: object) -> None:
        times.append(time.monotonic())
        if len(times) == 3:
            signal.setitimer(signal.ITIMER_REAL, 0)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    yield times
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer interrupts this system's programs")
@pytest.mark.parametrize("busy", [False, True], ids=["at the end", "in the body"])
def test_however_often_ctrl_c_comes_no_call_is_being_made_afterwards(interrupts: list[float], busy: bool) -> None:
    begun, done = [], []

    def write(k: int) -> None:
        begun.append(k)
        time.sleep(0.3)
        done.append(time.monotonic())

    with pytest.raises(KeyboardInterrupt):
        try:
            with Behind(2, "test") as behind:
                signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
                behind(write, 0)
                behind(write, 1)
                if busy:
                    behind(write, 2)  # is interrupted in waiting for the first
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    assert len(interrupts) == 3
    assert begun == [0], "what was not begun is dropped"
    assert len(done) == 1
    assert done[0] > interrupts[-1]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


def test_an_error_is_told_once() -> None:
    def fails() -> None:
        raise OSError("the disk")

    with pytest.raises(OSError, match="the disk") as caught, Behind(1, "test") as behind:
        behind(fails)
        behind(fails)
    assert not hasattr(caught.value, "__notes__")
