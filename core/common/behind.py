"""Work that is done behind whoever has it done: by a thread of its own, in the order in which it comes.

Invariant: a bounded number of calls waits, so memory is bounded too; no error is lost: it is raised by a later
call, or at the end; and after the end no call is being made, however often Ctrl-C comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any

from headstart.common.pools import Collections


class Behind:
    """Makes calls in a thread. A context manager; leaving it waits for all that was handed over. An interrupt
    meanwhile drops the calls that are not begun, and is raised when the one that is begun has ended."""

    def __init__(self, waiting: int, name: str) -> None:
        """`waiting`: so many calls may not be finished when another one is handed over."""
        self._waiting = waiting
        self._pending: deque[Future[Any]] = deque()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._collections = Collections()

    def __call__(self, function: Callable[..., Any], *args: Any) -> None:
        """Have `function(*args)` called. Raises what an earlier call has raised."""
        while len(self._pending) >= self._waiting:
            self._pending[0].result()  # which an interrupt may leave: it is waited for at the end
            self._pending.popleft()
        self._pending.append(self._pool.submit(function, *args))

    def __enter__(self) -> Behind:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._collections.end()
        if self._collections.are_here():  # of a generator that nobody has ended: see `Collections`
            self._pool.shutdown(wait=False, cancel_futures=True)
            return
        interrupt = self._wait()
        calls = [call for call in self._pending if not call.cancelled()]
        failed = [second for call in calls if (second := call.exception()) not in (None, error)]
        cause = interrupt or error
        if failed and cause is None:
            raise failed[0]
        for second in failed:
            assert cause is not None
            cause.add_note(f"what was handed over before could not be finished either: {second}")
        if interrupt is not None:
            raise interrupt

    def _wait(self) -> BaseException | None:
        """Wait for the thread's end. Returns what a signal's handler has raised meanwhile: what the thread works
        with is its caller's again afterwards, so nothing else may go on before."""
        interrupt = None
        while True:
            try:
                wait(self._pending)
                self._pool.shutdown(wait=True)
                return interrupt
            except BaseException as error:
                interrupt = error
                for call in self._pending:
                    call.cancel()
