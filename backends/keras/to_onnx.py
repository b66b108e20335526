"""Models as ONNX files, which Keras writes on its torch engine. Keras's engine is fixed for a process: on another
one the model goes to a process of its own as a `.keras` file, and is loaded there as safely as a stranger's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import keras

from headstart.backends.keras import DESCRIPTION
from headstart.backends.keras.arrays import ENGINE
from headstart.backends.keras.engine import VARIABLE
from headstart.backends.keras.plain import model_of, to_be_saved
from headstart.backends.keras.saving import placed
from headstart.common.errors import ExportError
from headstart.contract.opening import FileProcess
from headstart.contract.programs import PIXEL_VALUES, Input, Program

WRITER, ENGINE_OF_WRITER = "headstart.backends.keras.onnx_on_torch", "torch"


def write(program: Program, path: Path, texts: Mapping[str, str]) -> None:
    """ExportError where the model cannot be written, or cannot go to another process."""
    model = model_of(replace(program, inputs=tuple(map(_with_channels_last, program.inputs))))
    if ENGINE == ENGINE_OF_WRITER:
        from headstart.backends.keras import onnx_on_torch

        onnx_on_torch.write(model, program.inputs, list(program.outputs), path, texts)
    else:
        _write_elsewhere(to_be_saved(model), program, path, texts)


def _with_channels_last(entry: Input) -> Input:
    if entry.name != PIXEL_VALUES:
        return entry
    channels, height, width = entry.shape
    return entry._replace(shape=(height, width, channels))


def _write_elsewhere(model: keras.Model, program: Program, path: Path, texts: Mapping[str, str]) -> None:
    foreign = placed(model)
    if nowhere := [part for part in foreign if not part.module]:
        raise ExportError(
            f"{nowhere[0].text} cannot go to another process, and with Keras on {ENGINE} another one writes ONNX "
            f"files; expected layers and functions that stand in a module; or Keras on PyTorch "
            f"({VARIABLE}={ENGINE_OF_WRITER}), or .savedmodel"
        )
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        order, file = Path(folder, "order.json"), Path(folder, "model.keras")
        model.save(file)
        kinds = {part.registered: (part.module, part.name) for part in foreign}
        ordered = {
            "model": str(file),
            "kinds": kinds,
            "places": sys.path,
            "inputs": program.inputs,
            "outputs": list(program.outputs),
            "path": str(path),
            "texts": dict(texts),
        }
        order.write_text(json.dumps(ordered))
        FileProcess(order, WRITER, DESCRIPTION.quiet, {VARIABLE: ENGINE_OF_WRITER})
