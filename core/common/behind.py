"""Work that is done behind whoever has it done: by a thread of its own, in the order in which it comes.

Invariant: a bounded number of calls waits, so memory is bounded too; and no error is lost: it is raised by a later
call, or at the end.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any


class Behind:
    """Makes calls in a thread. A context manager; leaving it waits for all that was handed over."""

    def __init__(self, waiting: int, name: str) -> None:
        """`waiting`: so many calls may not be finished when another one is handed over."""
        self._waiting = waiting
        self._pending: deque[Future[Any]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Have `function(*args)` called. Raises what an earlier call has raised."""
        while len(self._pending) >= self._waiting:
            self._pending.popleft().result()
        self._pending.append(self._pool.submit(function, *args))

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True)
        failed = [second for call in self._pending if (second := call.exception()) is not None]
        if failed and error is None:
            raise failed[0]
        for second in failed:
            assert error is not None
            error.add_note(f"what was handed over before could not be finished either: {second}")
