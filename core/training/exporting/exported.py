"""An exported model, opened again: an ONNX file that headstart wrote, run by onnxruntime alone. Pictures come in
as for `hs.predict`, by the same code, and what the file says of itself is all that is known of the model.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from headstart.common.errors import HeadstartError, ModelFileError, ModelFileWarning, SettingError
from headstart.common.places import expanded
from headstart.common.text import printable, shortened
from headstart.contract.programs import FEATURES, IMAGES, INPUTS, PIXEL_VALUES
from headstart.data.inputs import Arrays
from headstart.data.rows import ALONE, count
from headstart.data.workers import check_counts
from headstart.models.exporting.onnx_runtime import OnnxSession
from headstart.models.exporting.parts import HEAD, OUTPUTS, TRUNK, WHOLE
from headstart.training.exporting.about import About
from headstart.training.prediction import Feed, LogitBatches, predict
from headstart.training.predictions import Predictions, classify

LONGEST_NAME = 200


class OnnxModel:
    """A model, or a part of one, in an ONNX file. It may be used by several threads at once."""

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open a file that `export` wrote. `threads`: that compute one batch together; None: as many as there are
        CPUs. Raises ModelFileError for a file that cannot be read, that is damaged, or that headstart did not
        write; ExportError where onnxruntime is missing."""
        if threads is not None:
            check_counts(threads=threads)
        self.path = expanded(path)
        self._session = OnnxSession(self.path, threads)
        about = self.texts = self._session.contents.metadata
        self.name = shortened(about.get("model") or self.path.name, LONGEST_NAME)
        """the network's"""
        try:
            read = About.read(about)
            self.part, self.cut = read.part, read.cut
            """"whole"; "trunk", from pictures to features at the cut; "head", from these to the outputs"""
            self.task, self.classes, self.threshold = read.task, read.classes, read.threshold
            """what the outputs mean: "single", "multi" or "regression"; the names of the outputs' columns; of
            several labels the probability above which one is there"""
            self.preprocess = read.preprocess
            """how a picture is brought to size; the arrays that a wrapped module takes; None of a head"""
            self.verified = read.verified
            """what was found as the file was held to its run; None where nothing was"""
            self.inputs, self.outputs = self._ends()
        except (ValueError, HeadstartError) as reason:
            raise ModelFileError(
                f"{self.path}: is not as headstart writes its ONNX files ({printable(str(reason))})"
            ) from reason
        if self._session.changed:
            warnings.warn(
                f"{self.path}: its weights or nodes are not those that were written (its checksum is that of "
                "something else): it is damaged, or another program has changed it, and it may predict other "
                "things than its run. If that is meant, take the entry 'checksum' out of its metadata",
                ModelFileWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        part = "" if self.part == WHOLE else f", {self.part} at {self.cut!r}"
        return f"{type(self).__name__}({str(self.path)!r}: {self.name!r}{part}, {len(self.classes)} classes)"

    def _ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Names of the inputs and of the outputs. ValueError where they do not fit the rest."""
        contents = self._session.contents
        several = isinstance(self.preprocess, Arrays)
        allowed = self._allowed()
        if len(contents.inputs) != (len(allowed) if several else 1):
            raise ValueError(
                f"it has {len(contents.inputs)} inputs; expected {', '.join(allowed) if several else 'one'}"
            )
        for taken in contents.inputs:
            dtype, shape = allowed.get(taken.name, ("", None))
            is_batch_free = bool(taken.shape) and isinstance(taken.shape[0], str)
            if taken.dtype.name != dtype or shape not in (None, taken.shape[1:]) or not is_batch_free:
                texts = [f"{name}, {kind} {dims or ''}".rstrip() for name, (kind, dims) in allowed.items()]
                raise ValueError(
                    f"its input is {shortened(taken.name)}, {taken.dtype} {shortened(str(taken.shape))}; "
                    f"expected {(', ' if several else ' or ').join(texts)}"
                )
        names = (FEATURES,) if self.part == TRUNK else OUTPUTS[self.task].names
        if tuple(value.name for value in contents.outputs) != names:
            received = ", ".join(shortened(value.name) for value in contents.outputs) or "none"
            raise ValueError(f"its outputs are {received}; expected {', '.join(names)}")
        for value in contents.outputs:
            if value.dtype != np.float32:
                raise ValueError(f"its output {value.name} is {value.dtype}; expected float32")
        for value in contents.outputs if self.part != TRUNK else ():
            if value.shape[1:] != (len(self.classes),):
                raise ValueError(
                    f"its output {value.name} is {shortened(str(value.shape))}, and it names {len(self.classes)} "
                    "classes"
                )
        return tuple(allowed) if several else (contents.inputs[0].name,), names

    def _allowed(self) -> dict[str, tuple[str, tuple[int, ...] | None]]:
        """What inputs may be called, their dtype and the shape of a sample: of arrays all are needed, else one."""
        if isinstance(self.preprocess, Arrays):
            return {
                INPUTS if name == ALONE else name: (dtype, shape) for name, shape, dtype in self.preprocess.entries
            }
        if self.preprocess is None:
            return {FEATURES: ("float32", None)}
        size = self.preprocess.size
        return {IMAGES: ("uint8", (size, size, 3)), PIXEL_VALUES: ("float32", (3, size, size))}

    def run(self, rows: Any) -> Mapping[str, np.ndarray]:
        """All outputs of `n` samples by their names: float32 `(n, classes)`, of a trunk features.

        `rows`: uint8 `(n, size, size, 3)`, as `preprocess.apply` makes them of pictures; of a file that takes
        `pixel_values` also float32 of that shape, normalised already; of a head float32 features as the store has
        them; of a wrapped module that takes no pictures its arrays, as `hs.predict` takes them of the run. Raises
        SettingError for other rows, ModelFileError where the graph cannot be computed.
        """
        return self._run(self.outputs, rows)

    def _run(self, outputs: tuple[str, ...], rows: Any) -> dict[str, np.ndarray]:
        taken = self._taken(rows)
        results = self._session.run(outputs, taken)
        samples = count(taken)
        for name, values in zip(outputs, results, strict=True):
            if self.part != TRUNK and values.shape != (samples, len(self.classes)):
                raise ModelFileError(
                    f"{self.path}: gives {name} of the shape {values.shape} for {samples} samples and "
                    f"{len(self.classes)} classes"
                )
        return dict(zip(outputs, results, strict=True))

    def _taken(self, rows: Any) -> dict[str, np.ndarray]:
        """Rows as the graph takes them, by the names of its inputs."""
        if isinstance(self.preprocess, Arrays):
            arrays = self.preprocess.prepared(rows)
            return arrays if isinstance(arrays, dict) else {INPUTS: arrays}
        (name,), rows = self.inputs, np.asarray(rows)
        if self.preprocess is None:
            (entry,) = self._session.contents.inputs
            if rows.dtype != np.float32 or rows.shape[1:] != entry.shape[1:]:
                raise SettingError(f"rows are {rows.dtype} {rows.shape}; expected float32 {entry.shape}")
            return {name: rows}
        shape = (len(rows) if rows.ndim else 0, *self.preprocess.shape)
        if rows.dtype == np.float32 and rows.shape == shape and name == PIXEL_VALUES:
            pixels = rows
        elif rows.dtype == np.uint8 and rows.shape == shape:
            if name == IMAGES:
                return {name: rows}
            pixels = self.preprocess.normalise(rows)
        else:
            also = ", or float32, preprocessed" if name == PIXEL_VALUES else ", and normalises them itself"
            raise SettingError(
                f"pictures are {rows.dtype} {rows.shape}; {self.path.name} takes uint8 "
                f"(n, {self.preprocess.size}, {self.preprocess.size}, 3){also}"
            )
        return {name: np.ascontiguousarray(np.moveaxis(pixels, -1, 1))}  # (n, 3, size, size)

    def check(self) -> None:
        """SettingError where it is a part of a model, which takes no pictures, or gives no logits."""
        if self.part != WHOLE:
            ends = "takes features" if self.part == HEAD else "gives features"
            raise SettingError(
                f"{self.path}: is the {self.part} of a model, which {ends}; expected a whole one to predict with "
                "(its .run takes arrays)"
            )

    def logits(self, feed: Feed) -> LogitBatches:
        """The first of the outputs, of what it is fed: logits, or values in the targets' units."""
        plain = self.outputs[:1]
        made = (self._run(plain, rows)[plain[0]] for rows in feed.batches)
        return feed.logits(made, self._session.unsound)

    def predict(
        self, images: Any, *, batch_size: int = 64, workers: int | None = None, on_error: str = "raise"
    ) -> np.ndarray:
        """float32 logits `(n, classes)`, or values of a regression, as `hs.predict` gives them of the run, and
        with its errors: `images` are whatever it takes as pictures."""
        return predict(self, images, batch_size=batch_size, workers=workers, on_error=on_error)

    def classify(self, images: Any, *, top: int = 1, on_error: str = "raise") -> Predictions:
        """What each picture shows, with probabilities: `as_list` of it is what `headstart predict --json` writes.
        `top`: how many classes are named."""
        check_counts(top=top)
        return classify(self, images, top=top, on_error=on_error)
