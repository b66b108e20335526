"""The op table and the graph: what is malformed is refused with a sentence that helps; cuts, slices, shapes,
multiply-adds and folding agree with computations that share no code with them."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import BY_NAME, KNOWN_ANSWERS, ONE_OF_EACH, KnownAnswer

from headstart.common.errors import CutError, GraphError
from headstart.graph import OPS, Builder, Graph, Node, fold, without_inert
from headstart.graph.layout import from_channels_last, to_channels_last
from headstart.graph.ops import ACTIVATIONS, REQUIRED, adaptive_weights, window_padding
from headstart.models import ARCHITECTURES, architecture
from headstart.models.model import count_params
from headstart.testing import reference

pytestmark = pytest.mark.neutral

INPUT = Node("input", "input")
CONV = {"in_channels": 3, "out_channels": 4, "kernel": (3, 3)}
LINEAR = {"in_features": 4, "out_features": 2}
every_answer = pytest.mark.parametrize("answer", KNOWN_ANSWERS, ids=lambda row: row.name)


def chain(*nodes: tuple[str, str, dict[str, object]], shape: tuple[int, ...] | None = None) -> Graph:
    """A graph of (name, op, attributes) one after the other."""
    made = [Node("input", "input", (), {"shape": shape})]
    for name, op, attrs in nodes:
        made.append(Node(name, op, (made[-1].name,), attrs))
    return Graph(tuple(made), made[-1].name)


# --- nodes and graphs that must not exist


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (("x", "convolution", ("input",)), ["'x'", "unknown op 'convolution'", "conv", "batch_norm"]),
        (("x", "relu", ("input",), {"slope": 0.1}), ["'x'", "'relu'", "no attribute", "slope"]),
        (("x", "relu", ()), ["'x'", "'relu'", "takes 1 inputs", "received 0"]),
        (("x", "relu", ("input", "input")), ["'x'", "takes 1 inputs", "received 2"]),
        (("x", "add", ("input",)), ["'x'", "takes 2 inputs", "received 1"]),
        (("x", "input", ("input",)), ["'x'", "takes 0 inputs", "received 1"]),
        (("x", "concat", ("input",)), ["'x'", "'concat' takes two or more inputs, received 1"]),
        (("x", "attention", ("input",)), ["'x'", "needs the attributes", "heads"]),
        (("x", "conv", ("input",)), ["'x'", "needs the attributes", "in_channels", "out_channels", "kernel"]),
        (("x", "conv", ("input",), CONV | {"dilation": 2}), ["'x'", "no attribute", "dilation"]),
        (("x", "linear", ("input",), {"in_features": 3}), ["'x'", "out_features"]),
    ],
    ids=lambda value: None if isinstance(value, list) else "-".join(map(str, value[:2])),
)
def test_a_malformed_node_is_refused(arguments: tuple, texts: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        Node(*arguments)
    for text in texts:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("nodes", "output", "text"),
    [
        ([INPUT, Node("a", "relu", ("input",)), Node("a", "relu", ("input",))], "a", "two nodes are called 'a'"),
        ([INPUT, Node("input", "relu", ("input",))], "input", "two nodes are called 'input'"),
        ([INPUT, Node("a", "relu", ("b",))], "a", "node 'a' uses ['b'], which no earlier node is called"),
        ([INPUT, Node("a", "relu", ("b",)), Node("b", "relu", ("input",))], "b", "node 'a' uses ['b']"),
        ([INPUT, Node("a", "relu", ("a",))], "a", "node 'a' uses ['a']"),
        ([Node("a", "relu", ("input",))], "a", "node 'a' uses ['input']"),
        ([INPUT, Node("second", "input")], "input", "the first node, and no other, is the input"),
        ([INPUT], "a", "the output 'a' is no node"),
        ([], "a", "the output 'a' is no node"),
    ],
    ids=["twice", "twice-input", "unknown", "later", "itself", "no-input", "two-inputs", "output", "empty"],
)
def test_a_malformed_graph_is_refused(nodes: list[Node], output: str, text: str) -> None:
    with pytest.raises(GraphError, match=re.escape(text)):
        Graph(tuple(nodes), output)


@pytest.mark.parametrize(
    ("graph", "shape", "text"),
    [
        (chain(("c", "conv", CONV)), (8, 8, 4), "'c': conv expects 3 channels, received a map of shape (8, 8, 4)"),
        (chain(("c", "conv", CONV)), (3,), "'c': conv takes a map of shape (h, w, c), received (3,)"),
        (chain(("c", "conv", CONV)), (2, 9, 3), "'c': conv with a 3 wide window does not fit"),
        (chain(("c", "conv", CONV | {"groups": 2})), (8, 8, 3), "'c': conv from 3 to 4 channels"),
        (chain(("p", "max_pool", {"kernel": (1, 4)})), (8, 3, 3), "'p': max_pool with a 4 wide window"),
        (chain(("p", "max_pool", {"kernel": (1, 1)})), (8,), "'p': max_pool takes a map"),
        (chain(("b", "batch_norm", {"channels": 5})), (8, 8, 3), "'b': batch_norm expects 5 channels"),
        (chain(("g", "global_avg_pool", {})), (8,), "'g': global_avg_pool takes a map"),
        (chain(("f", "flatten", {"features": 10})), (2, 2, 3), "'f': flatten expects 10 values"),
        (chain(("l", "linear", LINEAR)), (3,), "'l': linear expects shape (..., 4), received (3,)"),
        (chain(("l", "linear", LINEAR)), (4, 4, 3), "'l': linear expects shape (..., 4), received (4, 4, 3)"),
        (chain(("n", "layer_norm", {"channels": 5})), (7, 4), "'n': layer_norm expects 5 channels"),
        (chain(("s", "scale", {"channels": 5})), (2, 2, 4), "'s': scale expects 5 channels, received shape"),
        (
            chain(("p", "avg_pool", {"kernel": (4, 1)})),
            (3, 8, 3),
            "'p': avg_pool with a 4 wide window does not fit",
        ),
        (chain(("p", "avg_pool", {"kernel": (2, 2)})), (7, 4), "'p': avg_pool takes a map"),
        (
            chain(("p", "max_pool", {"kernel": (2, 2), "stride": (3, 3), "ceil": True})),
            (8, 8, 3),
            "'p': max_pool with ceil needs a window of 3 or more, received 2",
        ),
        (
            chain(
                ("p", "avg_pool", {"kernel": (2, 2), "stride": (2, 2), "padding": ((0, 0), (1, 1)), "ceil": True})
            ),
            (8, 8, 3),
            "'p': avg_pool with ceil needs a window of 3 or more, received 2",
        ),
        (chain(("a", "adaptive_avg_pool", {"size": (2, 2)})), (8,), "'a': adaptive_avg_pool takes a map"),
        (chain(("t", "tokens", {})), (7, 4), "'t': tokens takes a map"),
        (chain(("t", "class_token", {"channels": 4})), (2, 2, 4), "'t': class_token takes tokens of shape (t, c)"),
        (chain(("t", "class_token", {"channels": 5})), (7, 4), "'t': class_token expects 5 channels"),
        (
            chain(("p", "position", {"tokens": 5, "channels": 4})),
            (10, 4),
            "'p': position has 5 places of 4 channels, received (10, 4); positions are made for images of one",
        ),
        (chain(("a", "attention", {"heads": 2})), (7, 8), "'a': attention takes queries, keys and values side by"),
        (chain(("a", "attention", {"heads": 2})), (2, 2, 12), "'a': attention takes tokens of shape (t, c)"),
        (chain(("f", "first_token", {})), (4,), "'f': first_token takes tokens of shape (t, c), received (4,)"),
        (
            chain(("r", "relu", {}), shape=(4, 4, 2)),
            (4, 4, 3),
            "the input has shape (4, 4, 2), received (4, 4, 3)",
        ),
    ],
)
def test_shapes_that_do_not_fit_name_the_node(graph: Graph, shape: tuple[int, ...], text: str) -> None:
    with pytest.raises(GraphError, match=re.escape(text)):
        graph.shapes(shape)


def test_adding_different_shapes_names_the_node() -> None:
    pool = Node("pool", "max_pool", ("input",), {"kernel": (2, 2)})
    graph = Graph((INPUT, pool, Node("sum", "add", ("input", "pool"))), "sum")
    with pytest.raises(
        GraphError, match=r"'sum': add takes two equal shapes, received \(4, 4, 3\) and \(3, 3, 3\)"
    ):
        graph.shapes((4, 4, 3))


def shape_of(op: str, attrs: dict[str, object], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    node = Node("x", op, tuple(f"input{i}" for i in range(len(shapes))), attrs)
    return OPS[op].shape(node.attrs, shapes)


@pytest.mark.parametrize(
    ("op", "shapes", "text"),
    [
        ("multiply", ((4, 4, 3), (1, 1, 2)), "multiply takes a factor whose sides are 1 or equal"),
        ("multiply", ((4, 4, 3), (3,)), "received (4, 4, 3) and (3,)"),
        ("multiply", ((1, 1, 3), (4, 4, 3)), "received (1, 1, 3) and (4, 4, 3)"),
        ("concat", ((4, 4, 3), (4, 3, 3)), "concat takes shapes that differ in their last side only"),
        ("concat", ((4, 4, 3), (4, 3)), "received [(4, 4, 3), (4, 3)]"),
    ],
)
def test_inputs_that_do_not_fit_each_other(op: str, shapes: tuple[tuple[int, ...], ...], text: str) -> None:
    with pytest.raises(GraphError, match=re.escape(text)):
        shape_of(op, {}, *shapes)


# op, attributes, shapes that it is given, shape that it gives
SHAPES: list[tuple[str, dict[str, object], list[tuple[int, ...]], tuple[int, ...]]] = [
    ("normalize", {"scale": (1.0, 2.0, 3.0), "shift": (0.5, 0.0, -0.5)}, [(4, 6, 3)], (4, 6, 3)),
    ("conv", CONV, [(6, 5, 3)], (4, 3, 4)),
    ("batch_norm", {"channels": 3}, [(4, 6, 3)], (4, 6, 3)),
    ("layer_norm", {"channels": 3}, [(4, 6, 3)], (4, 6, 3)),
    ("layer_norm", {"channels": 4}, [(7, 4)], (7, 4)),
    *((op, {}, [shape], shape) for op in sorted(ACTIVATIONS) for shape in ((4, 6, 3), (7, 4))),
    ("max_pool", {"kernel": (3, 3), "stride": (2, 2)}, [(8, 9, 3)], (3, 4, 3)),
    ("max_pool", {"kernel": (3, 3), "stride": (2, 2), "ceil": True}, [(8, 9, 3)], (4, 4, 3)),
    ("avg_pool", {"kernel": (2, 3), "stride": (2, 1), "padding": ((0, 0), (1, 0))}, [(7, 9, 3)], (3, 8, 3)),
    ("avg_pool", {"kernel": (2, 3), "stride": (2, 2), "ceil": True}, [(7, 8, 3)], (4, 4, 3)),
    ("avg_pool", {"kernel": (3, 3), "padding": ((1, 1), (1, 1)), "count_padding": False}, [(4, 6, 3)], (4, 6, 3)),
    ("adaptive_avg_pool", {"size": (3, 7)}, [(8, 2, 3)], (3, 7, 3)),
    ("global_avg_pool", {}, [(4, 6, 3)], (3,)),
    ("add", {}, [(7, 4), (7, 4)], (7, 4)),
    ("multiply", {}, [(4, 6, 3), (1, 1, 3)], (4, 6, 3)),
    ("multiply", {}, [(4, 6, 3), (4, 6, 1)], (4, 6, 3)),
    ("concat", {}, [(4, 6, 3), (4, 6, 1), (4, 6, 2)], (4, 6, 6)),
    ("concat", {}, [(7, 4), (7, 3)], (7, 7)),
    ("flatten", {"features": 72}, [(4, 6, 3)], (72,)),
    ("linear", LINEAR, [(4,)], (2,)),
    ("linear", LINEAR, [(7, 4)], (7, 2)),
    ("linear", LINEAR | {"bias": False}, [(2, 3, 4)], (2, 3, 2)),
    ("scale", {"channels": 4}, [(7, 4)], (7, 4)),
    ("scale", {"channels": 3}, [(4, 6, 3)], (4, 6, 3)),
    ("tokens", {}, [(4, 6, 3)], (24, 3)),
    ("class_token", {"channels": 4}, [(7, 4)], (8, 4)),
    ("position", {"tokens": 7, "channels": 4}, [(7, 4)], (7, 4)),
    ("attention", {"heads": 2}, [(7, 12)], (7, 4)),
    ("first_token", {}, [(7, 4)], (4,)),
    ("mean_tokens", {}, [(7, 4)], (4,)),
    ("dropout", {"rate": 0.5}, [(7, 4)], (7, 4)),
    ("drop_path", {"rate": 0.5}, [(4, 6, 3)], (4, 6, 3)),
]


@pytest.mark.parametrize(
    ("op", "attrs", "given_shapes", "wanted"), SHAPES, ids=[f"{row[0]}{i}" for i, row in enumerate(SHAPES)]
)
def test_shape_rules(
    op: str, attrs: dict[str, object], given_shapes: list[tuple[int, ...]], wanted: tuple[int, ...]
) -> None:
    """By hand, and as what the reference computes has it."""
    assert shape_of(op, attrs, *given_shapes) == wanted
    node = Node("x", op, tuple(f"input{i}" for i in range(len(given_shapes))), attrs)
    rng = np.random.default_rng(0)
    weights = {name.removeprefix("x."): rng.uniform(0.5, 2, shape) for name, shape in node.param_shapes().items()}
    assert reference.apply(node, weights, [rng.normal(size=(2, *s)) for s in given_shapes]).shape == (2, *wanted)


def test_every_op_is_in_the_reference() -> None:
    """So that an op added to the table cannot be forgotten in what the backends are compared with."""
    assert {row[0] for row in SHAPES} == OPS.keys() - {"input", "native"}


@given(
    size=st.integers(1, 40),
    kernel=st.integers(1, 7),
    stride=st.integers(1, 6),
    padding=st.integers(0, 3),
    op=st.sampled_from(["max_pool", "avg_pool"]),
)
def test_rounding_up_is_torchs(size: int, kernel: int, stride: int, padding: int, op: str) -> None:
    """As torch documents it: a last window that would start in the padding behind the map is left out. What that
    rule would concern is refused, so that no backend has to know it."""
    attrs = {"kernel": (kernel, 1), "stride": (stride, 1), "padding": ((padding, padding), (0, 0)), "ceil": True}
    documented = math.ceil((size + 2 * padding - kernel) / stride) + 1
    if (documented - 1) * stride >= size + padding:
        documented -= 1
    try:
        height, _, _ = shape_of(op, attrs, (size, 1, 1))
    except GraphError:
        assert kernel < stride + padding or kernel > size + 2 * padding
        return
    assert height == documented
    (before, after), _ = window_padding(attrs)
    assert shape_of(op, attrs | {"padding": ((before, after), (0, 0)), "ceil": False}, (size, 1, 1))[0] == height
    ones = np.ones((1, size, 1, 1))
    assert reference.apply(Node("p", op, ("input",), attrs), {}, [ones]).shape == (1, height, 1, 1)


def test_padding_stays_as_it_is_where_nothing_is_rounded_up() -> None:
    padding = ((1, 2), (0, 3))
    attrs = {"kernel": (9, 9), "stride": (2, 4), "padding": padding}
    assert window_padding(attrs | {"ceil": False}) == padding
    assert window_padding(attrs) == padding
    assert window_padding(attrs | {"ceil": True}) == ((1, 3), (0, 6))


def test_averages_by_hand() -> None:
    """1 2 3 4 5 in windows of three by two, with a zero before and behind: what is counted differs."""
    x = np.arange(1.0, 6).reshape(1, 5, 1, 1)

    def average(size: int, **attrs: object) -> list[float]:
        window = {"kernel": (3, 1), "stride": (2, 1), "padding": ((1, 1), (0, 0)), **attrs}
        return list(reference.apply(Node("p", "avg_pool", ("input",), window), {}, [x[:, :size]]).ravel())

    assert average(5) == [1.0, 3.0, 3.0]
    assert average(5, count_padding=False) == [1.5, 3.0, 4.5]
    # of four values the last window is cut off: it holds the 4 and one zero, and what is beyond is never counted
    assert average(4) == [1.0, 3.0]
    assert average(4, ceil=True) == [1.0, 3.0, 2.0]
    assert average(4, ceil=True, count_padding=False) == [1.5, 3.0, 4.0]


def test_adaptive_windows_by_hand() -> None:
    """Of five places three windows overlap, of two they repeat."""
    third = np.float32(1 / 3)
    assert adaptive_weights(5, 3).tolist() == [
        [0.5, 0.5, 0, 0, 0],
        [0, third, third, third, 0],
        [0, 0, 0, 0.5, 0.5],
    ]
    assert adaptive_weights(2, 3).tolist() == [[1, 0], [0.5, 0.5], [0, 1]]
    assert np.array_equal(adaptive_weights(4, 4), np.eye(4, dtype=np.float32))


@given(side=st.integers(1, 20), size=st.integers(1, 12))
def test_adaptive_weights_are_those_of_the_windows(side: int, size: int) -> None:
    x = np.random.default_rng(side).normal(size=(2, side, 3, 4))
    node = Node("a", "adaptive_avg_pool", ("input",), {"size": (size, 3)})
    wanted = reference.apply(node, {}, [x])
    weights = adaptive_weights(side, size)
    assert weights.dtype == np.float32
    assert np.abs(np.einsum("oi,niwc->nowc", weights, x) - wanted).max() <= 1e-6


def test_attention_by_hand() -> None:
    """Two tokens and two heads of one channel: each head has softmax weights of its own."""
    qkv = np.array([[1.0, 0, 0, 2, 10, 1], [0, 3, 1, 0, 20, 3]])
    got = reference.apply(Node("a", "attention", ("input",), {"heads": 2}), {}, [qkv[None]])[0]

    def mean(scores: tuple[float, float], values: tuple[float, float]) -> float:
        first, second = map(math.exp, scores)
        return (first * values[0] + second * values[1]) / (first + second)

    wanted = [[mean((0, 1), (10, 20)), mean((0, 0), (1, 3))], [mean((0, 0), (10, 20)), mean((6, 0), (1, 3))]]
    assert np.allclose(got, wanted, rtol=1e-12)


def test_multiply_adds_of_tokens() -> None:
    graph = chain(
        ("tokens", "tokens", {}),
        ("class_token", "class_token", {"channels": 4}),
        ("position", "position", {"tokens": 10, "channels": 4}),
        ("norm", "layer_norm", {"channels": 4}),
        ("qkv", "linear", {"in_features": 4, "out_features": 12}),
        ("attention", "attention", {"heads": 2}),
        ("gelu", "gelu", {}),
        ("scale", "scale", {"channels": 4}),
        ("token", "first_token", {}),
    )
    macs = graph.macs((3, 3, 4))
    # 10 tokens: a linear layer on each; then all pairs twice, for the weights and for the sums
    assert {name: count for name, count in macs.items() if count} == {
        "qkv": 10 * 4 * 12,
        "attention": 2 * 10 * 10 * 4,
    }
    assert graph.shapes((3, 3, 4))["token"] == (4,)
    assert graph.param_shapes() == {
        "class_token.weight": (4,),
        "position.weight": (10, 4),
        "norm.weight": (4,),
        "norm.bias": (4,),
        "qkv.weight": (12, 4),
        "qkv.bias": (12,),
        "scale.weight": (4,),
    }


def test_attributes_are_completed_and_the_callers_are_left_alone() -> None:
    given_attrs = dict(CONV)
    node = Node("c", "conv", ("input",), given_attrs)
    assert given_attrs == CONV
    assert node.attrs["stride"] == (1, 1)
    assert node.attrs["padding"] == ((0, 0), (0, 0))
    assert node.attrs["bias"] is True
    assert REQUIRED not in node.attrs.values()
    assert node == Node("c", "conv", ("input",), {**CONV, "stride": (1, 1), "groups": 1})
    assert hash(node) == hash(Node("c", "conv", ("input",), CONV))


def test_grouped_convolutions_are_counted() -> None:
    graph = chain(("c", "conv", {"in_channels": 6, "out_channels": 4, "kernel": (3, 2), "groups": 2}))
    assert graph.param_shapes() == {"c.weight": (4, 3, 3, 2), "c.bias": (4,)}
    # 3 x 4 windows fit 5 x 5; each of the four outputs sees 3 channels of 3 x 2
    assert graph.shapes((5, 5, 6))["c"] == (3, 4, 4)
    assert graph.macs((5, 5, 6))["c"] == 3 * 4 * 4 * 3 * 3 * 2


def test_weights_come_back_from_channels_last() -> None:
    rng = np.random.default_rng(0)
    for shape in ((5, 3, 2, 4), (5, 3), (5,)):
        weight = rng.normal(size=shape)
        assert np.array_equal(from_channels_last(to_channels_last(weight)), weight)
    weight = rng.normal(size=(5, 3, 2, 4))
    assert to_channels_last(weight)[1, 3, 2, 4] == weight[4, 2, 1, 3]
    assert to_channels_last(weight[:, :, 0, 0])[2, 4] == weight[4, 2, 0, 0]


# --- cuts


@st.composite
def dags(draw: st.DrawFn) -> Graph:
    """Rectifiers and sums on anything that came before, dead ends included; the output is any node."""
    nodes = [INPUT]
    for i in range(draw(st.integers(1, 14))):
        op = draw(st.sampled_from(["relu", "add"]))
        # mostly what came just before, or else hardly any node would dominate the output
        back = st.one_of(st.just(1), st.integers(1, min(4, len(nodes))))
        inputs = tuple(nodes[-draw(back)].name for _ in range(OPS[op].inputs))
        nodes.append(Node(f"n{i}", op, inputs))
    return Graph(tuple(nodes), nodes[draw(st.one_of(st.just(-1), st.integers(1, len(nodes) - 1)))].name)


def reaches(graph: Graph, without: str) -> bool:
    """Whether a path leads from input to output that avoids the node `without`."""
    reached = {graph.nodes[0].name}
    changed = True
    while changed:
        more = {n.name for n in graph.nodes if n.name != without and reached & set(n.inputs)} - reached
        reached |= more
        changed = bool(more)
    return graph.output in reached


@given(dags())
def test_legal_cuts_are_the_nodes_whose_removal_separates_input_from_output(graph: Graph) -> None:
    inner = [n.name for n in graph.nodes if n.name not in (graph.input, graph.output)]
    assert list(graph.cuts()) == [name for name in inner if not reaches(graph, name)]


@given(dags())
def test_checking_a_cut_accepts_the_legal_ones_and_names_the_nearest(graph: Graph) -> None:
    names = [n.name for n in graph.nodes]
    legal = graph.cuts()
    for name in names:
        if name in legal:
            assert graph.check_cut(name) == name
            continue
        with pytest.raises(CutError) as caught:
            graph.check_cut(name)
        text = str(caught.value)
        assert repr(name) in text
        if legal and name not in (graph.input, graph.output):
            before = [cut for cut in legal if names.index(cut) < names.index(name)]
            after = [cut for cut in legal if names.index(cut) > names.index(name)]
            named = re.findall(r"'(\w+)'", text.partition("nearest legal cuts are")[2])
            assert named == before[-1:] + after[:1]


@given(dags(), st.integers(0, 2**31))
def test_the_two_halves_of_a_cut_are_the_graph(graph: Graph, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(2, 3, 4, 3))
    whole = reference.run(graph, {}, x)
    needed = {n.name for n in graph.upto(graph.output).nodes}
    for cut in graph.cuts():
        trunk, head = graph.upto(cut), graph.after(cut, (3, 4, 3))
        assert trunk.output == cut
        assert head.input == cut
        assert head.output == graph.output
        assert {n.name for n in trunk.nodes} & {n.name for n in head.nodes} == {cut}
        assert {n.name for n in trunk.nodes} | {n.name for n in head.nodes} == needed
        features = reference.run(trunk, {}, x)[cut]
        assert np.array_equal(reference.run(head, {}, features)[graph.output], whole[graph.output])


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("layer2.0.conv1", ["layer1.1", "layer2.0.add"]),
        ("layer2.0.bn2", ["layer1.1", "layer2.0.add"]),
        ("layer2.0.downsample", ["layer1.1", "layer2.0.add"]),
        ("layer4.1.relu1", ["layer4.0", "layer4.1.add"]),
    ],
)
def test_a_cut_inside_a_branch_is_refused_and_names_the_nearest(name: str, nearest: list[str]) -> None:
    graph = architecture("resnet18").graph(10)
    with pytest.raises(CutError, match=f"'{re.escape(name)}' is inside a branch") as caught:
        graph.check_cut(name)
    assert str(caught.value).endswith(f"nearest legal cuts are {nearest[0]!r} and {nearest[1]!r}")


@pytest.mark.parametrize(
    ("name", "meant"), [("layer4.9", "layer4.1"), ("avgpol", "avgpool"), ("Layer2.1", "layer2.1")]
)
def test_an_unknown_cut_suggests_near_ones(name: str, meant: str) -> None:
    graph = architecture("resnet18").graph(10)
    for look_up in (graph.resolve, graph.check_cut):
        with pytest.raises(CutError, match=f"no node '{name}'") as caught:
            look_up(name)
        assert meant in str(caught.value).partition("the nearest are")[2].partition(";")[0]
        assert "legal cuts are conv1, bn1" in str(caught.value)


def test_an_unknown_cut_that_is_near_to_nothing_lists_the_legal_ones() -> None:
    with pytest.raises(CutError, match="no node '0123'") as caught:
        architecture("lenet").graph(10).check_cut("0123")
    assert "nearest" not in str(caught.value)
    assert "pool2, flatten, fc1" in str(caught.value)


@every_answer
def test_a_module_means_its_last_node(answer: KnownAnswer) -> None:
    graph = architecture(answer.name).graph(answer.classes)
    for module, node in answer.aliases.items():
        assert graph.resolve(module) == node
        assert graph.check_cut(module) == node
    assert graph.resolve("logits") == graph.output


def test_a_module_is_not_a_mere_prefix_of_a_name() -> None:
    with pytest.raises(CutError):
        architecture("resnet18").graph(10).resolve("layer")
    assert architecture("resnet18").graph(10, (8, 4)).resolve("fc") == "fc.4"


@pytest.mark.parametrize("name", ["fc", "logits"])
def test_a_cut_at_the_output_leaves_nothing_to_train(name: str) -> None:
    with pytest.raises(CutError, match=f"{name!r} leaves nothing to train; the last cut is 'avgpool'"):
        architecture("resnet18").graph(10).check_cut(name)


def test_a_cut_at_the_input_leaves_no_trunk() -> None:
    with pytest.raises(CutError, match="'input' leaves no trunk to run; the first cut is 'conv1'"):
        architecture("resnet18").graph(10).check_cut("input")


@pytest.mark.parametrize("name", ["input", "r"])
def test_a_graph_too_short_to_cut_says_so(name: str) -> None:
    with pytest.raises(CutError, match="no node of this graph"):
        chain(("r", "relu", {})).check_cut(name)


# --- slices and known answers


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_head_and_trunk_share_nothing_and_miss_nothing(name: str) -> None:
    graph = architecture(name).graph(7).main
    size = architecture(name).preprocess.size
    shapes = graph.shapes((size, size, 3))
    for cut in graph.cuts():
        trunk, head = graph.upto(cut), graph.after(cut, (size, size, 3))
        assert [*trunk.nodes, *head.nodes[1:]] == list(graph.nodes)
        assert [*trunk.param_shapes(), *head.param_shapes()] == list(graph.param_shapes())
        assert head.shapes(shapes[cut])[graph.output] == (7,)
        both = sum(trunk.macs((size, size, 3)).values()) + sum(head.macs(shapes[cut]).values())
        assert both == sum(graph.macs((size, size, 3)).values())


def test_a_head_takes_features_of_its_own_shape_only() -> None:
    head = architecture("resnet18").graph(10).after("layer4.0", (64, 64, 3))
    assert head.shapes((2, 2, 512))["fc"] == (10,)
    with pytest.raises(GraphError, match="received"):
        head.shapes((7, 7, 512))


@every_answer
def test_shapes_at_cuts(answer: KnownAnswer) -> None:
    graph = architecture(answer.name).graph(answer.classes)
    shapes = graph.shapes((answer.size, answer.size, 3))
    assert {cut: shapes[cut] for cut in answer.shapes} == answer.shapes
    assert set(answer.shapes) <= set(graph.cuts())
    assert shapes[graph.output] == (answer.classes,)


@every_answer
def test_multiply_adds(answer: KnownAnswer) -> None:
    macs = architecture(answer.name).graph(answer.classes).main.macs((answer.size, answer.size, 3))
    assert sum(macs.values()) / 1e9 == pytest.approx(answer.multiply_adds, rel=0, abs=answer.tolerance)


@every_answer
def test_parameters(answer: KnownAnswer) -> None:
    graph = architecture(answer.name).graph(answer.classes)
    assert count_params(graph.main) == answer.parameters
    assert count_params(graph) == answer.parameters + answer.auxiliary_parameters
    statistics = sum(math.prod(shape) for name, shape in graph.param_shapes().items() if ".running_" in name)
    assert count_params(graph) + statistics == sum(math.prod(shape) for shape in graph.param_shapes().values())


def test_rounding_of_odd_sizes_is_down() -> None:
    """At 224 px floor and ceil agree now and then; (66 + 6 - 7) / 2 + 1 = 33.5 tells them apart."""
    shapes = architecture("resnet18").graph(10).shapes((65, 66, 3))
    assert shapes["conv1"] == (33, 33, 64)
    assert shapes["maxpool"] == (17, 17, 64)
    assert shapes["layer2.0"] == (9, 9, 128)


def test_the_canonical_form_is_json_and_tells_graphs_apart() -> None:
    specs = {json.dumps(architecture(name).graph(10).spec()) for name in ARCHITECTURES}
    assert len(specs) == len(ARCHITECTURES)
    assert json.dumps(architecture("resnet18").graph(10).spec()) in specs
    assert BY_NAME.keys() == ARCHITECTURES.keys()


def test_defaults_are_left_out_of_the_canonical_form() -> None:
    """So that an op can be given a new attribute without making every stored feature another trunk's."""
    spelled = chain(("c", "conv", {**CONV, "stride": (1, 1), "groups": 1, "bias": True}))
    assert (
        spelled.spec()
        == chain(("c", "conv", CONV)).spec()
        == [["input", "input", [], {}], ["c", "conv", ["input"], CONV]]
    )
    assert chain(("c", "conv", CONV | {"bias": False})).spec()[1][3] == {"bias": False, **CONV}
    given_shape = chain(("r", "relu", {}), shape=(4, 4, 3)).spec()
    assert given_shape == [["input", "input", [], {"shape": (4, 4, 3)}], ["r", "relu", ["input"], {}]]


# --- auxiliary outputs


def forked(weight: float = 0.3) -> Graph:
    """a -> b -> out, with an auxiliary output behind a."""
    nodes = [
        INPUT,
        Node("a", "relu", ("input",)),
        Node("aux.relu", "relu", ("a",)),
        Node("aux.out", "relu", ("aux.relu",)),
    ]
    return Graph((*nodes, Node("b", "relu", ("a",)), Node("out", "relu", ("b",))), "out", (("aux.out", weight),))


def test_slices_leave_auxiliary_outputs_out() -> None:
    graph = forked()
    main = ["input", "a", "b", "out"]
    assert graph.outputs == ("out", "aux.out")
    assert [node.name for node in graph.main.nodes] == main
    assert graph.main.outputs == ("out",)
    assert graph.main.main == graph.main
    assert graph.cuts() == graph.main.cuts() == ("a", "b")
    for part in (graph.main, graph.upto("b"), graph.after("a", (4, 4, 3))):
        assert part.auxiliary == ()
        assert {node.name for node in part.nodes} <= set(main)
    assert graph.normalized((1, 1, 1), (0, 0, 0)).auxiliary == graph.auxiliary
    assert [node.name for node in graph.upto("aux.out").nodes] == ["input", "a", "aux.relu", "aux.out"]


@pytest.mark.parametrize("name", ["aux", "aux.relu", "aux.out"])
def test_an_auxiliary_head_cannot_be_cut_at(name: str) -> None:
    with pytest.raises(CutError, match=f"'{name}' is inside a branch.* 'a' and 'b'"):
        forked().check_cut(name)


def test_an_auxiliary_output_has_to_be_a_node() -> None:
    with pytest.raises(GraphError, match="the output 'aux' is no node"):
        Graph((INPUT, Node("a", "relu", ("input",))), "a", (("aux", 0.3),))


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("googlenet", {"aux1.fc2": ("inception4a", 0.3), "aux2.fc2": ("inception4d", 0.3)}),
        ("inception_v3", {"AuxLogits.fc": ("Mixed_6e", 0.4)}),
        ("resnet18", {}),
    ],
)
def test_auxiliary_heads_are_the_papers(name: str, wanted: dict[str, tuple[str, float]]) -> None:
    arch = architecture(name)
    graph = arch.graph(7)
    assert dict(graph.auxiliary) == {output: weight for output, (_, weight) in wanted.items()}
    shapes = graph.shapes((arch.preprocess.size, arch.preprocess.size, 3))
    for output, (source, _) in wanted.items():
        assert shapes[output] == (7,)
        module = output.rpartition(".")[0]
        outside = {name for node in graph.nodes if node.name.startswith(f"{module}.") for name in node.inputs}
        assert {name for name in outside if not name.startswith(f"{module}.")} == {source}
        assert source in graph.cuts()


def test_pixels_are_normalised_first() -> None:
    graph = architecture("lenet").graph(3)
    normalized = graph.normalized([2, 3, 4], [0.5, 0.25, 0.125])
    params = reference.random_params(graph, 0)
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    wanted = reference.run(graph, params, pixels * np.array([2.0, 3, 4]) + np.array([0.5, 0.25, 0.125]))
    got = reference.run(normalized, params, pixels)
    assert normalized.input == "pixels"
    assert np.allclose(got["input"], wanted["input"], rtol=1e-12)
    assert np.allclose(got[normalized.output], wanted[graph.output], rtol=1e-12)
    assert normalized.param_shapes() == graph.param_shapes()
    assert normalized.cuts()[1:] == graph.cuts()


# --- folding


@st.composite
def conv_graphs(draw: st.DrawFn) -> Graph:
    """Convolutions of any kernel, stride, padding per side and grouping, linear layers, batch norms, scales,
    pools, branches."""
    b = Builder()
    shapes: dict[str, tuple[int, ...]] = {"input": (6, 5, 4)}
    count = draw(st.integers(2, 9))
    for i in range(count):
        names = list(shapes)
        x = names[-draw(st.one_of(st.just(1), st.integers(1, min(3, len(names)))))]
        height, width, channels = shapes[x]
        follows = b.nodes[-1].op in ("conv", "linear") and x == names[-1]
        op = draw(st.sampled_from([*AFFINE, *AFFINE, "conv"] if follows else ["conv", "conv", "linear", *REST]))
        kernel = (draw(st.integers(1, min(3, height))), draw(st.integers(1, min(3, width))))
        window = {
            "kernel": kernel,
            "stride": draw(st.sampled_from([(1, 1), (1, 1), (2, 1), (2, 2)])),
            "padding": tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in kernel),
        }
        name = f"{op}{i}"
        if op == "conv":
            groups = draw(st.sampled_from([g for g in (1, 1, 2) if channels % g == 0]))
            cout = groups * draw(st.integers(1, 3))
            bias = draw(st.booleans())
            b.add(name, op, x, in_channels=channels, out_channels=cout, groups=groups, bias=bias, **window)
        elif op == "batch_norm":
            b.add(name, op, x, channels=channels, epsilon=draw(st.sampled_from([1e-5, 1e-3, 0.5])))
        elif op == "scale":
            b.add(name, op, x, channels=channels)
        elif op == "linear":
            width, bias = draw(st.integers(1, 3)), draw(st.booleans())
            b.add(name, op, x, in_features=channels, out_features=width, bias=bias)
        elif op == "max_pool":
            b.add(name, op, x, **window)
        elif op == "add":
            b.add(name, op, x, draw(st.sampled_from([n for n in names if shapes[n] == shapes[x]])))
        else:
            b.add(name, op, x)
        shapes = b.graph(name).shapes((6, 5, 4))
    return b.graph(draw(st.sampled_from(list(shapes)[1:])))


AFFINE = ("batch_norm", "scale")
REST = (*AFFINE, "relu", "max_pool", "add")


@settings(deadline=None)
@given(conv_graphs(), st.integers(0, 2**31), st.data())
def test_folding_changes_no_value(graph: Graph, seed: int, data: st.DataObject) -> None:
    params = reference.random_params(graph, seed)
    for value in params.values():
        value.flags.writeable = False
    keep = data.draw(st.sets(st.sampled_from([n.name for n in graph.nodes]), max_size=2))
    folded, new = fold(graph, params, keep)

    users = {n.name: [u for u in graph.nodes if n.name in u.inputs] for n in graph.nodes}
    swallowed = {
        n.name
        for n in graph.nodes
        if (n.op, [u.op for u in users[n.name]])
        in (("conv", ["batch_norm"]), ("conv", ["scale"]), ("linear", ["scale"]))
        and n.name not in keep
        and n.name != graph.output
    }
    assert [n.name for n in folded.nodes] == [n.name for n in graph.nodes if n.name not in swallowed]
    assert folded.output == graph.output
    assert {name: value.shape for name, value in new.items()} == folded.param_shapes()
    assert {value.dtype for value in new.values()} <= {np.dtype(np.float32)}

    x = np.random.default_rng(seed).normal(size=(2, 6, 5, 4))
    wanted, got = reference.run(graph, params, x), reference.run(folded, new, x)
    for name, value in got.items():
        assert np.abs(value - wanted[name]).max() <= 1e-5 * max(1.0, np.abs(wanted[name]).max()), name


def conv_norm(*, more: tuple[Node, ...] = (), output: str = "bn", bias: bool = False) -> Graph:
    conv = Node("conv", "conv", ("input",), {**CONV, "bias": bias})
    return Graph((INPUT, conv, Node("bn", "batch_norm", ("conv",), {"channels": 4}), *more), output)


def operations(graph: Graph) -> dict[str, str]:
    return {node.name: node.op for node in graph.nodes}


@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_convolution_takes_the_batch_norms_name(bias: bool) -> None:
    graph = conv_norm(bias=bias)
    folded, params = fold(graph, reference.random_params(graph, 0))
    assert operations(folded) == {"input": "input", "bn": "conv"}
    assert {name: value.shape for name, value in params.items()} == {"bn.weight": (4, 3, 3, 3), "bn.bias": (4,)}


def test_folding_by_hand() -> None:
    graph = Graph(
        (
            INPUT,
            Node("c", "conv", ("input",), {"in_channels": 1, "out_channels": 1, "kernel": (1, 1)}),
            Node("b", "batch_norm", ("c",), {"channels": 1, "epsilon": 1.0}),
        ),
        "b",
    )
    values = {"weight": 3.0, "bias": 5.0, "running_mean": 1.0, "running_var": 3.0}
    params = {f"b.{key}": np.array([value]) for key, value in values.items()}
    params |= {"c.weight": np.full((1, 1, 1, 1), 4.0), "c.bias": np.array([2.0])}
    # (4 x + 2 - 1) / sqrt(3 + 1) * 3 + 5 = 6 x + 6.5
    _, folded = fold(graph, params)
    assert folded["b.weight"].item() == 6.0
    assert folded["b.bias"].item() == 6.5


def test_a_kept_convolution_is_not_folded() -> None:
    graph = conv_norm()
    params = reference.random_params(graph, 0)
    folded, new = fold(graph, params, keep=["conv"])
    assert folded == graph
    assert all(np.array_equal(new[name], params[name]) for name in params)


def test_a_convolution_with_two_users_is_not_folded() -> None:
    graph = conv_norm(more=(Node("sum", "add", ("conv", "bn")),), output="sum")
    assert fold(graph, reference.random_params(graph, 0))[0] == graph


def test_a_convolution_under_two_batch_norms_is_not_folded() -> None:
    second = Node("bn2", "batch_norm", ("conv",), {"channels": 4})
    graph = conv_norm(more=(second, Node("sum", "add", ("bn", "bn2"))), output="sum")
    assert fold(graph, reference.random_params(graph, 0))[0] == graph


def test_a_convolution_that_is_the_output_is_not_folded() -> None:
    graph = conv_norm(output="conv")
    assert fold(graph, reference.random_params(graph, 0))[0] == graph


def test_a_batch_norm_behind_anything_else_stays() -> None:
    graph = chain(("r", "relu", {}), ("b", "batch_norm", {"channels": 3}), ("c", "conv", CONV))
    assert fold(graph, reference.random_params(graph, 0))[0] == graph


def test_nothing_is_left_of_what_inference_does_not_do() -> None:
    """Wherever it stands: before, behind and between what stays, several in a row, and with several users."""
    b = Builder()
    x = b.add("at_start", "dropout", "input", rate=0.5)
    x = b.conv("conv", x, 3, 3, 1)
    x = b.add("second", "drop_path", b.add("first", "dropout", x, rate=0.5), rate=0.5)
    graph = b.graph(b.add("end", "dropout", b.add("sum", "add", x, b.add("act", "relu", x)), rate=0.5))
    inputs = {node.name: node.inputs for node in without_inert(graph).nodes}
    assert inputs == {
        "input": (),
        "conv": ("input",),
        "act": ("conv",),
        "sum": ("conv", "act"),
        "end": ("sum",),
    }, "the output stays what it is called"
    kept = {node.name: node.inputs for node in without_inert(graph, ["first"]).nodes}
    assert kept["first"] == ("conv",) and kept["act"] == ("first",), "what is asked for stays"
    assert graph["act"].inputs == ("second",), "the graph itself is left as it is"


@pytest.mark.parametrize(
    "name", ["googlenet", "inception_v3", *(name for name in ARCHITECTURES if name.startswith("resnet"))]
)
def test_no_batch_norm_is_left_where_each_follows_a_convolution(name: str) -> None:
    graph = architecture(name).graph(10).main
    params = {key: np.ones(shape, np.float32) for key, shape in graph.param_shapes().items()}
    folded, _ = fold(graph, params)
    assert "batch_norm" not in operations(folded).values()
    assert folded.cuts() == tuple(cut for cut in graph.cuts() if graph[cut].op != "conv")
