"""Batches through a trunk, one after the other: what every trunk can do, and what those owe that do it faster.

A trunk on a device of its own has time to lose between batches: while one is copied there, another can be computed
and a third come back. So core hands over all of its batches, and takes the results in order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np

Dtypes = Mapping[str, "np.dtype[Any]"]
"""node -> the type of numbers in which its rows are stored"""
UnderWay = TypeVar("UnderWay")
AT_ONCE = 3
"""batches under way: one comes to the device, one is computed, one goes"""


def one_by_one(
    run: Callable[[Any], Mapping[str, Any]],
    numpy: Callable[[Any], np.ndarray],
    batches: Iterable[Any],
    dtypes: Dtypes,
    reuses: bool,
) -> Iterator[dict[str, np.ndarray]]:
    """`Trunk.stream` by `Trunk.run`: rows as they were computed, in float32. `reuses`: whether `run` may write to
    what it gave before, as somebody else's code may do; results of a stream are their taker's."""
    for images in batches:
        outputs = run(images)
        rows = {node: numpy(outputs[node]) for node in dtypes}
        yield {node: np.array(array) for node, array in rows.items()} if reuses else rows


def overlapped(
    batches: Iterable[Any],
    begin: Callable[[Any], UnderWay],
    end: Callable[[UnderWay], dict[str, np.ndarray]],
) -> Iterator[dict[str, np.ndarray]]:
    """Results in order, of a few batches under way at once. `begin` has one computed and sent back, and does not
    wait for it; `end` waits."""
    under_way: deque[UnderWay] = deque()
    for images in batches:
        under_way.append(begin(images))
        if len(under_way) == AT_ONCE:
            yield end(under_way.popleft())
    while under_way:
        yield end(under_way.popleft())


def is_held(largest: np.ndarray, dtype: np.dtype[Any]) -> bool:
    """Whether rows can leave a device in `dtype`, and whoever stores them still sees what that has cost: all of
    them are finite in it, and no channel with numbers is left with zeros alone. `largest`: the largest magnitude
    in each channel of a batch as it was computed, `(c,)`, NaN where there is one."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = largest.astype(dtype)
    return bool((np.isfinite(stored) & ((stored != 0) | (largest == 0))).all())
