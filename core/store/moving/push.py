"""From the own cache to a store behind a URL: what that one lacks.

Invariant: an equal name is equal bytes, so a plain PUT is all it takes: two that push the same shard write the
same object. trunk.json goes first, the shards follow, then index objects; and trunk.json is looked for again, as
somebody may have been deleting there meanwhile. A damaged file is never sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from headstart.common.errors import RemoteError, RemoteNotFoundError, RemoteRefusedError, StoreError
from headstart.common.objects import Objects
from headstart.store.description import DESCRIPTION, description_of, read_description
from headstart.store.feature_store import FeatureStore
from headstart.store.moving.indexing import index_pushed
from headstart.store.moving.moves import Moves, Transfer, TrunkMoves, failure, move_all, shards_in
from headstart.store.remote.remote_store import RemoteFolder, RemoteStore
from headstart.store.remote.requests import at_once
from headstart.store.remote.transfer import Advance, upload_shard
from headstart.store.shard import SUFFIX
from headstart.store.upkeep import feature_folders, keys_beginning

UPLOADS = 4
"""at once. Each holds a shard in memory: 64 MiB, as they are written here"""


@dataclass(frozen=True)
class _Trunk:
    """A trunk of the own cache, and what the other side lacks of it; of one that is not described, nothing."""

    moves: TrunkMoves
    description: bytes
    """to be written, too; empty for none"""
    transfers: tuple[Transfer, ...] = ()


def push(store: FeatureStore, objects: Objects, keys: Sequence[str] = (), dry_run: bool = False) -> Moves:
    """Write to a store behind a URL what it lacks of the own cache's trunks: of all, or of those whose keys begin
    so. A shard that has another size there is damaged there, and written again.

    Raises UnknownNameError and SettingError for a beginning of no key, or of several; RemoteError where the store
    cannot be listed; RemoteRefusedError where it may not be written; TransferInterrupted. What else fails is in
    the result.
    """
    names = keys_beginning(keys, [folder.name for folder in feature_folders(store.path)])
    remote = RemoteStore(objects)
    known = set(remote.keys())
    own = {key: shards for key in names if (shards := shards_in(store.path / key))}
    sizes = at_once(lambda key: _sizes_there(remote.folder(key)) if key in known else {}, [*own])
    trunks = [_compared(store, remote, key, own[key], there) for key, there in zip(own, sizes, strict=True)]
    moves = [trunk.moves for trunk in trunks] if dry_run else _sent(store, remote, trunks)
    return Moves(what="push", url=objects.url, root=store.root, trunks=tuple(moves), dry_run=dry_run)


def put_description(folder: RemoteFolder, description: bytes, unless_there: bool = False) -> None:
    """Write trunk.json; perhaps only where there is none. RemoteError."""
    if unless_there:
        try:
            folder.objects.entry(folder.description_name)
        except RemoteNotFoundError:
            pass
        else:
            return
    folder.objects.put(folder.description_name, description)


def _sizes_there(folder: RemoteFolder) -> dict[str, int]:
    """An object's name -> its bytes."""
    return {entry.name: entry.nbytes for entry in folder.entries()}


def _compared(
    store: FeatureStore, remote: RemoteStore, key: str, shards: dict[str, int], there: dict[str, int]
) -> _Trunk:
    folder = remote.folder(key)
    lacking = tuple(
        Transfer(key, digest, nbytes)
        for digest, nbytes in shards.items()
        if there.get(folder.shard_name(digest)) != nbytes
    )
    moves = TrunkMoves.before(key, len(shards), lacking)
    path = store.path / key / DESCRIPTION
    reason = "is not there; an extraction of this trunk writes it. Its shards were not pushed"
    try:
        stored = read_description(path.parent)
    except StoreError as error:
        stored, reason = None, str(error)
    if stored is None:
        return _Trunk(replace(moves, failures=((str(path), reason),), untried=len(lacking)), b"")
    spec, label = stored
    description = description_of(spec, label)
    wanted = bool(lacking) or there.get(folder.description_name) != len(description)
    return _Trunk(replace(moves, label=label), description if wanted else b"", lacking)


def _sent(store: FeatureStore, remote: RemoteStore, trunks: Sequence[_Trunk]) -> list[TrunkMoves]:
    described = at_once(lambda trunk: _described(remote, trunk), trunks)

    def upload(transfer: Transfer, advance: Advance) -> None:
        path = store.path / transfer.key / (transfer.digest + SUFFIX)
        upload_shard(
            remote.objects, path, remote.folder(transfer.key).shard_name(transfer.digest), advance=advance
        )

    outcome = move_all(
        f"pushing to {remote.url}",
        [
            transfer
            for trunk, failures in zip(trunks, described, strict=True)
            for transfer in (() if failures else trunk.transfers)
        ],
        upload,
        UPLOADS,
    )
    moves = [
        outcome.of(replace(trunk.moves, failures=(*trunk.moves.failures, *failures)), trunk.transfers)
        for trunk, failures in zip(trunks, described, strict=True)
    ]
    pushed = [trunk for trunk, moved in zip(trunks, moves, strict=True) if moved.moved]
    gone = dict(
        zip(
            (trunk.moves.key for trunk in pushed),
            at_once(lambda trunk: _described(remote, trunk, unless_there=True), pushed),
            strict=True,
        )
    )
    for trunk, moved in zip(trunks, moves, strict=True):
        if moved.moved or moved.there:
            digests = [transfer.digest for transfer in trunk.transfers if transfer in outcome.moved]
            index_pushed(store.root, remote.folder(moved.key), digests)
    return [replace(moved, failures=(*moved.failures, *gone.get(moved.key, ()))) for moved in moves]


def _described(remote: RemoteStore, trunk: _Trunk, unless_there: bool = False) -> tuple[tuple[str, str], ...]:
    """Write the trunk's description. Returns the failure, if it is one."""
    try:
        if trunk.description:
            put_description(remote.folder(trunk.moves.key), trunk.description, unless_there)
    except RemoteRefusedError:
        raise
    except RemoteError as error:
        return (failure(error),)
    return ()
