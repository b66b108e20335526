"""Keras models on Keras's torch engine as ONNX files, which is the engine whose exporter knows what Keras's layers
are made of.

`load` is what another process (`headstart.contract.opening`) does where the user's own engine is another one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src import backend
from keras.src.layers.rnn.dropout_rnn_cell import DropoutRNNCell

from headstart.backends.doors import torch_onnx
from headstart.backends.keras.door import door
from headstart.common.errors import ExportError
from headstart.common.text import raised_text, shortened
from headstart.contract.programs import PIXEL_VALUES, Input

ANY_SAMPLES = "layers that compute any number of samples (ops.shape(x)[0]) without branches on values; or .keras"
OF_ONNX = "layers of operations that ONNX has; or .keras"
"""what errors say of what can be written"""
LOCK, RNN = Lock(), backend.rnn
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def write(
    model: keras.Model, inputs: Sequence[Input], outputs: Sequence[str], path: Path, texts: Mapping[str, str]
) -> None:
    """`inputs`: as the file takes them, `PIXEL_VALUES` with the channels first. ExportError where torch's exporter
    cannot write the model."""
    with keras.device("cpu"), _traceable():
        # by their place: Keras's names need be none of Python's
        placed = [Input(f"x{place}", shape, dtype) for place, (_, shape, dtype) in enumerate(inputs)]
        names = [entry.name for entry in inputs]
        program = torch_onnx.exported(lambda: _called(model, names, placed), placed, ANY_SAMPLES)
        torch_onnx.write(program, placed, outputs, path, texts, OF_ONNX, names)


def _called(model: keras.Model, names: Sequence[str], placed: Sequence[Input]) -> torch_onnx.Called:
    """The model, which is given up, on arrays of these names."""
    for layer in model._flatten_layers():
        if isinstance(layer, DropoutRNNCell):  # it draws its masks whether it heeds them or not
            layer.dropout = layer.recurrent_dropout = 0.0

    def computed(arrays: Mapping[str, Any]) -> dict[str, Any]:
        rows = dict(zip(names, arrays.values(), strict=True))
        if PIXEL_VALUES in rows:
            rows[PIXEL_VALUES] = ops.transpose(rows[PIXEL_VALUES], (0, 2, 3, 1))
        taken = model.inputs
        ordered = list(rows.values()) if len(taken) == 1 else [rows[entry.name] for entry in taken]
        outputs: dict[str, Any] = model(keras.tree.pack_sequence_as(model.input, ordered), training=False)
        return outputs

    return torch_onnx.Called(model, computed, [entry.name for entry in placed])


@contextmanager
def _traceable() -> Iterator[None]:
    """With other forms of what Keras does on torch, that give the same."""
    changes = (
        (backend, "rnn", _unrolled),
        (backend, "cudnn_ok", lambda *about, **more: False),
        (backend.nn, "batch_normalization", _product_and_sum),
    )
    with LOCK, ExitStack() as stack:
        for module, name, ours in changes:
            stack.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, ours)
        yield


def _unrolled(
    step: Any, inputs: Any, initial_states: Any, go_backwards: bool = False, mask: Any = None, **settings: Any
) -> Any:
    """Keras's loop over the steps of a sequence takes samples apart one by one, so that their number would be the
    example's. Unrolled it does not, but fails where it goes backwards over steps that are masked."""
    if go_backwards:
        steps = 0 if settings.get("time_major") else 1
        inputs = keras.tree.map_structure(lambda x: ops.flip(x, steps), inputs)
        mask = None if mask is None else ops.flip(mask, steps)
    return RNN(step, inputs, initial_states, mask=mask, **{**settings, "unroll": True})


def _product_and_sum(
    x: Any, mean: Any, variance: Any, axis: int, offset: Any = None, scale: Any = None, epsilon: float = 1e-3
) -> Any:
    """What onnxruntime makes part of the convolution before it: a difference it does not."""
    x, mean, variance = map(backend.convert_to_tensor, (x, mean, variance))
    factor = ops.rsqrt(variance + epsilon)
    factor = factor if scale is None else factor * backend.convert_to_tensor(scale)
    term = -mean * factor if offset is None else backend.convert_to_tensor(offset) - mean * factor
    shape = [1] * x.ndim
    shape[axis] = -1
    return x * factor.reshape(shape) + term.reshape(shape)


def load(path: str) -> tuple[dict[str, str], Run]:
    """Write the ONNX file that is ordered in a file of JSON, of a `.keras` file. There is nothing to be said of
    it, and nothing to be run."""
    order = json.loads(Path(path).read_text())
    sys.path += [folder for folder in order["places"] if folder not in sys.path]
    inputs = [Input(name, tuple(shape), dtype) for name, shape, dtype in order["inputs"]]
    with door():
        kinds = {name: _imported(name, *where) for name, where in order["kinds"].items()}
        model = _loaded(order["model"], kinds)
        write(model, inputs, order["outputs"], Path(order["path"]), order["texts"])
    return {}, dict


def _loaded(path: str, kinds: Mapping[str, Any]) -> keras.Model:
    try:
        with keras.device("cpu"):
            return keras.saving.load_model(path, custom_objects=kinds, compile=False)
    except Exception as error:  # of anybody's layers
        words = str(error).rpartition("Exception encountered: ")[2].split()  # each error holds those before it
        raise ExportError(
            f"Keras cannot load what it has saved of this model ({shortened(' '.join(words), 200)}), and on this "
            "engine another process writes ONNX files; expected layers whose get_config gives what they "
            "take; or Keras on PyTorch (KERAS_BACKEND=torch), or .savedmodel"
        ) from error


def _imported(registered: str, module: str, name: str) -> Any:
    """What a model is made of that is no part of Keras."""
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as error:  # of anybody's module
        raise ExportError(
            f"{registered} cannot be imported from {module} ({raised_text(error)}), and on this engine of Keras's "
            "another process writes ONNX files, which has to import what a model is made of; expected it in a "
            "module that can be imported anywhere; or Keras on PyTorch (KERAS_BACKEND=torch), or .savedmodel"
        ) from error
    return found
