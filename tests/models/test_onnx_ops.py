"""Every op of the table as ONNX nodes, run by onnxruntime, beside the plain numpy reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from headstart.common.errors import UnsupportedOpError
from headstart.graph import OPS, Builder, Graph, Node
from headstart.graph.ops import ACTIVATIONS
from headstart.models.exporting.onnx_graph import FIRST, LAST, Emission, lone_tokens
from headstart.models.exporting.onnx_ops import EMITTERS, emit_graph
from headstart.testing import reference
from headstart.testing.samples import every_op, relative_error

onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")
pytestmark = pytest.mark.neutral

# odd and different sides, so that rounding and mixed up axes show
MAP, TOKENS, VECTOR = (9, 8, 6), (7, 6), (6,)
CONV = {"in_channels": 6, "out_channels": 4}


def window(kernel: tuple[int, int], stride: tuple[int, int], padding: Any = 0, **more: Any) -> dict[str, Any]:
    sides = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    return {"kernel": kernel, "stride": stride, "padding": sides, **more}


SIDES = ((1, 0), (0, 2))
POOLS = [
    window(kernel, stride, padding, ceil=ceil)
    for kernel, stride, padding in (
        ((3, 3), (2, 2), 0),
        ((3, 3), (2, 2), 1),
        ((2, 3), (2, 1), ((0, 0), (1, 1))),
        ((4, 5), (2, 3), SIDES),
    )
    for ceil in (False, True)
]
# op, attributes, shape of a sample
ROWS: list[tuple[str, dict[str, Any], tuple[int, ...]]] = [
    ("conv", CONV | window((3, 2), (2, 1), ((1, 1), (0, 0))), MAP),
    ("conv", CONV | window((3, 3), (1, 1), ((0, 1), (2, 0)), bias=False), MAP),
    ("conv", CONV | window((2, 3), (1, 2), SIDES, groups=2), MAP),
    ("conv", {"in_channels": 6, "out_channels": 12, "groups": 6} | window((3, 3), (2, 2), 1), MAP),
    *(("batch_norm", {"channels": 6, "epsilon": e}, s) for e, s in ((1e-1, MAP), (1e-5, TOKENS), (1e-3, VECTOR))),
    *(("layer_norm", {"channels": 6, "epsilon": e}, s) for e, s in ((1e-1, MAP), (1e-5, TOKENS), (1e-6, VECTOR))),
    *((op, {}, shape) for op in sorted(ACTIVATIONS) for shape in (MAP, TOKENS)),
    *(("max_pool", attrs, MAP) for attrs in POOLS),
    *(("avg_pool", attrs | {"count_padding": count}, MAP) for attrs in POOLS for count in (False, True)),
    *(("adaptive_avg_pool", {"size": size}, MAP) for size in ((1, 1), (3, 2), (3, 8), (4, 3), (1, 2), (13, 16))),
    ("global_avg_pool", {}, MAP),
    ("flatten", {"features": 432}, MAP),
    *(
        ("linear", {"in_features": 6, "out_features": 4, "bias": bias}, shape)
        for shape in (MAP, TOKENS, VECTOR)
        for bias in (False, True)
    ),
    *(("scale", {"channels": 6}, shape) for shape in (MAP, TOKENS, VECTOR)),
    ("tokens", {}, MAP),
    ("class_token", {"channels": 6}, TOKENS),
    ("position", {"tokens": 7, "channels": 6}, TOKENS),
    ("attention", {"heads": 2}, TOKENS),
    ("attention", {"heads": 3}, (5, 18)),
    ("first_token", {}, TOKENS),
    ("mean_tokens", {}, TOKENS),
    ("dropout", {"rate": 0.5}, VECTOR),
    ("drop_path", {"rate": 0.5}, MAP),
    ("normalize", {"scale": (1.0, 2.0, 3.0), "shift": (0.5, -1.0, 0.0)}, (4, 5, 3)),
    ("normalize", {"scale": (1.0, 2.0, 3.0), "shift": (0.5, -1.0, 0.0), "reverse": True}, (4, 5, 3)),
]


def joined(op: str, shape: tuple[int, ...], *others: tuple[str, dict[str, Any]]) -> tuple[Graph, tuple[int, ...]]:
    """`op` of the input and of what ops make of it."""
    b = Builder()
    made = [b.add(f"{i}.{other}", other, "input", **attrs) for i, (other, attrs) in enumerate(others)]
    return b.graph(b.add("x", op, "input", *made)), shape


def shrunk(size: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    return "adaptive_avg_pool", {"size": size}


SCALE = ("scale", {"channels": 6})
NORM = ("layer_norm", {"channels": 6})
"""which leaves a map with the channels last"""
LINEAR = ("linear", {"in_features": 6, "out_features": 1})
JOINED = [
    *(joined("add", shape, SCALE) for shape in (MAP, TOKENS, VECTOR)),
    joined("add", MAP, NORM),
    *(joined("multiply", MAP, shrunk(size)) for size in ((1, 1), (9, 1), (1, 8))),
    *(joined("multiply", shape, other) for shape in (MAP, TOKENS, VECTOR) for other in (SCALE, NORM, LINEAR)),
    *(joined("concat", shape, SCALE, LINEAR) for shape in (MAP, TOKENS, VECTOR)),
    joined("concat", MAP, NORM, SCALE, NORM),
]


def session(graph: Graph, params: dict[str, np.ndarray], shape: tuple[int, ...], layout: str, dtype: str) -> Any:
    e = Emission(graph, params, shape, dtype)
    e.input("images", layout, "float32")
    emit_graph(e, graph)
    e.output(graph.output, "logits")
    onnx.checker.check_model(e.file, full_check=True)
    return ort.InferenceSession(e.file.SerializeToString(), providers=["CPUExecutionProvider"])


def check(graph: Graph, shape: tuple[int, ...], tolerance: float = 2e-6, dtype: str = "float32") -> None:
    """Equal to the reference whichever order a map comes in, and whatever the number of samples."""
    params = reference.random_params(graph, 1)
    rng = np.random.default_rng(2)
    x = 3 * rng.standard_normal((7, *shape)).astype(np.float32)
    expected = reference.run(graph, params, x)[graph.output]
    for layout in (FIRST, LAST) if len(shape) == 3 else (LAST,):
        run = session(graph, params, shape, layout, dtype)
        given = np.moveaxis(x, -1, 1) if layout == FIRST else x
        for count in (7, 2, 1):
            (output,) = run.run(None, {"images": np.ascontiguousarray(given[:count])})
            assert output.dtype == np.float32
            assert relative_error(output, expected[:count]) < tolerance, (layout, count)


@pytest.mark.parametrize(("op", "attrs", "shape"), ROWS, ids=[f"{row[0]}{i}" for i, row in enumerate(ROWS)])
def test_an_op_computes_what_the_table_says(op: str, attrs: dict[str, Any], shape: tuple[int, ...]) -> None:
    b = Builder()
    check(b.graph(b.add("x", op, "input", **attrs)), shape)


@pytest.mark.parametrize(("graph", "shape"), JOINED, ids=[f"{g['x'].op}{i}" for i, (g, _) in enumerate(JOINED)])
def test_an_op_of_several_inputs_computes_what_the_table_says(graph: Graph, shape: tuple[int, ...]) -> None:
    check(graph, shape)


def test_every_op_has_an_emitter_and_a_row() -> None:
    expected = OPS.keys() - {"input", "native"}
    assert EMITTERS.keys() == expected
    assert {row[0] for row in ROWS} | {graph["x"].op for graph, _ in JOINED} == expected


def test_a_graph_of_every_op() -> None:
    check(every_op(), (17, 11, 3), 1e-5)


def test_a_graph_of_every_op_in_float16() -> None:
    check(every_op(), (17, 11, 3), 2e-2, "float16")


def last_block(ends: tuple[str, ...]) -> Graph:
    """Tokens of `(7, 6)` through what a vision transformer ends in, and to `ends`."""
    b = Builder()
    qkv = b.linear("qkv", b.add("norm1", "layer_norm", "input", channels=6), 6, 18)
    y = b.linear("proj", b.add("attention", "attention", qkv, heads=2), 6, 6)
    x = b.add("add", "add", b.add("ls1", "scale", y, channels=6), "input")
    y = b.add("act", "gelu", b.linear("fc1", b.add("norm2", "layer_norm", x, channels=6), 6, 24))
    x = b.add("block", "add", b.linear("fc2", y, 24, 6), x)
    x = b.add("norm", "batch_norm", b.add("both", "concat", x, x), channels=12)
    made = [b.add(end, end, x) for end in ends]
    return b.graph(made[0] if len(made) == 1 else b.add("end", "concat", *made))


@pytest.mark.parametrize("ends", [("first_token",), ("first_token", "mean_tokens"), ("mean_tokens",)])
def test_of_the_last_block_the_one_token_is_computed_that_is_read(ends: tuple[str, ...]) -> None:
    graph = last_block(ends)
    check(graph, TOKENS, 1e-5)
    lone = {"attention", "proj", "ls1", "add", "norm2", "fc1", "act", "fc2", "block", "both", "norm"}
    assert lone_tokens(graph) == (lone if ends == ("first_token",) else set())
    e = Emission(graph, reference.random_params(graph, 0), TOKENS, "float32")
    e.input("images", LAST, "float32")
    emit_graph(e, graph)
    shapes = onnx.shape_inference.infer_shapes(e.file, data_prop=True).graph.value_info
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in shapes}
    assert {ranks[name] for name in lone} == ({2} if ends == ("first_token",) else {3})
    assert ranks["qkv"] == 3


def test_an_op_without_an_emitter_is_named() -> None:
    class Part:
        backend = "torch"

        @staticmethod
        def shape(given: Any) -> Any:
            return given

    node = Node("body", "native", ("input",), {"part": Part})
    object.__setattr__(node, "param_shapes", dict)
    e = Emission(Graph((Node("input", "input"), node), "body"), {}, (3,), "float32")
    e.input("features", LAST, "float32")
    with pytest.raises(UnsupportedOpError, match=r"'body' is a part of a wrapped torch module.*part='head'"):
        emit_graph(e, e.graph)
