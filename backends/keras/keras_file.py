"""Opens `.keras` files, which `keras.Model.save` writes, with Keras alone, on whichever engine it runs."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np

TEXTS = "headstart.json"
"""the member of the archive that holds what a file says of itself"""
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load(path: str) -> tuple[dict[str, str], Run]:
    with keras.device("cpu"):
        model = keras.saving.load_model(path)

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with keras.device("cpu"):
            given = [arrays[entry.name] for entry in model.inputs]
            outputs = model.predict_on_batch(keras.tree.pack_sequence_as(model.input, given))
            return {name: np.asarray(value) for name, value in outputs.items()}

    return _texts(path), run


def note(path: str, texts: Mapping[str, str]) -> None:
    save(path, _texts(path) | dict(texts))


def save(path: str, texts: Mapping[str, str]) -> None:
    """Put the texts into the file, in the place of those that it holds: an archive's members cannot be changed,
    but copied."""
    changed = Path(f"{path}.changed")
    with zipfile.ZipFile(path) as before, zipfile.ZipFile(changed, "w") as after:
        for name in before.namelist():
            if name != TEXTS:
                with before.open(name) as source, after.open(name, "w", force_zip64=True) as target:
                    shutil.copyfileobj(source, target)
        after.writestr(TEXTS, json.dumps(dict(texts)))
    changed.replace(path)


def _texts(path: str) -> dict[str, str]:
    with zipfile.ZipFile(path) as archive:
        texts: dict[str, str] = json.loads(archive.read(TEXTS))
    return texts
