"""WebDataset's tars: `key.jpg key.cls key.json`, a sample's files side by side under one key.

Invariant: only headers are read when a tar is opened; a sample's bytes are read where they lie when they are asked
for, and nothing is ever unpacked. What a header claims is compared with the file's size before it is believed, and
what lies in a tar that was changed since it was opened is not read: its labels may be others'.
"""

from __future__ import annotations

import os
import posixpath
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from headstart.common.errors import DataError, DataWarning, ImageError
from headstart.data.annotations import REGRESSION, unlabelled
from headstart.data.columns import is_missing, labels_in
from headstart.data.dataset import Dataset
from headstart.data.encoded import EncodedSource, sound
from headstart.data.formats import PREFIX_NBYTES, SUFFIXES, kind_of
from headstart.data.json_text import at_odds, parsed
from headstart.data.label_positions import names_of
from headstart.data.left_out import SKIP, Skipped, check_on_error
from headstart.data.limits import MAX_NBYTES
from headstart.data.litter import is_litter
from headstart.data.missing_labels import rows_of_classes
from headstart.data.place import absolute, expanded, is_remote, place_of
from headstart.data.signatures import COMPRESSED, TAR, UNPACK, what_is

IMAGES = frozenset(suffix.lstrip(".") for suffix in SUFFIXES)
ARRAY, NUMPY = "npy", "NumPy"
LABELS = ("cls", "json", "txt")
NAMELESS = ("cls", "txt")
"""of these, what holds a label and no name for it"""
MAX_LABEL_NBYTES = 1 << 20
MAX_SHARDS = 100_000
PIECE = 1 << 20  # bytes
MAX_LINKS = 40  # one after another, as of a file system
RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")


class _Shard(NamedTuple):
    path: str
    file: str
    """the same, wherever this process goes"""
    nbytes: int
    mtime_ns: int

    def __str__(self) -> str:
        return self.path

    def at(self, file: int | str) -> _Shard:
        """As it is now; `file`: a path, or what is open."""
        about = os.stat(file)  # noqa: PTH116 - an open file, too
        return self._replace(nbytes=about.st_size, mtime_ns=about.st_mtime_ns)


@dataclass
class _Member:
    shard: _Shard
    name: str
    offset: int
    nbytes: int

    def read(self) -> bytes:
        try:
            with open(self.shard.file, "rb") as file:  # noqa: PTH123
                if self.shard.at(file.fileno()) != self.shard:
                    raise DataError(f"{self.shard} was changed since it was opened; open the data set again")
                file.seek(self.offset)
                return file.read(self.nbytes)
        except OSError as error:  # gone, or on a disk that is
            reason = f"cannot be read ({error.strerror or error})"
            raise ImageError(f"{self.name} in {self.shard}", reason) from error


class _Link(NamedTuple):
    name: str
    to: str
    """as it is written"""
    is_symbolic: bool

    @property
    def target(self) -> str:
        """What it leads to, as a tidied name in the tar."""
        return posixpath.normpath(posixpath.join(posixpath.dirname(self.name) * self.is_symbolic, self.to))


@dataclass
class _Sample:
    key: str
    shard: _Shard
    image: _Member | None = None
    is_array: bool = False
    """whether the image is a .npy; any other file under the key that is an image comes before it"""
    lost: str = ""
    """why what is called as an image cannot be taken, where nothing else under the key is one"""
    beside: dict[str, _Member] = field(default_factory=dict)
    odd: list[_Member] = field(default_factory=list)
    """what is called neither as an image nor as a label"""


def webdataset(
    shards: str | Path | Sequence[str | Path],
    *,
    label: str | None = None,
    classes: Sequence[str] | None = None,
    task: str | None = None,
    separator: str | None = None,
    on_error: str = "raise",
    truncated: str = "raise",
) -> Dataset:
    """Images in tars as WebDataset has them. `shards`: a tar, a list of such, or a pattern with numbers from
    `{000..009}`.

    `label`: "cls" or "txt", the file beside the image that holds its label, or the name of a field of its "json";
    None: whichever of the two files there is, or the field "label". Whole numbers are positions in `classes`
    where these are given and do not name all of them, else names as any other. `task`, `separator`, `truncated`:
    as in `table`. With `on_error="skip"`, samples without a label, without an image, and with one that does not
    decode are left out and listed in `.skipped`.

    Raises DataError for a tar that cannot be read, is compressed, was changed since, or holds no image, and for
    samples without a label, or without an image.
    """
    return tar_set(
        shards,
        label=label,
        classes=classes,
        task=task,
        separator=separator,
        on_error=on_error,
        truncated=truncated,
        implied=False,
    )


def tar_set(
    shards: str | Path | Sequence[str | Path],
    *,
    label: str | None = None,
    classes: Sequence[str] | None,
    task: str | None = None,
    separator: str | None = None,
    on_error: str,
    truncated: str,
    implied: bool,
) -> Dataset:
    """`webdataset`. `implied`: the classes are those of a run or of other data, and nobody has said that numbers
    are positions in them; where they are taken so, that is a DataWarning."""
    check_on_error(on_error)
    paths = _paths(shards)
    every = [sample for path in paths for sample in _samples(path)]
    samples = [sample for sample in every if sample.image is not None]
    if not samples:
        raise DataError(f"{_named(paths)} holds no image ({' '.join(sorted(IMAGES))})")
    source, values = _labels(samples, label)
    skipped = _without_image(every, source, label, on_error)

    def place(i: int) -> str:
        return f"{samples[i].key} in {samples[i].shard}"

    if without := [i for i, value in enumerate(values) if is_missing(value)]:
        what = f"{len(without):,} of {len(samples):,} samples have no label ({source})"
        if on_error == "raise" or len(without) == len(samples):
            raise DataError(
                f"{what}, the first: {place(without[0])}. Beside an image lies its .cls, .txt or .json; a tar of "
                "class folders is no such set: unpack it, and name the folder"
                + f"; or leave these out: {SKIP}"
                * (len(without) < len(samples))
            )
        skipped.append(Skipped(_named(paths), what))
        samples = [sample for sample, value in zip(samples, values, strict=True) if not is_missing(value)]
        values = [value for value in values if not is_missing(value)]
    classes = None if classes is None else list(classes)
    if on_error != "raise":
        kept, of_none = rows_of_classes(_named(paths), values, None, classes, task, separator, "samples")
        if kept is not None:
            skipped += of_none
            samples, values = [samples[i] for i in kept], [values[i] for i in kept]
    notes: list[str] = []
    if classes is not None and task != REGRESSION:
        values, notes = names_of(values, classes, f"{_named(paths)}: labels ({source})", implied, place)
    column = source
    if task == REGRESSION and classes is not None and len(classes) == 1 and source in NAMELESS:
        column = classes[0]  # such a file has no name for what it holds
    about = labels_in([(column, values)], task=task, classes=classes, separator=separator, place=place)

    def fetch(i: int) -> bytes:
        member = samples[i].image
        assert member is not None
        return member.read()

    name = Path(paths[0]).name.split(".")[0]
    return sound(EncodedSource(len(samples), fetch, place, truncated), about, name, skipped, on_error, notes)


def is_tar(path: str | Path) -> bool:
    """Whether it is the name of a tar, or of several with numbers from `{000..009}`, and no folder."""
    if not str(path).lower().endswith(".tar"):
        return False
    return is_remote(path) or not expanded(path).is_dir()


def tar_pictures(
    shards: Sequence[str | Path], on_error: str = "raise", truncated: str = "raise", *, examine: bool = True
) -> Dataset:
    """The images of tars, in their order, without labels; see `webdataset`. With `on_error="skip"` and
    `examine=False` what is called as an image and cannot be taken keeps its place, and raises when it is read."""
    paths = _paths(shards)
    samples = [sample for path in paths for sample in _samples(path) if sample.image is not None or sample.lost]
    if all(sample.image is None for sample in samples):
        raise DataError(f"{_named(paths)} holds no image ({' '.join(sorted(IMAGES))}){_lost(samples)}")
    if on_error == "raise" and (said := _lost(samples)):
        raise DataError(f"{_named(paths)}{said}. Or leave out what cannot be read: {SKIP}")

    def place(i: int) -> str:
        return f"{samples[i].key} in {samples[i].shard}"

    def fetch(i: int) -> bytes:
        member = samples[i].image
        if member is None:
            raise ImageError(place(i), samples[i].lost)
        return member.read()

    source = EncodedSource(len(samples), fetch, place, truncated)
    name = Path(paths[0]).name.split(".")[0]
    return sound(source, unlabelled(len(samples)), name, (), on_error if examine else "raise")


def _lost(samples: Sequence[_Sample]) -> str:
    """How many have an image only by its name, and why the first cannot be taken; "" where none has."""
    lost = [sample for sample in samples if sample.image is None and sample.lost]
    first = lost and f"{lost[0].key} in {lost[0].shard} {lost[0].lost}"
    return f": {len(lost):,} of {len(samples):,} images cannot be read, the first: {first}" if lost else ""


def _paths(shards: str | Path | Sequence[str | Path]) -> list[str]:
    listed = [shards] if isinstance(shards, str | os.PathLike) else list(shards)
    paths: list[str] = []
    for shard in listed:
        paths += _numbered(place_of(shard))
        if len(paths) > MAX_SHARDS:
            raise DataError(f"there are more than {MAX_SHARDS:,} shards")
    for path in paths:
        if is_remote(path):
            raise DataError(
                f"{path}: tars are read from this machine only; download it. A URL can be a folder's or a table's"
            )
        if not Path(path).is_file():
            raise DataError(
                f"there is no file {path}; expected tars, or a pattern such as shards-{{000..009}}.tar"
            )
    if not paths:
        raise DataError("there are no shards; expected at least one tar")
    return paths


def _numbered(pattern: str) -> list[str]:
    """ "a-{08..10}.tar" as its three names."""
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = int(match[1]), int(match[2])
    if not 0 <= last - first < MAX_SHARDS:
        raise DataError(f"{pattern} names {last - first + 1:,} shards; expected 1 to {MAX_SHARDS:,}")
    return [
        name
        for number in range(first, last + 1)
        for name in _numbered(f"{pattern[: match.start()]}{number:0{len(match[1])}d}{pattern[match.end() :]}")
    ]


def _without_image(every: Sequence[_Sample], source: str, label: str | None, on_error: str) -> list[Skipped]:
    """What is left out as it has a label and no image. DataError for such with `on_error="raise"`."""
    bare = [sample for sample in every if sample.image is None]
    values = _labels(bare, label or source)[1]
    bare = [s for s, value in zip(bare, values, strict=True) if s.lost or not is_missing(value)]
    if not bare:
        return []
    first = bare[0]
    what = f"{len(bare):,} of {len(every):,} samples have a label ({source}) and no image that lies in the tar"
    if on_error == "raise":
        reason = f", whose image {first.lost}" if first.lost else ""
        raise DataError(
            f"{what}, the first: {first.key} in {first.shard}{reason}. Images are called "
            f"{' '.join(sorted(IMAGES))}, or begin as such do; or leave these out: {SKIP}"
        )
    return [Skipped(str(first.shard), what)]


def _key_of(name: str) -> tuple[str, str]:
    """The key under which a file lies, and its kind."""
    base = name.rpartition("/")[2]
    stem, _, suffix = base.partition(".")
    return name[: len(name) - len(base)] + stem, suffix.lower().rpartition(".")[2]


def _samples(path: str) -> list[_Sample]:
    """What lies under each key, in the tar's order."""
    import tarfile  # rarely needed, and slow to import

    samples: dict[str, _Sample] = {}
    links: dict[str, _Link] = {}
    shard = _Shard(path, absolute([path])[0], 0, 0).at(path)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in iter(tar.next, None):
                tar.members.clear()  # type: ignore[attr-defined]  # else all would be kept
                if member.isdir() or any(map(is_litter, _parts(member.name))):
                    continue
                key, kind = _key_of(member.name)
                sample = samples.setdefault(key, _Sample(key, shard))
                if member.islnk() or member.issym():
                    links[posixpath.normpath(member.name)] = _Link(member.name, member.linkname, member.issym())
                elif not member.isreg() or member.issparse():
                    if kind in IMAGES:
                        sample.lost = "is neither a plain file nor a link"
                elif member.size < 0 or member.offset_data + member.size > shard.nbytes:
                    raise DataError(f"{path} breaks off in {member.name[:80]!a}; get it again")
                else:
                    _put(sample, kind, _Member(shard, member.name, member.offset_data, member.size))
            _check_end(path, tar.fileobj, tar.offset, shard.nbytes)
            _follow(links, samples)
            _find_by_content(samples, tar.fileobj)
    except DataError:
        raise
    except Exception as error:  # tarfile raises anything over a hostile header
        raise DataError(f"{path} cannot be read as a tar: {_no_tar(path, error)}") from error
    return list(samples.values())


def _no_tar(path: str, error: Exception) -> str:
    """Why a file cannot be read as a tar, and what to do, by what it is."""
    with open(path, "rb") as file:  # noqa: PTH123
        prefix = file.read(PREFIX_NBYTES)
    what, remedy = what_is(prefix)
    if not what or what == TAR:
        return str(error)[:200] or type(error).__name__
    if what in COMPRESSED:
        return "it is compressed; unpack it to a plain .tar, in which samples can be read singly"
    if remedy == UNPACK:
        return (
            f"it is {what}; unpack it, and name the folder where that holds a folder a class, or pack the same "
            "files as a plain .tar (tar cf samples.tar -C FOLDER .)"
        )
    return f"it is {what}" + (f": {remedy}" if remedy else "")


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _check_end(path: str, file: Any, end: int, nbytes: int) -> None:
    """`end`: where the last member ended. A damaged header, and the end of the first of several tars in one file,
    are the end to `tarfile`: DataError where anything follows, DataWarning where no mark of the end does."""
    file.seek(end)
    for piece in iter(lambda: file.read(PIECE), b""):
        if piece.strip(b"\0"):
            raise DataError(
                f"{path} goes on behind its end, which is at byte {end:,} of {nbytes:,}: it is damaged there, or "
                "several tars were joined; get it again, or name these one by one"
            )
    if end >= nbytes:
        warnings.warn(
            f"{path} has no mark of its end: if it was cut off, samples are missing; get it again",
            DataWarning,
            stacklevel=5,
        )


def _find_by_content(samples: Mapping[str, _Sample], file: Any) -> None:
    """Images that are not called as such, where nothing else under their key is one."""
    for sample in samples.values():
        for member in sample.odd if sample.image is None and not sample.lost else ():
            file.seek(member.offset)
            if kind_of(file.read(min(member.nbytes, PREFIX_NBYTES))) not in (None, NUMPY):  # which are features
                _put_image(sample, member)


def _put(sample: _Sample, kind: str, member: _Member) -> None:
    """A file where it belongs, by what it is called. DataError for a second image, and one that is too large."""
    if kind in LABELS:
        sample.beside[kind] = member
    elif kind not in IMAGES:
        sample.odd.append(member)
    elif kind != ARRAY or sample.image is None:  # else something about the picture, such as its features
        _put_image(sample, member)
        sample.is_array = kind == ARRAY


def _put_image(sample: _Sample, member: _Member) -> None:
    if member.nbytes > MAX_NBYTES:
        raise DataError(
            f"{member.shard}: {member.name[:80]!a} has {member.nbytes:,} bytes; an encoded image may have "
            f"{MAX_NBYTES:,}"
        )
    if sample.image is not None and not sample.is_array:
        raise DataError(
            f"{member.shard} has two images under the key {sample.key[:80]!a}, which ends at a name's first dot: "
            f"{sample.image.name[-80:]!a} and {member.name[-80:]!a}; rename them, or unpack it and name the folder"
        )
    sample.image = member


def _follow(links: Mapping[str, _Link], samples: Mapping[str, _Sample]) -> None:
    """Take what hard and symbolic links lead to, which may lie behind them: files of the tar, and no others.
    `links`: by their tidied names."""
    for first in links.values():
        target = first.target
        for _ in range(MAX_LINKS):
            if target not in links:
                break
            target = links[target].target
        key, kind = _key_of(first.name)
        if (member := _file_at(target, samples)) is not None:
            _put(samples[key], kind, member)
        elif kind in IMAGES:
            samples[key].lost = f"is a link to {first.to[:80]!a}, which is no file in the tar"


def _file_at(name: str, samples: Mapping[str, _Sample]) -> _Member | None:
    key, kind = _key_of(name)
    # As tar writes it of "tar cf x.tar ." the names begin with "./".
    if (sample := samples.get(key) or samples.get(f"./{key}")) is None:
        return None
    odd = (member for member in sample.odd if posixpath.normpath(member.name) == name)
    member = sample.image if kind in IMAGES else sample.beside.get(kind) or next(odd, None)
    return member if member is not None and posixpath.normpath(member.name) == name else None


def _labels(samples: Sequence[_Sample], label: str | None) -> tuple[str, list[Any]]:
    """Where the labels are from, and one a sample; None where there is none."""
    kind = label if label in NAMELESS else None
    if label is None:
        endings = (ending for ending in NAMELESS if any(ending in sample.beside for sample in samples))
        kind = next(endings, None)
        if kind == "txt" and any("json" in sample.beside for sample in samples):
            kind = None  # a caption, then
    if kind is not None:
        return kind, [_text(sample, kind) for sample in samples]
    name = label or "label"
    return name, [_field(sample, name) for sample in samples]


def _text(sample: _Sample, kind: str) -> str | None:
    member = sample.beside.get(kind)
    if member is None:
        return None
    if member.nbytes > MAX_LABEL_NBYTES:
        raise DataError(f"the label of {sample.key} in {sample.shard} has {member.nbytes:,} bytes")
    try:
        return member.read().decode("utf-8-sig").strip()  # as editors of Windows write it
    except UnicodeDecodeError:
        raise DataError(f"the {kind} of {sample.key} in {sample.shard} is no text in UTF-8") from None


def _field(sample: _Sample, name: str) -> Any:
    text = _text(sample, "json")
    if text is None:
        return None
    try:
        content = parsed(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"the json of {sample.key} in {sample.shard} is none ({error})") from None
    if (key := at_odds(content, name)) is not None:
        raise DataError(f"the json of {sample.key} in {sample.shard} has the key {key!r} twice, with two values")
    return content.get(name) if isinstance(content, dict) else None


def _named(paths: Sequence[str]) -> str:
    return paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
