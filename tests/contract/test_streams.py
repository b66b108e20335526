"""Batches through a trunk, one after the other."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headstart.common.errors import BackendError
from headstart.contract.checked import CheckedTrunk
from headstart.contract.recipe import Place
from headstart.contract.room import Room
from headstart.contract.sizes_of_batches import Sizes
from headstart.contract.streams import AT_ONCE, is_held, overlapped
from headstart.graph import Builder

pytestmark = pytest.mark.neutral
CPU = Place("cpu", "float32")
WIDE = Room("cpu", lambda error: False)
F16, F32 = np.dtype(np.float16), np.dtype(np.float32)


@pytest.mark.parametrize(
    ("largest", "dtype", "held"),
    [
        ([1.0, 65504.0, 0.0], np.float16, True),
        ([1.0, 65520.0], np.float16, False),
        ([1.0, 2e-8], np.float16, False),
        ([1.0, 6e-8], np.float16, True),
        ([1.0, np.nan], np.float16, False),
        ([1.0, np.inf], np.float32, False),
        ([1e-30, 1e38], ml_dtypes.bfloat16, True),
        ([3.4e38], ml_dtypes.bfloat16, False),
    ],
)
def test_what_a_dtype_holds(largest: list[float], dtype: Any, held: bool) -> None:
    assert is_held(np.array(largest, np.float32), np.dtype(dtype)) is held


class Doubling:
    """A trunk of one node, `fc`, two numbers wide."""

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"fc": images * 2}

    def params(self) -> dict[str, np.ndarray]:
        return {}


class Streaming(Doubling):
    def __init__(self, *changed: Any) -> None:
        self.changed = changed

    def stream(self, batches: Any, dtypes: Any) -> Iterator[dict[str, np.ndarray]]:
        results = [{"fc": (images * 2).astype(dtypes["fc"])} for images in batches]
        yield from self.changed or results


def checked(inner: Doubling) -> CheckedTrunk:
    b = Builder()
    graph = b.graph(b.linear("fc", "input", 2, 2))
    params = {"fc.weight": np.zeros((2, 2), np.float32), "fc.bias": np.zeros(2, np.float32)}
    return CheckedTrunk(inner, "some", graph, params, ["fc"], np.asarray, WIDE, Sizes(graph, CPU))


def batches() -> list[np.ndarray]:
    return [np.full((3, 2), k, np.float32) for k in range(3)]


@pytest.mark.parametrize(("inner", "dtype"), [(Doubling(), F32), (Streaming(), F16)])
def test_a_trunk_without_a_stream_has_cores(inner: Doubling, dtype: Any) -> None:
    rows = list(checked(inner).stream(iter(batches()), {"fc": F16}))
    assert [float(outputs["fc"][0, 0]) for outputs in rows] == [0, 2, 4]
    assert {outputs["fc"].dtype for outputs in rows} == {dtype}


class Reusing(Doubling):
    """As a runtime with memory of its own for what it computes."""

    def __init__(self) -> None:
        self.memory = np.zeros((3, 2), np.float32)

    def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
        return {"fc": np.multiply(images, 2, out=self.memory)}


def test_results_of_a_stream_outlive_the_next_batch() -> None:
    rows = list(checked(Reusing()).stream(iter(batches()), {"fc": F16}))
    assert [float(outputs["fc"][0, 0]) for outputs in rows] == [0, 2, 4]


def test_several_outputs_are_each_looked_at() -> None:
    b = Builder()
    graph = b.graph(b.linear("two", b.linear("one", "input", 2, 2), 2, 3))

    class Two:
        def run(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"one": images, "two": np.zeros((len(images), 3), np.float32)}

    params = {name: np.zeros(shape, np.float32) for name, shape in graph.param_shapes().items()}
    trunk = CheckedTrunk(Two(), "some", graph, params, ["one", "two"], np.asarray, WIDE, Sizes(graph, CPU))
    assert set(trunk.run(batches()[0])) == {"one", "two"}
    assert [set(rows) for rows in trunk.stream(batches(), {"two": F16})] == [{"two"}] * 3


ROWS = np.zeros((3, 2), np.float16)


@pytest.mark.parametrize(
    "results",
    [
        [{"fc": ROWS}] * 2,
        [{"fc": ROWS}] * 4,
        [{"fc": ROWS}] * 2 + [{"fc": ROWS[:2]}],
        [{"fc": ROWS}] * 2 + [{"other": ROWS}],
        [{"fc": ROWS}] * 2 + [{"fc": ROWS.astype(np.float64)}],
        [{"fc": ROWS}] * 2 + [{"fc": ROWS.tolist()}],
    ],
    ids=["fewer", "more", "rows", "names", "dtype", "no array"],
)
def test_what_comes_out_of_a_stream_is_checked(results: list[Any]) -> None:
    with pytest.raises(BackendError, match="is a bug of the backend"):
        list(checked(Streaming(*results)).stream(batches(), {"fc": F16}))


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_a_few_batches_are_under_way_and_their_results_in_order(count: int) -> None:
    log: list[str] = []

    def begin(k: int) -> int:
        log.append(f"begin {k}")
        return k

    def end(k: int) -> dict[str, np.ndarray]:
        log.append(f"end {k}")
        return {"fc": np.array(k)}

    assert [int(outputs["fc"]) for outputs in overlapped(range(count), begin, end)] == list(range(count))
    waiting = [sum(1 if entry.startswith("begin") else -1 for entry in log[: k + 1]) for k in range(len(log))]
    assert max(waiting, default=0) == min(count, AT_ONCE)
    log.clear()
    stream = overlapped(iter(range(7)), begin, end)
    next(stream)
    stream.close()  # who does not want the rest any more has nothing else begun
    assert log == ["begin 0", "begin 1", "begin 2", "end 0"]
