"""Feature sets in a folder of their own, to train where the images are not. FORMAT.md describes the folder.

    <folder>/features/<digest>/...              a small feature store, one folder a trunk key
    <folder>/samples-<digest>.safetensors       ids and labels, in the data set's order
    <folder>/features.json                      what belongs together: names, cuts, the digests of all the rest

Invariants: a set is there exactly if its features.json is, and that appears last, whole, by a rename; everything
it names is named by its content, so that a new set beside an old one changes nothing of it until then. No bit of
the three can change unnoticed. Loading writes nothing, runs nothing and reads nothing outside the folder.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors

from headstart.common.errors import DamagedShardError, DiskSpaceError, SavedFeaturesError, SettingError, StoreError
from headstart.common.files import read_whole, replace_whole
from headstart.common.outputs import writing_into
from headstart.common.places import expanded
from headstart.common.version import __version__
from headstart.data.annotations import SINGLE, TASKS, Annotations
from headstart.data.splits import Part
from headstart.features import packed_samples
from headstart.features.rows import ReadableFeatures
from headstart.features.saving import MEND, saving
from headstart.store.description import read_key
from headstart.store.feature_folder import FeatureFolder
from headstart.store.feature_store import FeatureStore
from headstart.store.files import make_folder, require_space
from headstart.store.keys import canonical_json

DESCRIPTION = "features.json"
FORMATS = ("headstart-saved-features/1", "headstart-saved-features/2")
"""the first where a reader of the first versions can read it; see `packed_samples`"""
PIECE_NBYTES = 16 << 20
MAX_DESCRIPTION_NBYTES = 16 << 20  # a hundred thousand classes
MAX_SAMPLES = 1 << 31

_DIGEST = re.compile(r"[0-9a-f]{32}")
_CURE = "copy the folder again, or save the features again with replace=True"


@dataclass(frozen=True)
class Description:
    """What features.json says."""

    name: str
    classes: list[str]
    samples: str
    """Digest of the samples' file."""
    count: int
    named: bool
    """Whether somebody chose the classes' names."""
    task: str
    splits: list[Part]
    """What the samples are a part of."""
    cuts: list[tuple[str, list[str]]]
    """Cut, and the digest of each view's trunk key."""


class _SavedFolder(FeatureFolder):
    """A folder that is only read: use is not recorded in it."""

    def touch(self) -> None:
        pass

    def mark_checked(self, shard: str, by: str) -> None:
        pass


def save(features: ReadableFeatures, folder: str | os.PathLike[str], replace: bool = False) -> Path:
    """See `FeatureSet.save`."""
    target = check_free(folder, replace)
    if not len(features):
        raise SettingError("there are no samples to save")
    every = [features.folder(cut, view) for cut in features.cuts for view in range(features.views)]
    folders = {one.key.digest: one for one in every}
    for source in folders.values():
        if _same(source.path.parent.parent, target):
            raise SettingError(f"{target} is the store that these features are in; choose another folder")
    earlier = _keys_of(target)
    with saving(target):
        make_folder(target)
    for digest, source in folders.items():
        _copy(source, _SavedFolder(target / "features" / digest, source.key), features.ids, target)
    annotations = features.annotations
    samples = packed_samples.written(features.ids, annotations)
    digest = blake3(samples).hexdigest(length=16)
    content = {
        "format": FORMATS[0] if packed_samples.is_plain(annotations) else FORMATS[1],
        **({"task": annotations.task} if annotations.task != SINGLE else {}),
        "headstart": __version__,
        "name": features.name,
        "classes": list(features.classes),
        "named_classes": features.named_classes,
        "splits": [part.as_dict() for part in features.splits],
        "model": {k: v for k, v in features.key(features.cuts[0]).label.items() if k in ("model", "weights")},
        "samples": {"file": _samples_file(digest), "count": len(features), "blake3": digest},
        "cuts": [
            {"cut": cut, "views": [features.key(cut, view).digest for view in range(features.views)]}
            for cut in features.cuts
        ],
    }
    with saving(target), writing_into(target):
        replace_whole(target / _samples_file(digest), [samples])
        replace_whole(target / DESCRIPTION, [_text(content)])
        _clear(target, earlier - set(folders), digest)
    return target


def check_free(folder: str | os.PathLike[str], replace: bool) -> Path:
    """The folder's absolute path; SettingError where a saved set is there that is not to be replaced."""
    target = expanded(folder).absolute()
    for place in (target / "features", *(target / "features").glob("*")):
        if place.is_symlink():
            raise SettingError(
                f"{place} is a link, and what is replaced in a saved set would be deleted behind it; remove the "
                "link, or choose another folder"
            )
    if not replace and os.path.lexists(target / DESCRIPTION):
        raise SettingError(
            f"{target} holds a saved feature set already; replace it (replace=True, or --replace), or choose "
            "another folder"
        )
    return target


def _copy(source: FeatureFolder, target: FeatureFolder, ids: Sequence[str], root: Path) -> None:
    """Bring the rows of these samples from one folder to the other, those that it lacks; read what it has."""
    distinct_ids = list(dict.fromkeys(ids))
    shape = source.row_shape
    if shape is None:
        raise StoreError(f"{source.path} has no features any more; extract them again")
    row_nbytes = int(np.prod(shape, dtype=np.int64)) * source.dtype.itemsize
    step = max(1, PIECE_NBYTES // max(1, row_nbytes))
    if target.path.is_dir():
        # Of an earlier save: what was damaged since is set aside, and written anew.
        with saving(root):
            FeatureStore(root, shared=()).verify(repair=True, prefix=target.key.digest)
    lacking = target.missing(distinct_ids)
    with saving(root):
        require_space(root, len(lacking) * row_nbytes, MEND[DiskSpaceError])
    # Shards say what computed their rows, so those of one maker go together.
    made: dict[str, tuple[dict[str, Any], list[NDArray[np.intp]]]] = {}
    for shard, _, places in source.sources(lacking):
        made.setdefault(canonical_json(shard.provenance), (shard.provenance, []))[1].append(places)
    for provenance, parts in made.values():
        with target.writer(shape, source.dtype_name, provenance) as writer:
            of_maker = [lacking[place] for place in np.concatenate(parts)]
            order = source.disk_order(of_maker)
            for start in range(0, len(of_maker), step):
                piece = [of_maker[place] for place in order[start : start + step]]
                rows = source.read(piece)
                with saving(root):
                    writer.add(piece, rows, computed=False)
            with saving(root):
                writer.close()
    if left := target.missing(distinct_ids):
        # They were deleted while they were copied.
        raise StoreError(f"{source.path} has no features of {left[0]} any more; extract them again")


def _clear(root: Path, keys: set[str], samples: str) -> None:
    """Delete the files that belonged to the set before this one, and do not belong to this one."""
    store = FeatureStore(root, shared=())
    store.gc([info for info in store.infos() if info.key in keys])
    for path in root.glob("samples-*.safetensors"):
        if _DIGEST.fullmatch(path.stem.removeprefix("samples-")) and path.name != _samples_file(samples):
            path.unlink(missing_ok=True)


def _keys_of(root: Path) -> set[str]:
    """The trunk keys of the complete set in a folder, if there is one."""
    try:
        return {digest for _, views in description_in(root).cuts for digest in views}
    except SavedFeaturesError:
        return set()


def description_in(root: Path) -> Description:
    """What the folder's features.json says. SavedFeaturesError where it has none, or it is damaged."""
    path = root / DESCRIPTION
    try:
        data = read_whole(path, MAX_DESCRIPTION_NBYTES)
    except FileNotFoundError as error:
        if (root / "features").is_dir():
            raise SavedFeaturesError(
                f"{root} holds features and no {DESCRIPTION}: they were not saved to the end; save them again "
                "(what is there is not copied twice)"
            ) from error
        raise SavedFeaturesError(
            f"{root} is no saved feature set: it has no {DESCRIPTION}; expected a folder that "
            "`FeatureSet.save` wrote"
        ) from error
    except (OSError, EOFError) as error:
        raise SavedFeaturesError(f"cannot read {path}: {error}; {_CURE}") from error
    damaged = SavedFeaturesError(f"{path} is not as it was written: damaged, or edited; {_CURE}")
    if len(data) > MAX_DESCRIPTION_NBYTES:
        raise damaged
    try:
        content = json.loads(data.decode("ascii"))
        checksum = content.pop("checksum")
        # As with trunk.json: it is byte for byte what a writer writes, or it is not.
        if _text(content) != data or checksum != _checksum(content):
            raise damaged
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise damaged from error
    if content.get("format") not in FORMATS:
        raise SavedFeaturesError(
            f"{path} has the format {ascii(content.get('format'))[:80]}, this version reads "
            f"{' and '.join(map(repr, FORMATS))}; another version of headstart has written it"
        )
    try:
        samples = content["samples"]
        about = Description(
            _typed(content["name"], str),
            [_typed(entry, str) for entry in _typed(content["classes"], list)],
            _digest(samples["blake3"]),
            _typed(samples["count"], int),
            # sets of earlier versions do not say
            _typed(content.get("named_classes", not _numbers(content["classes"])), bool),
            _task(content.get("task", SINGLE)),
            [Part.from_dict(part) for part in _typed(content.get("splits", []), list)],
            [
                (_typed(entry["cut"], str), [_digest(view) for view in _typed(entry["views"], list)])
                for entry in _typed(content["cuts"], list)
            ],
        )
        numbers = {len(views) for _, views in about.cuts}
        names = {cut for cut, _ in about.cuts}
        sound = 0 < about.count <= MAX_SAMPLES and len(numbers) == 1 and 0 not in numbers
        if not sound or len(names) != len(about.cuts) or samples["file"] != _samples_file(about.samples):
            raise ValueError("no feature set can be like this")
    except (ValueError, TypeError, KeyError) as error:
        raise SavedFeaturesError(f"{path} does not describe a feature set ({error}); {_CURE}") from error
    return about


def samples_in(root: Path, about: Description) -> tuple[list[str], Annotations]:
    """Ids, and what is known of the samples."""
    path = root / _samples_file(about.samples)
    _require_inside(path, root)
    damaged = SavedFeaturesError(
        f"{path} is not what {DESCRIPTION} says that it is: damaged, or another file; {_CURE}"
    )
    limit = packed_samples.most_nbytes(about.count, about.task, len(about.classes))
    try:
        data = read_whole(path, limit)
    except FileNotFoundError as error:
        raise SavedFeaturesError(f"{path} is missing; {_CURE}") from error
    except (OSError, EOFError) as error:
        raise SavedFeaturesError(f"cannot read {path}: {error}; {_CURE}") from error
    if blake3(data).hexdigest(length=16) != about.samples:
        raise damaged
    try:
        ids, annotations = packed_samples.read(
            load_tensors(data), about.count, about.task, about.classes, about.named
        )
    except (SafetensorError, KeyError, ValueError, RecursionError) as error:
        raise damaged from error
    if wrong := packed_samples.out_of_range(annotations):
        raise SavedFeaturesError(f"{path}: {wrong}; {_CURE}")
    return ids, annotations


def folder_in(root: Path, digest: str, ids: Sequence[str]) -> FeatureFolder:
    """The features of one trunk key. SavedFeaturesError where they are not all there."""
    path = root / "features" / digest
    _require_inside(path, root)
    with _whole_again(path):
        key = read_key(path)
        if key is None:
            raise SavedFeaturesError(f"{path / 'trunk.json'} is missing; {_CURE}")
        folder = _SavedFolder(path, key)
        if missing := folder.missing(ids):
            raise SavedFeaturesError(f"{path} lacks the features of {len(missing)} of {len(ids)} samples; {_CURE}")
    return folder


@contextlib.contextmanager
def _whole_again(path: Path) -> Iterator[None]:
    """What is wrong with the store in a saved set, with the cure that there is for that."""
    try:
        yield
    except SavedFeaturesError:
        raise
    except DamagedShardError as error:
        raise SavedFeaturesError(f"{error.path}: {error.reason}; {_CURE}") from error
    except (StoreError, SettingError, KeyError, TypeError) as error:
        raise SavedFeaturesError(f"{path}: {error}; {_CURE}") from error


def _require_inside(path: Path, root: Path) -> None:
    """A saved set may come from a stranger: a link in it would read this machine's other files."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise SavedFeaturesError(f"{path} leads out of {root}, to {path.resolve()}; copy what it leads to")


def _task(value: Any) -> str:
    if value not in TASKS:
        raise ValueError(f"expected one of {', '.join(TASKS)}, received {ascii(value)[:80]}")
    return str(value)


def _same(path: Path, other: Path) -> bool:
    return path.resolve() == other.resolve()


def _samples_file(digest: str) -> str:
    return f"samples-{digest}.safetensors"


def _text(content: Mapping[str, Any]) -> bytes:
    """The bytes of features.json, its checksum included."""
    whole = {**content, "checksum": _checksum(content)}
    return (json.dumps(whole, indent=2, sort_keys=True) + "\n").encode("ascii")


def _checksum(content: Mapping[str, Any]) -> str:
    return blake3(canonical_json(dict(content)).encode("ascii")).hexdigest(length=16)


def _digest(value: Any) -> str:
    if not isinstance(value, str) or not _DIGEST.fullmatch(value):
        raise ValueError(f"expected 32 hex digits, received {ascii(value)[:80]}")
    return value


def _numbers(names: Sequence[str]) -> bool:
    return list(names) == [str(k) for k in range(len(names))]


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, received {ascii(value)[:80]}")
    return value
