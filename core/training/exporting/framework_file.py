"""Formats of frameworks' own: a backend writes them, and the framework alone opens them again, in a process of its
own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import ModelFileError
from headstart.contract import registry
from headstart.contract.opening import FileProcess
from headstart.contract.programs import FEATURES, IMAGES, INPUTS, PIXEL_VALUES, FileFormat, loader
from headstart.data.inputs import Arrays
from headstart.models.exporting import parts
from headstart.training.exporting.about import About, read_json
from headstart.training.exporting.format import Format
from headstart.training.exporting.request import VERIFIED, Opened, Request

ROOM_NBYTES = 1 << 20
"""beside the weights, which some formats have twice"""


def row(backend: str, known: FileFormat) -> Format:
    """The table's row of a kind of file that a backend writes."""
    description = registry.describe(backend)
    return Format(
        known.name,
        known.suffixes,
        known.use,
        partial(write, backend, known.name, known.channels_first),
        partial(opened, backend, known),
        partial(note, known),
        known.takes,
        marker=known.marker,
        backend=backend,
        written_with=(*description.modules, *known.modules),
        install=known.install or description.install,
    )


def write(backend: str, format: str, channels_first: bool, request: Request, path: Path) -> None:
    """`channels_first`: of pictures that are preprocessed already."""
    program, texts = parts.program(request.model, request.part, request.cut, request.pixels, channels_first)
    try:
        registry.load(backend, request.model.home).write(program, format, path, texts)
    except OSError:
        raise
    except Exception as error:  # frameworks have errors of their own for a disk that is full, and for quotas
        need = 2 * sum(array.nbytes for array in request.model.params.values()) + ROOM_NBYTES
        if (refused := _refusal(path.parent, need)) is not None:
            raise refused from error
        raise


def _refusal(folder: Path, nbytes: int) -> OSError | None:
    """What the disk says to a file of so many bytes; None where it takes it. The bytes are asked for, and not
    looked for among the free ones: of those a quota, or a limit on the size of a file, may grant fewer."""
    if not hasattr(os, "posix_fallocate"):  # macOS and Windows, which say nothing of a file that is not written
        return None
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, nbytes)
        except OSError as error:
            return error
    return None


def note(known: FileFormat, request: Request, path: Path, said: str) -> None:
    """Write what verification has said into the file."""
    loader(known.loader).note(str(path), {VERIFIED: said})


def opened(backend: str, known: FileFormat, path: Path, request: Request) -> Opened:
    return FrameworkFile(FileProcess(path, known.loader, registry.describe(backend).quiet, known.environment))


class FrameworkFile:
    """An exported file, run by its framework's own loader."""

    def __init__(self, process: FileProcess) -> None:
        """ModelFileError where the file does not say what it takes."""
        self._process, self.texts = process, process.texts
        try:
            about = About.read(process.texts)
            self._inputs = read_json(process.texts["inputs"], "inputs", dict)
        except (KeyError, ValueError) as reason:
            raise ModelFileError(f"it does not say what it holds ({reason})") from reason
        self.preprocess, self.classes = about.preprocess, about.classes
        self.task, self.threshold = about.task, about.threshold
        self.outputs = (FEATURES,) if about.part == parts.TRUNK else parts.OUTPUTS[about.task].names

    def run(self, rows: Any) -> Mapping[str, np.ndarray]:
        """Its outputs, each `(n, ...)`, of rows as `Opened.run` gets them. ExportError where it cannot be run, in
        the framework's words."""
        return self._process.run(self._named(rows))

    def _named(self, rows: Any) -> dict[str, np.ndarray]:
        if isinstance(rows, dict):
            return rows
        if self.preprocess is None:
            return {FEATURES: rows}
        if isinstance(self.preprocess, Arrays):
            return {INPUTS: rows}
        if IMAGES in self._inputs:
            return {IMAGES: rows}
        pixels = self.preprocess.normalise(rows)
        _, shape = self._inputs[PIXEL_VALUES]
        is_first = tuple(shape[1:]) != self.preprocess.shape
        return {PIXEL_VALUES: np.ascontiguousarray(np.moveaxis(pixels, -1, 1)) if is_first else pixels}
