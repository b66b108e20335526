"""The files of a checkpoint. A folder holds

* `training.json`: the terms of the training (`terms`), written before anything is computed;
* `state-head.safetensors`, `state-all.safetensors`: how far each stage has come, and all that its next step takes:
  arrays, with the rest as JSON in the file's metadata. No pickle;
* the run of the best epoch so far, as `Run.save` writes it.

Invariant: each file is replaced whole, and is read only where its digest is that of its content and its terms are
those of the training. So whatever moment the process is killed at, what is there goes on, and what was damaged is
one CheckpointError.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3

from headstart.common.errors import CheckpointError, WeightsError
from headstart.common.outputs import write_bytes, write_json
from headstart.common.reading import ANY, DictOf, ListOf, Number, Optional, check, parse_json, read_json
from headstart.common.version import __version__, written_by
from headstart.models.tensors import read_tensors, tensor_chunks
from headstart.training.checkpoints.terms import Terms
from headstart.training.shapes import LARGEST, RECORD_OF_EPOCH

FORMAT = 2
TRAINING = "training.json"
ABOUT = {
    "format": int,
    "terms": str,
    "stage": str,
    "recipe": str,
    "order": str,
    "records": ListOf({**RECORD_OF_EPOCH, "score": str}),
    "over": bool,
    "seconds": Optional(Number),
    "dtypes": DictOf(str),
}
"""what the metadata of a stage's file hold"""
STORED = {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)} | {
    "bool", "float16", "float32", "float64"
}  # fmt: skip


@dataclass(frozen=True)
class Content:
    """What a stage's file holds."""

    about: Mapping[str, Any]
    """JSON-able; see ABOUT"""
    arrays: Mapping[str, np.ndarray]


def stage_file(folder: Path, stage: str) -> Path:
    return folder / f"state-{stage}.safetensors"


def write_terms(folder: Path, terms: Terms) -> None:
    """Begin a checkpoint. SettingError where it cannot be written."""
    write_json(folder / TRAINING, {"format": FORMAT, "headstart": __version__, "terms": dict(terms)})


def read_terms(folder: Path) -> Terms:
    """CheckpointError where there is no checkpoint, or none that can be read."""
    try:
        shape = {"format": int, "terms": DictOf(ANY)}
        content = read_json(folder / TRAINING, LARGEST, "a checkpoint", shape, CheckpointError)
    except (FileNotFoundError, NotADirectoryError):
        raise CheckpointError(
            f"{folder}: no checkpoint is there ({TRAINING} is missing); a training writes one with checkpoint="
        ) from None
    _check_format(folder / TRAINING, content)
    terms: Terms = content["terms"]
    return terms


def _check_format(path: Path, content: Mapping[str, Any]) -> None:
    if content["format"] != FORMAT:
        raise CheckpointError(
            f"{path}: written in format {content['format']}{written_by(content)}; this one ({__version__}) reads "
            f"{FORMAT}; go on with the version that began it, or begin anew in another folder"
        )


def write_stage(path: Path, content: Content) -> None:
    """SettingError where it cannot be written; then the file is as it was."""
    dtypes = {name: array.dtype.name for name, array in content.arrays.items()}
    arrays = {name: _as_stored(array) for name, array in content.arrays.items()}
    text = json.dumps({"format": FORMAT, "dtypes": dtypes, **content.about})
    metadata = {"training": text, "digest": _digest(text, arrays)}
    write_bytes(path, tensor_chunks(arrays, metadata))


def read_stage(path: Path) -> Content | None:
    """None where there is no such file; CheckpointError for one that is damaged or something else."""
    if not path.exists():
        return None
    try:
        arrays, metadata = read_tensors(path)
    except WeightsError as error:
        raise CheckpointError(_damaged(path, str(error).removeprefix(f"{path}: "))) from error
    text = metadata.get("training", "")
    if metadata.get("digest") != _digest(text, arrays):
        raise CheckpointError(_damaged(path, "its digest is not that of its content"))
    try:
        about = parse_json(text)
        check(about, ABOUT)
        _check_format(path, about)
        return Content(about, {name: _restored(array, about["dtypes"][name]) for name, array in arrays.items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(_damaged(path, repr(error))) from error


def _damaged(path: Path, reason: str) -> str:
    return f"{path}: cannot be gone on from ({reason}); the run of the best epoch by then stands beside it"


def _as_stored(array: np.ndarray) -> np.ndarray:
    """Of a type that every version of safetensors knows: other types' bytes, along an axis more."""
    array = np.asarray(array, order="C")
    return array if array.dtype.name in STORED else array.reshape(*array.shape, 1).view(np.uint8)


def _restored(array: np.ndarray, dtype: str) -> np.ndarray:
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    return array if array.dtype == kind else array.view(kind).reshape(array.shape[:-1])


def _digest(text: str, arrays: Mapping[str, np.ndarray]) -> str:
    digest = blake3(text.encode())
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return digest.hexdigest()
