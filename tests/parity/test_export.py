"""A run leaves as the same file from each of the three backends, what verification says of it included; and what
one framework writes of another's models."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from exporting import small_model, validation
from own import P, wrapped

import headstart as hs
from headstart.errors import ExportError

BACKENDS = ("torch", "keras", "jax")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_same_bytes(half: bool, tmp_path: Path) -> None:
    asked = {"half": half, "device": "cpu"}
    files = [
        hs.export(small_model(), tmp_path / f"{name}.onnx", validation(), backend=name, **asked).path
        for name in BACKENDS
    ]
    first, *others = (file.read_bytes() for file in files)
    assert b"same_answers" in first and others == [first, first]


def test_a_keras_model_on_tensorflow_leaves_as_onnx_by_another_process(tmp_path: Path) -> None:
    """Whose engine is torch, where the model's own is another one."""
    own = import_module("own_keras")
    native = own.small()
    exported = hs.export(wrapped(own, native), tmp_path / "m.onnx", device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (17, *P.shape), np.uint8)
    expected = own.logits(native, P.normalise(pixels))
    np.testing.assert_allclose(hs.OnnxModel(exported.path).predict(pixels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            "own_keras.lambdas",
            r"a lambda of layer 'lambda\w*' cannot go to another process.*KERAS_BACKEND=torch.*savedmodel",
        ),
        pytest.param(
            "own_keras_onnx.hidden", r"Hidden cannot be imported from own_keras_onnx", marks=pytest.mark.slow
        ),
        pytest.param(
            "own_keras_onnx.talkative", r"cannot load what it has saved.*colour.*=torch", marks=pytest.mark.slow
        ),
    ],
)
def test_what_that_process_cannot_know_is_said_in_a_line(make: str, said: str, tmp_path: Path) -> None:
    module, _, name = make.partition(".")
    native = getattr(import_module(module), name)()
    with pytest.raises(ExportError, match=said) as caught:
        hs.export(hs.wrap(native, preprocess=P, name="of this process"), tmp_path / "m.onnx", device="cpu")
    assert "\n" not in str(caught.value) and not [*tmp_path.iterdir()]
