"""Models as files of Keras's own, and of TensorFlow's."""

from __future__ import annotations

import functools
import json
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras

from headstart.backends.keras import keras_file
from headstart.backends.keras.arrays import ENGINE
from headstart.backends.keras.plain import model_of, to_be_saved
from headstart.common.errors import ExportError
from headstart.common.text import shortened
from headstart.contract.programs import Program

Texts = Mapping[str, str]


def write(program: Program, format: str, path: Path, texts: Texts) -> None:
    """ExportError where Keras, or the engine that it runs on, cannot write such a model."""
    if ENGINE not in ENGINES.get(format, (ENGINE,)):
        raise ExportError(
            f"format {format!r} is written by Keras on TensorFlow, and here it runs on {ENGINE}; "
            "expected KERAS_BACKEND=tensorflow, or .keras or .onnx"
        )
    WRITERS[format](program, path, texts)


def _keras(program: Program, path: Path, texts: Texts) -> None:
    if path.suffix != ".keras":
        raise ExportError(
            f"{path.name}: Keras opens no file that is called so; expected a name that ends in .keras"
        )
    model = to_be_saved(model_of(program))
    try:
        config = json.loads(model.to_json())
    except Exception as error:  # of layers of the user's own
        raise _refused("Keras cannot save this model", error) from error
    if foreign := next(_foreign(config, model.name), None):
        raise ExportError(
            f"{foreign} is no part of Keras, so a .keras file that holds it could not be opened without the code "
            "that it comes from; expected layers and functions of Keras's own, or another format"
        )
    model.save(path)
    keras_file.save(str(path), texts)


def _foreign(config: Any, name: str) -> Iterator[str]:
    """What a model's configuration names that is no part of Keras. `name`: of the layer whose it is."""
    if isinstance(config, list):
        for value in config:
            yield from _foreign(value, name)
    if not isinstance(config, dict):
        return
    kind, inner = config.get("class_name"), config.get("config")
    if isinstance(inner, dict):
        name = inner.get("name", name)
    if kind == "__lambda__":
        yield f"a lambda of layer {name!r}"
    elif kind == "function" and config.get("module") == "builtins":
        yield f"function {inner!r} of layer {name!r}"
    elif kind and "module" in config and str(config["module"]).partition(".")[0] not in ("keras", "builtins"):
        yield f"layer {name!r} ({kind})"
    for value in config.values():
        yield from _foreign(value, name)


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
        raise _refused("TensorFlow cannot write this model", error) from error
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
            raise _refused("TensorFlow's converter cannot write this model", error) from error
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


def _refused(what: str, error: Exception) -> ExportError:
    words = re.sub(r"\x1b\[[0-9;]*m", "", f"{type(error).__name__}: {error}")  # Keras writes some in bold
    reason = shortened(" ".join(words.split()))
    return ExportError(f"{what} ({reason}); expected layers that say what they are made of, or another format")


WRITERS: Mapping[str, Callable[[Program, Path, Texts], None]] = {
    "keras": _keras,
    "savedmodel": _saved_model,
    "tflite": _tflite,
}
ENGINES = {"savedmodel": ("tensorflow",), "tflite": ("tensorflow",)}
"""the only engines on which a format is written"""
