"""A data set of 50,000 images that grows by one in a hundred: what a command costs beside the framework and the
trunk, part by part, and the whole command as a user starts it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sizes import sized
from table import table

import headstart as hs
from headstart.contract import registry
from headstart.features.coverage import explain
from headstart.features.trunk_keys import key_of
from headstart.models import Model
from headstart.store import FeatureStore

COUNT = 50_000
ADDED = COUNT // 100
CLASSES = 10
ROUNDS = sized(3, 5)
CAPABILITY = f"a data set of {COUNT:,} images that grows by {ADDED}"
LIMIT_SECONDS = 2.0  # for all parts together
SETTLED_SECONDS = 2.5  # so old a file must be before the index of ids believes what stat says
BACKEND = os.environ.get(registry.VARIABLE) or next(iter(registry.installed()), "torch")

medians: dict[str, float] = {}


def add(root: Path, first: int, count: int) -> None:
    for i in range(first, first + count):
        stream = io.BytesIO()
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).save(stream, "png")
        folder = root / f"class{i % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i:06}.png").write_bytes(stream.getvalue())


def process(*arguments: str) -> float:
    """The seconds that a Python of its own takes."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return time.perf_counter() - start


def extraction(photos: Path, *options: str) -> list[str]:
    command = ["-m", "headstart", "extract", "--data", str(photos), "--model", "lenet", "--backend", BACKEND]
    return [*command, *options]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The images, their features, and then some more images."""
    root = tmp_path_factory.mktemp("evolving")
    before = os.environ.get("HEADSTART_CACHE")
    os.environ["HEADSTART_CACHE"] = str(root / "cache")
    add(root / "photos", 0, COUNT)
    time.sleep(SETTLED_SECONDS)
    process(*extraction(root / "photos"))
    add(root / "photos", COUNT, ADDED)
    time.sleep(SETTLED_SECONDS)
    yield root / "photos"
    if before is None:
        del os.environ["HEADSTART_CACHE"]
    else:
        os.environ["HEADSTART_CACHE"] = before


def trunk_of(data: Any) -> Model:
    return hs.model("lenet", classes=data.classes)


def identified(photos: Path) -> Any:
    data = hs.data.folder(photos)
    assert len(data.ids) == COUNT + ADDED
    return data


@pytest.fixture(scope="module")
def parts(photos: Path) -> dict[str, Callable[[], Callable[[], Any]]]:
    """What is timed, made anew for each round: nothing that an earlier one has found is of use to it."""
    known = identified(photos)
    model = trunk_of(known)
    key = key_of(model, "relu4", precision="float32", dtype="float16")
    present = sorted(set(known.ids) - set(FeatureStore().folder(key).missing(known.ids)))
    order = np.random.default_rng(0).permutation(len(present))
    shuffled = [present[i] for i in order]

    def joined() -> Any:
        folder = FeatureStore().folder(key)
        assert folder.missing(shuffled) == []
        return lambda: folder.read(shuffled)

    def ids() -> Any:
        data = hs.data.folder(photos)
        return lambda: data.ids

    return {
        "listing": lambda: lambda: hs.data.folder(photos),
        "stat and index": ids,
        "model and key": lambda: lambda: key_of(trunk_of(known), "relu4", precision="float32", dtype="float16"),
        "opening the store, what is missing": lambda: lambda: FeatureStore().folder(key).missing(known.ids),
        "reading and joining": joined,
    }


PARTS = ("listing", "stat and index", "model and key", "opening the store, what is missing", "reading and joining")


@pytest.mark.parametrize("part", PARTS)
def test_parts(benchmark: Any, parts: dict[str, Callable[[], Callable[[], Any]]], part: str) -> None:
    benchmark.group = f"{COUNT:,} images and {ADDED} more, by parts"
    prepare = parts[part]
    result = benchmark.pedantic(
        lambda action: action(), setup=lambda: ((prepare(),), {}), rounds=ROUNDS, warmup_rounds=1
    )
    if part == "opening the store, what is missing":
        assert len(result) == ADDED
    if part == "reading and joining":
        assert len(result) == COUNT
    if benchmark.stats is None:
        pytest.skip("nothing was timed: --benchmark-disable")
    medians[part] = benchmark.stats.stats.median
    if set(medians) == set(PARTS):
        benchmark.extra_info["all_parts_seconds"] = sum(medians.values())
        for name, seconds in medians.items():
            table.record(CAPABILITY, name, seconds)
        table.record(CAPABILITY, "all parts", sum(medians.values()), target="evolving data")
        assert sum(medians.values()) <= LIMIT_SECONDS


def test_the_command(benchmark: Any, photos: Path, tmp_path: Path) -> None:
    """Once, as there are new images once only; then again, with nothing to extract. What starting Python,
    importing the framework and looking for its device take is measured apart."""
    benchmark.group = "headstart extract, whole"
    (coverage,) = explain(trunk_of(hs.data.folder(photos)), hs.data.folder(photos))
    assert (coverage.present, coverage.lacking) == (COUNT, ADDED)
    figures = tmp_path / "figures.json"
    whole = benchmark.pedantic(process, args=extraction(photos, "--json", str(figures)), rounds=1)
    found = json.loads(figures.read_text())
    assert (found["extracted"], found["reused"]) == (ADDED, COUNT)
    framework = process(
        "-c", f"from headstart.contract import registry; registry.load({BACKEND!r}).place('auto', 'float32')"
    )
    again = process(*extraction(photos, "--json", str(figures)))
    assert json.loads(figures.read_text())["extracted"] == 0
    benchmark.extra_info.update(
        backend=BACKEND,
        versions=registry.versions(BACKEND),
        seconds=whole,
        framework_seconds=framework,
        rest_seconds=whole - framework,
        extraction_seconds=found["seconds"],
        again_seconds=again,
        again_rest_seconds=again - framework,
    )
    for what, seconds in ((f"with {ADDED} to extract", whole), ("with nothing to extract", again)):
        table.record(
            CAPABILITY,
            f"headstart extract, whole, {what}",
            seconds,
            backend=BACKEND,
            peer="importing the framework",
            peers=framework,
            cost=True,
            facts={"versions": registry.versions(BACKEND)},
        )
    table.record(
        CAPABILITY,
        "headstart extract with nothing to extract, less the framework's import",
        again - framework,
        backend=BACKEND,
        target="evolving data",
        facts={"versions": registry.versions(BACKEND)},
    )
    assert again - framework <= LIMIT_SECONDS
