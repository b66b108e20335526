"""What features depend on, and what not: a hundred changes after which nothing stored may be served, and forty
after which everything must be. And that `headstart cache explain` names the change."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import headstart as hs
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.contract.streams import Dtypes, one_by_one
from headstart.data import Dataset, Preprocess, id_index
from headstart.features import batch_features
from headstart.features.coverage import Coverage, explain
from headstart.features.trunk_keys import key_of, view_spec
from headstart.graph import Builder, Graph
from headstart.graph.graph import Node
from headstart.graph.ops import ACTIVATIONS
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.testing import relative_error, shaken

pytestmark = pytest.mark.neutral

CUT = "relu3"
COUNT = 6


def graph() -> Graph:
    """For `(16, 16, 3)`, with two of most things, so that a change of either can be told."""
    b = Builder()
    x = b.add(
        "conv1",
        "conv",
        "input",
        in_channels=3,
        out_channels=8,
        kernel=(3, 3),
        stride=(2, 2),
        padding=((1, 1), (1, 1)),
    )
    x = b.add("relu1", "relu", b.add("bn1", "batch_norm", x, channels=8))
    x = y = b.add("pool", "max_pool", x, kernel=(2, 2), stride=(2, 2))
    x = b.conv("conv2", x, 8, 8, 3, pad=1, groups=2)
    x = b.add("relu2", "relu", b.add("add", "add", b.add("bn2", "batch_norm", x, channels=8), y))
    y = b.add("avg", "avg_pool", x, kernel=(3, 3), padding=((1, 1), (1, 1)))
    x = b.add("norm", "layer_norm", b.add("concat", "concat", x, y), channels=16)
    x = b.add("small", "adaptive_avg_pool", x, size=(2, 2))
    x = b.add("fc1", "linear", b.add("flatten", "flatten", x, features=64), in_features=64, out_features=12)
    x = b.add(CUT, "relu", x)
    return b.graph(b.add("fc2", "linear", x, in_features=12, out_features=2))


def toy() -> Model:
    made = graph()
    params = initial_params(made, 0)
    model = Model("toy", made, params, Preprocess(16, 20), ("a", "b"), weights="somewhere", cut=CUT)
    return shaken(model)


@dataclass
class Case:
    """What is extracted, before and after a change."""

    photos: Path
    cache: Path
    model: Model = field(default_factory=toy)
    settings: dict[str, Any] = field(default_factory=dict)
    choose: Callable[[Dataset], Dataset] = lambda data: data
    on_error: str = "raise"

    def data(self) -> Dataset:
        return self.choose(hs.data.folder(self.photos, self.on_error))

    def extract(self) -> Any:
        settings = {"backend": "torch", "device": "cpu", "dtype": "float32", "batch_size": 4, **self.settings}
        return hs.extract(self.model, self.data(), cache=self.cache, **settings)

    def explain(self) -> tuple[Coverage, ...]:
        names = ("cuts", "precision", "dtype", "augment", "views", "seed")
        settings = {name: value for name, value in self.settings.items() if name in names}
        return explain(self.model, self.data(), cache=self.cache, **{"dtype": "float32", **settings}).coverages

    def path(self, number: int) -> Path:
        (found,) = self.photos.rglob(f"{number}.*")
        return found

    def change_node(
        self, name: str, op: str | None = None, inputs: Any = None, drop: Any = (), **attrs: Any
    ) -> None:
        """Change a node, and let parameters whose shape changes have what there is of the old ones."""
        nodes = []
        for node in self.model.graph.nodes:
            if node.name == name:
                kept = {k: v for k, v in node.attrs.items() if k not in drop and (op is None or k in attrs)}
                node = Node(name, op or node.op, inputs or node.inputs, {**kept, **attrs})
            nodes.append(node)
        made = Graph(tuple(nodes), self.model.graph.output)
        old = self.model.params
        params = {
            key: np.resize(old.get(key, np.ones(1, np.float32)), shape)
            for key, shape in made.param_shapes().items()
        }
        self.model = replace(self.model, graph=made, params=params)

    def change_param(self, name: str, place: int = 0, bit: int = 0) -> None:
        """Flip one bit of a parameter."""
        value = self.model.params[name].copy()
        value.reshape(-1).view(np.uint32)[place] ^= np.uint32(1 << bit)
        self.model = replace(self.model, params={**self.model.params, name: value})

    def prepare(self, **changes: Any) -> None:
        self.model = replace(self.model, preprocess=replace(self.model.preprocess, **changes))


Change = Callable[[Case], None]


class Counting:
    """Stands in for a framework, and counts the images that it is given."""

    def __init__(self) -> None:
        self.images = 0

    def place(self, device: str, precision: str) -> Place:
        return Place("cpu", precision)

    def numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def trunk(self, model: Model, nodes: list[str], backend: Any, place: Any) -> Any:
        shapes, count = model.graph.shapes(model.input_shape), self

        class Trunk:
            def run(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
                count.images += len(images)
                return {node: np.ones((len(images), *shapes[node]), np.float32) for node in nodes}

            def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
                return one_by_one(self.run, count.numpy, batches, dtypes, reuses=False)

        return Trunk()


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> Counting:
    made = Counting()
    monkeypatch.setattr(registry, "load", lambda *_: made)
    monkeypatch.setattr(registry, "choose", lambda name, home=None: name)
    monkeypatch.setattr(registry, "versions", lambda name: {name: "1.0"})
    monkeypatch.setattr(batch_features, "pixel_trunk", made.trunk)
    return made


def picture(number: int) -> Image.Image:
    blotches = np.random.default_rng(number).integers(0, 256, (4, 5, 3), np.uint8)
    return Image.fromarray(blotches).resize((30, 25), Image.Resampling.BICUBIC)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """Three images a class: a BMP, a JPEG, a PNG each."""
    for i in range(COUNT):
        folder = tmp_path / "photos" / "ab"[i // 3]
        folder.mkdir(parents=True, exist_ok=True)
        picture(i).save(folder / f"{i}.{['bmp', 'jpg', 'png'][i % 3]}")
    return Case(tmp_path / "photos", tmp_path / "features")


# --- changes that must miss


def kept_time(change: Callable[[Path], None], number: int) -> Change:
    """Change a file and put its modification time back."""

    def act(case: Case) -> None:
        path = case.path(number)
        status = path.stat()
        change(path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))

    return act


def byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def in_place(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x12\x34")


def longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def by_rename(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    byte(other)
    other.replace(path)


def saved(action: Callable[[Image.Image], Image.Image], format: str = "png", **settings: Any):
    def act(path: Path) -> None:
        action(Image.open(path).convert("RGB")).save(path, format, **settings)

    return act


def exif(path: Path) -> None:
    image = Image.open(path)
    tags = image.getexif()
    tags[0x0112] = 6
    image.save(path, exif=tags)


def through_a_link(path: Path) -> None:
    other = path.parents[2] / "elsewhere.bmp"
    picture(77).save(other)
    path.unlink()
    path.symlink_to(other)


def through_a_hard_link(path: Path) -> None:
    other = path.parents[2] / "elsewhere.bmp"
    os.link(path, other)
    byte(other)


# name -> change of the data; one sample, and no other, is computed
EDITS: dict[str, Change] = {
    "byte-time-put-back": kept_time(byte, 0),
    "bytes-in-place-time-put-back": kept_time(in_place, 3),
    "byte": lambda case: byte(case.path(0)),
    "byte-at-the-end": lambda case: longer(case.path(2)),
    "longer-time-put-back": kept_time(longer, 0),
    "replaced-by-rename": kept_time(by_rename, 0),
    "pixels-in-another-format": kept_time(saved(lambda image: image), 0),
    "jpeg-of-another-quality": kept_time(saved(lambda image: image, "jpeg", quality=30), 1),
    "png-of-another-compression": kept_time(saved(lambda image: image, compress_level=1), 2),
    "mirrored": kept_time(saved(lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)), 2),
    "turned": kept_time(saved(lambda image: image.rotate(180)), 2),
    "red-and-blue-swapped": kept_time(saved(lambda image: Image.merge("RGB", image.split()[::-1])), 2),
    "grey": kept_time(saved(lambda image: image.convert("L")), 2),
    "half-the-size": kept_time(saved(lambda image: image.resize((15, 12))), 2),
    "orientation": kept_time(exif, 1),
    "edited-through-a-hard-link": kept_time(through_a_hard_link, 0),
    "a-link-instead": lambda case: through_a_link(case.path(0)),
    "one-more": lambda case: picture(88).save(case.photos / "a" / "new.png"),
}


def node(name: str, **changes: Any) -> Change:
    return lambda case: case.change_node(name, **changes)


def param(name: str, place: int = 0, bit: int = 0) -> Change:
    return lambda case: case.change_param(name, place, bit)


def preprocess(**changes: Any) -> Change:
    return lambda case: case.prepare(**changes)


def setting(**changes: Any) -> Change:
    return lambda case: case.settings.update(changes)


def both(*changes: Change) -> Change:
    def act(case: Case) -> None:
        for change in changes:
            change(case)

    return act


def swapped(first: str, second: str) -> Change:
    def act(case: Case) -> None:
        params = dict(case.model.params)
        params[first], params[second] = params[second], params[first]
        case.model = replace(case.model, params=params)

    return act


def negative_zero(case: Case) -> None:
    value = case.model.params["bn1.bias"].copy()
    value[0] = 0.0
    case.model = replace(case.model, params={**case.model.params, "bn1.bias": value})
    case.extract()
    case.change_param("bn1.bias", 0, 31)


def transposed(name: str) -> Change:
    """The same bytes in another arrangement."""

    def act(case: Case) -> None:
        value = case.model.params[name]
        turned = np.ascontiguousarray(value.transpose(1, 0, *range(2, value.ndim))).reshape(value.shape)
        case.model = replace(case.model, params={**case.model.params, name: turned})

    return act


def another_input(name: str, *inputs: str) -> Change:
    return lambda case: case.change_node(name, inputs=inputs)


def without(name: str) -> Change:
    """The node is left out; its users take its input."""

    def act(case: Case) -> None:
        gone = case.model.graph[name]
        nodes = tuple(
            replace(n, inputs=tuple(gone.inputs[0] if i == name else i for i in n.inputs))
            for n in case.model.graph.nodes
            if n.name != name
        )
        case.model = replace(case.model, graph=Graph(nodes, case.model.graph.output))

    return act


PARAMS = list(graph().upto(CUT).param_shapes())
MEAN, STD = Preprocess(1, 1).mean, Preprocess(1, 1).std
AUGMENT = {"augment": "flip,crop"}


def nudged(values: tuple[float, ...], k: int) -> tuple[float, ...]:
    return tuple(float(np.nextafter(v, 1)) if i == k else v for i, v in enumerate(values))


# name -> (change of the model or the settings, what the explanation must say)
CHANGES: dict[str, tuple[Change, str]] = {
    **{f"lowest-bit-of-{name}": (param(name), "differs in weights: ") for name in PARAMS},
    **{f"last-value-of-{name}": (param(name, -1, 22), "differs in weights: ") for name in PARAMS[::2]},
    "sign-of-a-weight": (param("conv1.weight", 5, 31), "differs in weights: "),
    "sign-of-zero": (negative_zero, "differs in weights: "),
    "statistics-swapped": (swapped("bn1.running_mean", "bn2.running_mean"), "differs in weights: "),
    "weights-swapped": (swapped("bn1.weight", "bn1.bias"), "differs in weights: "),
    "weights-turned": (transposed("conv2.weight"), "differs in weights: "),
    "all-weights": (lambda case: setattr(case, "model", shaken(case.model, seed=1)), "differs in weights: "),
    "epsilon": (node("bn1", epsilon=1e-3), "differs in graph.bn1.epsilon: 0.001 != none"),
    "epsilon-of-another": (node("bn2", epsilon=1.0001e-5), "graph.bn2.epsilon"),
    "epsilon-of-layer-norm": (node("norm", epsilon=1e-6), "graph.norm.epsilon: 1e-06 != none"),
    "stride": (node("conv1", stride=(1, 1)), "graph.conv1.stride: none != [2, 2]"),
    "stride-of-a-side": (node("conv1", stride=(2, 1)), "graph.conv1.stride: [2, 1] != [2, 2]"),
    "padding": (node("conv1", padding=((0, 0), (0, 0))), "graph.conv1.padding: none != [[1, 1], [1, 1]]"),
    "padding-of-a-side": (node("conv1", padding=((0, 2), (1, 1))), "graph.conv1.padding: [[0, 2], [1, 1]]"),
    "kernel": (node("conv1", kernel=(5, 5)), "graph.conv1.kernel: [5, 5] != [3, 3], weights: "),
    "groups": (node("conv2", groups=4), "graph.conv2.groups: 4 != 2, weights: "),
    "more-channels": (
        both(node("fc1", out_features=13), node("fc2", in_features=13)),
        "graph.fc1.out_features: 13 != 12, weights: ",
    ),
    "bias": (node("conv2", bias=True), "graph.conv2.bias: none != false, weights: "),
    "pool-kernel": (node("pool", kernel=(3, 3)), "graph.pool.kernel: [3, 3] != [2, 2]"),
    "pool-stride": (node("pool", stride=(1, 1)), "graph.pool.stride: none != [2, 2]"),
    "pool-rounds-up": (node("pool", ceil=True), "graph.pool.ceil: true != none"),
    "pool-padding": (node("pool", padding=((1, 0), (1, 0))), "graph.pool.padding: [[1, 0], [1, 0]] != none"),
    "averages-instead": (node("pool", op="avg_pool", kernel=(2, 2), stride=(2, 2)), "graph: node 4: "),
    "padding-counts-not": (node("avg", count_padding=False), "graph.avg.count_padding: false != none"),
    "average-rounds-up": (node("avg", ceil=True), "graph.avg.ceil: true != none"),
    "adaptive-size": (node("small", size=(1, 4)), "graph.small.size: [1, 4] != [2, 2]"),
    **{f"{op}-instead": (node("relu2", op=op), "graph: node 8: ") for op in sorted(ACTIVATIONS - {"relu"})},
    "last-activation": (
        node(CUT, op="silu"),
        'graph: node 15: ["relu3", "silu", ["fc1"], {}] != ["relu3", "relu"',
    ),
    "concat-turned-round": (another_input("concat", "avg", "relu2"), "graph: node 10: "),
    "shortcut-after-activation": (another_input("add", "bn2", "conv2"), "graph: node 7: "),
    "no-activation": (without("relu1"), "differs in graph: 15 nodes != 16 nodes"),
    "no-batch-norm": (without("bn2"), "differs in graph: 15 nodes != 16 nodes, weights: "),
    "size": (preprocess(size=15), "differs in preprocess.size: 15 != 16"),
    "size-and-resize": (preprocess(size=24, resize=24), "preprocess.resize: 24 != 20, preprocess.size: 24 != 16"),
    "resize": (preprocess(resize=21), "differs in preprocess.resize: 21 != 20"),
    "no-crop": (preprocess(resize=16), "differs in preprocess.resize: 16 != 20"),
    **{
        name: (preprocess(interpolation=name), f"differs in preprocess.interpolation: {name} != bilinear")
        for name in ("nearest", "bicubic", "lanczos")
    },
    **{f"mean-of-{c}": (preprocess(mean=nudged(MEAN, k)), "in preprocess.mean: [") for k, c in enumerate("rgb")},
    **{f"std-of-{c}": (preprocess(std=nudged(STD, k)), "in preprocess.std: [") for k, c in enumerate("rgb")},
    "bgr-mean": (preprocess(mean=MEAN[::-1]), "differs in preprocess.mean: [0.406, 0.456, 0.485] != [0.485"),
    "bgr-std": (preprocess(std=STD[::-1]), "differs in preprocess.std: ["),
    "mean-of-a-half": (preprocess(mean=(0.5,) * 3, std=(0.5,) * 3), "in preprocess.mean: [0.5, 0.5, 0.5] != "),
    **{
        f"cut-{cut}": (setting(cuts=cut), f"graph: ends at {cut} != {CUT}")
        for cut in ("conv1", "bn1", "relu1", "pool", "relu2", "concat", "norm", "small", "flatten", "fc1")
    },
    "cut-input": (setting(cuts="input"), "dtype: uint8 != float32, graph: ends at input != relu3"),
    "float16": (setting(dtype="float16"), "differs in dtype: float16 != float32"),
    "bfloat16": (setting(dtype="bfloat16"), "differs in dtype: bfloat16 != float32"),
    "precision": (setting(precision="bfloat16"), "differs in precision: bfloat16 != float32"),
    "dtype-and-precision": (
        setting(precision="bfloat16", dtype="bfloat16"),
        "differs in dtype: bfloat16 != float32, precision: bfloat16 != float32",
    ),
    **{
        f"augment-{text}": (setting(augment=text), 'differs in views: {"augment": ')
        for text in ("flip", "crop", "flip,crop")
    },
    "augmented-view-1": (
        both(setting(**AUGMENT), lambda case: case.extract(), setting(views=2)),
        "differs in views.view: 1 != 0",
    ),
    "seed-of-views": (
        both(setting(**AUGMENT), lambda case: case.extract(), setting(seed=1)),
        "differs in views.seed: 1 != 0",
    ),
    "area-of-crops": (
        both(setting(**AUGMENT), lambda case: case.extract(), setting(augment=hs.Augment(crop=(0.36, 1.0)))),
        "differs in views.augment.crop: [0.36, 1.0] != [0.35, 1.0]",
    ),
    "no-flips": (
        both(setting(**AUGMENT), lambda case: case.extract(), setting(augment="crop")),
        "differs in views.augment.flip: false != true",
    ),
    "augmented-images": (
        both(setting(cuts="input"), lambda case: case.extract(), setting(augment="flip")),
        'differs in views: {"augment": ',
    ),
    "images-of-another-size": (
        both(setting(cuts="input"), lambda case: case.extract(), preprocess(size=15)),
        "differs in preprocess.size: 15 != 16",
    ),
}


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_image_is_computed_and_no_other(
    case: Case, counting: Counting, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The index of ids is to know the files, and not be led astray.
    monkeypatch.setattr(id_index, "RACY_NS", 20_000_000)
    time.sleep(0.03)
    case.extract()
    before, start = set(case.data().ids), counting.images
    EDITS[name](case)
    (explained,) = case.explain()
    after = set(case.data().ids)
    assert len(after - before) == 1
    assert (explained.lacking, explained.present) == (1, len(after) - 1)
    assert f"1 of {len(after)} samples lack features" in str(explained)
    assert counting.images == start, "explaining computes nothing"
    found = case.extract()
    assert (found.stats.extracted, counting.images - start) == (1, 1)


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_what_features_depend_on_misses(case: Case, counting: Counting, name: str) -> None:
    change, said = CHANGES[name]
    case.extract()
    change(case)
    start = counting.images
    explained = case.explain()[-1]
    assert (explained.lacking, explained.present) == (COUNT, 0)
    assert str(explained).startswith("no features for this trunk; the nearest (toy, somewhere, ") or (
        "cut" not in case.settings.get("cuts", "cut") and "images, none, input" in str(explained)
    )
    assert said in str(explained)
    found = case.extract()
    assert found.stats.extracted == COUNT
    if case.settings.get("cuts") != "input":
        assert counting.images - start >= COUNT
    assert case.explain()[-1].lacking == 0, "what is called present is what was extracted"


def test_another_format_misses(case: Case, counting: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    case.extract()
    monkeypatch.setattr("headstart.store.keys.FORMAT_VERSION", 999)
    (explained,) = case.explain()
    assert explained.present == 0
    assert "differs in format: 999 != " in str(explained)


def test_there_are_a_hundred() -> None:
    assert len(EDITS) + len(CHANGES) + 1 >= 100


# --- changes that must hit


def renamed_files(case: Case) -> None:
    for path in sorted(case.photos.rglob("*.*")):
        path.rename(path.with_name(f"renamed-{path.name}"))


def names_swapped(case: Case) -> None:
    one, other = case.path(0), case.path(3)
    one.rename(one.with_name("kept"))
    other.rename(one)
    one.with_name("kept").rename(other)


def relabelled(case: Case) -> None:
    case.path(0).rename(case.photos / "b" / "0.bmp")


def moved(case: Case) -> None:
    case.photos = case.photos.rename(case.photos.with_name("moved somewhere else"))


def copied(case: Case) -> None:
    case.photos = Path(shutil.copytree(case.photos, case.photos.with_name("copy")))


def linked(case: Case) -> None:
    case.photos.with_name("link").symlink_to(case.photos)
    case.photos = case.photos.with_name("link")


def files_linked(case: Case) -> None:
    for path in sorted(case.photos.rglob("*.*")):
        target = path.parents[2] / path.name
        path.rename(target)
        path.symlink_to(target)


def hard_linked(case: Case) -> None:
    for path in sorted(case.photos.rglob("*.*")):
        os.link(path, path.parents[2] / path.name)


def each_file(action: Callable[[Path], Any]) -> Change:
    def act(case: Case) -> None:
        for path in sorted(case.photos.rglob("*.*")):
            action(path)

    return act


def class_renamed(case: Case) -> None:
    (case.photos / "a").rename(case.photos / "z")  # the classes' order changes, too


def class_added(case: Case) -> None:
    (case.photos / "c").mkdir()
    shutil.copy(case.path(0), case.photos / "c" / "x.bmp")


def nested(case: Case) -> None:
    (case.photos / "a" / "deep" / "er").mkdir(parents=True)
    case.path(0).rename(case.photos / "a" / "deep" / "er" / "0.bmp")


def other_suffix(case: Case) -> None:
    case.path(0).rename(case.photos / "a" / "0.JPEG")  # what an image is, its bytes say


def duplicated(case: Case) -> None:
    shutil.copy(case.path(0), case.photos / "a" / "again.bmp")
    shutil.copy(case.path(1), case.photos / "b" / "other class.jpg")


def unrelated(case: Case) -> None:
    (case.photos / "README.txt").write_text("beside the classes")
    (case.photos / "a" / ".DS_Store").write_text("litter")
    (case.photos.parent / "more.png").write_bytes(case.path(2).read_bytes())


def skipping(case: Case) -> None:
    case.on_error = "skip"
    (case.photos / "a" / "broken.jpg").write_text("no image")


def chosen(choose: Callable[[Dataset], Dataset]) -> Change:
    return lambda case: setattr(case, "choose", choose)


def model_with(**changes: Any) -> Change:
    return lambda case: setattr(case, "model", replace(case.model, **changes))


def params_as(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Change:
    return lambda case: setattr(case, "model", replace(case.model, params=change(dict(case.model.params))))


def cache_moved(case: Case) -> None:
    case.cache = case.cache.rename(case.cache.with_name("moved features"))


def no_index(case: Case) -> None:
    (Path(os.environ["HEADSTART_CACHE"]) / id_index.FILE).unlink(missing_ok=True)


def variable(name: str, value: str) -> Change:
    return lambda case: os.environ.update({name: value})


HITS: dict[str, Change] = {
    "folder-moved": moved,
    "folder-copied": copied,
    "folder-linked": linked,
    "files-linked": files_linked,
    "files-hard-linked": hard_linked,
    "files-renamed": renamed_files,
    "names-swapped": names_swapped,
    "touched": each_file(lambda path: path.touch()),
    "times-of-long-ago": each_file(lambda path: os.utime(path, ns=(0, 0))),
    "permissions": each_file(lambda path: path.chmod(0o444)),
    "written-anew": each_file(lambda path: path.write_bytes(path.read_bytes())),
    "relabelled": relabelled,
    "class-renamed": class_renamed,
    "class-added": class_added,
    "in-folders-below": nested,
    "another-suffix": other_suffix,
    "one-removed": lambda case: case.path(1).unlink(),
    "duplicates": duplicated,
    "unrelated-files": unrelated,
    "a-broken-file-skipped": skipping,
    "order": chosen(lambda data: data.subset([5, 1, 3, 0, 2, 4])),
    "subset": chosen(lambda data: data.subset([4])),
    "repeated": chosen(lambda data: data.subset([2, 2, 0, 2])),
    "split-first": chosen(lambda data: data.split(0.7, seed=1)[0]),
    "split-second": chosen(lambda data: data.split(0.7, seed=1)[1]),
    "batches-of-one": setting(batch_size=1),
    "huge-batches": setting(batch_size=10_000),
    "one-worker": setting(workers=1),
    "workers": setting(workers=8),
    "device": setting(device="auto"),
    "another-backend": setting(backend="jax"),
    "seed-without-augmentation": setting(seed=7),
    "cut-by-module": setting(cuts=CUT),
    "classes-renamed": model_with(classes=("x", "y")),
    "model-renamed": model_with(name="my copy of toy"),
    "weights-renamed": model_with(weights="/another/place.safetensors"),
    "nothing-pretrained": model_with(fresh=frozenset(PARAMS)),
    "order-of-parameters": params_as(lambda params: dict(reversed(params.items()))),
    "layout-of-parameters": params_as(lambda params: {k: np.asfortranarray(v) for k, v in params.items()}),
    "byte-order-of-parameters": params_as(lambda params: {k: v.astype(">f4") for k, v in params.items()}),
    "weights-of-the-head": param("fc2.weight", 3, 22),
    "another-head": node("fc2", out_features=7),
    "mean-as-a-list": preprocess(mean=list(MEAN), std=np.array(STD)),
    "cache-moved": cache_moved,
    "no-index-of-ids": no_index,
    "locale": both(variable("LC_ALL", "tr_TR.UTF-8"), variable("LANG", "C")),
    "time-zone": variable("TZ", "Pacific/Chatham"),
}


@pytest.mark.parametrize("name", HITS)
def test_a_change_of_anything_else_hits(
    case: Case, counting: Counting, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("LC_ALL", "LANG", "TZ"):  # put back afterwards
        monkeypatch.setenv(variable, "C")
    first = case.extract()
    assert first.stats.extracted == counting.images - 2 == COUNT  # 4 and 2, the last filled up to 4
    counting.images = 0
    HITS[name](case)
    assert [row.lacking for row in case.explain()] == [0]
    found = case.extract()
    assert found.stats.extracted == 0
    # Another backend compares a few rows with its own.
    assert counting.images == (4 if name == "another-backend" else 0)
    assert found.key() == replace(first.key(), label=found.key().label)


def test_there_are_forty() -> None:
    assert len(HITS) + 4 >= 40  # and the ones below


def test_fewer_and_further_views_hit(case: Case, counting: Counting) -> None:
    """View v is the same however many there are."""
    case.settings |= AUGMENT | {"views": 2}
    assert case.extract().stats.extracted == 2 * COUNT
    case.settings["views"] = 1
    assert case.extract().stats.extracted == 0
    case.settings["views"] = 3
    assert [row.lacking for row in case.explain()] == [0, 0, COUNT]
    assert case.extract().stats.extracted == COUNT
    case.settings["augment"] = hs.Augment(flip=True, crop=(0.35, 1))
    assert case.extract().stats.extracted == 0


def test_weights_from_another_path_hit(case: Case, counting: Counting, tmp_path: Path) -> None:
    params = hs.model("lenet", classes=10).params
    (tmp_path / "b").mkdir()
    for path in (tmp_path / "one.safetensors", tmp_path / "b" / "two.safetensors"):
        save_file(dict(params), path)
        case.model = hs.model("lenet", weights=path, classes=["x", "y"] if "two" in path.name else None)
        assert case.extract().stats.extracted == (COUNT if "one" in path.name else 0)


KEYS = """
import json, sys
import headstart as hs
from headstart.features.trunk_keys import key_of, view_spec
model = hs.model("lenet", weights=sys.argv[2], classes=3)
views = view_spec(hs.Augment(), 3, 1)
keys = [key_of(model, "relu4", precision="float32", dtype="float16", views=v).digest for v in (None, views)]
print(json.dumps([sorted(hs.data.folder(sys.argv[1]).ids), keys]))
"""


def test_another_process_hits(case: Case, tmp_path: Path) -> None:
    """With other hashes of strings, another locale, time zone and working directory, and other spellings of the
    paths; keys and ids decide, and nothing else does."""
    (tmp_path / "here").mkdir()
    save_file(dict(hs.model("lenet", classes=3).params), tmp_path / "weights.safetensors")
    answers = []
    for photos, weights, folder, settings in [
        (case.photos, tmp_path / "weights.safetensors", tmp_path, {"PYTHONHASHSEED": "1", "TZ": "UTC"}),
        (
            Path("../photos"),
            Path("../weights.safetensors"),
            tmp_path / "here",
            {"PYTHONHASHSEED": "2", "LC_ALL": "C", "TZ": "Asia/Tokyo", "HEADSTART_CACHE": str(tmp_path / "new")},
        ),
    ]:
        done = subprocess.run(
            [sys.executable, "-c", KEYS, str(photos), str(weights)],
            cwd=folder,
            env={**os.environ, **settings},
            capture_output=True,
            check=True,
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert len(answers[0][0]) == COUNT
    assert len(set(answers[0][1])) == 2


# --- a few, with a real trunk: the features are those of the changed model


REAL: dict[str, Change] = {
    "statistics": param("bn2.running_var", 0, 22),  # by a half: of the lowest bit there would be nothing to see
    "epsilon": node("bn1", epsilon=0.1),
    "bicubic": CHANGES["bicubic"][0],
}


@pytest.mark.slow("keras", "jax")  # core makes the keys
@pytest.mark.each
@pytest.mark.parametrize("name", REAL)
def test_really_computed(case: Case, backend: str, name: str) -> None:
    case.settings["backend"] = backend
    before = case.extract().numpy()
    REAL[name](case)
    found = case.extract()
    assert found.stats.extracted == COUNT
    data = case.data()
    prepared = np.stack([case.model.preprocess.apply(data.load(i)[0]) for i in range(len(data))])
    images = case.model.preprocess.normalise(prepared)
    expected = hs.forward(case.model, images, CUT, backend=backend, device="cpu")[CUT]
    assert relative_error(found.numpy(), expected) < 1e-4
    assert relative_error(before, expected) > 1e-3


# --- the command


COMMAND = """
import sys
from headstart.cli import main as cli
try:
    cli.main()
except SystemExit as leave:
    assert leave.code in (0, None), leave.code
print([name for name in ("torch", "tensorflow", "keras", "jax") if name in sys.modules])
"""


def explained(*options: str) -> str:
    command = [sys.executable, "-c", COMMAND, "cache", "explain", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow("keras", "jax")  # core explains
@pytest.mark.each  # where it is installed
def test_the_command_explains_without_a_framework(case: Case, counting: Counting, tmp_path: Path) -> None:
    case.model = hs.model("lenet", classes=["a", "b"])
    case.cache = Path(os.environ["HEADSTART_CACHE"])
    case.choose = lambda data: data.subset([0, 1, 2, 3])
    case.settings = {"dtype": "float16"}
    case.extract()
    options = ["--data", str(case.photos), "--model", "lenet", "--json", str(tmp_path / "figures.json")]
    said = explained(*options, "--cuts", "relu4,pool2")
    assert "relu4 (" in said
    new = f"so they are new or were edited: {case.path(4)}, {case.path(5)}\n"
    assert f"2 of 6 samples lack features; no file with their bytes was extracted, {new}" in said
    nearest = "no features for this trunk; the nearest (lenet, random, relu4, 4 rows) differs in"
    assert f"{nearest} graph: ends at pool2 != relu4, weights: " in said
    assert said.endswith("[]\n"), "frameworks that were imported"
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [(row["cut"], row["present"], row["lacking"]) for row in figures["cuts"]] == [
        ("relu4", 4, 2),
        ("pool2", 0, 6),
    ]
    assert figures["cuts"][1]["nearest"]["rows"] == 4
    assert figures["cuts"][1]["explanation"].startswith(nearest)
    said = explained(*options, "--augment", "flip", "--views", "2", "--dtype", "float32")
    assert f'relu4, view 1 ({hs_key(case, "flip", 1)}): {nearest} dtype: float32 != float16, views: {{"aug' in said


def hs_key(case: Case, augment: str, view: int) -> str:
    views = view_spec(hs.Augment.parse(augment), 0, view)
    return key_of(case.model, "relu4", precision="float32", dtype="float32", views=views).digest[:12]


def test_an_empty_store_and_strangers_are_explained(case: Case, counting: Counting) -> None:
    (row,) = case.explain()
    assert str(row) == "no features for this trunk; and there are none for any other"
    other = case.photos.parent / "others"
    for name in "ab":
        (other / name).mkdir(parents=True)
        picture(ord(name)).save(other / name / "1.png")
    mine, case.photos = case.photos, other
    case.extract()
    case.photos = mine
    (row,) = case.explain()
    assert "6 of 6 samples lack features (the trunk is known, with 2 other samples)" in str(row)
    assert str(row).endswith(f"{case.path(0)}, {case.path(1)}, {case.path(2)} and 3 more")


def test_damage_is_explained(case: Case, counting: Counting) -> None:
    case.choose = lambda data: data.subset([0, 1])
    case.extract()
    (sound,) = case.cache.rglob("*.safetensors")
    case.choose = lambda data: data
    case.extract()
    (shard,) = set(case.cache.rglob("*.safetensors")) - {sound}
    os.truncate(shard, 5000)
    (row,) = case.explain()
    assert (row.present, row.lacking) == (2, 4)
    assert str(row).startswith(f"4 of 6 samples lack features, and a shard is damaged: {shard}: ")
