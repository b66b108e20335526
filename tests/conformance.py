"""The conformance suite for headstart's own backends, with what only they know: how their modules are called, and
where their trunks keep their weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from headstart.testing import BackendConformance


class Torch(BackendConformance):
    def run_native(self, native: Any, images: np.ndarray) -> Any:
        import torch

        with torch.inference_mode():
            return native(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))

    def disturb(self, trunk: Any) -> None:
        next(trunk.network.parameters()).add_(1)


class Keras(BackendConformance):
    def run_native(self, native: Any, images: np.ndarray) -> Any:
        import keras

        with keras.device("cpu"):  # where native models are; the default device may be another
            return native(images)

    def disturb(self, trunk: Any) -> None:
        weight = trunk.model.weights[0]
        weight.assign(weight + 1)


class Jax(BackendConformance):
    def disturb(self, trunk: Any) -> None:
        import jax

        trunk._inner.state = jax.tree.map(lambda array: array + 1, trunk.state)
