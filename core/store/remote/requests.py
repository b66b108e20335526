"""Small requests, several of which are on their way at once: what they cost is the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

REQUESTS = 8
"""at once"""

Item = TypeVar("Item")
Result = TypeVar("Result")


def at_once(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """The results of a function that makes a request, in the order of the items. Raises what the first of them
    raises; those that are not begun are left out then."""
    if len(items) < 2:
        return [function(item) for item in items]
    with ThreadPoolExecutor(min(REQUESTS, len(items)), thread_name_prefix="headstart-request") as pool:
        futures = [pool.submit(function, item) for item in items]
        try:
            return [future.result() for future in futures]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
