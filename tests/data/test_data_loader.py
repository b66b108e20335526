"""The loader: the same batches from any number of threads, errors that arrive, threads that go away."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from headstart import data
from headstart.common.errors import ImageError, SettingError

pytestmark = pytest.mark.neutral

P = data.Preprocess(8, 8)


def noise(n: int) -> data.Dataset:
    rng = np.random.default_rng(0)
    return data.arrays(list(rng.integers(0, 256, (n, 10, 12, 3), np.uint8)), np.arange(n) % 3)


def loader_threads() -> int:
    return sum(t.name.startswith("headstart-loader") for t in threading.enumerate())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 39), max_size=90), st.integers(1, 50), st.integers(1, 5), st.booleans())
def test_batches_are_those_of_a_plain_loop(order: list[int], size: int, workers: int, augmented: bool) -> None:
    dataset = noise(40)
    augment = data.Augment() if augmented else None
    seen: list[int] = []
    for batch in data.batches(dataset, P, order, size, workers=workers, augment=augment, seed=5, epoch=2):
        expected = order[len(seen) : len(seen) + size]
        assert batch.indices.tolist() == expected
        assert batch.images.dtype == np.uint8
        assert batch.labels.dtype == batch.indices.dtype == np.int64
        for k, i in enumerate(expected):
            image, id = dataset.load(i)
            crop = augment.draw(5, 2, id, *image.size) if augment else None
            np.testing.assert_array_equal(batch.images[k], P.apply(image, crop))
            assert batch.ids[k] == id == dataset.ids[i]
            assert batch.labels[k] == dataset.labels[i]
        seen += expected
    assert seen == order


def test_order_holds_when_the_first_is_the_slowest(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = noise(60)
    source = dataset._source
    read = source.read

    slept: list[int] = []

    def slow(i: int) -> tuple[Any, str]:
        if i == 0:
            time.sleep(0.05)
            slept.append(i)
        return read(i)

    monkeypatch.setattr(source, "read", slow)
    batches = list(data.batches(dataset, P, np.arange(60), 7, workers=4))
    assert np.concatenate([b.indices for b in batches]).tolist() == list(range(60))
    assert [i for b in batches for i in b.ids] == list(dataset.ids)
    assert len(batches[-1].ids) == 4
    assert slept


def test_number_of_batches_ahead_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = noise(2000)
    loaded: list[int] = []
    source = dataset._source
    read = source.read
    monkeypatch.setattr(source, "read", lambda i: (loaded.append(i), read(i))[1])
    stream = data.batches(dataset, P, np.arange(2000), 10, workers=2)
    next(stream)
    time.sleep(0.1)
    assert 10 <= len(loaded) <= 120
    stream.close()  # type: ignore[attr-defined]
    assert loader_threads() == 0


def test_closing_early_stops_the_threads() -> None:
    for _ in data.batches(noise(500), P, np.arange(500), 16, workers=3):
        assert loader_threads() > 0
        break
    assert loader_threads() == 0


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(20):
            Image.new("RGB", (9, 9), (i, i, i)).save(tmp_path / name / f"{i:02}.png")
    return tmp_path


def test_damaged_image_is_named_and_the_batches_before_it_come(photos: Path) -> None:
    for name in ("17", "11"):
        (photos / "cat" / f"{name}.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    stream = data.batches(data.folder(photos), P, np.arange(40), 5, workers=4)
    assert next(stream).indices.tolist() == [0, 1, 2, 3, 4]
    assert next(stream).indices.tolist() == [5, 6, 7, 8, 9]
    with pytest.raises(ImageError, match=r"11\.png"):  # the first in the order, not in time
        next(stream)
    assert loader_threads() == 0


def test_error_does_not_wait_for_the_rest(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (photos / "cat" / "00.png").unlink()
    dataset = data.folder(photos)
    (photos / "cat" / "01.png").unlink()
    source = dataset._source
    read = source.read
    monkeypatch.setattr(source, "read", lambda i: (time.sleep(0.02), read(i))[1])
    start = time.perf_counter()
    with pytest.raises(ImageError, match="no such file"):
        list(data.batches(dataset, P, np.tile(np.arange(39), 100), 16, workers=2))
    assert time.perf_counter() - start < 20  # all of it would take 40 seconds


def test_fewer_cpus_fewer_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.data.workers import default_workers

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 5, 7}, raising=False)
    assert default_workers() == 3
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for free, threads in ((1 << 40, 8), (1 << 30, 4), (1 << 20, 1)):
        monkeypatch.setattr("headstart.data.workers.available_memory", lambda free=free: free)
        assert default_workers() == threads, "each may hold a photograph"


@pytest.mark.parametrize("workers", [1, 8, 16, 128, 256])
@pytest.mark.parametrize("batch_size", [1, 16, 64, 1024])
@pytest.mark.parametrize("size", [32, 224, 1024])
def test_what_waits_decoded_is_bounded_by_bytes(workers: int, batch_size: int, size: int) -> None:
    from headstart.data.workers import AHEAD_NBYTES, ahead

    sample = size * size * 3
    chunk, batches = ahead(workers, batch_size, sample)
    assert 1 <= chunk <= 16 and batches >= 2
    assert batches * batch_size >= 2 * workers * chunk, "two tasks a thread"
    if chunk > 1:  # else there is no less for as many threads
        assert max(0, batches - 2) * batch_size * sample <= AHEAD_NBYTES
    if workers <= 16 and size <= 224:
        assert chunk == 16, "as it was"


@pytest.mark.parametrize(
    ("order", "batch_size", "workers"),
    [([0, 40], 8, 1), ([-1], 8, 1), ([0.5], 8, 1), ([[0]], 8, 1), ([0], 0, 1), ([0], 2.0, 1), ([0], 8, 0)],
)
def test_wrong_arguments_are_refused_at_once(order: list[int], batch_size: int, workers: int) -> None:
    with pytest.raises(SettingError):
        data.batches(noise(40), P, order, batch_size, workers=workers)
