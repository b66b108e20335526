"""A model as an ONNX file: its ends, its metadata, its parts, and that equal models give equal bytes. What a file
computes is held beside the plain numpy reference."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import CutError, ExportError, SettingError, UnknownNameError, UnsupportedOpError
from headstart.common.version import __version__
from headstart.data.preprocess import Preprocess
from headstart.models import Model
from headstart.models.exporting import onnx_model as exporting
from headstart.models.exporting.onnx_model import (
    OUTPUTS,
    metadata,
    onnx_bytes,
    onnx_model,
    set_metadata,
    write_onnx,
)
from headstart.store.keys import params_digest
from headstart.testing import reference
from headstart.testing.samples import relative_error, shaken, tiny_model

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.neutral
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def model() -> Model:
    """Of 14 x 14 pixels, each channel with a mean and a deviation of its own."""
    preprocess = Preprocess(14, 16, "bicubic", (0.2, 0.4, 0.6), (0.1, 0.2, 0.3))
    return replace(shaken(tiny_model()), preprocess=preprocess, classes=tuple("abcdefghij"), named_classes=True)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 14, 14, 3), np.uint8)


def values(model: Model, images: np.ndarray) -> dict[str, np.ndarray]:
    """What the reference makes of pictures: node -> float64 output."""
    assert isinstance(model.preprocess, Preprocess)
    mean, deviation = np.array(model.preprocess.mean), np.array(model.preprocess.std)
    pixels = images[..., ::-1] if model.preprocess.channels == "bgr" else images
    return reference.run(model.graph, model.params, (pixels / 255 - mean) / deviation)


def session(proto: Any) -> Any:
    onnx.checker.check_model(proto, full_check=True)
    return ort.InferenceSession(onnx_bytes(proto), providers=["CPUExecutionProvider"])


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def ends(entries: Any) -> list[tuple[str, list[Any], str]]:
    return [(entry.name, entry.shape, entry.type) for entry in entries]


def test_filters_that_are_next_to_nothing_are_nothing_in_a_file(model: Model, images: np.ndarray) -> None:
    """onnxruntime would take twenty times as long for them as for others."""
    weight = model.params["conv1.weight"].copy()
    weight[3] = 1e-40
    proto = onnx_model(replace(model, params={**model.params, "conv1.weight": weight}))
    filters = [onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer]
    held = next(array for array in filters if array.shape == weight.shape)
    assert (held[3].view(np.uint32) == 0).all()
    assert (held[4] != 0).all()


def test_pictures_come_in_and_probabilities_out(model: Model, images: np.ndarray) -> None:
    file = session(onnx_model(model))
    assert ends(file.get_inputs()) == [("images", ["n", 14, 14, 3], "tensor(uint8)")]
    outputs = [(name, ["n", 10], "tensor(float)") for name in ("logits", "probabilities")]
    assert ends(file.get_outputs()) == outputs
    expected = values(model, images)["fc"]
    for count in (7, 2, 1):
        logits, probabilities = file.run(None, {"images": images[:count]})
        assert relative_error(logits, expected[:count]) < TOLERANCE
        np.testing.assert_allclose(probabilities, softmax(expected[:count]), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("changes", [{"channels": "bgr"}, {"channels": "bgr", "scale": 0.01}, {"scale": 2 / 255}])
def test_preprocessing_of_other_trunks_is_inside(
    model: Model, images: np.ndarray, changes: dict[str, Any]
) -> None:
    assert isinstance(model.preprocess, Preprocess)
    other = replace(model, preprocess=replace(model.preprocess, **changes))
    assert isinstance(other.preprocess, Preprocess)
    expected = reference.run(model.graph, model.params, other.preprocess.normalise(images))["fc"]
    assert relative_error(session(onnx_model(other)).run(None, {"images": images})[0], expected) < TOLERANCE
    assert json.loads(metadata(onnx_model(other))["preprocess"]) == other.preprocess.as_dict()


def test_preprocessed_pixels_come_in_where_that_is_asked_for(model: Model, images: np.ndarray) -> None:
    assert isinstance(model.preprocess, Preprocess)
    file = session(onnx_model(model, pixels=False))
    assert ends(file.get_inputs()) == [("pixel_values", ["n", 3, 14, 14], "tensor(float)")]
    pixels = np.ascontiguousarray(model.preprocess.normalise(images).transpose(0, 3, 1, 2))
    logits = file.run(["logits"], {"pixel_values": pixels})[0]
    assert relative_error(logits, values(model, images)["fc"]) < TOLERANCE


@pytest.mark.parametrize(
    ("task", "names"),
    [("single", ["logits", "probabilities"]), ("multi", ["logits", "scores"]), ("regression", ["values"])],
)
def test_outputs_are_the_tasks(model: Model, images: np.ndarray, task: str, names: list[str]) -> None:
    proto = onnx_model(replace(model, task=task, threshold=0.3))
    file = session(proto)
    assert [entry.name for entry in file.get_outputs()] == names == list(OUTPUTS[task].names)
    outputs = dict(zip(names, file.run(None, {"images": images}), strict=True))
    expected = values(model, images)["fc"]
    assert relative_error(outputs[names[0]], expected) < TOLERANCE
    if task == "multi":
        np.testing.assert_allclose(outputs["scores"], 1 / (1 + np.exp(-expected)), rtol=0, atol=TOLERANCE)
    about = metadata(proto)
    assert about["task"] == task
    assert about.get("threshold") == ("0.3" if task == "multi" else None)


def test_metadata_hold_what_a_program_needs_to_serve_it(model: Model) -> None:
    proto = onnx_model(replace(model, classes=("Rösti", 'a "b"', *"cdefghij")))
    about = metadata(proto)
    assert list(about) == sorted(about)
    assert json.loads(about.pop("classes")) == ["Rösti", 'a "b"', *"cdefghij"]
    assert isinstance(model.preprocess, Preprocess)
    assert Preprocess.from_dict(json.loads(about.pop("preprocess"))) == model.preprocess
    assert about == {
        "cut": "avgpool",
        "dtype": "float32",
        "headstart_version": __version__,
        "model": "tiny",
        "part": "whole",
        "task": "single",
        "verified": "not verified",
        "weights_digest": params_digest(model.params),
    }
    set_metadata(proto, {"verified": "{}", "added": "text"})
    assert metadata(proto) == metadata(onnx_model(model)) | {
        "verified": "{}",
        "added": "text",
        "classes": metadata(proto)["classes"],
    }
    assert list(metadata(proto)) == sorted(metadata(proto))


@pytest.mark.parametrize("cut", ["conv1", "relu", "pool", "block", "bn2", "avgpool", None])
def test_a_trunk_and_a_head_are_the_whole(model: Model, images: np.ndarray, cut: str | None) -> None:
    """At every kind of cut, with features as the store has them."""
    expected, node = values(model, images), cut or "avgpool"
    trunk, head = (onnx_model(model, part=part, cut=cut) for part in ("trunk", "head"))
    assert [metadata(proto)["part"] for proto in (trunk, head)] == ["trunk", "head"]
    assert {metadata(proto)["cut"] for proto in (trunk, head)} == {node}
    shape = ["n", *expected[node].shape[1:]]
    (features,) = session(trunk).run(None, {"images": images})
    assert ends(session(trunk).get_outputs()) == [("features", shape, "tensor(float)")]
    assert ends(session(head).get_inputs()) == [("features", shape, "tensor(float)")]
    assert relative_error(features, expected[node]) < TOLERANCE
    for count in (7, 1):
        logits, probabilities = session(head).run(None, {"features": features[:count]})
        assert relative_error(logits, expected["fc"][:count]) < TOLERANCE
        np.testing.assert_allclose(probabilities, softmax(expected["fc"][:count]), rtol=0, atol=TOLERANCE)
    names = {"trunk": set(model.graph.upto(node).param_shapes())}
    names["head"] = set(model.params) - names["trunk"]
    for proto, part in ((trunk, "trunk"), (head, "head")):
        digest = params_digest({name: model.params[name] for name in names[part]})
        assert metadata(proto)["weights_digest"] == digest


@pytest.mark.parametrize("part", ["whole", "trunk", "head"])
def test_float16_is_half_as_large_and_close(model: Model, images: np.ndarray, part: str) -> None:
    expected = values(model, images)
    full, half = (onnx_model(model, part=part, dtype=dtype) for dtype in ("float32", "float16"))
    assert exporting.weights_nbytes(half) < 0.6 * exporting.weights_nbytes(full)
    file = session(half)
    given = {"features": expected["avgpool"].astype(np.float32)} if part == "head" else {"images": images}
    output = file.run(None, given)[0]
    assert output.dtype == np.float32
    error = relative_error(output, expected["avgpool" if part == "trunk" else "fc"])
    assert 1e-5 < error < 2e-2
    assert metadata(half)["dtype"] == "float16"


@pytest.mark.parametrize("part", ["whole", "head"])
def test_numbers_in_their_own_units_are_not_rounded_to_float16(
    model: Model, images: np.ndarray, part: str
) -> None:
    """Years around 2001, between which float16 has nothing; or numbers that it does not hold."""
    for origin in (2001.0, 1e6):
        params = {**model.params, "fc.bias": model.params["fc.bias"] + np.float32(origin)}
        years = replace(model, params=params, task="regression")
        expected = values(years, images)
        given = {"features": expected["avgpool"].astype(np.float32)} if part == "head" else {"images": images}
        (output,) = session(onnx_model(years, part=part, dtype="float16")).run(None, given)
        assert np.abs(output - expected["fc"]).max() < 2e-2 * np.abs(expected["fc"] - origin).max()


def test_weights_beyond_float16_are_an_error(model: Model) -> None:
    params = {**model.params, "fc.weight": model.params["fc.weight"] * 1e7}
    with pytest.raises(SettingError, match=r"dtype='float16': 'fc.weight' holds numbers up to .*65,504"):
        onnx_model(replace(model, params=params), dtype="float16")


def test_equal_models_give_equal_bytes(model: Model) -> None:
    again = replace(model, params={name: model.params[name].copy() for name in reversed(model.params)})
    assert onnx_bytes(onnx_model(again)) == onnx_bytes(onnx_model(model))
    moved = {**model.params, "fc.bias": np.nextafter(model.params["fc.bias"], np.float32(9))}
    assert onnx_bytes(onnx_model(replace(model, params=moved))) != onnx_bytes(onnx_model(model))


def test_weights_beyond_two_gigabytes_lie_in_a_second_file(
    model: Model, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx_model(model)
    assert write_onnx(proto, tmp_path / "whole.onnx") == (tmp_path / "whole.onnx",)
    assert (tmp_path / "whole.onnx").read_bytes() == onnx_bytes(proto)
    expected = session(proto).run(None, {"images": images})
    monkeypatch.setattr(exporting, "MOST_NBYTES", 5000)
    assert write_onnx(proto, tmp_path / "part", "model.onnx.data") == (
        tmp_path / "part",
        tmp_path / "model.onnx.data",
    )
    large = sum(value.nbytes for value in model.params.values() if value.nbytes > exporting.SMALL_NBYTES)
    assert 0 <= (tmp_path / "model.onnx.data").stat().st_size - large < 5 * exporting.PAGE_NBYTES
    assert (tmp_path / "part").stat().st_size < 10_000
    (tmp_path / "part").rename(tmp_path / "model.onnx")  # as whoever writes beside the target does
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    outputs = ort.InferenceSession(tmp_path / "model.onnx").run(None, {"images": images})
    for output, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, wanted)
    assert metadata(onnx.load(tmp_path / "model.onnx")) == metadata(proto)
    with pytest.raises(SettingError, match="ends at 2 GiB; write it to a path"):
        onnx_bytes(proto)


@pytest.mark.parametrize(
    ("settings", "error", "text"),
    [
        ({"part": "tail"}, UnknownNameError, "whole, trunk, head"),
        ({"dtype": "bfloat16"}, UnknownNameError, "float32, float16"),
        ({"part": "head", "cut": "block.conv"}, CutError, "inside a branch"),
        ({"part": "head", "pixels": False}, SettingError, "takes features; leave it out"),
    ],
)
def test_settings_that_are_not_allowed(
    model: Model, settings: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        onnx_model(model, **settings)


def test_a_missing_library_is_named_with_what_installs_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ExportError, match=r"pip install 'headstart\[onnx\]'"):
        onnx_model(model)


@pytest.mark.of("torch")
def test_of_a_wrapped_module_the_head_can_be_written() -> None:
    import torch

    body = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3), torch.nn.ReLU())
    model = hs.wrap(body, head="linear", classes=4, example=np.zeros((1, 8, 8, 3), np.float32))
    with pytest.raises(UnsupportedOpError, match="is a part of a wrapped torch module"):
        onnx_model(model)
    shape = model.graph.shapes(model.input_shape)[model.default_cut]
    features = np.random.default_rng(1).standard_normal((3, *shape)).astype(np.float32)
    logits = session(onnx_model(model, part="head")).run(None, {"features": features})[0]
    head = model.graph.after(model.default_cut, model.input_shape)
    expected = reference.run(head, model.params, features)[head.output]
    assert relative_error(logits, expected) < TOLERANCE
