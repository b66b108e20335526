"""Against the originals: with the same weights, every backend computes what torchvision computes, at every block,
folded or not; and the names and layouts of weights are torchvision's and timm's.

All frameworks live in this one process, so this needs an environment of its own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import reference
import torch
import torchvision
from safetensors.torch import save_file

import headstart as hs
from headstart.models import Model

CLASSES = 11
SIZE = 64
TOLERANCE = 1e-4  # of the largest absolute value
ARCHITECTURES = ("resnet18", "resnet34", "resnet50")
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


@pytest.fixture(scope="module", params=ARCHITECTURES)
def case(request: pytest.FixtureRequest, images: np.ndarray) -> Iterator[tuple[Model, dict[str, np.ndarray]]]:
    """A model with random weights and statistics, and what torchvision computes with them: node -> NHWC."""
    name = request.param
    model = hs.model(name, classes=CLASSES, size=SIZE)
    model = replace(model, params=reference.random_params(model.graph, seed=1))
    network = original(name, model)
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
    assert len(blocks) == {"resnet18": 8, "resnet34": 16, "resnet50": 16}[model.name]
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


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_names_and_shapes_are_torchvisions(name: str) -> None:
    """In the same order too; all that a state dict has more are counters that inference does not use."""
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None).state_dict()
    shapes = {key: tuple(value.shape) for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert hs.model(name).graph.param_shapes() == shapes


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
