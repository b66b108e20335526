"""Which shards are used that others have made: those in shared caches, and those that came from behind a URL.

What was found out about a shard is noted in the own cache, in the folder `checked`: empty files, of which one more
or less costs time at most. Invariant: a shard of a shared cache that was found damaged is not used again as long
as it is the same file, and neither is one whose rows are not what is computed here; each is said once.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable
from pathlib import Path

from headstart.common.errors import DamagedShardError, StoreError, StoreWarning, UnreadableShardError
from headstart.common.files import touch
from headstart.store.removal import move_into
from headstart.store.shard import Shard
from headstart.store.snapshot import identity_of, raise_if_damaged
from headstart.store.upkeep import CHECKED, DAMAGED

PULLED = "pulled"  # notes that a shard came from behind a URL
REFUSED = "refused"  # that one came from there, and its rows were wrong


class Trust:
    """What a process thinks of the shards of one trunk key that it has not made."""

    def __init__(self, folder: Path, parents: bool) -> None:
        """`folder`: the own cache's, which keeps the notes; `parents`: whether it is made for them."""
        self._folder, self._parents = folder, parents
        self._warned: set[str] = set()
        # Identities of shared shards, beside the marks in the own cache, which may be unwritable.
        self._sound: set[str] = set()
        self._refused: set[str] = set()
        self._approved: set[str] | None = None
        """identities of the shared shards that an extraction has looked at; no other is read from then on"""
        self._unsaid: list[StoreError] = []
        """what was found wrong with shared shards in a call that still goes on: one warning, however many"""
        self._doubted = False
        """whether a shared shard that had been found sound was not so when it was read"""

    def is_checked(self, shard: str, by: str) -> bool:
        """Whether `mark_checked` was called with the same arguments."""
        return os.path.exists(self._folder / CHECKED / f"{shard}-{by}")  # noqa: PTH110 - never an error

    def mark_checked(self, shard: str, by: str) -> None:
        """Note something about the shard of this digest. Failure is ignored: a read-only store is checked anew
        each time."""
        with contextlib.suppress(OSError):
            (self._folder / CHECKED).mkdir(exist_ok=True, parents=self._parents)
            if not (self._folder / CHECKED).is_symlink():
                touch(self._folder / CHECKED / f"{shard}-{by}")

    def is_pulled(self, shard: Shard) -> bool:
        """Whether it came from behind a URL."""
        return self.is_checked(shard.path.stem, PULLED)

    def came_wrong(self, digest: str) -> bool:
        """Whether the shard of this digest came from behind a URL once, and was refused."""
        return self.is_checked(digest, REFUSED)

    def approve(self) -> None:
        """From now on, use those shared shards only that were found sound by now."""
        self._approved = set(self._sound)

    def look_anew(self) -> None:
        """Take those that have appeared since `approve` into consideration again."""
        self._approved = None

    def is_refused(self, shard: Shard) -> bool:
        """Whether this shared shard was found damaged, by this process or an earlier one, or has appeared since
        `approve` was called."""
        mark = identity_of(shard)
        if self._approved is not None and mark not in self._approved:
            return True
        return mark in self._refused or self.is_checked(shard.path.stem, f"damaged-{mark}")

    def is_sound(self, shard: Shard) -> bool:
        """Whether all rows of a shared shard are as they were written, and finite. The shard is read once for
        that; the result is noted in the own cache."""
        mark = identity_of(shard)
        if mark in self._sound or (not self._doubted and self.is_checked(shard.path.stem, f"whole-{mark}")):
            self._sound.add(mark)
            return True
        try:
            raise_if_damaged(shard)
        except FileNotFoundError:
            self._refused.add(mark)
            return False
        except StoreError as error:
            self.refuse(shard, error)
            return False
        self._sound.add(mark)
        self.mark_checked(shard.path.stem, f"whole-{mark}")
        return True

    def refuse(self, shard: Shard, error: StoreError) -> None:
        """Never use a shared shard again, as long as it is the same file. `say` says so."""
        mark = identity_of(shard)
        self._refused.add(mark)
        # A read that fails now may succeed another time.
        if isinstance(error, DamagedShardError) and not isinstance(error, UnreadableShardError):
            self.mark_checked(shard.path.stem, f"damaged-{mark}")
        self._unsaid.append(error)

    def doubt(self, shard: Shard, error: StoreError) -> None:
        """Refuse a shard that turns out damaged on reading. Others that were sound when they were checked may be
        damaged by now as well, so each is checked again before it is used."""
        self._sound.clear()
        self._doubted = True
        self.refuse(shard, error)

    def refuse_rows(self, shards: Iterable[Shard], reason: str) -> None:
        """Have this process use these shared shards no more: their rows are not what is computed here."""
        shards = list(shards)
        self._refused.update(map(identity_of, shards))
        self.pass_over([DamagedShardError(shard.path, reason) for shard in shards])

    def set_aside(self, shard: Shard, reason: str) -> None:
        """Have a shard that came from behind a URL lie where nothing reads it, and not come again: its rows are
        not what is computed here. CacheNotWritableError or StoreError where that cannot be."""
        self.mark_checked(shard.path.stem, REFUSED)
        move_into(shard.path, DAMAGED, self._folder.parent.parent)
        self.warn_once(
            f"{shard.path}, which came from a shared cache: {reason}. It is set aside in the folder {DAMAGED}, "
            "and not fetched again; its rows are computed"
        )

    def say(self) -> None:
        """Warn of what was refused since the last call."""
        errors, self._unsaid = self._unsaid, []
        self.pass_over(errors)

    def pass_over(self, errors: Iterable[StoreError]) -> None:
        """Warn, once for each, of shards in shared caches that are not used."""
        news = [text for error in errors if (text := _without_cure(error)) not in self._warned]
        self._warned.update(news)
        if news:
            more = f" (and {len(news) - 1} more like it)" if len(news) > 1 else ""
            self.warn_once(
                f"in a shared cache, {news[0]}{more}. It is passed over, and the features that it should hold "
                "count as missing: an extraction computes them into the own cache. Only the shared cache's owner "
                "can mend it, by `headstart cache verify --repair` there"
            )

    def warn_once(self, text: str) -> None:
        """A StoreWarning, if it was not given yet."""
        if text not in self._warned:
            self._warned.add(text)
            warn(text)


def warn(text: str) -> None:
    """A StoreWarning."""
    warnings.warn(text, StoreWarning, stacklevel=3)


def _without_cure(error: StoreError) -> str:
    return f"{error.path}: {error.reason}" if isinstance(error, DamagedShardError) else str(error)
