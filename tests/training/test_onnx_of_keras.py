"""Wrapped Keras models as ONNX files, which Keras writes on its torch engine, in a process of its own where the
user's engine is another one: onnxruntime gives what the model gives on the engine that it is on."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exporting import pixels, run
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
    expected = own().logits(native, P.normalise(pixels(17)))
    for count in BATCHES:
        made = run(exported.path, images=pixels(17)[:count])
        np.testing.assert_allclose(made["logits"], expected[:count], rtol=1e-4, atol=1e-5)
    opened = hs.OnnxModel(exported.path)
    assert (opened.inputs, opened.outputs) == (("images",), ("logits", "probabilities"))
    np.testing.assert_allclose(opened.predict(pixels(17)), expected, rtol=1e-4, atol=1e-5)
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
    features = run(trunk.path, images=pixels(17))["features"]
    np.testing.assert_allclose(features, own().features(native, P.normalise(pixels(17))), rtol=1e-4, atol=1e-5)
    expected = own().logits(native, P.normalise(pixels(17)))
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
@pytest.mark.slow
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


def rows_of_all_kinds(count: int = 17) -> dict[str, np.ndarray]:
    """Called as nothing in Python may be, and as what is computed in between."""
    rng = np.random.default_rng(5)
    words = rng.integers(1, 20, (count, 3)).astype(np.int32)
    words[np.arange(3) >= rng.integers(1, 4, count)[:, None]] = 0
    return {
        "the words": words,
        "weight.0": rng.standard_normal((count, 4)).astype(np.float32),
        "add": rng.integers(0, 256, (count, 8, 8, 3), np.uint8),
    }


@needs_torch
def test_sequences_with_masks_pictures_and_numbers_at_once(tmp_path: Path) -> None:
    """What Keras itself would loop over, sample by sample; and a layer of the user's own."""
    native = import_module("own_keras_onnx").several()
    rows = rows_of_all_kinds()
    before = [np.array(weight.numpy()) for weight in native.weights]
    model = hs.wrap(native, example=rows)
    exported = hs.export(model, tmp_path / "m.onnx", rows, device="cpu")
    expected = own().logits(native, [rows[entry.name] for entry in native.inputs])
    for count in BATCHES:
        made = run(exported.path, **{name: array[:count] for name, array in rows.items()})["logits"]
        np.testing.assert_allclose(made, expected[:count], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(hs.OnnxModel(exported.path).predict(rows), expected, rtol=1e-4, atol=1e-5)
    for one, other in zip(before, native.weights, strict=True):
        np.testing.assert_array_equal(one, other.numpy())


@needs_torch
@pytest.mark.slow
def test_equal_models_give_equal_files_that_say_nothing_of_this_machine(tmp_path: Path) -> None:
    contents = set()
    for k in range(2):
        path = tmp_path / f"{k}" / "m.onnx"
        path.parent.mkdir()
        hs.export(wrapped(own()), path, device="cpu", verify=False)
        contents.add(path.read_bytes())
    (content,) = contents
    for part in (str(Path(__file__).parent), str(Path(find_spec("torch").origin).parent), "forward"):
        assert part.encode() not in content


@needs_torch
@pytest.mark.slow
def test_half_the_bytes(tmp_path: Path) -> None:
    native = own().small()
    full, half = (
        hs.export(wrapped(own(), native), tmp_path / f"{half}.onnx", half=half, device="cpu")
        for half in (False, True)
    )
    assert half.nbytes < full.nbytes and hs.OnnxModel(half.path).texts["dtype"] == "float16"
    expected = own().logits(native, P.normalise(pixels(17)))
    np.testing.assert_allclose(hs.OnnxModel(half.path).predict(pixels(17)), expected, atol=2e-2)


@needs_torch
@pytest.mark.parametrize("verify", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_branch_on_the_number_of_samples_is_in_no_file(verify: bool, tmp_path: Path) -> None:
    """Batches as small as verification's take one way, and it would be the way of all."""
    x = np.random.default_rng(0).standard_normal((8, 8)).astype(np.float32)
    model = hs.wrap(import_module("own_keras_onnx").branching(), example=x[:5])
    with pytest.raises(ExportError, match="the module branches on the number of samples"):
        hs.export(model, tmp_path / "m.onnx", x if verify else None, verify=verify, device="cpu")
    assert not [*tmp_path.iterdir()]


@needs_torch
@pytest.mark.parametrize(
    "make", ["lambdas", *(pytest.param(k, marks=pytest.mark.slow) for k in ("hidden", "talkative"))]
)
def test_what_only_this_process_knows_is_written_in_this_process_alone(make: str, tmp_path: Path) -> None:
    """Where it is on torch already; that others refuse it is in tests/parity, which has them and torch."""
    import keras

    if keras.backend.backend() != "torch":
        pytest.skip("tests/parity/test_export.py has it")
    native = getattr(own() if make == "lambdas" else import_module("own_keras_onnx"), make)()
    exported = hs.export(hs.wrap(native, preprocess=P, name="of this process"), tmp_path / "m.onnx", device="cpu")
    expected = own().logits(native, P.normalise(pixels(17)))
    np.testing.assert_allclose(run(exported.path, images=pixels(17))["logits"], expected, rtol=1e-4, atol=1e-5)


def test_without_torch_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.training.exporting import format

    monkeypatch.setattr(format, "find_spec", lambda module: None if module == "torch" else find_spec(module))
    said = r"needs torch, which is not installed: pip install 'headstart\[onnx,torch\]'"
    if find_spec("onnxscript") is None:
        said = r"pip install 'headstart\[onnx,torch\]'"
    with pytest.raises(ExportError, match=said):
        hs.export(wrapped(own()), tmp_path / "m.onnx", device="cpu")
    assert not [*tmp_path.iterdir()]
