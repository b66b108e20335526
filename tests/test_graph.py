"""The op table and the graph: what is malformed is refused with a sentence that helps; cuts, slices, shapes,
multiply-adds and folding agree with computations that share no code with them."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from known_answers import BY_NAME, KNOWN_ANSWERS, KnownAnswer

from headstart.errors import CutError, GraphError
from headstart.graph import OPS, Builder, Graph, Node, fold
from headstart.graph.layout import from_channels_last, to_channels_last
from headstart.graph.ops import REQUIRED, is_buffer
from headstart.models import ARCHITECTURES, architecture

INPUT = Node("input", "input")
CONV = {"in_channels": 3, "out_channels": 4, "kernel": (3, 3)}
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
        (chain(("l", "linear", {"in_features": 4, "out_features": 2})), (3,), "'l': linear expects shape (4,)"),
        (chain(("l", "linear", {"in_features": 4, "out_features": 2})), (2, 2, 4), "'l': linear expects"),
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


def test_every_op_is_in_the_reference() -> None:
    """So that an op added to the table cannot be forgotten in what the backends are compared with."""
    examples = {
        "normalize": {"scale": (1.0, 1.0, 1.0), "shift": (0.0, 0.0, 0.0)},
        "conv": CONV,
        "batch_norm": {"channels": 3},
        "max_pool": {"kernel": (2, 2)},
        "flatten": {"features": 48},
        "linear": {"in_features": 3, "out_features": 2},
        "dropout": {"rate": 0.5},
    }
    for op in set(OPS) - {"input"}:
        inputs = ("input",) * OPS[op].inputs
        graph = Graph((INPUT, Node("x", op, inputs, examples.get(op, {}))), "x")
        shape = (3,) if op == "linear" else (4, 4, 3)
        outputs = reference.run(graph, reference.random_params(graph, 0), np.ones((2, *shape)))
        assert outputs["x"].shape == (2, *graph.shapes(shape)["x"]), op


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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_head_and_trunk_share_nothing_and_miss_nothing(name: str) -> None:
    graph = architecture(name).graph(7)
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
    macs = architecture(answer.name).graph(answer.classes).macs((answer.size, answer.size, 3))
    assert sum(macs.values()) / 1e9 == pytest.approx(answer.multiply_adds, rel=0, abs=answer.tolerance)


@every_answer
def test_parameters(answer: KnownAnswer) -> None:
    shapes = architecture(answer.name).graph(answer.classes).param_shapes()
    count = sum(int(np.prod(shape)) for name, shape in shapes.items() if not is_buffer(name))
    assert count == answer.parameters


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
    """Convolutions of any kernel, stride, padding per side and grouping, batch norms, pools, branches."""
    b = Builder()
    shapes: dict[str, tuple[int, ...]] = {"input": (6, 5, 4)}
    count = draw(st.integers(2, 9))
    for i in range(count):
        names = list(shapes)
        x = names[-draw(st.one_of(st.just(1), st.integers(1, min(3, len(names)))))]
        height, width, channels = shapes[x]
        follows_conv = b.nodes[-1].op == "conv" and x == names[-1]
        op = draw(st.sampled_from(["batch_norm"] * 4 + ["conv"] if follows_conv else ["conv", "conv", *REST]))
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
        elif op == "max_pool":
            b.add(name, op, x, **window)
        elif op == "add":
            b.add(name, op, x, draw(st.sampled_from([n for n in names if shapes[n] == shapes[x]])))
        else:
            b.add(name, op, x)
        shapes = b.graph(name).shapes((6, 5, 4))
    return b.graph(draw(st.sampled_from(list(shapes)[1:])))


REST = ("batch_norm", "relu", "max_pool", "add")


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
        if n.op == "conv"
        and [u.op for u in users[n.name]] == ["batch_norm"]
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


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name.startswith("resnet")])
def test_no_batch_norm_is_left_in_a_residual_network(name: str) -> None:
    graph = architecture(name).graph(10)
    params = {key: np.ones(shape, np.float32) for key, shape in graph.param_shapes().items()}
    folded, _ = fold(graph, params)
    assert "batch_norm" not in operations(folded).values()
    assert folded.cuts() == tuple(cut for cut in graph.cuts() if cut != "conv1")
