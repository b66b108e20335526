"""The zoo: known numbers of parameters, classifiers for new classes, seeds, and weight files that fit exactly or
are refused with a list of what does not."""

from __future__ import annotations

import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from known_answers import BY_NAME, KNOWN_ANSWERS, KnownAnswer
from safetensors.numpy import load_file, save_file

import headstart as hs
from headstart.common.errors import DataError, GraphError, SettingError, UnknownNameError, WeightsError
from headstart.graph import Builder, fold
from headstart.models import ARCHITECTURES, Model, architecture
from headstart.models.architecture import Shipped
from headstart.models.initial import initial_params
from headstart.models.weights import load_weights
from headstart.store import params_digest

pytestmark = pytest.mark.neutral

PREPROCESS = {
    "size": 32,
    "resize": 40,
    "interpolation": "bicubic",
    "mean": [0.1, 0.2, 0.3],
    "std": [0.4, 0.5, 0.6],
}
SHIPPED = [
    (row.name, weights)
    for row in ARCHITECTURES.values()
    for weights, entry in row.weights.items()
    if isinstance(entry, Shipped)
]
# Those whose weights are drawn in no time. Of the others, `test_graph.py` counts the same without drawing any.
LIGHT = [row for row in KNOWN_ANSWERS if row.parameters < 15_000_000]
every_light_answer = pytest.mark.parametrize("answer", LIGHT, ids=lambda row: row.name)


def lenet_params(classes: int = 10) -> dict[str, np.ndarray]:
    return dict(hs.model("lenet", classes=classes, seed=5).params)


Writer = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a weight file of lenet, of ten classes, with some entries changed (None: left out)."""

    def written(metadata: dict[str, str] | None = None, **changed: np.ndarray | None) -> Path:
        params: dict[str, Any] = lenet_params() | {name.replace("__", "."): v for name, v in changed.items()}
        path = tmp_path / "weights.safetensors"
        save_file({name: value for name, value in params.items() if value is not None}, path, metadata)
        return path

    return written


# --- known numbers, classes, heads


@every_light_answer
def test_facts(answer: KnownAnswer) -> None:
    model = hs.model(answer.name, classes=answer.classes, size=answer.size)
    facts = model.describe()
    assert facts["parameters"] == answer.parameters + answer.auxiliary_parameters
    assert model.without_auxiliary().describe()["parameters"] == answer.parameters
    assert facts["multiply_adds"] / 1e9 == pytest.approx(answer.multiply_adds, rel=0, abs=answer.tolerance)
    assert facts["classes"] == answer.classes
    json.dumps(facts)


@every_light_answer
def test_parameters_are_those_of_the_graph(answer: KnownAnswer) -> None:
    model = hs.model(answer.name, classes=3)
    assert {key: value.shape for key, value in model.params.items()} == model.graph.param_shapes()
    assert {value.dtype for value in model.params.values()} == {np.dtype(np.float32)}
    assert model.input_shape == (model.preprocess.size, model.preprocess.size, 3)


def unweighted(name: str, head: Any = "linear") -> Model:
    """A model without its weights, for what does not depend on them."""
    arch = architecture(name)
    return Model(name, arch.graph(3, head), {}, arch.preprocess, ("a", "b", "c"), head)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_only_the_classifier_is_behind_the_default_cut(name: str) -> None:
    model = unweighted(name)
    assert model.graph.check_cut(model.default_cut) == model.default_cut
    head = model.graph.after(model.default_cut, model.input_shape)
    assert [node.op for node in head.nodes if node.op != "dropout"] == ["input", "linear"]
    assert head.output == ARCHITECTURES[name].classifier
    assert model.graph[model.default_cut].op != "dropout"


@pytest.mark.parametrize(
    ("name", "head", "cut"),
    [
        ("resnet50", "linear", "avgpool"),
        ("lenet", "linear", "relu4"),
        ("lenet", [8], "relu4"),
        ("googlenet", "linear", "avgpool"),
        ("inception_v3", [8, 0.5], "avgpool"),
        # after the published fully connected layers, or instead of them
        ("alexnet", "linear", "classifier.5"),
        ("alexnet", [0.5, 4096, 0.5, 4096], "flatten"),
        ("vgg16", "linear", "classifier.4"),
        ("vgg16_bn", [256], "flatten"),
    ],
)
def test_default_cuts(name: str, head: Any, cut: str) -> None:
    assert unweighted(name, head).default_cut == cut


@pytest.mark.parametrize(
    ("classes", "names", "named"),
    [
        (3, ("0", "1", "2"), False),
        (np.int64(2), ("0", "1"), False),
        (["rose", "tulip"], ("rose", "tulip"), True),
        (("b", "a", "c"), ("b", "a", "c"), True),
        (np.array(["x", "y"]), ("x", "y"), True),
        (None, tuple(map(str, range(1000))), False),
    ],
    ids=["number", "numpy-number", "list", "tuple-keeps-its-order", "array", "none"],
)
def test_classes(classes: Any, names: tuple[str, ...], named: bool) -> None:
    model = hs.model("lenet", classes=classes)
    assert model.classes == names
    assert model.named_classes is named
    assert model.params["fc3.weight"].shape == (len(names), 84)


@pytest.mark.parametrize(
    "classes",
    [
        0,
        -3,
        True,
        "rose",
        2.0,
        [],
        ["a", "b", "a"],
        [1, "1"],
        {"a", "b"},
        {"a": 0, "b": 1},
        {0: "a", 1: "b"},
        ["a", None],
        [b"a", b"b"],
        ["a", ""],
        [0.5, 1.5],
        None.__class__,
        10**9,
    ],
)
def test_classes_that_cannot_be(classes: Any) -> None:
    with pytest.raises(SettingError, match="class"):
        hs.model("lenet", classes=classes)


def test_one_number_may_be_all_that_is_learnt() -> None:
    """One output is a regression's; that one class is nothing to learn is said of the data."""
    assert hs.model("lenet", classes=["age"]).classes == ("age",)
    model = hs.model("lenet", classes=1)
    data = hs.data.arrays(np.zeros((3, 8, 8, 3), np.uint8), [0, 0, 0], ["age"])
    with pytest.raises(DataError, match="of one class"):
        hs.fit(model, data)


@pytest.mark.parametrize(
    ("head", "layers"), [("linear", {"fc": (5, 512)}), ([7], {"fc.0": (7, 512), "fc.2": (5, 7)})]
)
def test_heads(head: Any, layers: dict[str, tuple[int, int]]) -> None:
    model = hs.model("resnet18", classes=5, head=head)
    assert {
        n.removesuffix(".weight"): model.params[n].shape for n in model.params if "fc" in n and "weight" in n
    } == layers
    assert model.default_cut == "avgpool"
    assert model.graph.shapes((64, 64, 3))[model.graph.output] == (5,)


def test_hidden_layers_alternate_with_rectifiers() -> None:
    model = hs.model("lenet", classes=5, head=(20, 10))
    tail = [(node.name, node.op) for node in model.graph.nodes[-5:]]
    assert tail == [
        ("fc3.0", "linear"),
        ("fc3.1", "relu"),
        ("fc3.2", "linear"),
        ("fc3.3", "relu"),
        ("fc3.4", "linear"),
    ]
    assert model.head == (20, 10)


@pytest.mark.parametrize("name", ["alexnet", "vgg11"])
def test_a_list_replaces_all_fully_connected_layers(name: str) -> None:
    """The published ones are such a list too, so the same list gives the same graph, with fresh weights."""
    own = {"alexnet": (0.5, 4096, 0.5, 4096), "vgg11": (4096, 0.5, 4096, 0.5)}[name]
    arch = architecture(name)
    assert arch.graph(5, own) == arch.graph(5)
    shapes = arch.graph(5, (0.25, 16)).param_shapes()
    features = shapes["classifier.1.weight"][1]
    assert {n: shape for n, shape in shapes.items() if n.startswith("classifier")} == {
        "classifier.1.weight": (16, features),
        "classifier.1.bias": (16,),
        "classifier.3.weight": (5, 16),
        "classifier.3.bias": (5,),
    }
    assert arch.replaced("linear") == "classifier.6"
    assert arch.replaced((16,)) == "classifier"


@pytest.mark.parametrize("head", ["mlp", [], [0], [-1], [2.5], [True], [1.0], [0.0], [8, "x"], 256, None])
def test_a_head_that_cannot_be(head: Any) -> None:
    with pytest.raises(SettingError, match="'linear', or a list of hidden widths"):
        hs.model("lenet", classes=3, head=head)


def test_a_hidden_layer_needs_classes() -> None:
    with pytest.raises(SettingError, match="needs classes="):
        hs.model("lenet", head=[8])


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (
            {"name": "resnet81"},
            ["unknown model 'resnet81'", "resnet34", "'resnet81'; did you mean 'resnet18'? Expected one of"],
        ),
        ({"name": "alexnett"}, ["unknown model 'alexnett'", "lenet", "did you mean 'alexnet'"]),
        (
            {"name": "resnet18_half", "weights": "tinyimagnet"},
            ["unknown weights 'tinyimagnet' for resnet18_half", "did you mean 'tinyimagenet'"],
        ),
        ({"name": "lenet", "weights": "imagenet"}, ["unknown weights 'imagenet' for lenet"]),
    ],
)
def test_unknown_names_suggest(arguments: dict[str, str], texts: list[str]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        hs.model(**arguments)
    for text in texts:
        assert text in str(caught.value)


def test_none_is_random_weights_in_python_as_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("none").write_bytes(b"a file of that name is ./none")
    drawn, worded = hs.model("lenet", classes=3, seed=4), hs.model("lenet", weights="none", classes=3, seed=4)
    assert worded.weights is None
    assert equal(drawn.params, worded.params)
    with pytest.raises(UnknownNameError, match=r"unknown weights 'random' for lenet; expected one of none"):
        hs.model("lenet", weights="random", classes=3)


@pytest.mark.parametrize(("size", "text"), [(64, "images of one size only"), (8, "larger images")])
def test_a_size_that_lenet_cannot_take(size: int, text: str) -> None:
    with pytest.raises(GraphError, match=text):
        hs.model("lenet", classes=3, size=size)


def test_a_size_that_a_residual_network_takes() -> None:
    model = hs.model("resnet18", classes=3, size=65)
    assert model.preprocess.size == 65
    assert model.input_shape == (65, 65, 3)


# --- seeds


def equal(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[name], b[name]) for name in a)


def test_the_same_seed_gives_the_same_weights() -> None:
    assert equal(hs.model("lenet", classes=3, seed=7).params, hs.model("lenet", classes=3, seed=7).params)
    one, other = (hs.model("lenet", classes=3, seed=seed).params for seed in (7, 8))
    assert not any(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("seed", [-1, 0.5, None, "0"])
def test_a_seed_that_cannot_be(seed: Any) -> None:
    with pytest.raises(SettingError, match="seed="):
        hs.model("lenet", classes=3, seed=seed)


@pytest.mark.parametrize("head", ["linear", (16,)])
def test_a_head_starts_the_same_whatever_its_trunk(head: Any) -> None:
    def classifier(name: str, seed: int, **more: Any) -> dict[str, np.ndarray]:
        params = hs.model(name, classes=5, head=head, seed=seed, **more).params
        return {key: value for key, value in params.items() if key.startswith("fc.")}

    assert equal(classifier("resnet18", 3), classifier("resnet34", 3))
    assert equal(classifier("resnet18_half", 3), classifier("resnet18_half", 3, weights="tinyimagenet"))
    assert not equal(classifier("resnet18", 3), classifier("resnet18", 4))


def test_a_parameter_depends_on_its_name() -> None:
    b = Builder()
    graph = b.graph(b.linear("b", b.linear("a", "input", 8, 8), 8, 8))
    params = initial_params(graph, 0)
    assert not np.array_equal(params["a.weight"], params["b.weight"])
    assert equal(initial_params(graph, 0, ["b.weight"]), {"b.weight": params["b.weight"]})


def test_a_node_may_say_how_its_weight_starts() -> None:
    """A classifier that is a convolution starts as a linear layer does; what says nothing has the keys of ever."""
    b = Builder()
    plain = b.graph(b.conv("fc", "input", 512, 10, 1, bias=True))
    start = {}
    for initial in (None, "uniform", "zeros"):
        b = Builder()
        graph = b.graph(b.conv("fc", "input", 512, 10, 1, bias=True, initial=initial))
        start[initial] = initial_params(graph, 0)["fc.weight"]
        assert (graph.spec() == plain.spec()) == (initial is None)
    b = Builder()
    linear = initial_params(b.graph(b.linear("fc", "input", 512, 10)), 0)["fc.weight"]
    np.testing.assert_array_equal(start["uniform"][:, :, 0, 0], linear)
    assert start[None].std() > 10 * linear.std()
    assert not start["zeros"].any()
    with pytest.raises(GraphError, match="'fc': initial='small'; expected one of he, uniform"):
        Builder().conv("fc", "input", 3, 4, 1, initial="small")


def test_initial_distributions() -> None:
    """He's variance for convolutions, torch's bounds for linear layers, the identity for batch norms."""
    params = hs.model("resnet18", classes=1000, seed=1).params
    conv = params["layer3.1.conv2.weight"]
    assert conv.std() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.01)
    assert abs(conv.mean()) < 1e-3
    for name in ("fc.weight", "fc.bias"):
        assert 0.99 / math.sqrt(512) < np.abs(params[name]).max() <= 1 / math.sqrt(512)
        assert params[name].std() == pytest.approx(1 / math.sqrt(3 * 512), rel=0.05)
    for key, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
        assert (params[f"layer1.0.bn1.{key}"] == value).all()


def test_initial_distributions_of_tokens() -> None:
    b = Builder()
    b.add("token", "class_token", "input", channels=400)
    b.add("position", "position", "token", tokens=50, channels=400)
    b.add("norm", "layer_norm", "position", channels=400)
    b.add("scale", "scale", "norm", channels=400, initial=1e-6)
    params = initial_params(b.graph(b.linear("fc", "scale", 400, 900)), 0)
    assert params["token.weight"].std() == pytest.approx(0.02, rel=0.1)
    assert params["position.weight"].std() == pytest.approx(0.02, rel=0.02)
    for name, value in (("norm.weight", 1), ("norm.bias", 0), ("scale.weight", np.float32(1e-6))):
        assert (params[name] == value).all()
    for name in ("fc.weight", "fc.bias"):
        assert 0.99 / math.sqrt(400) < np.abs(params[name]).max() <= 1 / math.sqrt(400)
    assert {value.dtype for value in params.values()} == {np.dtype(np.float32)}


def test_reseeding_draws_what_is_fresh_and_nothing_else() -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=5)
    assert model.fresh == {"fc.weight", "fc.bias"}
    new = model.reseeded(9)
    changed = {name for name in new if not np.array_equal(new[name], model.params[name])}
    assert changed == model.fresh
    assert equal(new, model.reseeded(9))
    assert equal(new | {}, dict(model.params) | {n: new[n] for n in model.fresh})
    everything = model.reseeded(9, everything=True)
    assert equal(everything, hs.model("resnet18_half", classes=5, seed=9).params)


def test_a_model_is_never_changed() -> None:
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=["a", "b"])
    before = params_digest(model.params)
    facts = json.dumps(model.describe())
    model.reseeded(3, everything=True)
    fold(model.graph, model.params)
    trained = model.with_params({name: value + 1 for name, value in model.params.items()})
    assert params_digest(model.params) == before
    assert json.dumps(model.describe()) == facts
    assert model.fresh
    assert not trained.fresh
    assert params_digest(trained.params) != before
    with pytest.raises(FrozenInstanceError):
        model.classes = ("b", "a")  # type: ignore[misc]


def test_the_arguments_are_left_alone_and_not_kept() -> None:
    classes, head, params = ["a", "b"], [4], lenet_params()
    model = hs.model("lenet", classes=classes, head=head)
    classes.append("c")
    head.append(8)
    assert model.classes == ("a", "b")
    assert model.head == (4,)
    other = model.with_params(params)
    params.clear()
    assert other.params


# --- weight files


def test_a_file_that_fits(write: Writer) -> None:
    path = write({"preprocess": json.dumps(PREPROCESS), "classes": json.dumps([f"c{i}" for i in range(10)])})
    for weights in (path, str(path)):
        model = hs.model("lenet", weights=weights)
        assert equal(model.params, lenet_params())
        assert list(model.params) == list(model.graph.param_shapes())
        assert model.preprocess.as_dict() == PREPROCESS
        assert model.classes == tuple(f"c{i}" for i in range(10))
        assert model.named_classes
        assert model.weights == str(path)
        assert model.fresh == frozenset()


def test_a_file_without_metadata(write: Writer) -> None:
    model = hs.model("lenet", weights=write())
    assert model.preprocess == architecture("lenet").preprocess
    assert model.classes == tuple(map(str, range(10)))
    assert not model.named_classes


@pytest.mark.parametrize("head", ["linear", [6]])
def test_new_classes_bring_a_fresh_classifier(write: Writer, head: Any) -> None:
    model = hs.model("lenet", weights=write(), classes=["a", "b", "c"], head=head, seed=2)
    old, new = lenet_params(), hs.model("lenet", classes=3, head=head, seed=2).params
    fresh = {name for name in new if name.startswith("fc3")}
    assert model.fresh == fresh
    assert equal(model.params, {name: new[name] if name in fresh else old[name] for name in new})
    assert model.named_classes


def test_new_classes_do_not_ask_for_a_classifier_in_the_file(write: Writer) -> None:
    path = write(fc3__weight=None, fc3__bias=None)
    assert hs.model("lenet", weights=path, classes=3).params["fc3.weight"].shape == (3, 84)
    with pytest.raises(SettingError, match="has no classifier; pass classes="):
        hs.model("lenet", weights=path)


def test_counters_of_batches_are_accepted_and_dropped(tmp_path: Path) -> None:
    params = dict(hs.model("resnet18_half", classes=4).params)
    counters = {
        n.replace("running_mean", "num_batches_tracked"): np.array(7) for n in params if "running_mean" in n
    }
    assert len(counters) == 20
    save_file(params | counters, tmp_path / "torchvision.safetensors")
    assert equal(hs.model("resnet18_half", weights=tmp_path / "torchvision.safetensors").params, params)


def test_half_precision_becomes_float32(write: Writer) -> None:
    half = lenet_params()["conv1.weight"].astype(np.float16)
    params = hs.model("lenet", weights=write(conv1__weight=half)).params
    assert params["conv1.weight"].dtype == np.float32
    assert np.array_equal(params["conv1.weight"], half)


def test_every_kind_of_misfit_is_listed(write: Writer) -> None:
    wrong = np.zeros((6, 1, 5, 5), np.float32)
    path = write(conv2__weight=None, fc1__bias=None, extra__weight=wrong, conv1__weight=wrong)
    with pytest.raises(WeightsError) as caught:
        hs.model("lenet", weights=path)
    text = str(caught.value)
    assert text.startswith(f"{path} does not fit the model; ")
    assert "missing: conv2.weight, fc1.bias" in text
    assert "left over: extra.weight" in text
    assert "of another shape: conv1.weight (6, 1, 5, 5) instead of (6, 3, 5, 5)" in text


@pytest.mark.parametrize(
    ("changed", "there", "not_there"),
    [
        ({"fc2__bias": None}, "missing: fc2.bias", ("left over", "another shape")),
        ({"fc9__bias": np.zeros(1)}, "left over: fc9.bias", ("missing", "another shape")),
        ({"fc2__bias": np.zeros(85)}, "another shape: fc2.bias (85,) instead of (84,)", ("missing", "left over")),
        # as many values, but in another arrangement
        ({"fc2__weight": np.zeros((120, 84))}, "fc2.weight (120, 84) instead of (84, 120)", ("missing",)),
    ],
)
def test_one_misfit_is_enough(
    write: Writer, changed: dict[str, Any], there: str, not_there: tuple[str, ...]
) -> None:
    with pytest.raises(WeightsError) as caught:
        hs.model("lenet", weights=write(**changed))
    assert there in str(caught.value)
    assert not any(text in str(caught.value) for text in not_there)


def test_class_names_must_be_as_many_as_the_classifier_has(write: Writer) -> None:
    with pytest.raises(WeightsError, match=r"fc3\.weight \(10, 84\) instead of \(2, 84\)"):
        hs.model("lenet", weights=write({"classes": '["a", "b"]'}))


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "lenet"])
def test_weights_of_another_architecture(name: str) -> None:
    path = load_weights(architecture("resnet18_half"), "tinyimagenet").source
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
        hs.model(name, weights=path)
    assert "and " in str(caught.value)  # long lists are cut short
    assert len(str(caught.value)) < 2500


@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.999])
def test_a_file_cut_short(write: Writer, share: float) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(WeightsError, match="cannot be read as safetensors") as caught:
        hs.model("lenet", weights=path)
    assert str(path) in str(caught.value)


def header(text: str, *, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(text) if length is None else length) + text.encode()


@pytest.mark.parametrize(
    "content",
    [
        header("{", length=2**60),
        header("not json"),
        header("[]"),
        header('{"conv1.weight": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}'),
        header('{"conv1.weight": {"dtype": "Z9", "shape": [1], "data_offsets": [0, 4]}}') + bytes(4),
        b"\x89PNG" + bytes(100),
    ],
    ids=["long-header", "no-json", "a-list", "offsets-beyond-the-end", "unknown-dtype", "an-image"],
)
def test_a_file_that_is_no_safetensors(tmp_path: Path, content: bytes) -> None:
    for name, mend in (
        ("bad.safetensors", "is it complete"),
        ("bad.onnx", "expected a .safetensors file: .*hs.wrap"),
    ):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=f"cannot be read as safetensors .*; {mend}"):
            hs.model("lenet", weights=path)


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "ckpt", "pkl", "safetensors"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights.{suffix}"
    path.write_bytes(pickle.dumps(Bomb(tmp_path / "exploded")))
    with pytest.raises(WeightsError, match="pickle" if suffix not in ("pkl", "safetensors") else "safetensors"):
        hs.model("lenet", weights=path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "metadata",
    [
        {"preprocess": "{"},
        {"preprocess": "[1]"},
        {"preprocess": "3"},
        {"preprocess": json.dumps(PREPROCESS | {"size": 0})},
        {"preprocess": json.dumps(PREPROCESS | {"mode": "x"})},
        {"preprocess": json.dumps({"size": 32})},
        {"classes": "no json"},
        {"classes": "10"},
    ],
)
def test_metadata_that_cannot_be_read(write: Writer, metadata: dict[str, str]) -> None:
    with pytest.raises(WeightsError, match="its metadata cannot be read"):
        hs.model("lenet", weights=write(metadata))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for weights in (tmp_path / "none.safetensors", tmp_path / "folder" / "none", "none.safetensors"):
        with pytest.raises(WeightsError, match="no such weight file"):
            hs.model("lenet", weights=weights)


def test_what_a_model_holds_comes_back_from_a_file(tmp_path: Path) -> None:
    model = hs.model("resnet18_half", classes=4, seed=1)
    save_file(dict(model.params), tmp_path / "m.safetensors")
    again = hs.model("resnet18_half", weights=tmp_path / "m.safetensors")
    assert equal(again.params, model.params)
    assert replace(again, params={}, weights=None, fresh=frozenset()) == replace(
        model, params={}, weights=None, fresh=frozenset()
    )


# --- auxiliary classifiers


def test_auxiliary_heads_learn_the_new_classes_too() -> None:
    model = hs.model("googlenet", classes=5)
    assert model.graph.auxiliary == (("aux1.fc2", 0.3), ("aux2.fc2", 0.3))
    assert {n: model.params[f"{n}.weight"].shape for n in ("fc", "aux1.fc2", "aux2.fc2")} == {
        "fc": (5, 1024),
        "aux1.fc2": (5, 1024),
        "aux2.fc2": (5, 1024),
    }
    plain = hs.model("googlenet", classes=5, auxiliary=False)
    assert plain.graph == model.without_auxiliary().graph
    assert equal(plain.params, model.without_auxiliary().params)
    assert not plain.graph.auxiliary
    assert not any(name.startswith("aux") for name in plain.params)


def test_auxiliary_heads_are_there_where_the_size_allows_them() -> None:
    assert hs.model("inception_v3", classes=3).graph.auxiliary == (("AuxLogits.fc", 0.4),)
    assert not hs.model("inception_v3", classes=3, size=107).graph.auxiliary
    with pytest.raises(GraphError, match=r"'AuxLogits\.\w+.*use larger images"):
        hs.model("inception_v3", classes=3, size=107, auxiliary=True)
    with pytest.raises(SettingError, match="lenet has no auxiliary classifiers"):
        hs.model("lenet", classes=3, auxiliary=True)


@pytest.fixture(scope="module")
def googlenet() -> Model:
    return hs.model("googlenet", classes=7, seed=4)


def test_a_file_with_auxiliary_heads(tmp_path: Path, googlenet: Model) -> None:
    path = tmp_path / "googlenet.safetensors"
    save_file(dict(googlenet.params), path)
    assert equal(hs.model("googlenet", weights=path).params, googlenet.params)
    assert equal(hs.model("googlenet", weights=path, auxiliary=False).params, googlenet.without_auxiliary().params)
    model = hs.model("googlenet", weights=path, classes=3)
    outputs = ("fc", "aux1.fc2", "aux2.fc2")
    assert model.fresh == {f"{name}.{key}" for name in outputs for key in ("weight", "bias")}
    assert all(np.array_equal(model.params[n], googlenet.params[n]) for n in model.params.keys() - model.fresh)


def test_a_file_without_auxiliary_heads(tmp_path: Path, googlenet: Model) -> None:
    """As published files of Inception v3 are, some of them: the heads are drawn then."""
    path = tmp_path / "googlenet.safetensors"
    save_file(dict(googlenet.without_auxiliary().params), path)
    model = hs.model("googlenet", weights=path, seed=9)
    assert model.fresh == {name for name in model.params if name.startswith("aux")}
    new = initial_params(model.graph, 9, model.fresh)
    assert equal(model.params, {n: new.get(n, googlenet.params[n]) for n in model.params})


# --- the weights that are shipped


def test_weights_are_shipped() -> None:
    assert SHIPPED == [("resnet18_half", "tinyimagenet")]


@pytest.mark.parametrize(("name", "weights"), SHIPPED)
def test_shipped_weights(name: str, weights: str) -> None:
    model: Model = hs.model(name, weights=weights)
    assert len(model.classes) == len(set(model.classes)) == BY_NAME[name].classes
    assert model.named_classes
    assert not model.fresh
    assert model.preprocess.size == BY_NAME[name].size
    assert all(np.isfinite(value).all() for value in model.params.values())
    assert all((value > 0).all() for key, value in model.params.items() if key.endswith("running_var"))
    assert not equal(model.params, model.reseeded(0, everything=True))

    stored = load_file(load_weights(architecture(name), weights).source)
    stored = {key: value for key, value in stored.items() if not key.endswith("num_batches_tracked")}
    assert {key: value.shape for key, value in stored.items()} == model.graph.param_shapes()
    assert all(np.array_equal(model.params[key], value) for key, value in stored.items())
