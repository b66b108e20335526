"""Other libraries' map-style sets of (image, label), and lists of such pairs.

Invariant: a picture that lies in a file is read from it, so that it is the same sample as in a folder; images that
are in memory are those of `arrays`. No transform of another library is applied: preprocessing is the model's.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from headstart.common.errors import DataError, HeadstartError, ImageError
from headstart.common.progress import track
from headstart.data.annotations import Annotations, single
from headstart.data.arrays import as_array, check_image, pixels
from headstart.data.dataset import ArraySource, Dataset, FileSource
from headstart.data.encoded import EncodedSource, sound
from headstart.data.labels import labels_of
from headstart.data.left_out import check_on_error
from headstart.data.place import place_of
from headstart.data.table import IMAGE_NAMES, LABEL_NAMES

LABEL_LISTS = ("targets", "labels", "_labels")
PREPROCESSING = "as preprocessing is the model's"
LOOKED_AT = 100
"""samples, one of each label, of a set that lists its labels"""
LOOKED_AT_OWN = 200
"""further ones, all over it, where code of the user's gives them: it may change a few of each label alone"""
INSTALLED = frozenset({"site-packages", "dist-packages"})
"""folders of what is a library's, and not the user's own"""


def wrap(
    source: Any, classes: Sequence[str] | None = None, on_error: str = "raise", truncated: str = "raise"
) -> Dataset:
    """A map-style set of (image, label), as other libraries have them, or a list of such pairs. Images are paths,
    bytes of image files, Pillow images or uint8 arrays `(h, w, 3)`; labels are class numbers or names, as in
    `arrays`.

    A set that lists its files (`.samples`, as an image folder of another library), and a part or a chain of such
    (`.dataset` with `.indices`, `.datasets`), is read from them, without its transforms, which is said. Of
    others the images come from the set when they are asked for, and so must be uint8 or Pillow: a transform to
    floats is refused. Labels that the set lists (`.targets`, `.samples`) are those of its samples, or where one
    of the samples that are looked at has another, they are not taken, which is said. `classes`: default the
    set's own `.classes`, but for labels that a `target_transform`, or the set itself, made of those that are
    listed. Code that lies in no installed package is called by one thread at a time. `on_error`, `truncated`: of
    files and encoded bytes, as of `folder`. Raises DataError for what is no such set, for a chain whose members
    number their classes differently, and for samples that the set does not give.
    """
    check_on_error(on_error)
    if isinstance(source, str | Mapping) or not _is_indexed(source):
        mend = f": {columns_line(source, 'data')}" if isinstance(source, Mapping) and entries_of(source) else ""
        if _is_indexed(getattr(source, "dataset", None)):
            mend = ": of a loader its set, hs.data.wrap(data.dataset), of which a sampler may take a part alone"
        elif not mend and not isinstance(source, str | bytes | Mapping) and hasattr(source, "__iter__"):
            mend = ": of what is read from its beginning to its end, a list: hs.data.wrap(list(data))"
        raise DataError(
            f"the set is a {type(source).__name__}; expected one with a length and (image, label) at each "
            f"position{mend}"
        )
    count = len(source)
    if not count:
        raise DataError("the set has no samples")
    pieces, name = pieces_of(source), _name(source)
    changed = any(callable(getattr(piece.source, "target_transform", None)) for piece in pieces)
    lists_files, notes = all(_lists_files(piece.source) for piece in pieces), list[str]()
    listed = [_listed_labels(piece) if lists_files else _own_labels(piece) for piece in pieces]
    are_listed = all(part is not None for part in listed)
    labels = [label for part in listed for label in part or ()] if are_listed else None
    if labels is not None and (other := _other_label(source, labels)) is not None:
        notes = [f"{name}: labels are those of its samples, not those that it lists: sample {other} has another"]
        lists_files, labels, changed = False, None, True
    names = list(classes) if classes is not None else None if changed else _own_classes(pieces)
    if lists_files and labels is not None:
        samples = [piece.source.samples[i] for piece in pieces for i in piece.positions]
        files = FileSource([str(path) for path, _ in samples], truncated)
        return sound(files, _labels(labels, names, count), name, (), on_error, _notes(source, pieces, name))
    first, alone = _pair(source, 0)[0], _OneAtATime(source)
    if labels is None:
        labels = []
        with track("reading labels", count) as advance:
            for i in range(count):
                labels.append(_pair(source, i)[1])
                advance()
    about = _labels(labels, names, count)
    if isinstance(first, str | os.PathLike):
        files = FileSource([_file(_pair(source, i)[0], i) for i in range(count)], truncated)
        return sound(files, about, name, (), on_error, notes)
    if isinstance(first, bytes | bytearray | memoryview):
        encoded = EncodedSource(
            count,
            lambda i: alone.image(i, _encoded, f"sample {i} of the set"),
            lambda i: f"sample {i} of {name}",
            truncated,
        )
        return sound(encoded, about, name, (), on_error, notes)
    images = _Images(alone, name)
    try:
        _ = images[0]
    except DataError as error:
        if any(getattr(piece.source, "transform", None) is not None for piece in pieces):
            raise DataError(f"{error}. The set has a transform: make it without, {PREPROCESSING}") from None
        raise
    drawn = "if its transform draws at random, make the set without it; if not, open the data set again"
    return Dataset(ArraySource(images, name, drawn), about, name, notes=notes)


class Piece(NamedTuple):
    """Some samples of a set."""

    source: Any
    positions: Sequence[int]


def pieces_of(source: Any) -> list[Piece]:
    """The sets that hold a set's samples, in its order: of a part of another set (`.dataset` with `.indices`) that
    other one, of a chain (`.datasets`) its members; else the set itself."""
    inner, members = getattr(source, "dataset", None), getattr(source, "datasets", None)
    indices: Any = getattr(source, "indices", None)
    if _is_indexed(inner) and hasattr(indices, "__len__") and len(indices) == len(source):
        _check_places(indices)
        flat = [(piece.source, i) for piece in pieces_of(inner) for i in piece.positions]
        chosen = [flat[int(i)] for i in indices]
        pieces: list[Piece] = []
        for held, i in chosen:
            if pieces and pieces[-1].source is held:
                pieces[-1].positions.append(i)  # type: ignore[attr-defined]
            else:
                pieces.append(Piece(held, [i]))
        return pieces
    if isinstance(members, list) and all(map(_is_indexed, members)) and sum(map(len, members)) == len(source):
        return [piece for member in members for piece in pieces_of(member)]
    return [Piece(source, range(len(source)))]


def _check_places(indices: Any) -> None:
    """DataError for a mask in place of the positions of a part's samples: it takes the first two samples alone."""
    dtype = getattr(indices, "dtype", None)
    some = () if dtype is not None else indices
    if str(dtype).rpartition(".")[2] == "bool" or any(isinstance(i, bool | np.bool_) for i in some):
        raise DataError(
            "the indices of a part of a set are booleans, which count as 0 and 1; expected positions: "
            "np.flatnonzero(mask)"
        )


def is_map_style(thing: Any) -> bool:
    """Whether it is a set of pairs of an image that is read here and a label, other than a list; its first sample
    is looked at unless it says its classes."""
    if isinstance(thing, list | tuple | str | bytes | Mapping | np.ndarray) or not _is_indexed(thing):
        return False
    pieces = pieces_of(thing) if len(thing) else []
    if not pieces:
        return False
    if all(
        _own_classes([piece]) and (_lists_files(piece.source) or _lists_labels(piece.source)) for piece in pieces
    ):
        return True
    try:
        image, label = _pair(thing, 0)
    except Exception:  # another library's: whatever its samples are, they are not these
        return False
    if getattr(label, "ndim", 0) or (not isinstance(label, str | int | np.integer) and not hasattr(label, "item")):
        return False
    if isinstance(image, str | bytes | os.PathLike | Image.Image):
        return True
    return isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim in (2, 3)


def entries_of(sample: Any) -> tuple[str, str] | None:
    """Under which names a dict has an image and a label, or many of each; None where it is none, or does not
    say."""
    if not isinstance(sample, Mapping):
        return None
    images, labels = (
        [str(name) for name in sample if str(name).lower() in known.split()]
        for known in (IMAGE_NAMES, LABEL_NAMES)
    )
    return (images[0], labels[0]) if images and labels else None


def pairs_line(sample: Any, source: str) -> str:
    """The line that makes a data set of what gives such samples, dicts of an image and a label, or more than these
    two; "" of others. `source`: what gives them, in code."""
    if isinstance(sample, Sequence) and not isinstance(sample, str | bytes) and len(sample) > 2:
        return f"hs.data.wrap([(sample[0], sample[1]) for sample in {source}]), where these are image and label"
    if (names := entries_of(sample)) is None:
        if not isinstance(sample, Mapping) or len(sample) < 2:
            return ""
        keys = ", ".join(map(repr, list(sample)[:5]))
        return f"hs.data.wrap([(sample[image], sample[label]) for sample in {source}]), with their names of {keys}"
    return f"hs.data.wrap([(sample[{names[0]!r}], sample[{names[1]!r}]) for sample in {source}])"


def columns_line(columns: Any, source: str) -> str:
    """The same of a dict of all images and all labels."""
    if (names := entries_of(columns)) is None:
        return ""
    return f"hs.data.arrays({source}[{names[0]!r}], {source}[{names[1]!r}])"


def _is_indexed(source: Any) -> bool:
    return hasattr(source, "__len__") and hasattr(source, "__getitem__")


def _notes(source: Any, pieces: Sequence[Piece], name: str) -> list[str]:
    """What is said of transforms, and of other code of the set, that are not applied to its files."""
    left: list[str] = []
    if any(getattr(piece.source, "transform", None) is not None for piece in pieces):
        left.append(f"{name}: its files are read without its transform, {PREPROCESSING}")
    loaders = [getattr(piece.source, "loader", None) for piece in pieces]
    if any(callable(loader) and not _is_of_a_library(loader) for loader in loaders):
        left.append(f"{name}: its files are read without its loader; of what that makes, make pairs")
    if _has_own_code(source):
        left.append(f"{name}: its files are read, and not what its own __getitem__ makes of them")
    return left


def _is_of_a_library(code: Any) -> bool:
    module = sys.modules.get(getattr(code, "__module__", None) or "")
    return not INSTALLED.isdisjoint(Path(getattr(module, "__file__", None) or "").parts)


def _has_own_code(source: Any) -> bool:
    """Whether samples of a set, or of one that it is a part or a chain of, come from code of the user's, which may
    make others of them than lie in the files."""
    if not _is_of_a_library(getattr(type(source), "__getitem__", None)):
        return True
    members = getattr(source, "datasets", None)
    held = [getattr(source, "dataset", None), *(members if isinstance(members, list) else [])]
    return any(_is_indexed(inner) and _has_own_code(inner) for inner in held)


def _other_label(source: Any, labels: list[Any]) -> int | None:
    """The first sample, of one of each label that is listed, that has another label than that; of a set with code
    of the user's also of some all over it. What the set does not give, or not as a pair, tells nothing."""
    first: dict[str, int] = {str(_plain(label)): i for i, label in reversed([*enumerate(labels)])}
    looked_at = set(sorted(first.values())[:LOOKED_AT])
    if _has_own_code(source):
        looked_at |= set(np.linspace(0, len(labels) - 1, LOOKED_AT_OWN).astype(int).tolist())
    for i in sorted(looked_at):
        try:
            label = _pair(source, i)[1]
        except HeadstartError:
            continue
        if str(_plain(label)) != str(_plain(labels[i])):
            return i
    return None


class _OneAtATime:
    """The images of a set. Code of the user's makes one at a time, whoever asks: it may have an open file or a
    random state for all of its samples, and then two threads get each other's."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self._lock = self._made_lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"source": self.source}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["source"])  # type: ignore[misc]

    def image(self, index: int, taken: Callable[[Any, str], Any], what: str = "") -> Any:
        """The image at a position, as `taken` makes it of the image and `what` errors call it."""
        with self._lock:
            return taken(_pair(self.source, index)[0], what)

    def _made_lock(self) -> AbstractContextManager[Any]:
        shares = not isinstance(self.source, list | tuple) and _has_own_code(self.source)
        return threading.Lock() if shares else nullcontext()


class _Images(Sequence[np.ndarray]):
    """The images of a set as uint8 arrays, each made when it is asked for."""

    def __init__(self, pairs: _OneAtATime, name: str) -> None:
        self._pairs = pairs
        self._name = name

    def __len__(self) -> int:
        return len(self._pairs.source)

    def __getitem__(self, index: Any) -> Any:
        what = f"image {index} of {self._name}"
        image = self._pairs.image(int(index), pixels, what)
        check_image(image, what)
        return image


def _encoded(image: Any, what: str) -> bytes:
    if not isinstance(image, bytes | bytearray | memoryview):
        raise DataError(
            f"{what} is a {type(image).__name__}, and the first is the bytes of a file; expected one kind"
        )
    return bytes(image)


def _file(image: Any, index: int) -> str:
    if not isinstance(image, str | os.PathLike):
        raise DataError(
            f"sample {index} of the set is a {type(image).__name__}, and the first names a file; expected one kind"
        )
    return place_of(image)


def _pair(source: Any, index: int) -> tuple[Any, Any]:
    try:
        item = source[index]
    except (Image.DecompressionBombError, UnidentifiedImageError) as error:
        raise ImageError(f"sample {index} of the set", " ".join(str(error).split())) from error
    except HeadstartError:
        raise
    except IndexError as error:
        raise DataError(f"the set has a length of {len(source)}, and no sample {index} ({error})") from error
    except Exception as error:  # another library's, or the user's
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise DataError(f"sample {index} of the set cannot be had: {reason}") from error
    if (
        isinstance(item, Mapping)
        or not isinstance(item, Sequence)
        or len(item) != 2
        or isinstance(item, str | bytes)
    ):
        mend = pairs_line(item, "data") or (
            "hs.data.arrays takes images and labels apart, hs.data.huggingface data sets of that library"
        )
        raise DataError(
            f"sample {index} of the set is a {type(item).__name__}; expected a pair (image, label). {mend}"
        )
    image, label = item
    if isinstance(label, Image.Image):
        raise DataError(f"the label of sample {index} is an image; expected a class, as a number or a name")
    return image, label


def _lists_files(source: Any) -> bool:
    samples, classes = getattr(source, "samples", None), getattr(source, "classes", None)
    if not isinstance(samples, list) or not samples or not isinstance(classes, list | tuple):
        return False
    if len(samples) != len(source):  # it takes some of them, and which is known to its own code
        return False
    return all(isinstance(pair, tuple) and len(pair) == 2 for pair in samples[:10]) and isinstance(
        samples[0][0], str | os.PathLike
    )


def _lists_labels(source: Any) -> bool:
    return any(getattr(source, name, None) is not None for name in LABEL_LISTS)


def _own_labels(piece: Piece) -> list[Any] | None:
    """What the set lists of its labels, so that no image is read for them."""
    source = piece.source
    for name in LABEL_LISTS:
        values = getattr(source, name, None)
        if values is not None and not callable(values):
            values = values.tolist() if hasattr(values, "tolist") else values
            if isinstance(values, list) and len(values) == len(source):
                return _transformed(source, [values[i] for i in piece.positions])
    return None


def _listed_labels(piece: Piece) -> list[Any]:
    """The labels beside the files that a set lists."""
    return _transformed(piece.source, [piece.source.samples[i][1] for i in piece.positions])


def _transformed(source: Any, labels: list[Any]) -> list[Any]:
    transform = getattr(source, "target_transform", None)
    return [transform(label) for label in labels] if callable(transform) else labels


def _own_classes(pieces: Sequence[Piece]) -> list[str] | None:
    """The names that all these sets have for their classes; None where one has none. DataError where one number
    is named differently by two of them."""
    names = []
    for piece in pieces:
        classes = getattr(piece.source, "classes", None)
        if (
            not isinstance(classes, list | tuple)
            or not classes
            or not all(isinstance(name, str) for name in classes)
        ):
            return None
        if (numbered := _by_number(classes, getattr(piece.source, "class_to_idx", None))) is None:
            return None
        names.append(numbered)
    longest = max(names, key=len)
    for shorter in names:
        if shorter != longest[: len(shorter)]:
            k = next(k for k, name in enumerate(shorter) if name != longest[k])
            raise DataError(
                f"the sets of the chain number their classes differently: class {k} is {shorter[k]!r} in one and "
                f"{longest[k]!r} in another. Make pairs with names of them, (image, data.classes[label]), or say "
                "what the numbers are called: classes=[...]"
            )
    return longest


def _labels(labels: list[Any], classes: Sequence[str] | None, count: int) -> Annotations:
    try:
        read = labels_of([_plain(label) for label in labels], classes, count, "sample")
    except DataError as error:
        if "task=" not in str(error):
            raise
        raise DataError(f"{error} (of hs.data.arrays, which takes images and labels apart)") from None
    return single(read.numbers, read.classes, read.named)


def _by_number(classes: Sequence[str], numbers: Any) -> list[str] | None:
    """The names in the order of their numbers, where the set says these as well (`.class_to_idx`); None where two
    names have one number, or one has none."""
    if not isinstance(numbers, Mapping) or not set(classes) <= set(numbers):
        return list(classes)
    place = {numbers[name]: name for name in classes}
    return [place[k] for k in range(len(classes))] if set(place) == set(range(len(classes))) else None


def _plain(label: Any) -> Any:
    """A label as Python has it, of a tensor or array that holds one; of one that holds more, as an array."""
    if isinstance(label, str) or not (hasattr(label, "item") or hasattr(label, "__array__")):
        return label
    try:
        return label.item() if hasattr(label, "item") else np.asarray(label).item()
    except Exception:  # several values, in words of each library's
        return as_array(label, "a label")


def _name(source: Any) -> str:
    return "pairs" if isinstance(source, list | tuple) else type(source).__name__.lower()
