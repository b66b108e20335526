"""One run, and the ONNX file of it: the same bytes whichever backend has loaded it, run it or trained on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.models import Model
from headstart.models.exporting.onnx_model import onnx_bytes, onnx_model
from headstart.testing import relative_error
from headstart.training.run import Run

SETTLED = hs.SGD(1e-30, momentum=0.0)
"""steps that move no weight of a trained network, but every weight goes to the device and back"""
BACKENDS = registry.names()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)


def fitted(model: Model, images: np.ndarray, backend: str, optimizer: hs.SGD, cache: Path) -> Run:
    data = hs.data.arrays(images, np.arange(len(images)) % len(model.classes))
    return hs.fit(
        model,
        data,
        mode="full",
        epochs=1,
        batch_size=4,
        optimizer=optimizer,
        backend=backend,
        device="cpu",
        cache=cache,
    )


def test_the_same_run_gives_the_same_file_in_every_backend(images: np.ndarray, tmp_path: Path) -> None:
    start = hs.model("lenet", classes=["apple", "pear", "plum"])
    trained = fitted(start, images, BACKENDS[0], hs.SGD(0.01), tmp_path)
    expected = onnx_bytes(onnx_model(trained.model))
    assert expected != onnx_bytes(onnx_model(start))
    folder = trained.save(tmp_path / "run")
    session = onnxruntime.InferenceSession(expected, providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"images": images})
    for backend in BACKENDS:
        loaded = hs.load(folder, backend=backend)
        assert relative_error(loaded.predict(images, device="cpu"), logits) < 1e-5, backend
        assert onnx_bytes(onnx_model(loaded.model)) == expected, backend
        again = fitted(loaded.model, images, backend, SETTLED, tmp_path)
        assert onnx_bytes(onnx_model(again.model)) == expected, backend
        reloaded = hs.load(again.save(tmp_path / backend), backend=backend)
        assert onnx_bytes(onnx_model(reloaded.model)) == expected, backend
