"""Many shards on their way to a store behind a URL, or from it: in several threads, and what became of each.

Invariant: what fails stops no other shard, and is named with its reason. What every other one would meet as well
(no permission, no room on the disk) is raised at once; a server that has stopped answering is not asked a thousand
times. Whatever ends a run, the same call goes on where it stopped: shards are there whole, or not at all.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    DiskSpaceError,
    RemoteError,
    RemoteNotFoundError,
    RemoteRefusedError,
    StoreError,
    TransferInterrupted,
)
from headstart.common.progress import track
from headstart.common.table import Table
from headstart.common.text import hint, nbytes_text
from headstart.store.remote.catalogue import is_absence
from headstart.store.remote.transfer import Advance, Stopped, until
from headstart.store.shard import SUFFIX
from headstart.store.upkeep import DIGEST, files_of

GIVE_UP_AFTER = 8
"""transfers in a row that fail, each tried several times, as on a server that is away"""

EVERYBODYS = (RemoteRefusedError, DiskSpaceError, CacheNotWritableError)
"""what every other transfer would meet as well"""


@dataclass(frozen=True)
class Transfer:
    """A shard that one side lacks."""

    key: str
    """the trunk key's digest"""
    digest: str
    """the shard's"""
    nbytes: int


@dataclass(frozen=True)
class TrunkMoves:
    """What moved of one trunk."""

    key: str
    label: dict[str, Any]
    """hints for people: model, weights, cut"""
    there: int
    """shards that the other side had already"""
    lacking: int
    """shards that it lacked"""
    nbytes: int
    """their bytes"""
    moved: int = 0
    """shards that have moved"""
    moved_nbytes: int = 0
    failures: tuple[tuple[str, str], ...] = ()
    """(file or URL, reason) for each that could not be moved"""
    untried: int = 0
    """shards that were not tried (any more)"""
    gone: int = 0
    """shards that had vanished when it was their turn"""

    @classmethod
    def before(cls, key: str, shards: int, lacking: Sequence[Transfer]) -> TrunkMoves:
        """When nothing has moved yet of so many shards, of which the other side lacks some."""
        nbytes = sum(transfer.nbytes for transfer in lacking)
        return cls(key, {}, shards - len(lacking), len(lacking), nbytes)

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            **self.label,
            "key": self.key,
            "there": self.there,
            "lacking": self.lacking,
            "bytes": self.nbytes,
            "moved": self.moved,
            "moved_bytes": self.moved_nbytes,
            "failures": [list(failure) for failure in self.failures],
            "untried": self.untried,
            "gone": self.gone,
        }


@dataclass(frozen=True)
class Moves:
    """What a push or a pull has moved, or would move. Iterates over the trunks."""

    what: str
    """"push" or "pull" """
    url: str
    root: Path
    """of the local store"""
    trunks: tuple[TrunkMoves, ...]
    """by key"""
    dry_run: bool
    """whether nothing was to be moved"""

    def __iter__(self) -> Iterator[TrunkMoves]:
        return iter(self.trunks)

    def __len__(self) -> int:
        return len(self.trunks)

    @property
    def lacking(self) -> int:
        return sum(trunk.lacking for trunk in self.trunks)

    @property
    def nbytes(self) -> int:
        return sum(trunk.nbytes for trunk in self.trunks)

    @property
    def moved(self) -> int:
        return sum(trunk.moved for trunk in self.trunks)

    @property
    def moved_nbytes(self) -> int:
        return sum(trunk.moved_nbytes for trunk in self.trunks)

    @property
    def failures(self) -> tuple[tuple[str, str], ...]:
        """(file or URL, reason) for each shard, or trunk.json, that could not be moved"""
        return tuple(failure for trunk in self.trunks for failure in trunk.failures)

    @property
    def untried(self) -> int:
        return sum(trunk.untried for trunk in self.trunks)

    @property
    def gone(self) -> int:
        """Shards that had vanished when it was their turn: somebody has deleted them."""
        return sum(trunk.gone for trunk in self.trunks)

    @property
    def complete(self) -> bool:
        """Whether nothing failed."""
        return not self.failures and not self.untried

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "url": self.url,
            "dry_run": self.dry_run,
            "moved": self.moved,
            "moved_bytes": self.moved_nbytes,
            "complete": self.complete,
            "trunks": [trunk.as_dict() for trunk in self.trunks],
        }

    def as_table(self) -> Table:
        """For a terminal."""
        rows = [
            (
                trunk.key[:12],
                f"{hint(trunk.label, 'model')} ({hint(trunk.label, 'weights')})",
                hint(trunk.label, "cut"),
                f"{trunk.there:,}",
                f"{trunk.lacking if self.dry_run else trunk.moved:,}",
                nbytes_text(trunk.nbytes if self.dry_run else trunk.moved_nbytes),
                f"{len(trunk.failures) + trunk.untried:,}",
            )
            for trunk in self.trunks
        ]
        had = "there" if self.what == "push" else "here"
        done = f"{'would ' if self.dry_run else ''}{self.what}"
        return Table(("key", "model", "cut", had, done, "size", "failed"), rows, right=(3, 4, 5, 6))


@dataclass
class Outcome:
    """What became of transfers; those that are in none of these were not tried, or had nothing left to move."""

    moved: set[Transfer] = field(default_factory=set)
    gone: set[Transfer] = field(default_factory=set)
    """had vanished before they could be moved: an eviction is no failure"""
    failed: dict[Transfer, tuple[str, str]] = field(default_factory=dict)

    def of(self, trunk: TrunkMoves, transfers: Sequence[Transfer]) -> TrunkMoves:
        """The trunk's moves, with what became of these transfers."""
        moved = [transfer for transfer in transfers if transfer in self.moved]
        failures = [self.failed[transfer] for transfer in transfers if transfer in self.failed]
        gone = sum(transfer in self.gone for transfer in transfers)
        return replace(
            trunk,
            moved=len(moved),
            moved_nbytes=sum(transfer.nbytes for transfer in moved),
            failures=(*trunk.failures, *failures),
            untried=trunk.lacking - len(moved) - len(failures) - gone,
            gone=gone,
        )


def move_all(
    what: str,
    transfers: Sequence[Transfer],
    move: Callable[[Transfer, Advance], object],
    threads: int,
    everybodys: tuple[type[StoreError], ...] = EVERYBODYS,
) -> Outcome:
    """Call `move(transfer, advance)` for each, in so many threads, with progress in bytes. FileNotFoundError or
    RemoteNotFoundError from it says that the shard has vanished where it was.

    Raises errors that are `everybodys`, with nothing begun after them; TransferInterrupted for Ctrl-C.
    """
    outcome = Outcome()
    stopped = threading.Event()
    run = _FailuresInARow(stopped, everybodys)

    def moved(transfer: Transfer, advance: Advance) -> bool:
        if stopped.is_set():
            return False

        with run:
            move(transfer, until(stopped, advance))
        return True

    with track(what, sum(transfer.nbytes for transfer in transfers)) as advance:
        pool = ThreadPoolExecutor(threads, thread_name_prefix="headstart-transfer")
        try:
            futures = {pool.submit(moved, transfer, advance): transfer for transfer in transfers}
            for future in as_completed(futures):
                transfer = futures[future]
                try:
                    if future.result():
                        outcome.moved.add(transfer)
                except Stopped:
                    pass
                except (FileNotFoundError, RemoteNotFoundError):
                    outcome.gone.add(transfer)
                except StoreError as error:
                    if isinstance(error, everybodys):
                        raise
                    outcome.failed[transfer] = failure(error, f"{transfer.key}/{transfer.digest}{SUFFIX}")
        except KeyboardInterrupt:
            stopped.set()
            raise TransferInterrupted(
                f"interrupted: {len(outcome.moved)} of {len(transfers)} shards have moved; the same call again "
                "moves only the rest"
            ) from None
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)
    return outcome


def shards_in(folder: Path) -> dict[str, int]:
    """A shard's digest -> its bytes, of a trunk's folder in a local store, by name. StoreError."""
    sizes = {}
    for path, status in sorted(files_of(folder).items()):
        if path.parent == folder and path.suffix == SUFFIX and DIGEST.fullmatch(path.stem):
            sizes[path.stem] = status.st_size
    return sizes


def failure(error: StoreError, where: str = "") -> tuple[str, str]:
    """(file or URL, reason). `where`: what it was about, if the error does not know."""
    if isinstance(error, RemoteError):
        return error.url, error.reason
    if isinstance(error, DamagedShardError):
        return str(error.path), f"{error.reason}. {error.cure}"
    return where, str(error)


class _FailuresInARow:
    """Sees the end of each transfer, in its thread, and stops the others where they will fail as well."""

    def __init__(self, stopped: threading.Event, everybodys: tuple[type[StoreError], ...]) -> None:
        self._stopped, self._everybodys = stopped, everybodys
        self._lock, self._count = threading.Lock(), 0

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        with self._lock:
            self._count = self._count + 1 if is_absence(error) else 0 if error is None else self._count
            if isinstance(error, self._everybodys) or self._count >= GIVE_UP_AFTER:
                self._stopped.set()
