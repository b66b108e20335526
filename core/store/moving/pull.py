"""From a store behind a URL into the own cache: what this one lacks.

Invariant: nothing gets a shard's name that is not that shard (`transfer`), and nothing is fetched that has no
room: the limit (HEADSTART_CACHE_MAX) and the disk are asked before anything comes. What comes is trusted as a
shared cache is: an extraction looks at a few of its rows, and a shard that it has refused is not fetched again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from headstart.common.errors import CacheNotWritableError, DiskSpaceError, StoreError
from headstart.common.objects import Objects
from headstart.store.description import read_description
from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import FeatureStore
from headstart.store.keys import TrunkKey
from headstart.store.moving.moves import Moves, Transfer, TrunkMoves, failure, move_all, shards_in
from headstart.store.remote.remote_store import RemoteStore, digest_of
from headstart.store.remote.requests import at_once
from headstart.store.remote.transfer import Advance, receive_shard
from headstart.store.shard import SUFFIX, open_shard
from headstart.store.upkeep import keys_beginning

DOWNLOADS = 8  # at once
OWN = (DiskSpaceError, CacheNotWritableError)
"""what stops them all; that one object may not be read, an archived one, say, does not"""


@dataclass(frozen=True)
class _Trunk:
    """A trunk of the other side, and what the own cache lacks of it."""

    moves: TrunkMoves
    folder: FeatureFolder | None = None
    """the own cache's; None where nothing can come, as it is not known what it would be"""
    transfers: tuple[Transfer, ...] = ()


def pull(store: FeatureStore, objects: Objects, keys: Sequence[str] = (), dry_run: bool = False) -> Moves:
    """Bring what the own cache lacks of the trunks behind a URL: of all, or of those whose keys begin so. A local
    shard that has another size than there is damaged, and replaced.

    Raises UnknownNameError and SettingError for a beginning of no key, or of several; RemoteError where the store
    cannot be listed; DiskSpaceError where the shards have no room, before any is fetched; CacheNotWritableError;
    TransferInterrupted. What else fails is in the result.
    """
    remote = RemoteStore(objects)
    names = keys_beginning(keys, remote.keys())
    trunks = [trunk for trunk in at_once(partial(_compared, store, remote), names) if trunk is not None]
    moves = [trunk.moves for trunk in trunks] if dry_run else _fetched(store, remote, trunks)
    return Moves(what="pull", url=objects.url, root=store.root, trunks=tuple(moves), dry_run=dry_run)


def _compared(store: FeatureStore, remote: RemoteStore, key: str) -> _Trunk | None:
    """None where there is no shard on the other side."""
    there = remote.folder(key)
    shards = {digest_of(entry): entry.nbytes for entry in there.shards()}
    if not shards:
        return None
    own = shards_in(store.path / key)
    lacking = tuple(Transfer(key, digest, size) for digest, size in shards.items() if own.get(digest) != size)
    moves = TrunkMoves.before(key, len(shards), lacking)
    nothing = "there is no trunk.json, here or there, that says what its shards are; they were not fetched"
    try:
        described = read_description(store.path / key) or there.description()
    except StoreError as error:
        return _Trunk(replace(moves, failures=(failure(error, there.url),), untried=len(lacking)))
    if described is None:
        if not there.shards():  # all of it was deleted since it was listed
            return None
        return _Trunk(replace(moves, failures=((there.url, nothing),), untried=len(lacking)))
    spec, label = described
    folder = store.folder(TrunkKey(key, spec, label))
    refused = [transfer for transfer in lacking if folder.came_wrong(transfer.digest)]
    reason = "came before, and was set aside, as its rows are not what is computed here; it was not fetched again"
    failures = tuple((remote.objects.url_of(there.shard_name(transfer.digest)), reason) for transfer in refused)
    to_fetch = tuple(transfer for transfer in lacking if transfer not in refused)
    return _Trunk(
        replace(
            moves,
            label=label,
            lacking=len(to_fetch),
            nbytes=sum(transfer.nbytes for transfer in to_fetch),
            failures=failures,
        ),
        folder,
        to_fetch,
    )


def _fetched(store: FeatureStore, remote: RemoteStore, trunks: Sequence[_Trunk]) -> list[TrunkMoves]:
    folders = {trunk.moves.key: trunk.folder for trunk in trunks if trunk.folder is not None and trunk.transfers}
    transfers = [transfer for trunk in trunks for transfer in trunk.transfers]
    if folders:
        nbytes = sum(transfer.nbytes for transfer in transfers)
        store.make_room(nbytes, keep=[*folders])
        next(iter(folders.values())).require_space(nbytes)
    shapes = {key: _row_shape(folder) for key, folder in folders.items()}

    def download(transfer: Transfer, advance: Advance) -> None:
        folder = folders[transfer.key]
        receive_shard(
            remote.objects,
            remote.folder(transfer.key).shard_name(transfer.digest),
            transfer.nbytes,
            folder.path,
            prepare=folder.prepare,
            mark=partial(folder.mark_pulled, transfer.digest),
            dtype_name=folder.dtype_name,
            row_shape=shapes[transfer.key],
            advance=advance,
        )

    outcome = move_all(f"pulling from {remote.url}", transfers, download, DOWNLOADS, OWN)
    return [outcome.of(trunk.moves, trunk.transfers) for trunk in trunks]


def _row_shape(folder: FeatureFolder) -> tuple[int, ...] | None:
    """Of the rows that are there, which others have to have too; None where there are none."""
    for digest in shards_in(folder.path):
        with contextlib.suppress(StoreError, FileNotFoundError):
            return open_shard(folder.path / (digest + SUFFIX)).row_shape
    return None
