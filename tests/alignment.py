"""Random configurations of everything that could bring rows and samples out of step: splits, subsets, orders,
duplicates, broken files, batches, workers, cuts, views, and extractions that are interrupted and taken up again.

A trunk whose output is a known function of the pixels stands in for a framework; what is expected is computed from
each file by itself, without the loader, the store or the ids."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import ExtractionInterrupted
from headstart.contract import registry
from headstart.contract.recipe import Place
from headstart.contract.streams import Dtypes, one_by_one
from headstart.data import Dataset, Preprocess, id_index
from headstart.data.augment import Augment
from headstart.data.dataset import sample_id
from headstart.features import batch_features
from headstart.graph import Builder
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.store import FeatureStore, open_shard
from headstart.store import writer as shard_writer

SIZE = 4
CUTS = ("map", "a", "b")
MODULUS = 2048  # integers up to here are exact in float16


def model() -> Model:
    b = Builder()
    x = b.conv("map", "input", 3, 2, 1)
    x = b.add("flatten", "flatten", x, features=SIZE * SIZE * 2)
    x = b.add("a", "linear", x, in_features=SIZE * SIZE * 2, out_features=5)
    x = b.add("b", "linear", x, in_features=5, out_features=7)
    graph = b.graph(b.add("out", "linear", x, in_features=7, out_features=2))
    return Model("toy", graph, initial_params(graph, 0), Preprocess(SIZE, SIZE + 1), ("a", "b"), cut="b")


WEIGHTS = {
    "map": np.random.default_rng(1).integers(1, 90, (3, 2)),
    "a": np.random.default_rng(2).integers(1, 90, (SIZE * SIZE * 3, 5)),
    "b": np.random.default_rng(3).integers(1, 90, (SIZE * SIZE * 3, 7)),
}


def known(images: np.ndarray, node: str) -> np.ndarray:
    """`(n, SIZE, SIZE, 3)` uint8 -> features of each image; whole numbers, which depend on every pixel."""
    pixels = images.astype(np.int64)
    if node != "map":
        pixels = pixels.reshape(len(images), -1)
    return (pixels @ WEIGHTS[node] % MODULUS).astype(np.float32)


class Known:
    """A backend of one trunk, `known`; it can be told to break off."""

    def __init__(self) -> None:
        self.left: int | None = None  # batches until it breaks off
        self.images = 0

    def place(self, device: str, precision: str) -> Place:
        return Place("cpu", precision)

    def numpy(self, array: np.ndarray) -> np.ndarray:
        return array

    def trunk(self, model: Model, nodes: list[str], backend: Any, place: Any) -> Any:
        outer = self

        class Trunk:
            def run(self, images: np.ndarray) -> Mapping[str, np.ndarray]:
                if outer.left is not None:
                    outer.left -= 1
                    if outer.left < 0:
                        raise KeyboardInterrupt
                outer.images += len(images)
                return {node: known(images, node) for node in nodes}

            def stream(self, batches: Iterable[Any], dtypes: Dtypes) -> Iterator[dict[str, np.ndarray]]:
                return one_by_one(self.run, outer.numpy, batches, dtypes, reuses=False)

        return Trunk()


def stand_in(monkeypatch: pytest.MonkeyPatch) -> Known:
    """A backend that takes the place of the one that is asked for."""
    made = Known()
    monkeypatch.setattr(registry, "load", lambda *_: made)
    monkeypatch.setattr(registry, "choose", lambda name, home=None: name)
    monkeypatch.setattr(registry, "versions", lambda name: {name: "1.0"})
    monkeypatch.setattr(batch_features, "pixel_trunk", made.trunk)
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # nothing crashes here
    monkeypatch.setattr(id_index, "RACY_NS", 0)  # every file is written once, so the index may be of use at once
    return made


def encoded(number: int) -> bytes:
    """A small image, in one format or another, a little smaller or larger than the model's."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(0, 256, (*rng.integers(3, 9, 2), 3), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, ["png", "bmp", "jpeg"][number % 3])
    return stream.getvalue()


POOL = [encoded(number) for number in range(40)]


@dataclass
class Configuration:
    """One drawn from a seed."""

    seed: int
    root: Path
    rng: random.Random = field(init=False)
    augment: Augment | None = field(init=False)

    def __post_init__(self) -> None:
        self.rng = random.Random(self.seed)
        rng = self.rng
        self.broken = rng.random() < 0.3
        self.photos = self.root / "photos"
        # Drawn with replacement: duplicates in a class, in two, in both parts of a split.
        pool = POOL[: rng.choice([3, 8, 40])]
        for k in range(2):
            (self.photos / "ab"[k]).mkdir(parents=True)
            for i in range(rng.randint(2, 9)):
                content = rng.choice(pool)
                if self.broken and i and rng.random() < 0.3:
                    content = rng.choice([b"", content[: len(content) // 3], b"no image"])
                (self.photos / "ab"[k] / f"{rng.random()}.jpg").write_bytes(content)
        self.augment = rng.choice([None, None, Augment(), Augment(crop=None), Augment(flip=False)])
        self.views = rng.randint(1, 3) if self.augment is not None else 1
        self.draw_seed = rng.randint(0, 3)
        self.dtype = rng.choice(["float16", "float32"])

    def data(self) -> Dataset:
        return hs.data.folder(self.photos, on_error="skip" if self.broken else "raise")

    def part(self) -> Dataset:
        """Some of the samples, in some order."""
        rng, data = self.rng, self.data()
        for _ in range(rng.randint(0, 2)):
            kind = rng.choice(["split", "subset", "shuffled", "repeated"])
            everything = list(range(len(data)))
            if kind == "split" and max(np.bincount(data.labels)) > 1:
                data = data.split(rng.choice([0.5, 0.8]), seed=rng.randint(0, 9), by="position")[rng.randint(0, 1)]
            elif kind == "subset":
                data = data.subset(sorted(rng.sample(everything, rng.randint(1, len(data)))))
            elif kind == "shuffled":
                data = data.subset(rng.sample(everything, len(data)))
            elif kind == "repeated":
                data = data.subset(rng.choices(everything, k=rng.randint(1, 2 * len(data))))
        return data

    def extract(self, data: Dataset, cuts: list[str]) -> Any:
        return hs.extract(
            model(),
            data,
            cuts,
            backend="torch",
            dtype=self.dtype,
            batch_size=self.rng.choice([1, 2, 3, 5, 64]),
            workers=self.rng.randint(1, 4),
            cache=self.root / "features",
            augment=self.augment,
            views=self.views,
            seed=self.draw_seed,
        )


def check(configuration: Configuration, data: Dataset, features: Any) -> int:
    """Compare all rows with what each file gives by itself; how many they are."""
    prepare = model().preprocess
    assert isinstance(prepare, Preprocess)
    rows = 0
    stored = {(cut, view): features.numpy(cut, view) for cut in features.cuts for view in range(features.views)}
    assert len(features) == len(data)
    for i in range(len(data)):
        path = Path(data.source_name(i))
        content = path.read_bytes()
        image = Image.open(io.BytesIO(content)).convert("RGB")
        id = sample_id(content)
        assert features.ids[i] == data.ids[i] == id
        assert features.labels[i] == data.labels[i] == "ab".index(path.parent.name)
        for (cut, view), array in stored.items():
            draw = configuration.augment
            crop = None if draw is None else draw.draw(configuration.draw_seed, view, id, *image.size)
            expected = known(prepare.apply(image, crop)[None], cut)[0]
            np.testing.assert_array_equal(array[i].astype(np.float32), expected)
            rows += 1
    assert rows == len(data) * len(stored)
    return rows


def run(configuration: Configuration, stand_in: Known) -> tuple[int, int]:
    """Some extractions of parts, some of them interrupted, and at last of all: rows compared, and interrupts."""
    rng, rows, interrupts = configuration.rng, 0, 0
    parts = [configuration.part() for _ in range(rng.randint(0, 2))] + [configuration.data()]
    for data in parts:
        cuts = rng.sample(CUTS, rng.randint(1, 3))
        stand_in.left = rng.choice([None, 0, 1, 2, 3])
        try:
            features = configuration.extract(data, cuts)
        except ExtractionInterrupted:
            interrupts += 1
            if rng.random() < 0.5:
                data = configuration.data()  # opened again, as by another process
            stand_in.left = None
            features = configuration.extract(data, cuts)
        stand_in.left = None
        rows += check(configuration, data, features)
        again = configuration.extract(data, cuts[::-1])
        assert again.stats.extracted == 0
    for info in FeatureStore(configuration.root / "features").infos():
        files = {sample_id(path.read_bytes()) for path in configuration.photos.rglob("*.*")}
        assert info.rows <= len(files)
        assert sum(len(open_shard(path)) for path in info.path.glob("*.safetensors")) == info.rows, (
            "a duplicate is stored once"
        )
    return rows, interrupts


def run_many(seeds: range, root: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Run the configurations of these seeds: rows compared, and interrupts."""
    known, rows, interrupts = stand_in(monkeypatch), 0, 0
    for seed in seeds:
        print(f"configuration {seed}")  # shown where it fails
        monkeypatch.setattr(shard_writer, "SHARD_NBYTES", random.Random(seed).choice([100, 1000, 64 << 20]))
        more, broken_off = run(Configuration(seed, root / str(seed)), known)
        rows, interrupts = rows + more, interrupts + broken_off
    return rows, interrupts
