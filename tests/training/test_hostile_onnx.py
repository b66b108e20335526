"""ONNX files that nobody should have sent: each is one typed line, in bounded time and memory, and writes
nothing."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.errors import HeadstartError, ModelFileError
from headstart.models.exporting import onnx_model as writer
from headstart.models.exporting import wire
from headstart.models.exporting.onnx_reading import read_contents
from headstart.testing.samples import shaken, tiny_model

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.neutral
CLASSES = tuple("abcdefghij")
HUGE = 1 << 60


@pytest.fixture(scope="module")
def sound() -> Any:
    """A file of ours, to be spoilt."""
    model = replace(shaken(tiny_model()), preprocess=Preprocess(14, 16), classes=CLASSES, named_classes=True)
    return writer.onnx_model(model)


@pytest.fixture
def proto(sound: Any) -> Any:
    return copy.deepcopy(sound)


def refused(path: Path) -> str:
    """What is said of a file, which is refused as it is opened, or as it is run."""
    before = sorted(path.parent.rglob("*"))
    with pytest.raises(ModelFileError) as error:
        hs.OnnxModel(path).predict([np.zeros((20, 20, 3), np.uint8)])
    said = str(error.value)
    assert said.startswith((f"{path}: ", str(path.parent)))
    assert said.isprintable() and len(said) < 600
    assert sorted(path.parent.rglob("*")) == before
    return said.removeprefix(f"{path}: ")


def saved(proto: Any, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString(deterministic=True))
    return path


# ---- what is no ONNX file


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(60), "is a ZIP archive"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
        (b'{"format": 2, "model": {}}', "is JSON text"),
        (b"\x80\x04\x95" + bytes(60), "is a Python pickle"),
        (b"\0" * 5000, "is nothing but zero bytes"),
        (bytes(range(256)) * 20, "cannot be read as an ONNX file"),
        (
            b"\x08\x08\x12\x10ORTM" + bytes(12),
            "there is no graph in it",
        ),  # by this mark onnxruntime reads another format
        (b"\x08" + b"\xff" * 30, "it breaks off, or is damaged"),
        (b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "it breaks off, or is damaged"),
    ],
)
def test_what_is_no_onnx_file(content: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    assert refused(path).startswith(said) or said in refused(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    (tmp_path / "folder.onnx").mkdir()
    assert "not a regular file" in refused(tmp_path / "pipe.onnx")
    assert "a folder" in refused(tmp_path / "folder.onnx")
    assert "No such file" in refused(tmp_path / "none.onnx")


def test_a_file_that_breaks_off_anywhere(sound: Any, tmp_path: Path) -> None:
    content = writer.onnx_bytes(sound)
    for end in [*range(1, 60), *range(60, len(content), len(content) // 40), len(content) - 1]:
        (tmp_path / "m.onnx").write_bytes(content[:end])
        refused(tmp_path / "m.onnx")


def test_a_file_of_somebody_else_is_told_what_it_lacks(tmp_path: Path) -> None:
    helper = onnx.helper
    ends = [helper.make_tensor_value_info(name, 1, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = saved(helper.make_model(graph, producer_name="pytorch"), tmp_path)
    said = refused(path)
    assert "is not a file that headstart wrote (its producer is 'pytorch'" in said
    assert "its metadata lack part, task, classes, preprocess" in said
    assert "`headstart export RUN m.onnx`, or run this one with onnxruntime itself" in said


# ---- weights elsewhere


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"location": "/etc/passwd"}, "'/etc/passwd'; expected a file beside it"),
        ({"location": "../secret.bin"}, "expected a file beside it"),
        ({"location": "sub/../../secret.bin"}, "expected a file beside it"),
        ({"location": "..\\secret.bin"}, "expected a file beside it"),
        ({"location": "link.bin"}, "expected a file beside it"),
        ({"location": "linked/secret.bin"}, "expected a file beside it"),
        ({"location": "loop.bin"}, "loop.bin"),
        ({"location": "pipe.bin"}, "expected a file beside it"),
        ({"location": "none.bin"}, "No such file"),
        ({"location": ""}, "expected a file beside it"),
        ({"location": "a\0b"}, "expected a file beside it"),
        ({"location": "x" * 3000}, "File name too long"),
        ({}, "expected a file beside it"),
        ({"location": "weights.bin", "offset": "4096"}, "breaks off"),
        ({"location": "weights.bin", "offset": "9" * 19}, "breaks off"),
        ({"location": "weights.bin", "offset": "-8"}, "at -8"),
        ({"location": "weights.bin", "length": str(HUGE)}, str(HUGE)),
        ({"location": "weights.bin", "length": "1e3"}, "1e3"),
    ],
)
def test_weights_that_lie_elsewhere(proto: Any, tmp_path: Path, place: dict[str, str], said: str) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(1 << 16))
    (folder / "weights.bin").write_bytes(bytes(1 << 10))
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "linked").symlink_to(tmp_path)
    (folder / "loop.bin").symlink_to("loop.bin")
    os.mkfifo(folder / "pipe.bin")
    tensor = next(t for t in proto.graph.initializer if len(t.raw_data) >= 400)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
    assert said in refused(saved(proto, folder))


# ---- graphs that are none of ours


def add_node(op: str, inputs: list[str], **more: Any) -> Callable[[Any], None]:
    """Put a node before the others."""

    def spoil(proto: Any) -> None:
        proto.graph.node.insert(0, onnx.helper.make_node(op, inputs, ["new"], **more))

    return spoil


def cyclic(proto: Any) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


def itself(proto: Any) -> None:
    node = next(node for node in proto.graph.node if node.op_type == "Relu")
    node.input[0] = node.output[0]


def backwards(proto: Any) -> None:
    nodes = list(proto.graph.node)[::-1]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def twice(proto: Any) -> None:
    proto.graph.node[-1].output[0] = proto.graph.node[0].output[0]


def other_opset(proto: Any) -> None:
    proto.opset_import.add(domain="evil.ops", version=1)


def function(proto: Any) -> None:
    proto.functions.add(name="f", domain="evil.ops")


def training(proto: Any) -> None:
    proto.training_info.add()


def sparse(proto: Any) -> None:
    proto.graph.sparse_initializer.add(dims=[HUGE])


def subgraph(proto: Any) -> None:
    attribute = proto.graph.node[0].attribute.add(name="body", type=5)
    attribute.g.CopyFrom(onnx.GraphProto(name="inner"))


def a_body_of_its_own(proto: Any) -> None:
    """Of an op that may stand in a file."""
    proto.graph.node.insert(0, onnx.helper.make_node("Identity", ["images"], ["new"]))
    subgraph(proto)


def gigabytes(proto: Any) -> None:
    """Zeros without end, of a shape that is known before anything is run."""
    helper, graph = onnx.helper, proto.graph
    graph.initializer.append(onnx.numpy_helper.from_array(np.array([1 << 20, 1 << 20, 1]), "times"))
    logits, graph.node[-1].input[0] = graph.node[-1].input[0], "sum"
    added = [
        helper.make_node("Shape", ["images"], ["shape"], start=1),
        helper.make_node("Mul", ["shape", "times"], ["sides"]),
        helper.make_node("ConstantOfShape", ["sides"], ["zeros"]),
        helper.make_node("ReduceMax", ["zeros"], ["largest"], keepdims=0),
        helper.make_node("Add", [logits, "largest"], ["sum"]),
    ]
    for node in added:
        graph.node.insert(len(graph.node) - 1, node)


def tensor_attribute(proto: Any) -> None:
    attribute = proto.graph.node[0].attribute.add(name="value", type=4)
    attribute.t.CopyFrom(onnx.TensorProto(dims=[8], data_type=1))


def wide_tensor_attribute(proto: Any) -> None:
    tensor_attribute(proto)
    proto.graph.node[0].attribute[-1].t.dims[0] = HUGE


def huge_attribute(proto: Any) -> None:
    proto.graph.node[-1].attribute.add(name="axis", type=2, i=HUGE)


def shape_of(*dims: int) -> Callable[[Any], None]:
    def spoil(proto: Any) -> None:
        tensor = proto.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return spoil


def packed(proto: Any) -> None:
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.float_data.extend([0.0] * 8)


def texts(proto: Any) -> None:
    proto.graph.initializer[0].data_type = 8


def two_inputs(proto: Any) -> None:
    proto.graph.input.add().CopyFrom(proto.graph.input[0])
    proto.graph.input[1].name = "more"


def same_inputs(proto: Any) -> None:
    proto.graph.input.add().CopyFrom(proto.graph.input[0])


def no_inputs(proto: Any) -> None:
    del proto.graph.input[:]


def other_output(proto: Any) -> None:
    proto.graph.output[0].name = "nowhere"


def one_output(proto: Any) -> None:
    del proto.graph.output[1]


def huge_input(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_value = HUGE


def fixed_batch(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


def float_input(proto: Any) -> None:
    proto.graph.input[0].type.tensor_type.elem_type = 1


def wide_output(proto: Any) -> None:
    for output in proto.graph.output:
        output.type.tensor_type.shape.dim[1].dim_value = 11


def narrow_weights(proto: Any) -> None:
    """Nine outputs where ten are declared, and named."""
    node = next(node for node in proto.graph.node if node.op_type == "Gemm")
    for tensor in proto.graph.initializer:
        if tensor.name in node.input[1:]:
            width = len(tensor.raw_data) // 10
            tensor.dims[0], tensor.raw_data = 9, tensor.raw_data[: 9 * width]


def narrow_without_a_word(proto: Any) -> None:
    """Likewise, and outputs are declared to be of any width."""
    narrow_weights(proto)
    for output in proto.graph.output:
        output.type.tensor_type.shape.dim[1].ClearField("dim_value")
        output.type.tensor_type.shape.dim[1].dim_param = "k"


def double_outputs(proto: Any) -> None:
    """Of another kind of numbers than those that read them take."""
    logits, proto.graph.node[-1].input[0] = proto.graph.node[-1].input[0], "single"
    for node in proto.graph.node:
        for k, name in enumerate(node.output):
            node.output[k] = "single" if name == logits else "likely" if name == "probabilities" else name
    for name, origin in ((logits, "single"), ("probabilities", "likely")):
        proto.graph.node.append(onnx.helper.make_node("Cast", [origin], [name], to=11))
    for output in proto.graph.output:
        output.type.tensor_type.elem_type = 11


def many_nodes(proto: Any) -> None:
    for i in range(20_001):
        proto.graph.node.add(op_type="Relu", input=["images"], output=[f"more{i}"])


def long_name(proto: Any) -> None:
    proto.graph.node[0].output[0] = "x" * 5000


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (cyclic, "nodes are out of order, go round in a circle, or lack one"),
        (itself, "go round in a circle"),
        (backwards, "nodes are out of order"),
        (twice, "two nodes give"),
        (add_node("Loop", ["images"]), "a node's op is 'Loop'"),
        (add_node("RandomNormalLike", ["images"]), "a node's op is 'RandomNormalLike'"),
        (add_node("SequenceConstruct", ["images"]), "a node's op is 'SequenceConstruct'"),
        (gigabytes, "cannot be run (Available memory of"),
        (a_body_of_its_own, "an attribute has a field of number 6"),
        (add_node("Relu", ["images"], domain="evil.ops"), "a node's op is of the domain 'evil.ops'"),
        (
            add_node("Concat", ["input.scale", "input.scale"], axis=0),
            "a node Concat computes nothing of the input",
        ),
        (add_node("Relu", []), "a node Relu has 0 inputs and 1 outputs"),
        (other_opset, "its opset is ai.onnx 17, evil.ops 1; expected ai.onnx 17 to 26"),
        (function, "the file has a field of number 25, which is none of ours"),
        (training, "the file has a field of number 20"),
        (sparse, "its graph has a field of number 15"),
        (subgraph, "an attribute has a field of number 6"),
        (tensor_attribute, "the weight '' has no bytes, or bytes in two places"),
        (wide_tensor_attribute, "the weight '' has the shape [1152921504606846976]"),
        (huge_attribute, "an attribute is 1,152,921,504,606,846,976"),
        (shape_of(HUGE), "has the shape [1152921504606846976]"),
        (shape_of(1 << 20, 1 << 20, 1 << 20), "4,611,686,018,427,387,904 bytes, and 12 are there"),
        (shape_of(-1), "has the shape"),
        (shape_of(*[1] * 9), "has the shape"),
        (shape_of(2), "8 bytes, and 12 are there"),
        (packed, "a weight has a field of number 4"),
        (texts, "is of ONNX's number type 8"),
        (two_inputs, "it has 2 inputs; expected one"),
        (same_inputs, "two inputs have one name"),
        (no_inputs, "it has no input"),
        (other_output, "no node gives its output 'nowhere'"),
        (one_output, "its outputs are logits; expected logits, probabilities"),
        (
            huge_input,
            "its input is images, uint8 ('n', 1152921504606846976, 14, 3); expected images, uint8 (14, 14, 3)",
        ),
        (fixed_batch, "its input is images, uint8 (1, 14, 14, 3)"),
        (float_input, "its input is images, float32"),
        (wide_output, "its output logits is ('n', 11), and it names 10 classes"),
        (double_outputs, "its output logits is float64; expected float32"),
        (narrow_weights, "gives logits of the shape (1, 9) for 1 samples and 10 classes"),
        (narrow_without_a_word, "and it names 10 classes"),
        (many_nodes, "it has more than 20,000 nodes"),
        (long_name, "the name of a node's input or output has 5,000 bytes; expected at most 4,096"),
    ],
    ids=lambda value: getattr(value, "__name__", "")[:30],
)
def test_graphs_that_are_none_of_ours(proto: Any, tmp_path: Path, spoil: Callable[[Any], None], said: str) -> None:
    spoil(proto)
    assert said in refused(saved(proto, tmp_path))


@pytest.mark.parametrize(
    "text", ["....,ab->ab", "......,ab->ab", "...a...,ab->ab", "a\0b,....->", "ab->->", "\x1b[2J"]
)
def test_texts_that_onnxruntime_reads_for_ever(proto: Any, tmp_path: Path, text: str) -> None:
    """So it must not see them."""
    node = onnx.helper.make_node("Einsum", ["images", "images"], ["more"], equation=text)
    proto.graph.node.append(node)
    path = saved(proto, tmp_path)
    with path.open("rb") as file, pytest.raises(ModelFileError, match="an attribute is '") as error:
        read_contents(file, path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "text", ["half_pixel", "", "ab,bc->ac", "b i j, b j k -> b i k", "...ij,...jk->...ik", "i...->...", "a,a"]
)
def test_texts_of_attributes(proto: Any, tmp_path: Path, text: str) -> None:
    proto.graph.node.append(onnx.helper.make_node("Einsum", ["images"], ["more"], equation=text))
    path = saved(proto, tmp_path)
    with path.open("rb") as file:
        read_contents(file, path)


def test_what_onnxruntime_says_is_without_its_sources(proto: Any, tmp_path: Path) -> None:
    """An op that is refused as its kernel is made."""
    node = onnx.helper.make_node("LRN", ["images"], ["more"], size=0)
    proto.graph.node.insert(0, onnx.helper.make_node("Cast", ["images"], ["single"], to=1))
    node.input[0] = "single"
    proto.graph.node.insert(1, node)
    said = refused(saved(proto, tmp_path))
    assert said.startswith("cannot be run (") and "size_ > 0" in said
    assert "onnxruntime_src" not in said and "FAIL" not in said and "Exception" not in said


def test_a_file_of_tiny_pieces_ends_soon(proto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MOST_FIELDS", 5000)
    path = saved(proto, tmp_path)
    path.write_bytes(path.read_bytes() + b"\x3a\0" * 10_000)
    assert "it holds two graphs" in refused(path)
    monkeypatch.setattr(wire, "MOST_NBYTES", 500)
    assert "its texts have more than 500 bytes" in refused(saved(proto, tmp_path))
    path.write_bytes(b"\x08\x08" * 10_000)
    assert "it is made of more than 5,000 pieces" in refused(path)


# ---- metadata


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", "a, b", "its classes cannot be read"),
        ("classes", "[" * 5000, "its classes cannot be read: it is nested deeper"),
        ("classes", '{"a": 1}', "its classes cannot be read: it is an object, expected a list"),
        ("classes", "[1, 2]", "its classes cannot be read: [0] is a whole number, expected a text"),
        ("classes", '["a", "a"]', "classes names 'a' twice"),
        ("classes", '["a", ""]', "classes holds ''"),
        ("classes", "[]", "classes is empty"),
        ("classes", json.dumps(list("abc")), "its output logits is ('n', 10), and it names 3 classes"),
        ("classes", "[" + "9" * 5000 + "]", "its classes cannot be read: the number 99"),
        ("task", "guess", "its task is 'guess'; expected one of single, multi, regression"),
        ("task", "multi", "its threshold cannot be read"),
        ("task", "regression", "its outputs are logits, probabilities; expected values"),
        ("part", "none", "its part is 'none'; expected one of whole, trunk, head"),
        ("part", "\x1b[31mred", r"its part is '\x1b[31mred'"),
        ("part", "head", "its input is images, uint8"),
        ("preprocess", "{", "its preprocessing cannot be read"),
        ("preprocess", "[]", "its preprocessing cannot be read: it is a list, expected an object"),
        ("preprocess", "{}", "preprocess settings lack size"),
        ("preprocess", '{"size": 14, "resize": 16, "interpolation": "x", "mean": 0, "std": 0}', "interpolation"),
        ("preprocess", '{"size": 1e9}', "preprocess settings lack"),
        ("preprocess", '{"evil": 1}', "unknown preprocess setting"),
        ("preprocess", '{"arrays": 5}', "arrays is a whole number, expected a list"),
        ("preprocess", '{"arrays": []}', "there are no arrays"),
        ("preprocess", '{"arrays": [["images", [3]]]}', "arrays[0] has 2 entries, expected 3"),
        ("preprocess", '{"arrays": [["images", [-3], "uint8"]]}', "an array of a sample is uint8 of shape [-3]"),
        ("preprocess", '{"arrays": [["images", [1073741824, 8], "uint8"]]}', "an array of a sample is uint8"),
        ("preprocess", '{"arrays": [["images", [3], "object"]]}', "an array of a sample is object"),
        (
            "preprocess",
            '{"arrays": [["images", [3], "uint8"]]}',
            "images, uint8 ('n', 14, 14, 3); expected images",
        ),
        ("preprocess", '{"arrays": [["x", [3], "uint8"]]}', "its input is images, uint8"),
        ("preprocess", '{"arrays": [["x", [], "uint8"], ["y", [], "int8"]]}', "it has 1 inputs; expected x, y"),
        ("verified", "{", "its figures of its verification cannot be read"),
    ],
)
def test_metadata_that_say_nothing(proto: Any, tmp_path: Path, key: str, value: str, said: str) -> None:
    writer.set_metadata(proto, {key: value})
    assert said in refused(saved(proto, tmp_path))


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", json.dumps(["e\u0301", "\u00e9"] * 30_000), "classes names '\u00e9' twice"),
        (
            "preprocess",
            "{" + ",".join(f'"{i}": 0' for i in [*range(60_000), 59_999]) + "}",
            "'59999' stands twice",
        ),
    ],
)
def test_many_names_that_stand_twice_end_soon(proto: Any, tmp_path: Path, key: str, value: str, said: str) -> None:
    start = time.process_time()
    writer.set_metadata(proto, {key: value})
    assert said in refused(saved(proto, tmp_path))
    assert time.process_time() - start < 10


@pytest.mark.parametrize("threshold", ["2", "-1", "NaN", '"0.5"', "true"])
def test_a_threshold_that_is_no_probability(proto: Any, tmp_path: Path, threshold: str) -> None:
    writer.set_metadata(proto, {"task": "multi", "threshold": threshold})
    assert "its threshold" in refused(saved(proto, tmp_path))


def test_a_size_that_is_not_the_networks(proto: Any, tmp_path: Path) -> None:
    settings = Preprocess(4096, 4096).as_dict()
    writer.set_metadata(proto, {"preprocess": json.dumps(settings)})
    assert "its input is images, uint8 ('n', 14, 14, 3); expected images, uint8 (4096, 4096, 3)" in refused(
        saved(proto, tmp_path)
    )


def test_names_steer_no_terminal(proto: Any, tmp_path: Path) -> None:
    evil = ["\x1b[2J\x1b]0;owned\x07" + name for name in CLASSES]
    writer.set_metadata(proto, {"classes": json.dumps(evil), "model": "\x1b[31m" + "m" * 5000})
    path = saved(proto, tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    result = headstart("predict", "--run", path, tmp_path / "a.png")
    assert result.code == 0
    assert r"\x1b[2J\x1b]0;owned\x07" in result.out
    assert "\x1b" not in result.out + result.err and "\x07" not in result.out + result.err
    assert len(hs.OnnxModel(path).name) <= 200 and hs.OnnxModel(path).name.isprintable()


# ---- what the command says


@pytest.mark.parametrize("spoil", [cyclic, shape_of(HUGE), narrow_weights])
def test_the_command_says_one_line(proto: Any, tmp_path: Path, spoil: Callable[[Any], None]) -> None:
    spoil(proto)
    path = saved(proto, tmp_path)
    Image.fromarray(np.zeros((20, 20, 3), np.uint8)).save(tmp_path / "a.png")
    before = sorted(tmp_path.rglob("*"))
    result = headstart("predict", "--run", path, "--csv", tmp_path / "out.csv", tmp_path / "a.png")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {path}: ") and result.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


# ---- memory


def mebibytes(folder: Path, proto: Any) -> Iterator[Path]:
    """Files that ask for more than there is."""

    def made(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    def varint(value: int) -> bytes:
        rest = value >> 7
        return bytes([value & 0x7F]) if not rest else bytes([value & 0x7F | 0x80]) + varint(rest)

    gigabyte = 1 << 30
    content = writer.onnx_bytes(proto)

    def long(name: str, inner: bytes, outer: bytes = b"") -> Path:
        """A text of a gigabyte, of zeros that take no room on the disk, in a field behind what is sound."""
        head = inner + varint(gigabyte)
        if outer:
            head = outer + varint(gigabyte + len(head)) + head
        path = made(name, content + head)
        os.truncate(path, len(content) + len(head) + gigabyte)
        return path

    yield long("producer.onnx", b"\x12")
    yield long("comment.onnx", b"\x32")
    yield long("metadata.onnx", b"\x12", b"\x72")
    path = made("large.onnx", content)
    os.truncate(path, 3 << 30)
    yield path
    yield made("lies.onnx", content[:-3])

    concat = copy.deepcopy(proto)
    last = "images"
    for i in range(30):
        concat.graph.node.insert(i, onnx.helper.make_node("Concat", [last, last], [f"twice{i}"], axis=0))
        last = f"twice{i}"
    for node in concat.graph.node[30:]:
        for k, name in enumerate(node.input):
            node.input[k] = last if name == "images" else name
    yield made("concat.onnx", concat.SerializeToString())

    for width in (1 << 20, 1 << 31, 1 << 61):
        pad = copy.deepcopy(proto)
        sides = np.array([0, width, 0, 0, 0, 0, 0, 0], np.int64)
        pad.graph.initializer.append(onnx.numpy_helper.from_array(sides, "sides"))
        pad.graph.node.insert(0, onnx.helper.make_node("Pad", ["images", "sides"], ["padded"]))
        for node in pad.graph.node[1:]:
            for k, name in enumerate(node.input):
                node.input[k] = "padded" if name == "images" else name
        yield made(f"pad{width}.onnx", pad.SerializeToString())


CHILD = """
import resource, sys, time
import numpy as np
import headstart as hs
from headstart.models.exporting import onnx_runtime
onnx_runtime.available_memory = lambda: 256 << 20
hs.OnnxModel(sys.argv[1]).predict([np.zeros((20, 20, 3), np.uint8)])
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (3 << 30)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sys.argv[2:]:
    start = time.monotonic()
    try:
        hs.OnnxModel(path).predict([np.zeros((20, 20, 3), np.uint8)])
    except hs.errors.ModelFileError as error:
        print(f"{time.monotonic() - start:.1f}", error)
# ru_maxrss would begin with that of the process that started this one
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) >> 10)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")
def test_files_that_ask_for_more_than_there_is(sound: Any, proto: Any, tmp_path: Path) -> None:
    """In a child that has a small pool, and is not killed where one of them passes it."""
    good = saved(sound, tmp_path)
    files = list(mebibytes(tmp_path, proto))
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(good), *map(str, files)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    *lines, peak = done.stdout.splitlines()
    assert len(lines) == len(files), done.stdout
    assert all(float(line.split()[0]) < 5 for line in lines), done.stdout
    assert int(peak) < 600, done.stdout


def test_bytes_that_are_turned_at_random(sound: Any, tmp_path: Path) -> None:
    """Whatever comes of it: an answer, or an error of ours. Weights are left alone: any number is one."""
    content = writer.onnx_bytes(sound)
    rng = np.random.default_rng(0)
    path = tmp_path / "m.onnx"
    weights = np.zeros(len(content), bool)
    for tensor in sound.graph.initializer:
        start = content.find(tensor.raw_data) if len(tensor.raw_data) > 64 else 0
        weights[start : start + len(tensor.raw_data) * (start > 0)] = True
    places = np.flatnonzero(~weights)
    refusals = 0
    for _ in range(100):
        spoilt = bytearray(content)
        spoilt[rng.choice(places)] = rng.integers(256)
        path.write_bytes(spoilt)
        try:
            hs.OnnxModel(path).predict([np.zeros((20, 20, 3), np.uint8)])
        except HeadstartError:
            refusals += 1
    assert 50 < refusals < 100
