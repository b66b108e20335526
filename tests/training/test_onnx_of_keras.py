"""Wrapped Keras models as ONNX files, which Keras writes on its torch engine, in a process of its own where the
user's engine is another one: onnxruntime gives what the model gives on the engine that it is on."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, sentences, wrapped

import headstart as hs
from headstart.errors import ExportError

onnxruntime = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.of("keras")
BATCHES = (1, 2, 7, 17)
needs_torch = pytest.mark.skipif(
    not all(map(find_spec, ("torch", "onnxscript"))), reason="Keras writes ONNX on its torch engine"
)


def own() -> Any:
    return pytest.importorskip("own_keras")


def run(path: Path, **arrays: np.ndarray) -> dict[str, np.ndarray]:
    """By onnxruntime alone."""
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, arrays), strict=True))


def pixels(count: int = 17) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, *P.shape), np.uint8)


def assert_computed(model: Any, x: np.ndarray, exported: Any, tolerance: float = 1e-5) -> None:
    """onnxruntime gives what Keras gives of one array, in batches of any size."""
    expected = own().logits(model, x)
    for count in BATCHES:
        made = run(exported.path, inputs=x[:count])["logits"]
        np.testing.assert_allclose(made, expected[:count], rtol=1e-4, atol=tolerance)


@needs_torch
def test_pictures_go_in_as_into_any_other_file(tmp_path: Path) -> None:
    """The model is as it was, and its own classifier is behind it: what Keras computes of these pixels is what is
    expected."""
    native = own().small()
    before = own().state(native)
    model = wrapped(own(), native)
    exported = hs.export(model, tmp_path / "m.onnx", device="cpu")
    proof = exported.verification
    assert proof is not None and proof.largest < 1e-5 and proof.same == proof.samples
    assert [*tmp_path.iterdir()] == [exported.path]
    expected = own().logits(native, P.normalise(pixels()))
    for count in BATCHES:
        made = run(exported.path, images=pixels()[:count])
        np.testing.assert_allclose(made["logits"], expected[:count], rtol=1e-4, atol=1e-5)
    opened = hs.OnnxModel(exported.path)
    assert (opened.inputs, opened.outputs) == (("images",), ("logits", "probabilities"))
    np.testing.assert_allclose(opened.predict(pixels()), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(before, own().state(native), strict=True):
        assert one[0] == other[0] and np.array_equal(one[1], other[1]) if isinstance(one, tuple) else one == other


@needs_torch
@pytest.mark.slow
def test_a_trunk_and_the_rest_of_the_model_are_the_whole(tmp_path: Path) -> None:
    native = own().small()
    model = wrapped(own(), native)
    trunk, head = (
        hs.export(model, tmp_path / f"{part}.onnx", part=part, device="cpu") for part in ("trunk", "head")
    )
    features = run(trunk.path, images=pixels())["features"]
    np.testing.assert_allclose(features, own().features(native, P.normalise(pixels())), rtol=1e-4, atol=1e-5)
    expected = own().logits(native, P.normalise(pixels()))
    np.testing.assert_allclose(run(head.path, features=features)["logits"], expected, rtol=1e-4, atol=1e-5)


@needs_torch
@pytest.mark.slow
def test_pictures_that_are_preprocessed_already_have_their_channels_first(tmp_path: Path) -> None:
    """As in every ONNX file."""
    native = own().small()
    exported = hs.export(wrapped(own(), native), tmp_path / "m.onnx", pixels=False, verify=False)
    x = np.ascontiguousarray(np.moveaxis(X, -1, 1))
    expected = own().logits(native, X)
    np.testing.assert_allclose(run(exported.path, pixel_values=x)["logits"], expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hs.OnnxModel(exported.path).run(X)["logits"], expected, rtol=1e-4, atol=1e-5)


@needs_torch
def test_arrays_go_in_by_their_names(tmp_path: Path) -> None:
    rows = {name: np.asarray(array) for name, array in sentences(20).items()}
    data = hs.data.arrays(rows, np.arange(20) % 2, classes=["a", "b"])
    model = hs.wrap(own().text(), cut=own().TEXT_CUT, head="linear", classes=["a", "b"], example=data)
    exported = hs.export(model, tmp_path / "m.onnx", data, device="cpu")
    expected = hs.predict(model, data, device="cpu")
    np.testing.assert_allclose(run(exported.path, **rows)["logits"], expected, rtol=1e-4, atol=1e-5)
    opened = hs.OnnxModel(exported.path)
    assert sorted(opened.inputs) == ["ids", "mask"]
    np.testing.assert_allclose(opened.predict(rows), expected, rtol=1e-4, atol=1e-5)


def test_without_torch_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.training.exporting import format

    monkeypatch.setattr(format, "find_spec", lambda module: None if module == "torch" else find_spec(module))
    said = r"needs torch, which is not installed: pip install 'headstart\[onnx,torch\]'"
    if find_spec("onnxscript") is None:
        said = r"pip install 'headstart\[onnx,torch\]'"
    with pytest.raises(ExportError, match=said):
        hs.export(wrapped(own()), tmp_path / "m.onnx", device="cpu")
    assert not [*tmp_path.iterdir()]
