"""Work on large arrays a slice at a time, so that what is made on the way stays small."""

from __future__ import annotations

from collections.abc import Iterator

SLICE_NBYTES = 16 << 20


def slices(count: int, nbytes: int) -> Iterator[slice]:
    """Slices of `count` items of `nbytes` each, as many in a slice as SLICE_NBYTES hold, at least one."""
    step = max(1, SLICE_NBYTES // max(1, nbytes))
    return (slice(start, min(start + step, count)) for start in range(0, count, step))
