"""Against the originals: with the same weights, every backend computes what torchvision computes, at every block,
folded or not; and the names and layouts of weights are torchvision's and timm's.

All frameworks live in this one process, so this needs an environment of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from known_answers import BY_NAME
from safetensors.torch import save_file
from shortened import NARROWED, shortened

import headstart as hs
from headstart.data.preprocess import Preprocess
from headstart.graph import Graph
from headstart.models import ARCHITECTURES as ZOO
from headstart.models import Model, architecture
from headstart.models.architecture import Hub, Pickled
from headstart.testing import reference

CLASSES = 11
SIZE = 64
TOLERANCE = 1e-4  # of the largest absolute value
NAMED = ("resnet", "alexnet", "vgg", "googlenet", "inception_v3")
WITH_AUXILIARY = {
    "googlenet": {"aux1": "inception4a", "aux2": "inception4d"},
    "inception_v3": {"AuxLogits": "Mixed_6e"},
}
# inside of blocks: where strides sit, and what folding must leave alone because it is asked for
INSIDE = (
    "conv1",
    "bn1",
    "maxpool",
    "layer2.0.conv1",
    "layer2.0.downsample.0",
    "layer3.0.bn2",
    "layer4.0.downsample.1",
)


def original(name: str, model: Model) -> torch.nn.Module:
    """torchvision's model with the parameters of `model`."""
    made = torchvision.models.get_model(name, weights=None, num_classes=CLASSES)
    made.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in model.params.items()}, strict=True)
    return made.eval()


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(2, SIZE, SIZE, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def case(images: np.ndarray) -> Iterator[tuple[Model, dict[str, np.ndarray]]]:
    """resnet18 with random weights and statistics, and what torchvision computes with them: node -> NHWC.
    `test_zoo.py` has the rest of the zoo."""
    model = hs.model("resnet18", classes=CLASSES, size=SIZE)
    model = replace(model, params=reference.random_params(model.graph, seed=1))
    network = original(model.name, model)
    outputs: dict[str, np.ndarray] = {}

    def keep(node: str) -> object:
        def hook(module: object, inputs: object, output: torch.Tensor) -> None:
            channels_last = output.permute(0, 2, 3, 1)
            outputs[node] = channels_last.flatten(1).numpy() if node == "avgpool" else channels_last.numpy().copy()

        return hook

    modules = dict(network.named_modules())
    blocks = [node for node in modules if node.count(".") == 1 and node.startswith("layer")]
    for node in (*INSIDE, *blocks, "avgpool"):
        modules[node].register_forward_hook(keep(node))
    with torch.inference_mode():
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2))
    outputs["logits"] = logits.numpy()
    yield model, outputs


def difference(got: np.ndarray, wanted: np.ndarray) -> float:
    assert got.shape == wanted.shape
    assert got.dtype == np.float32
    return float(np.abs(got - wanted).max() / np.abs(wanted).max())


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize("backend", ["torch", "keras", "jax"])
def test_every_block_computes_what_torchvision_does(
    case: tuple[Model, dict[str, np.ndarray]], images: np.ndarray, backend: str, folded: bool
) -> None:
    model, wanted = case
    blocks = [node for node in wanted if node.startswith("layer") and node.count(".") == 1]
    assert len(blocks) == 8
    got = hs.forward(model, images, list(wanted), backend=backend, device="cpu", folded=folded)
    assert got.keys() == wanted.keys()
    differences = {node: difference(got[node], wanted[node]) for node in wanted}
    assert {node: value for node, value in differences.items() if not value <= TOLERANCE} == {}
    # the inputs are no trivial ones: images differ in their logits, and no block is all zeros
    assert difference(got["logits"][:1], wanted["logits"][1:]) > 100 * TOLERANCE


def test_the_reference_computes_what_torchvision_does(images: np.ndarray) -> None:
    """The plain numpy that graph transformations are compared with is not only right by our own opinion."""
    model = hs.model("resnet18", classes=CLASSES, size=SIZE)
    model = replace(model, params=reference.random_params(model.graph, seed=2))
    with torch.inference_mode():
        wanted = original("resnet18", model)(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    got = reference.run(model.graph, model.params, images)[model.graph.output]
    assert difference(got.astype(np.float32), wanted) < TOLERANCE


def test_timm_gives_the_same_logits(images: np.ndarray) -> None:
    timm = pytest.importorskip("timm")
    model = hs.model("resnet18", classes=CLASSES, size=SIZE)
    model = replace(model, params=reference.random_params(model.graph, seed=3))
    network = timm.create_model("resnet18", pretrained=False, num_classes=CLASSES).eval()
    network.load_state_dict({key: torch.from_numpy(value) for key, value in model.params.items()}, strict=True)
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert difference(hs.forward(model, images, backend="torch", device="cpu")["logits"], wanted) < TOLERANCE


def published(name: str, **kwargs: object) -> torch.nn.Module:
    """torchvision's network in inference mode."""
    return torchvision.models.get_model(name, weights=None, **kwargs).eval()


def named() -> list[tuple[str, dict[str, bool]]]:
    names = [name for name in ZOO if name.startswith(NAMED) and name != "resnet18_half"]
    plain: list[tuple[str, dict[str, bool]]] = [(name, {}) for name in names if name not in WITH_AUXILIARY]
    return plain + [
        (n, {"init_weights": False, "aux_logits": aux}) for n in WITH_AUXILIARY for aux in (True, False)
    ]


@pytest.mark.parametrize(("name", "kwargs"), named())
def test_names_and_shapes_are_torchvisions(name: str, kwargs: dict[str, bool]) -> None:
    """In the same order too; all that a state dict has more are counters that inference does not use."""
    with torch.device("meta"):
        state = published(name, **kwargs).state_dict()
    shapes = [(key, tuple(value.shape)) for key, value in state.items() if not key.endswith("num_batches_tracked")]
    graph = architecture(name).graph(1000)
    graph = graph if kwargs.get("aux_logits", True) else graph.main
    assert list(graph.param_shapes().items()) == shapes


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("alexnet", 127),  # a map of 3 x 3 for the 6 x 6 that are averaged out of it
        ("vgg11_bn", 40),
        ("googlenet", 48),  # at which every pool rounds up
        ("googlenet", 79),
        ("inception_v3", 107),
    ],
)
def test_the_graph_computes_what_torchvision_does(name: str, size: int) -> None:
    """At every node that carries a module's name, in plain numpy: what the graph says, whatever a backend makes of
    it. Classifiers of thousands of hidden units have fewer."""
    with shortened(BY_NAME[name]) if name in NARROWED else nullcontext() as short:
        graph = architecture(name).graph(CLASSES)
    if short is None:
        network = published(name, num_classes=CLASSES, init_weights=False)
    else:
        network = short.original.make(CLASSES, size).eval()
    params = reference.random_params(graph, seed=1)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in params.items()}, strict=True)
    images = np.random.default_rng(0).normal(size=(2, size, size, 3)).astype(np.float32)
    got = reference.run(graph.main, params, images)
    errors = {}

    def compare(node: str) -> object:
        def hook(module: object, inputs: object, output: torch.Tensor) -> None:
            wanted = (output.permute(0, 2, 3, 1) if output.ndim == 4 else output).numpy()
            found = got[node].astype(np.float32)
            errors[node] = difference(found, wanted.reshape(found.shape))

        return hook

    for node, module in network.named_modules():
        if node in got:
            module.register_forward_hook(compare(node))
    with torch.inference_mode():
        logits = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert len(errors) >= 20
    assert {node: error for node, error in errors.items() if not error <= TOLERANCE} == {}
    assert difference(logits[:1], logits[1:]) > 100 * TOLERANCE


@pytest.mark.parametrize("name", WITH_AUXILIARY)
def test_auxiliary_heads_compute_what_torchvisions_do(name: str) -> None:
    network = published(name, num_classes=CLASSES, init_weights=False)
    graph = architecture(name).graph(CLASSES)
    params = reference.random_params(graph, seed=2)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in params.items()}, strict=True)
    shapes = graph.shapes(hs.model(name, classes=CLASSES).input_shape)
    for (output, _), (module, source) in zip(graph.auxiliary, WITH_AUXILIARY[name].items(), strict=True):
        x = np.random.default_rng(0).normal(size=(2, *shapes[source])).astype(np.float32)
        inside = [node for node in graph.nodes if node.name.startswith(f"{module}.")]
        start = replace(graph.nodes[0], name=source)
        got = reference.run(Graph((start, *inside), output), params, x)[output]
        with torch.inference_mode():
            wanted = network.get_submodule(module)(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
        assert difference(got.astype(np.float32), wanted) < TOLERANCE


# --- what the weights expect of images


def imagenets(preprocess: Preprocess) -> Preprocess:
    """The same, normalised as torchvision does for all of its weights."""
    return replace(preprocess, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", WITH_AUXILIARY)
def test_transform_input_is_in_the_preprocessing(name: str) -> None:
    """torchvision normalises for ImageNet, and has the network undo it to what the weights were made for; the
    graph is given that at once."""
    entry = architecture(name).weights["imagenet"]
    assert isinstance(entry, Hub | Pickled)
    size = {"googlenet": 64, "inception_v3": 107}[name]
    network = published(name, num_classes=CLASSES, init_weights=False, transform_input=True)
    graph = architecture(name).graph(CLASSES)
    params = reference.random_params(graph, seed=3)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in params.items()}, strict=True)
    pixels = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), np.uint8)
    with torch.inference_mode():
        images = torch.from_numpy(imagenets(entry.preprocess).normalise(pixels)).permute(0, 3, 1, 2)
        wanted = network(images).numpy()
        network.transform_input = False
        assert difference(network(images).numpy(), wanted) > 100 * TOLERANCE
    got = reference.run(graph.main, params, entry.preprocess.normalise(pixels))[graph.output]
    assert difference(got.astype(np.float32), wanted) < TOLERANCE


PICKLED = [
    (row.name, key) for row in ZOO.values() for key, entry in row.weights.items() if isinstance(entry, Pickled)
]


@pytest.mark.parametrize(("name", "key"), PICKLED)
def test_pickles_are_those_that_torchvision_names(name: str, key: str) -> None:
    """The digits in their names are those of their sha256, which torch.hub checks too."""
    entry = architecture(name).weights[key]
    assert isinstance(entry, Pickled)
    weights = torchvision.models.get_model_weights(name).IMAGENET1K_V1
    assert entry.url == weights.url
    assert re.fullmatch(r".*-([0-9a-f]{8,})\.pth", entry.url)[1] == entry.sha256[: len("7be5be79")]
    theirs = weights.transforms()
    (size,), (resize,) = theirs.crop_size, theirs.resize_size
    mean, std = (theirs.mean, theirs.std) if name not in WITH_AUXILIARY else ((0.5,) * 3, (0.5,) * 3)
    assert entry.preprocess == Preprocess(size, resize, theirs.interpolation.value, tuple(mean), tuple(std))


def test_torchvisions_weights_load_from_a_file(tmp_path: Path, images: np.ndarray) -> None:
    torch.manual_seed(0)
    network = torchvision.models.resnet18(weights=None, num_classes=CLASSES)
    network.train()(torch.randn(4, 3, 32, 32))  # statistics and counters that are not their first ones
    state = network.eval().state_dict()
    assert state["bn1.num_batches_tracked"] == 1
    save_file(state, tmp_path / "resnet18.safetensors")
    model = hs.model("resnet18", weights=tmp_path / "resnet18.safetensors", size=SIZE)
    assert len(model.classes) == CLASSES
    with torch.inference_mode():
        wanted = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    assert difference(hs.forward(model, images, backend="torch", device="cpu")["logits"], wanted) < TOLERANCE
