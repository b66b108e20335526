"""Models as files of Keras's own, and of TensorFlow's."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import keras

from headstart.backends.keras import keras_file
from headstart.backends.keras.arrays import ENGINE
from headstart.backends.keras.plain import model_of, to_be_saved
from headstart.backends.keras.saving import configuration_of, foreign_parts, refused
from headstart.common.errors import ExportError
from headstart.contract.programs import ONNX, Program

Texts = Mapping[str, str]


def write(program: Program, format: str, path: Path, texts: Texts) -> None:
    """ExportError where Keras, or the engine that it runs on, cannot write such a model."""
    if ENGINE not in ENGINES.get(format, (ENGINE,)):
        raise ExportError(
            f"format {format!r} is written by Keras on TensorFlow, and here it runs on {ENGINE}; "
            "expected KERAS_BACKEND=tensorflow, or .keras or .onnx"
        )
    WRITERS[format](program, path, texts)


def _onnx(program: Program, path: Path, texts: Texts) -> None:
    from headstart.backends.keras import to_onnx

    to_onnx.write(program, path, texts)


def _keras(program: Program, path: Path, texts: Texts) -> None:
    if path.suffix != ".keras":
        raise ExportError(
            f"{path.name}: Keras opens no file that is called so; expected a name that ends in .keras"
        )
    model = to_be_saved(model_of(program))
    config = configuration_of(model)
    if foreign := next(foreign_parts(config, model.name), None):
        raise ExportError(
            f"{foreign.text} is no part of Keras, so a .keras file that holds it could not be opened without the "
            "code that it comes from; expected layers and functions of Keras's own, or another format"
        )
    model.save(path)
    keras_file.save(str(path), texts)


def _saved_model(program: Program, path: Path, texts: Texts) -> None:
    import tensorflow as tf

    from headstart.backends.keras import saved_model

    model = model_of(program)
    entries = {name: tf.TensorSpec((None, *shape), dtype, name) for name, shape, dtype in program.inputs}
    taken = entries if program.by_name else entries[program.inputs[0].name]
    archive = keras.export.ExportArchive()
    if program.graph.backend is not None:  # what layers of the user's own hold beside their weights
        archive.track(model)  # by which all weights are in the folder twice
    try:
        archive.add_endpoint("serve", functools.partial(model, training=False), [taken])
        archive.write_out(str(path), verbose=False)
    except OSError:
        raise
    except Exception as error:  # of code of the user's own
        raise refused("TensorFlow cannot write this model", error) from error
    saved_model.save(str(path), texts)


def _tflite(program: Program, path: Path, texts: Texts) -> None:
    import tensorflow as tf

    from headstart.backends.keras import saved_model, tflite

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        _saved_model(program, Path(folder, "model"), texts)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(Path(folder, "model")), signature_keys=[saved_model.SIGNATURE]
        )
        # Of what it has no op for it would write pages to standard error, if it could not write TensorFlow's own.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS, tf.lite.OpsSet.SELECT_TF_OPS]
        try:
            content = converter.convert()
        except Exception as error:
            raise refused("TensorFlow's converter cannot write this model", error) from error
    if flex := _flex_ops(content):
        raise ExportError(
            f"TFLite has no op for TensorFlow's {', '.join(flex)} in this model, and without TensorFlow beside it "
            "nobody could run the file; expected another format"
        )
    path.write_bytes(content)
    tflite.append(str(path), texts)


def _flex_ops(content: bytes) -> list[str]:
    """The ops of a model that are TensorFlow's and not TFLite's."""
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.Model.GetRootAs(content)
    codes = (model.OperatorCodes(i).CustomCode() or b"" for i in range(model.OperatorCodesLength()))
    return sorted(code.decode().removeprefix("Flex") for code in codes if code)


WRITERS: Mapping[str, Callable[[Program, Path, Texts], None]] = {
    ONNX: _onnx,
    "keras": _keras,
    "savedmodel": _saved_model,
    "tflite": _tflite,
}
ENGINES = {"savedmodel": ("tensorflow",), "tflite": ("tensorflow",)}
"""the only engines on which a format is written"""
