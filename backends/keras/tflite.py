"""Opens `.tflite` files with LiteRT's interpreter, by itself or as TensorFlow brings it."""

from __future__ import annotations

import json
import os
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

TEXTS, LABELS = "headstart.json", "labels.txt"
"""the members of the zip archive behind the model, where TFLite's own tools look for what belongs to it"""
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load(path: str) -> tuple[dict[str, str], Run]:
    with warnings.catch_warnings(action="ignore"):  # TensorFlow's own interpreter is to go one day
        signature = _interpreter()(model_path=path).get_signature_runner()

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = signature(**arrays)  # which makes room for as many samples as there are
        return {name: np.array(outputs[name]) for name in sorted(outputs)}

    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(TEXTS)), run


def note(path: str, texts: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path) as archive:
        before = json.loads(archive.read(TEXTS))
        end = min(member.header_offset for member in archive.infolist())
    os.truncate(path, end)  # of the model, behind which the archive begins
    append(path, before | dict(texts))


def append(path: str, texts: Mapping[str, str]) -> None:
    """Put the archive behind a model."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(TEXTS, json.dumps(dict(texts)))
        archive.writestr(LABELS, b"".join(map(_line, json.loads(texts["classes"]))))


def _line(name: str) -> bytes:
    """A class by its place in a file of lines, of UTF-8: a name may hold breaks, and bytes of a folder's name that
    are no UTF-8, as Python has them. `TEXTS` has the names as they are."""
    return " ".join(name.splitlines()).encode("utf-8", "backslashreplace") + b"\n"


def _interpreter() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter
