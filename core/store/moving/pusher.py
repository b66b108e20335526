"""Shards pushed on to a store behind a URL while others are still being made.

Invariant: who makes shards never waits for the network until all are made, and nothing that goes wrong there stops
it: shards are in the own cache first, what could not be pushed is told once, with the reason, and `headstart cache
push` moves it. What waits are names of files, never their rows. With a `StrictPusher` what could not be pushed is
an error: it is for those who have only the URL to hand their shards over.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import TracebackType

from headstart.common.errors import RemoteError, RemoteRefusedError, StoreError, TransferInterrupted
from headstart.common.objects import Objects
from headstart.common.progress import track
from headstart.common.text import counted
from headstart.store.description import description_of
from headstart.store.keys import TrunkKey
from headstart.store.moving.indexing import index_pushed
from headstart.store.moving.moves import failure
from headstart.store.moving.push import put_description
from headstart.store.remote.remote_store import RemoteStore
from headstart.store.remote.transfer import upload_shard
from headstart.store.trust import warn

UPLOADS = 2
"""at once. Each holds a shard in memory, beside what makes the next ones"""
GIVE_UP_AFTER = 4
"""uploads in a row that fail, each tried several times: the server is away"""


_refused: set[str] = set()
"""URLs that this process may not write to: found out once"""


class Sender:
    """Writes shards to a store behind a URL, and each trunk's description before its first. Thread-safe."""

    def __init__(self, objects: Objects) -> None:
        self.remote = RemoteStore(objects)
        self.described: dict[str, bytes] = {}
        """trunk key -> its description, which has been written"""
        self._lock = threading.Lock()

    def __call__(self, key: TrunkKey, path: Path) -> None:
        """Send a shard. The errors of `upload_shard`."""
        folder = self.remote.folder(key.digest)
        with self._lock:
            if key.digest not in self.described:
                description = description_of(key.spec, key.label)
                put_description(folder, description)
                self.described[key.digest] = description
        upload_shard(folder.objects, path, folder.shard_name(path.stem))


class StrictPusher:
    """Pushes shards as they are finished. A context manager, which may be entered again: leaving it waits for all
    of them, and raises the StoreError of the first that could not be pushed. Writes no index objects."""

    def __init__(self, objects: Objects) -> None:
        self._send = Sender(objects)
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []

    def __call__(self, key: TrunkKey, path: Path) -> None:
        """Have a shard pushed."""
        assert self._pool is not None
        self._pending.append(self._pool.submit(self._push, key, path))

    def __enter__(self) -> StrictPusher:
        self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="headstart-push")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._pool is not None
        self._pool.shutdown(wait=True)
        pending, self._pool, self._pending = self._pending, None, []
        failures = [failure for future in pending if (failure := future.exception()) is not None]
        if failures and error is None:
            raise failures[0]

    def _push(self, key: TrunkKey, path: Path) -> None:
        try:
            self._send(key, path)
        except FileNotFoundError as error:
            url = self._send.remote.url
            raise StoreError(f"{path} was deleted before it was pushed to {url}") from error


class Pusher:
    """Pushes shards as they are finished. A context manager, which may be entered again: leaving it waits for
    those that are not pushed yet, with progress; after an interrupt only for those that are on their way.

    StoreWarning, once, for what could not be pushed. Where a push was refused, or so many have failed in a row, no
    other one is tried."""

    def __init__(self, root: Path, objects: Objects) -> None:
        """`root`: of the own cache."""
        self.url = objects.url
        self._root = root
        self._send = Sender(objects)
        self.remote = self._send.remote
        self._pool: ThreadPoolExecutor | None = None
        self._pending: list[tuple[str, int, Future[None]]] = []
        """trunk key, bytes, and what pushes them"""
        self._lock = threading.Lock()
        self._pushed: dict[str, list[str]] = {}
        """trunk key -> digests of its shards, pushed since it was entered"""
        self._failures: list[tuple[str, str]] = []
        self._untried: list[str] = []
        """the trunk keys of shards that were not tried any more"""
        self._keys: set[str] = set()
        """of what has failed"""
        self._in_a_row = 0
        self._told = False

    def __call__(self, key: TrunkKey, path: Path) -> None:
        """Have a shard of the own cache pushed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(UPLOADS, thread_name_prefix="headstart-push")
        with contextlib.suppress(OSError):  # deleted already, by somebody else
            self._pending.append((key.digest, path.stat().st_size, self._pool.submit(self._push, key, path)))

    def was_pushed(self, key: TrunkKey, path: Path) -> None:
        """Note that somebody else has pushed a shard of the own cache, which index objects are to hold, too."""
        with self._lock:
            self._send.described.setdefault(key.digest, description_of(key.spec, key.label))
            self._pushed.setdefault(key.digest, []).append(path.stem)

    def command(self, keys: Iterable[str]) -> str:
        """What pushes all that the own cache has of these trunks."""
        return f"headstart cache push {' '.join(key[:12] for key in keys)} {self.url}"

    def __enter__(self) -> Pusher:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, KeyboardInterrupt):
                self._wait()
        finally:
            self._untried += [key for key, _, future in self._pending if future.cancel()]
            if self._pool is not None:
                self._pool.shutdown(wait=True)
                self._pool = None
            self._pending.clear()
            self._pushed.clear()
            self._tell()

    @property
    def _given_up(self) -> bool:
        return self._in_a_row >= GIVE_UP_AFTER or self.url in _refused

    def _wait(self) -> None:
        """TransferInterrupted for Ctrl-C."""
        pending = [(nbytes, future) for _, nbytes, future in self._pending if not future.done()]
        try:
            with track(f"pushing to {self.url}", sum(nbytes for nbytes, _ in pending)) as advance:
                for nbytes, future in pending:
                    future.result()
                    advance(nbytes)
            for key in sorted(self._pushed):
                if not self._given_up:
                    folder = self.remote.folder(key)
                    index_pushed(self._root, folder, self._pushed[key])
                    # Somebody may have been deleting there meanwhile.
                    self._tried(key, folder.url, partial(put_description, folder, self._send.described[key], True))
        except KeyboardInterrupt:
            raise TransferInterrupted(
                f"interrupted: all features are in the cache, and not all of them at {self.url}"
            ) from None

    def _push(self, key: TrunkKey, path: Path) -> None:
        if self._given_up:
            with self._lock:
                self._untried.append(key.digest)
            return
        with contextlib.suppress(FileNotFoundError):  # evicted
            self._tried(key.digest, str(path), partial(self._send_and_note, key, path))

    def _send_and_note(self, key: TrunkKey, path: Path) -> None:
        self._send(key, path)
        with self._lock:
            self._pushed.setdefault(key.digest, []).append(path.stem)

    def _tried(self, key: str, where: str, push: Callable[[], None]) -> None:
        try:
            push()
        except StoreError as error:
            with self._lock:
                self._failures.append(failure(error, where))
                self._keys.add(key)
                self._in_a_row += isinstance(error, RemoteError)
                if isinstance(error, RemoteRefusedError):
                    _refused.add(self.url)
        else:
            self._in_a_row = 0

    def _tell(self) -> None:
        failures, untried, keys = self._failures, self._untried, sorted(self._keys | {*self._untried})
        self._failures, self._untried, self._keys = [], [], set()
        if not failures and (not untried or self._told or self.url in _refused):
            return
        self._told = True
        what = [counted(len(failures), "shard")] if failures else []
        if untried:
            what.append(
                f"{counted(len(untried), 'shard')} that {'was' if len(untried) == 1 else 'were'} not tried"
            )
        reasons = "; ".join(f"{where}: {reason}" for where, reason in failures[:1])
        more = f" (and {len(failures) - 1} more like it)" if len(failures) > 1 else ""
        warn(
            f"not pushed to {self.url}: {' and '.join(what)}{': ' if reasons else ''}{reasons}{more}. The "
            f"features are in the cache, and `{self.command(keys)}` moves them"
        )
