"""What a data set is: a source that every split of it shares, and the indices this one holds.

A sample's id is the digest of the very bytes its image was decoded from, computed at each load. Where it is
not the id that was computed before, the file was changed in between, and that is an error: an image is never
paired with another image's features or label.
"""

from __future__ import annotations

import contextlib
import json
import operator
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from blake3 import blake3
from PIL import Image

from headstart.common.errors import DataError, ImageError
from headstart.data.annotations import MULTI, REGRESSION, SINGLE, Annotations
from headstart.data.any_files import files_for
from headstart.data.decode import WHOLE, Jpegs, check_truncated, decoded
from headstart.data.draws import drawn
from headstart.data.file_system import Files
from headstart.data.id_index import Hashed, IdIndex
from headstart.data.left_out import SKIP, Skipped
from headstart.data.place import absolute
from headstart.data.read_ahead import Read, reading
from headstart.data.remarks import Remarks
from headstart.data.rows import ALONE, Entries, count, each, entries_of
from headstart.data.samples import Samples
from headstart.data.splits import Part
from headstart.data.workers import in_threads

MEND = f". Mend or remove the file, or leave out all that cannot be read: {SKIP}"
AGAIN = "open the data set again"
LOOKED_AT = 16  # samples that have to be read, whenever their stored features are asked for: at least
MOST_LOOKED_AT = 4096  # and at most; likewise of files, by stat alone
MOMENT_SECONDS = 0.1  # in which others than the first are read
RECORDED_AT_ONCE = 4096  # files; what a killed process has hashed in vain is less


class Sample(NamedTuple):
    """One image, or other input, with its label."""

    image: Any  # (h, w, 3) uint8; other inputs as they are, an array or a dict of arrays
    label: Any  # an int, position in the data set's classes; `(k,)` uint8 or `(d,)` float32 of the other tasks
    id: str  # 32 hex digits, the digest of the encoded source bytes


def sample_id(encoded: bytes) -> str:
    """32 hex digits: the first 16 bytes of blake3 of a sample's encoded bytes."""
    return blake3(encoded).hexdigest(length=16)


class Source(ABC):
    """Where samples come from. Thread-safe: a loader calls it from many threads."""

    entries: Entries | None = None
    """what one sample is; None: an image of any size"""
    fetches: int = 0
    """how many reads should be under way at a time; 0: who decodes may read"""
    in_memory = False
    """whether the samples lie in this process's memory, and not where others can read them"""
    if_changed = AGAIN
    """what to do where a sample is another one than before"""

    def __init__(self, count: int, truncated: str = "raise") -> None:
        """`truncated`: what to do with encoded pictures that break off, see `decode`."""
        check_truncated(truncated)
        self._ids: list[str | None] = [None] * count
        self._keep = truncated == "keep"
        self.remarks = Remarks()
        """what was done to pictures as they were decoded"""

    def __len__(self) -> int:
        return len(self._ids)

    @abstractmethod
    def source_name(self, index: int) -> str:
        """What errors call the sample: its path, or e.g. "image 3 of arrays"."""

    @abstractmethod
    def read(self, index: int) -> Read:
        """The encoded sample and the id of just these bytes."""

    def nbytes(self, index: int) -> int:
        """How many bytes `read` brings, where reading is what takes time."""
        return 0

    @abstractmethod
    def open(self, encoded: Any, index: int, jpegs: Jpegs = WHOLE) -> Any:
        """What `read` gave as an RGB image, or as it is where the source holds no images. `jpegs`: see
        `decoded`."""

    def decode(self, encoded: bytes, index: int, jpegs: Jpegs = WHOLE) -> Image.Image:
        """The picture of an encoded sample; what was done for it is remarked."""
        image, remarks = decoded(encoded, self.source_name(index), self._keep, jpegs)
        self.remarks.add(index, remarks)
        return image

    def load(self, index: int, read: Callable[[], Read] | None = None, jpegs: Jpegs = WHOLE) -> tuple[Any, str]:
        """A sample as it is used, and its id. `read`: gives what was read of it before; None: it is read now.
        `jpegs`: see `decoded`."""
        encoded, id = self.read(index) if read is None else read()
        return self.open(encoded, index, jpegs), self._remember(index, id)

    def ids(self, indices: np.ndarray) -> list[str]:
        """The samples' ids; those not known yet are hashed, in threads."""
        missing = [i for i in dict.fromkeys(indices.tolist()) if self._ids[i] is None]
        if missing:
            self._identify(missing)
        return [str(self._ids[i]) for i in indices.tolist()]

    def check_unchanged(self, indices: np.ndarray) -> None:
        """DataError where samples are others than those whose ids are known: features of what they were would be
        taken for theirs. As many are looked at as a moment allows, in an order that nobody can foretell; what
        cannot be read any more is no other."""
        some, begun = indices[drawn(len(indices), MOST_LOOKED_AT)], time.monotonic()
        for place, i in enumerate(np.random.default_rng().permutation(some).tolist()):
            if place >= LOOKED_AT and time.monotonic() - begun > MOMENT_SECONDS:
                return
            with contextlib.suppress(ImageError):
                self._remember(i, self.read(i)[1])

    def _identify(self, indices: list[int]) -> None:
        """Find these samples' ids."""
        with reading(self, indices) as read:
            in_threads(
                lambda n: read(n)[1],
                range(len(indices)),
                "hashing samples",
                lambda n, id: self._remember(indices[n], id),
            )

    def _remember(self, index: int, id: str) -> str:
        known = self._ids[index]
        if known is not None and known != id:
            raise DataError(
                f"{self.source_name(index)} was changed since it was first read (its id was {known}, "
                f"is {id}); {self.if_changed}"
            )
        self._ids[index] = id
        return id


class FileSource(Source):
    """Encoded image files. Those that have not changed since they were hashed last are not read for their ids.
    They are those of the folder that the process was in when the source was made, wherever it goes afterwards."""

    def __init__(self, paths: Sequence[str], truncated: str = "raise", files: Files | None = None) -> None:
        """`paths`: or URLs, as `place_of` gives them. `files`: where these lie, with what is known of them."""
        super().__init__(len(paths), truncated)
        self.paths = list(paths)
        self._places = absolute(self.paths)
        self.files = files_for(self.paths) if files is None else files
        self.fetches = self.files.fetches
        self._stamps: list[bytes | None] = [None] * len(self.paths)

    def source_name(self, index: int) -> str:
        return self.paths[index]

    def read(self, index: int) -> tuple[bytes, str]:
        try:
            encoded = self.files.read(self._places[index])
        except ImageError as error:  # by the name that somebody gave
            raise ImageError(self.paths[index], error.reason, error.mend) from error
        return encoded, sample_id(encoded)

    def nbytes(self, index: int) -> int:
        return self.files.nbytes(self._places[index])

    def open(self, encoded: bytes, index: int, jpegs: Jpegs = WHOLE) -> Image.Image:
        return self.decode(encoded, index, jpegs)

    def load(self, index: int, read: Callable[[], Read] | None = None, jpegs: Jpegs = WHOLE) -> tuple[Any, str]:
        try:
            return super().load(index, read, jpegs)
        except ImageError as error:
            raise ImageError(error.source, error.reason, MEND) from error

    def check_unchanged(self, indices: np.ndarray) -> None:
        """Of files by what `stat` says, where it can be believed; one that has gone is no other, and what is
        stored of it may be of use."""
        some = indices[drawn(len(indices), MOST_LOOKED_AT)].tolist()
        super().check_unchanged(np.array([i for i in some if self._stamps[i] is None], np.int64))
        some = [i for i in some if self._stamps[i] is not None]
        now = self.files.stamps([self._places[i] for i in some])
        for i, stamp in zip(some, now, strict=True):
            if stamp is not None and stamp != self._stamps[i]:
                self._remember(i, self.read(i)[1])
                self._stamps[i] = stamp

    def was_read(self, index: int) -> bool:
        """Whether the file's bytes were read, by `errors` or for its id."""
        return self._ids[index] is not None

    def errors(self) -> dict[int, ImageError]:
        """Index -> what is wrong with that file, of those that do not decode. What is not known to decode is
        decoded once, in threads; the ids are found on the way."""
        return self._examine(list(range(len(self.paths))), "checking images", decode=True)

    def _identify(self, indices: list[int]) -> None:
        self._examine(indices, "hashing images", decode=False)

    def _examine(self, indices: list[int], what: str, decode: bool) -> dict[int, ImageError]:
        """Find the ids of these files, and with `decode` which do not decode; without, the first that cannot be
        read raises."""
        index = IdIndex()
        paths = [self._places[i] for i in indices]
        stamps = self.files.stamps(paths)
        for i, stamp in zip(indices, stamps, strict=True):
            self._stamps[i] = stamp
        unknown: list[tuple[int, bytes | None]] = []
        for i, stamp, known in zip(indices, stamps, index.look_up(paths, stamps), strict=True):
            if known is not None:
                self._remember(i, known.id)
            if known is None or (decode and not known.decodes):
                unknown.append((i, stamp))
        errors: dict[int, ImageError] = {}
        hashed: list[Hashed] = []

        begun = time.time_ns()

        def examine(n: int) -> tuple[str | None, ImageError | None, bool]:
            (i, before), id = unknown[n], None
            start = begun if self.fetches else time.time_ns()  # read ahead, it may have been read at once
            try:
                encoded, id = read(n)
                kept = before is not None and self.files.is_unchanged(self._places[i], before, start)
                if decode:
                    self.open(encoded, i)
                    kept &= i not in self.remarks  # to be remarked, and counted, the next time as well
            except ImageError as error:
                return id, error, False
            return id, None, kept

        def take(n: int, result: tuple[str | None, ImageError | None, bool]) -> None:
            (i, before), (id, error, kept) = unknown[n], result
            if id is not None:
                self._remember(i, id)
            if error is not None:
                if not decode:
                    raise error
                errors[i] = error
            elif kept and id is not None and before is not None:
                hashed.append(Hashed(self._places[i], before, id, decode))
            if len(hashed) >= RECORDED_AT_ONCE:
                index.record(hashed)
                hashed.clear()

        try:
            with reading(self, [i for i, _ in unknown]) as read:
                in_threads(examine, range(len(unknown)), what, take)
        finally:
            index.record(hashed)
        return errors

    def _remember(self, index: int, id: str) -> str:
        try:
            return super()._remember(index, id)
        except DataError:
            # Should it have been the index that was wrong, opening the data set again must help.
            IdIndex().forget([self._places[index]])
            raise


class ArraySource(Source):
    """Images in memory: a sequence of uint8 `(h, w)`, `(h, w, 1)`, `(h, w, 3)` or `(h, w, 4)`."""

    in_memory = True

    def __init__(self, images: Sequence[np.ndarray] | np.ndarray, name: str, if_changed: str = AGAIN) -> None:
        """`if_changed`: what to do where an image is another one when it is loaded again."""
        super().__init__(len(images))
        self.images = images
        self.name = name
        self.if_changed = if_changed

    def source_name(self, index: int) -> str:
        return f"image {index} of {self.name}"

    def read(self, index: int) -> tuple[np.ndarray, str]:
        # A copy: what is hashed is what is opened, even where the caller writes to the array meanwhile.
        pixels = np.array(self.images[index], order="C")
        return pixels, sample_id(f"{pixels.shape} {pixels.dtype} ".encode() + pixels.tobytes())

    def open(self, encoded: np.ndarray, index: int, jpegs: Jpegs = WHOLE) -> Image.Image:
        if encoded.ndim == 2 or encoded.shape[2] == 1:
            return Image.fromarray(encoded.reshape(encoded.shape[:2])).convert("RGB")
        return Image.fromarray(np.ascontiguousarray(encoded[..., :3]))


class ValueSource(Source):
    """Other inputs in memory: an array `(n, ...)`, or a dict of such arrays."""

    in_memory = True

    def __init__(self, values: Any, name: str) -> None:
        super().__init__(count(values))
        self.values = values
        self.name = name
        self.entries = entries_of(values)

    def source_name(self, index: int) -> str:
        return f"sample {index} of {self.name}"

    def read(self, index: int) -> tuple[Any, str]:
        # A copy, as with images. Names, dtypes and shapes come before the bytes: no two samples run together.
        sample = each(lambda array: np.array(array[index], order="C"), self.values)
        named = sample if isinstance(sample, dict) else {ALONE: sample}
        about = [[name, named[name].dtype.name, list(named[name].shape)] for name in sorted(named)]
        content = b"".join(named[name].tobytes() for name in sorted(named))
        return sample, sample_id(json.dumps(about).encode() + b"\n" + content)

    def open(self, encoded: Any, index: int, jpegs: Jpegs = WHOLE) -> Any:
        return encoded


class Dataset(Samples):
    """Labelled samples: images, or arrays of any kind for wrapped models. Made by `folder`, `arrays` and the other
    functions of `headstart.data`; never changed."""

    def __init__(
        self,
        source: Source,
        annotations: Annotations,
        name: str,
        indices: np.ndarray | None = None,
        skipped: Sequence[Skipped] = (),
        splits: Sequence[Part] = (),
        notes: Sequence[str] = (),
    ) -> None:
        """`indices`: which of the source's samples it holds, None for all; `annotations` are of these. `notes`:
        what is to be said of how they were read."""
        super().__init__(name, annotations, splits)
        self._source = source
        self._indices = np.arange(len(source)) if indices is None else indices
        assert len(self._indices) == len(annotations)
        self._ids: tuple[str, ...] | None = None
        self.skipped = tuple(skipped)
        self.notes = tuple(notes)

    def __getitem__(self, index: int) -> Sample:
        """One decoded sample. Raises `IndexError`, and what `load` raises."""
        return self._sample(index, *self.load(index))

    def _sample(self, index: int, image: Any, id: str) -> Sample:
        label = self.labels[index]
        return Sample(
            np.array(image) if self.entries is None else image, int(label) if label.ndim == 0 else label, id
        )

    def __iter__(self) -> Iterator[Sample]:
        with self.in_order(range(len(self))) as load:
            for i in range(len(self)):
                yield self._sample(i, *load(i))

    def __repr__(self) -> str:
        kind = "images" if self.entries is None else "samples"
        names = {SINGLE: "classes", MULTI: "labels", REGRESSION: "targets"}[self.task]
        return f"Dataset({self.name!r}, {len(self)} {kind}, {len(self.classes)} {names})"

    @property
    def origin(self) -> object:
        return self._source

    @property
    def entries(self) -> Entries | None:
        """Name -> shape and dtype of what one sample holds; None where the samples are images of any size."""
        return self._source.entries

    @property
    def in_memory(self) -> bool:
        """Whether the samples lie in this process's memory, and not where others can read them."""
        return self._source.in_memory

    def check_unchanged(self, rows: Sequence[int]) -> None:
        """DataError where files or arrays that these samples lie in were written to since their ids were
        computed."""
        self._source.check_unchanged(self._indices[np.asarray(rows, np.intp)])

    @property
    def ids(self) -> tuple[str, ...]:
        """Each sample's id, 32 hex digits. The first call hashes, in threads, all but files that are known not to
        have changed since they were hashed last."""
        if self._ids is None:
            self._ids = tuple(self._source.ids(self._indices))
        return self._ids

    def source_name(self, index: int) -> str:
        """The sample's path, or e.g. "image 3 of arrays"."""
        return self._source.source_name(self._at(index))

    def load(self, index: int) -> tuple[Any, str]:
        """The image, mode RGB, any size, and the id of the very bytes it was decoded from. Inputs that are no
        images come as they are.

        Raises `ImageError` where it cannot be decoded, `DataError` where the file changed since its id was
        first computed.
        """
        return self._source.load(self._at(index))

    @contextmanager
    def in_order(
        self, order: Sequence[int] | np.ndarray, jpegs: Jpegs = WHOLE
    ) -> Iterator[Callable[[int], tuple[Any, str]]]:
        """`load(n)`: what `load` gives of the n-th sample of `order`, to be asked once for each, in about this
        order, from any thread. Where reading waits for a network, samples are read ahead. `jpegs`: how these
        are decoded, see `headstart.data.decode.decoded`."""
        indices = self._indices[np.asarray(order, np.int64)].tolist()
        with reading(self._source, indices) as read:
            yield lambda n: self._source.load(indices[n], partial(read, n), jpegs)

    def remark_lines(self) -> list[tuple[str, str]]:
        """(remark, line) of what was done to pictures of the data set, or of what it is a part of, as they were
        decoded, and not said yet; see `headstart.data.remarks`."""
        return self._source.remarks.lines(self._source.source_name)

    def _derived(self, rows: np.ndarray, annotations: Annotations, splits: Sequence[Part]) -> Dataset:
        return Dataset(self._source, annotations, self.name, self._indices[rows], self.skipped, splits, self.notes)

    def _at(self, index: int) -> int:
        n = len(self)
        position = operator.index(index)
        if not -n <= position < n:
            raise IndexError(f"sample {index} of {self.name}, which has {n}")
        return int(self._indices[position])
