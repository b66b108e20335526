"""What is read ahead: each sample once, in any order of asking, bounded, and stopped with whoever asks."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest

from headstart.common.errors import ImageError
from headstart.data import read_ahead
from headstart.data.read_ahead import reading

pytestmark = pytest.mark.neutral


class Network:
    """Samples of some bytes each, that take time; it counts what it gave, and how much is under way."""

    def __init__(self, fetches: int, seconds: float = 0.0, sample_nbytes: int = 10, damaged: int = -1) -> None:
        self.fetches = fetches
        self.seconds, self.sample_nbytes, self.damaged = seconds, sample_nbytes, damaged
        self.given: list[int] = []
        self.under_way = self.most = 0
        self._lock = threading.Lock()

    def nbytes(self, index: int) -> int:
        return self.sample_nbytes

    def read(self, index: int) -> tuple[str, str]:
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(self.seconds)
        with self._lock:
            self.under_way -= 1
            self.given.append(index)
        if index == self.damaged:
            raise ImageError(f"sample {index}", "is damaged")
        return f"content {index}", f"{index:032x}"


def fetching_threads() -> int:
    return sum(thread.name.startswith("headstart-fetch") for thread in threading.enumerate())


@pytest.mark.parametrize("fetches", [0, 1, 8])
def test_each_is_read_once_whatever_the_order_of_asking(fetches: int) -> None:
    network = Network(fetches)
    indices = [7, 3, 3, *range(100, 1500)]
    with reading(network, indices) as read, ThreadPoolExecutor(5) as pool:
        backwards = list(reversed(range(len(indices))))
        answers = list(pool.map(read, backwards))
    assert answers == [(f"content {indices[n]}", f"{indices[n]:032x}") for n in backwards]
    assert sorted(network.given) == sorted(indices)
    assert fetching_threads() == 0


def test_many_are_under_way_for_one_who_asks() -> None:
    network = Network(32, seconds=0.02)
    start = time.perf_counter()
    with reading(network, range(320)) as read:
        for n in range(320):
            read(n)
    assert network.most == 32
    assert time.perf_counter() - start < 0.02 * 320 / 4


def test_what_waits_is_bounded_by_number_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for bound, sample_nbytes, most in (("number", 0, 4 + 6), ("bytes", 100, 5)):
        monkeypatch.setattr(read_ahead, "MOST_WAITING", 6)
        monkeypatch.setattr(read_ahead, "FETCHED_NBYTES", 500)
        network = Network(4, sample_nbytes=sample_nbytes)
        with reading(network, range(1000)) as read:
            for n in range(20):
                read(n)
                time.sleep(0.005)
            assert len(network.given) == 20 + most, bound
    network = Network(4, sample_nbytes=1000)  # one is always read, however large
    with reading(network, range(3)) as read:
        assert [read(n)[0] for n in range(3)] == ["content 0", "content 1", "content 2"]


def test_an_error_is_raised_to_who_asks_for_it() -> None:
    network = Network(4, damaged=5)
    with reading(network, range(10)) as read:
        for n in range(10):
            if n == 5:
                with pytest.raises(ImageError, match="sample 5: is damaged"):
                    read(n)
            else:
                assert read(n)[0] == f"content {n}"


def test_leaving_early_stops_the_reads() -> None:
    network = Network(2, seconds=0.01)
    with suppress(KeyboardInterrupt), reading(network, range(1000)) as read:
        read(0)
        raise KeyboardInterrupt
    assert fetching_threads() == 0
    assert len(network.given) < 20
