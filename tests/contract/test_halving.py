"""A device without room for a batch runs it in halves: no row is lost, none is another's, and what is no matter of
memory is raised as it is."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from headstart.common.errors import DeviceMemoryError, DeviceWarning
from headstart.contract.checked import CheckedBackend, CheckedTrainer
from headstart.contract.description import MEMORY, Description
from headstart.contract.halving import Halving
from headstart.contract.recipe import Place
from headstart.contract.room import Room
from headstart.contract.streams import overlapped
from headstart.graph import Builder

pytestmark = pytest.mark.neutral
DESCRIPTION = Description(module="some", modules=(), distributions=(), install="")
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)


class FullError(RuntimeError):
    pass


class Device:
    """Doubles; has room for `room` rows at once, and notices too many when a batch is begun, or when it ends."""

    def __init__(self, room: int, late: bool = False) -> None:
        self.room, self.late = room, late
        self.sizes: list[int] = []
        self.begun = 0

    def stream(self, batches: Any, dtypes: Any) -> Iterator[dict[str, np.ndarray]]:
        def begin(x: Any) -> Any:
            x = x["x"] if isinstance(x, dict) else x
            self.sizes.append(len(x))
            if len(x) > self.room and not self.late:
                raise FullError("there is no more")
            return x

        def end(x: np.ndarray) -> dict[str, np.ndarray]:
            if len(x) > self.room:
                raise FullError("there is no more")
            held = np.abs(x).max() < 1e4
            return {"fc": (x * 2).astype(dtypes["fc"] if held else np.float32)}

        return overlapped(batches, begin, end)


def halving() -> Halving:
    return Halving(Room("cuda:1", lambda error: isinstance(error, FullError)))


def batches(*sizes: int) -> list[np.ndarray]:
    numbers = iter(range(1, 10_000))
    return [np.array([[next(numbers), 0] for _ in range(size)], np.float32) for size in sizes]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("room", [1, 2, 3, 5, 7, 8])
@pytest.mark.parametrize("sizes", [(8,), (8,) * 7, (7, 7, 3), (1, 8, 2, 8)])
def test_every_row_comes_once_and_in_order(sizes: tuple[int, ...], room: int, late: bool) -> None:
    device, halves, given = Device(room, late), halving(), batches(*sizes)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        rows = list(halves.stream(device.stream, iter(given), {"fc": F32}))
    assert [len(batch["fc"]) for batch in rows] == list(sizes)
    for batch, x in zip(rows, given, strict=True):
        np.testing.assert_array_equal(batch["fc"], 2 * x)
    steps = [size for size in (8, 7, 4, 2, 1) if size > room]
    assert len(said) <= len(steps) and all(warning.category is DeviceWarning for warning in said)
    assert (halves.most is None) == (max(sizes) <= room)


def test_the_next_stream_begins_with_what_fits() -> None:
    """And the pieces of a batch are of one size."""
    device, halves = Device(3), halving()
    with pytest.warns(DeviceWarning) as said:
        list(halves.stream(device.stream, batches(7, 7), {"fc": F32}))
    assert [str(warning.message).partition(" (")[0] for warning in said] == [
        "device 'cuda:1' has no room for 7 samples at once", "device 'cuda:1' has no room for 4 samples at once"
    ]  # fmt: skip
    assert str(said[1].message).endswith("it goes on with 2, and batch_size=2 begins with so many")
    device.sizes.clear()
    (rows,) = halves.stream(device.stream, batches(7), {"fc": F32})
    assert device.sizes == [2, 2, 2, 2] and len(rows["fc"]) == 7


def test_rows_that_their_type_does_not_hold_stay_in_float32() -> None:
    """Of a batch some of whose pieces it holds, all."""
    x = np.array([[1], [2], [3], [2e4]], np.float32)
    with pytest.warns(DeviceWarning):
        (rows,) = halving().stream(Device(2).stream, [x], {"fc": F16})
    assert rows["fc"].dtype == F32
    np.testing.assert_array_equal(rows["fc"], 2 * x)


def test_several_arrays_are_cut_together() -> None:
    x = {"x": np.arange(5, dtype=np.float32)[:, None], "mask": np.ones((5, 3), bool)}
    with pytest.warns(DeviceWarning):
        (rows,) = halving().stream(Device(3).stream, [x], {"fc": F32})
    assert rows["fc"][:, 0].tolist() == [0, 2, 4, 6, 8]


def test_a_device_without_room_for_one_sample_is_an_error() -> None:
    with (
        pytest.warns(DeviceWarning),
        pytest.raises(DeviceMemoryError, match=r"'cuda:1' has no room for one sample") as caught,
    ):
        list(halving().stream(Device(0).stream, batches(4, 4), {"fc": F32}))
    assert "FullError: there is no more" in str(caught.value) and "device='cpu'" in str(caught.value)


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug")])
def test_other_errors_are_let_through(error: Exception) -> None:
    """Those of the device, and those of whoever gives the batches: they come once."""
    taken = []

    def broken() -> Iterator[np.ndarray]:
        for x in batches(4, 4):
            taken.append(len(x))
            yield x
        raise error

    with pytest.warns(DeviceWarning), pytest.raises(type(error), match="a bug"):
        list(halving().stream(Device(3).stream, broken(), {"fc": F32}))
    assert taken == [4, 4]


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("put", (np.ones((6, 2), np.float32),), "6 rows of features .*memory= .*batch_size="),
        (
            "epoch",
            (None, np.zeros(6), np.zeros((3, 2)), np.ones(3)),
            "a step on 2 of 6 rows that lie there .*memory=",
        ),
        ("step", (np.ones((4, 2)), np.zeros(4), 0.1), "a step on 4 samples .*batch_size="),
        ("logits", (np.ones((4, 2)), 0, 3), "the logits of 3 samples .*batch_size="),
    ],
)
def test_a_training_without_room_says_what_to_do(method: str, given: tuple[Any, ...], said: str) -> None:
    """Other errors are none of that."""
    errors: list[Exception] = [FullError("there is no more"), ValueError("a bug")]

    def broken(*_: Any) -> Any:
        raise errors.pop(0)

    room = Room("cuda:1", lambda error: isinstance(error, FullError))
    inner = SimpleNamespace(**{method: broken})
    trainer = CheckedTrainer(inner, "some", {}, (1,), (), DESCRIPTION, room)
    with pytest.raises(DeviceMemoryError, match=f"device 'cuda:1' has no room for {said}"):
        getattr(trainer, method)(*given)
    with pytest.raises(ValueError, match="a bug"):
        getattr(trainer, method)(*given)


def test_a_network_without_room_says_what_to_do() -> None:
    def full(*_: Any) -> Any:
        raise FullError("there is no more")

    inner = SimpleNamespace(
        trunk=full, trainer=full, memory=None, is_out_of_memory=lambda error: isinstance(error, FullError)
    )
    b = Builder()
    graph, place = b.graph(b.linear("fc", "input", 2, 2)), Place("cuda:1", "float32")
    backend = CheckedBackend(inner, "some", replace(DESCRIPTION, abilities=frozenset({MEMORY})))
    recipe: Any = None
    for action in (
        lambda: backend.trunk(graph, {}, ["fc"], place),
        lambda: backend.trainer(graph, {}, recipe, place),
    ):
        with pytest.raises(DeviceMemoryError, match="device 'cuda:1' has no room for the network"):
            action()
    silent = CheckedBackend(inner, "some", DESCRIPTION)  # it does not say which errors those are
    with pytest.raises(FullError):
        silent.trunk(graph, {}, ["fc"], place)
