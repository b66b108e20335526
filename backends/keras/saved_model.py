"""Opens SavedModels with TensorFlow alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf

TEXTS = "assets.extra/headstart.json"
"""what a folder says of itself: where TensorFlow Serving has users put what it does not read"""
SIGNATURE = "serving_default"
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load(path: str) -> tuple[dict[str, str], Run]:
    with tf.device("CPU:0"):
        program = tf.saved_model.load(path)

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with tf.device("CPU:0"):
            outputs = program.signatures[SIGNATURE](**{name: tf.constant(x) for name, x in arrays.items()})
        return {name: outputs[name].numpy() for name in sorted(outputs)}

    return json.loads(Path(path, TEXTS).read_text()), run


def note(path: str, texts: Mapping[str, str]) -> None:
    save(path, json.loads(Path(path, TEXTS).read_text()) | dict(texts))


def save(path: str, texts: Mapping[str, str]) -> None:
    """Put the texts into a folder."""
    place = Path(path, TEXTS)
    place.parent.mkdir(exist_ok=True)
    place.write_text(json.dumps(dict(texts)))
