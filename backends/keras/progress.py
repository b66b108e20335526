"""The state of a training: variables by name, read and put back."""

from __future__ import annotations

from collections.abc import Mapping

import keras
import numpy as np

from headstart.backends.keras.arrays import to_numpy


def values_of(variables: Mapping[str, keras.Variable]) -> dict[str, np.ndarray]:
    """Copies: on some engines an array shares the variable's memory."""
    return {name: np.array(to_numpy(keras.ops.copy(variable.value))) for name, variable in variables.items()}


def assign(variables: Mapping[str, keras.Variable], values: Mapping[str, np.ndarray]) -> None:
    for name, variable in variables.items():
        variable.assign(values[name])
