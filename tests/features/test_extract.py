"""Extraction end to end: what is computed and what is not, that every row belongs to its sample, and what
happens to images, disks, shards and processes that fail in the middle."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from commands import headstart, heeded_ctrl_c
from PIL import Image
from victims import victims

import headstart as hs
from headstart.common.errors import (
    CacheNotWritableError,
    CutError,
    DamagedShardError,
    DataError,
    DiskSpaceError,
    ExtractionInterrupted,
    FeatureDriftError,
    FeatureOverflowError,
    FeatureUnderflowError,
    ImageError,
    SettingError,
    UnknownNameError,
    WeightsError,
)
from headstart.contract import recipe
from headstart.data import Dataset
from headstart.data.dataset import sample_id
from headstart.features import batch_features, inference
from headstart.models import Model
from headstart.store import FeatureStore
from headstart.store import writer as shard_writer
from headstart.testing import relative_error, shaken, small_model

CUT = "relu4"
COUNTS = {"daisy": 6, "rose": 5, "tulip": 4}
TOTAL = sum(COUNTS.values())
ONCE = pytest.mark.of("torch")
"""which rows are computed and which are kept, core decides for every backend in the same way"""

Extract = Callable[..., Any]


def picture(seed: int, width: int = 44, height: int = 36) -> Image.Image:
    """Blotches, different for each seed."""
    blotches = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(blotches).resize((width, height), Image.Resampling.BICUBIC)


def make_folder(root: Path, counts: dict[str, int] = COUNTS, first: int = 0) -> Path:
    """A folder a class, with JPEGs and PNGs; image `i` of all is `picture(first + i)`."""
    seed = first
    for name, count in counts.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for _ in range(count):
            picture(seed).save(root / name / f"{seed:03}.{'png' if seed % 3 == 0 else 'jpg'}")
            seed += 1
    return root


def shards(cache: Path | None = None) -> dict[Path, int]:
    """The store's shards and when each was written."""
    root = cache if cache is not None else Path(os.environ["HEADSTART_CACHE"])
    return {path: path.stat().st_mtime_ns for path in (root / "features").glob("*/*.safetensors")}


def stored_rows() -> int:
    return sum(info.rows for info in FeatureStore().infos())


def expected(model: Model, data: Dataset, cut: str, backend: str) -> np.ndarray:
    """The features, image by image, without the store, the loader or the normalising trunk."""
    prepared = np.stack([model.preprocess.apply(data.load(i)[0]) for i in range(len(data))])
    return hs.forward(model, model.preprocess.normalise(prepared), cut, backend=backend, device="cpu")[cut]


@pytest.fixture(scope="module")
def model() -> Model:
    return hs.model("lenet", classes=3)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos")


@pytest.fixture
def extract(model: Model, backend: str) -> Extract:
    """`hs.extract` with a small batch; the data are a folder's path or a data set."""

    def call(data: Path | Dataset, cuts: Any = CUT, model: Model = model, **settings: Any) -> Any:
        opened = hs.data.folder(data) if isinstance(data, Path) else data
        settings = {"backend": backend, "device": "cpu", "dtype": "float32", "batch_size": 4, **settings}
        return hs.extract(model, opened, cuts, **settings)

    return call


def counts(features: Any) -> tuple[int, int]:
    return features.stats.extracted, features.stats.reused


# --- what is computed, and what is not


def test_a_second_extraction_computes_nothing(photos: Path, extract: Extract, monkeypatch: Any, backend) -> None:
    first = extract(photos)
    before = shards()
    # Not even a trunk is built, so that a second run does not wait for a compiler.
    monkeypatch.setattr(batch_features, "pixel_trunk", None)
    second = extract(photos)
    assert counts(first) == (TOTAL, 0)
    assert counts(second) == (0, TOTAL)
    assert first.stats.made_by == second.stats.made_by == (backend,)
    assert shards() == before
    assert np.array_equal(first.numpy(), second.numpy())
    assert first.numpy().shape == (TOTAL, 84)


@ONCE
def test_only_added_images_are_computed(photos: Path, extract: Extract, model: Model, backend: str) -> None:
    extract(photos)
    before = shards()
    make_folder(photos, {"daisy": 1, "violet": 2}, first=100)
    after = extract(photos)
    assert counts(after) == (3, TOTAL)
    assert before.items() <= shards().items()
    data = hs.data.folder(photos)
    assert relative_error(after.numpy(), expected(model, data, CUT, backend)) < 1e-5
    assert after.labels.tolist() == data.labels.tolist()
    assert after.classes == ("daisy", "rose", "tulip", "violet")


@ONCE
def test_names_labels_and_times_do_not_matter(photos: Path, extract: Extract) -> None:
    first = extract(photos)
    row = dict(zip(first.ids, first.numpy(), strict=True))
    (photos / "daisy/000.png").rename(photos / "daisy/renamed.png")
    (photos / "daisy/001.jpg").rename(photos / "tulip/001.jpg")  # relabelled
    os.utime(photos / "rose/007.jpg")
    (photos / "rose").rename(photos / "anemone")  # another order of classes, too
    photos = photos.rename(photos.with_name("moved"))
    second = extract(photos)
    assert counts(second) == (0, TOTAL)
    assert second.classes == ("anemone", "daisy", "tulip")
    assert set(second.ids) == set(first.ids)
    assert second.ids != first.ids
    for id, features in zip(second.ids, second.numpy(), strict=True):
        assert np.array_equal(features, row[id])


@ONCE
def test_an_edited_image_is_new_whatever_its_time_says(
    photos: Path, extract: Extract, model: Model, backend: str
) -> None:
    first = extract(photos)
    path = photos / "rose/006.png"
    status = path.stat()
    picture(999).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    second = extract(photos)
    assert counts(second) == (1, TOTAL - 1)
    changed = [not np.array_equal(a, b) for a, b in zip(first.numpy(), second.numpy(), strict=True)]
    assert [i for i in range(TOTAL) if changed[i]] == [6]
    assert relative_error(second.numpy(), expected(model, hs.data.folder(photos), CUT, backend)) < 1e-5


@ONCE
def test_a_duplicate_is_stored_once_and_stands_twice(photos: Path, extract: Extract) -> None:
    shutil.copy(photos / "daisy/001.jpg", photos / "tulip/copy.jpg")
    features = extract(photos)
    assert len(features) == TOTAL + 1
    assert counts(features) == (TOTAL, 0)
    assert stored_rows() == TOTAL
    one, other = (i for i, id in enumerate(features.ids) if id == features.ids[1])
    rows = features.numpy()
    assert np.array_equal(rows[one], rows[other])
    assert len(np.unique(rows, axis=0)) == TOTAL
    assert (features.labels[one], features.labels[other]) == (0, 2)
    assert counts(extract(photos)) == (0, TOTAL)


@ONCE
def test_the_same_pixels_in_other_bytes_are_another_sample(photos: Path, extract: Extract) -> None:
    Image.open(photos / "daisy/000.png").save(photos / "daisy/again.bmp")
    features = extract(photos)
    assert counts(features) == (TOTAL + 1, 0)
    again = [Path(p).name for p in hs.data.folder(photos)._source.paths].index("again.bmp")  # type: ignore[attr-defined]
    assert np.array_equal(features.numpy()[0], features.numpy()[again])


# --- rows belong to their samples


def test_row_i_is_that_of_image_i(photos: Path, backend: str, extract: Extract) -> None:
    model = shaken(small_model(classes=3))
    data = hs.data.folder(photos)
    cuts = ["layer3.0", "avgpool"]
    features = extract(data, cuts, model=model, batch_size=4)
    assert features.cuts == tuple(cuts)
    for cut in cuts:
        assert relative_error(features.numpy(cut), expected(model, data, cut, backend)) < 1e-5
    shuffled = data.subset(np.random.default_rng(0).permutation(TOTAL)[:9])
    part = extract(shuffled, cuts, model=model)
    assert counts(part) == (0, 9)
    assert relative_error(part.numpy("avgpool"), expected(model, shuffled, "avgpool", backend)) < 1e-5
    assert np.array_equal(part.labels, shuffled.labels)
    repeated = data.subset([3, 3, 0])
    rows = features.numpy("avgpool")
    assert np.array_equal(extract(repeated, "avgpool", model=model).numpy(), rows[[3, 3, 0]])


@ONCE
def test_a_shuffled_subset_first(photos: Path, extract: Extract, model: Model, backend: str) -> None:
    data = hs.data.folder(photos)
    shuffled = data.subset(np.random.default_rng(1).permutation(TOTAL)[:7])
    part = extract(shuffled)
    assert counts(part) == (7, 0)
    assert relative_error(part.numpy(), expected(model, shuffled, CUT, backend)) < 1e-5
    whole = extract(data)
    assert counts(whole) == (TOTAL - 7, 7)
    assert relative_error(whole.numpy(), expected(model, data, CUT, backend)) < 1e-5


@ONCE
def test_another_cut_is_computed_alone(photos: Path, extract: Extract, model: Model, backend: str) -> None:
    extract(photos, ["pool2", "relu4"])
    before = shards()
    assert len(before) == 2
    more = extract(photos, ["pool2", "relu3", "relu4"])
    assert counts(more) == (TOTAL, 0)
    new = shards().keys() - before.keys()
    assert {path.parent.name for path in new} == {more.key("relu3").digest}
    assert before.items() <= shards().items()
    data = hs.data.folder(photos)
    for cut in more.cuts:
        assert relative_error(more.numpy(cut), expected(model, data, cut, backend)) < 1e-5
    with pytest.raises(SettingError, match="no features at cut None; expected one of pool2, relu3, relu4"):
        more.numpy()


def test_cuts_that_lack_different_images(photos: Path, extract: Extract, model: Model, backend: str) -> None:
    data = hs.data.folder(photos)
    extract(data.subset([0, 1, 2, 3]), "relu3")
    extract(data.subset([2, 3, 4, 5, 6]), "relu4")
    both = extract(data, ["relu3", "relu4"])
    assert counts(both) == (TOTAL - 2, 2)
    assert stored_rows() == 2 * TOTAL
    for cut in both.cuts:
        assert relative_error(both.numpy(cut), expected(model, data, cut, backend)) < 1e-5


def one_weight(model: Model) -> Model:
    weight = model.params["conv1.weight"].copy()
    weight[0, 0, 0, 0] = np.nextafter(weight[0, 0, 0, 0], np.float32(9))
    return replace(model, params={**model.params, "conv1.weight": weight})


@pytest.mark.slow("keras", "jax")  # the key is core's
@pytest.mark.parametrize(
    ("change", "settings"),
    [
        (one_weight, {}),
        (lambda m: replace(m, preprocess=replace(m.preprocess, resize=40)), {}),
        (lambda m: replace(m, preprocess=replace(m.preprocess, mean=(0.4, 0.5, 0.5))), {}),
        (None, {"cuts": "fc2"}),
        (None, {"dtype": "float16"}),
        (None, {"dtype": "bfloat16"}),
        (None, {"precision": "bfloat16"}),
    ],
    ids=["weight", "resize", "mean", "cut", "float16", "bfloat16", "precision"],
)
def test_what_changes_features_misses(
    photos: Path, extract: Extract, model: Model, change: Any, settings: dict[str, Any]
) -> None:
    extract(photos)
    changed = change(model) if change else model
    assert counts(extract(photos, model=changed, **settings)) == (TOTAL, 0)
    assert counts(extract(photos)) == (0, TOTAL)


@ONCE
def test_the_size_of_images_misses(photos: Path, extract: Extract) -> None:
    small, large = small_model(classes=3), small_model(classes=3, size=48)
    extract(photos, "avgpool", model=small)
    assert counts(extract(photos, "avgpool", model=large)) == (TOTAL, 0)


@ONCE
@pytest.mark.parametrize(
    "change",
    [
        {"batch_size": 7},
        {"batch_size": 1000},
        {"workers": 1},
        {"workers": 3},
        {"model": hs.model("lenet", classes=["a", "b"], head=[12])},  # another head on the same trunk
    ],
    ids=["batch", "huge-batch", "worker", "workers", "head"],
)
def test_what_does_not_change_features_hits(photos: Path, extract: Extract, change: dict[str, Any]) -> None:
    extract(photos)
    assert counts(extract(photos, **change)) == (0, TOTAL)


def test_batches_and_workers_give_the_same_rows(photos: Path, extract: Extract, tmp_path: Path) -> None:
    rows = [
        extract(photos, cache=tmp_path / str(size), batch_size=size, workers=workers).numpy()
        for size, workers in ((4, 1), (15, 3), (1, 2), (64, 1))
    ]
    for other in rows[1:]:
        assert relative_error(other, rows[0]) < 1e-5


# --- mistakes


@pytest.mark.parametrize(
    ("settings", "error", "texts"),
    [
        ({"cuts": "avgpool"}, CutError, ["avgpool", "lenet", "relu4"]),
        ({"cuts": []}, SettingError, ["cuts is empty"]),
        ({"dtype": "float64"}, SettingError, ["'float64'", "float16, float32, bfloat16"]),
        ({"dtype": "uint8"}, SettingError, ["float16, float32, bfloat16"]),
        ({"precision": "half"}, UnknownNameError, ["'half'", "float32, tf32, bfloat16, float16"]),
        ({"device": "gpu"}, UnknownNameError, ["'gpu'", "auto, cpu, cuda"]),
        ({"backend": "tf"}, UnknownNameError, ["'tf'", "torch, keras, jax"]),
        ({"batch_size": 0}, SettingError, ["batch_size", "0", "1 or more"]),
        ({"workers": 0}, SettingError, ["workers", "0", "1 or more"]),
    ],
)
def test_a_wrong_argument(
    photos: Path, extract: Extract, settings: dict[str, Any], error: type, texts: list[str]
) -> None:
    with pytest.raises(error) as caught:
        extract(photos, **settings)
    for text in [t for t in texts if t != "lenet"]:
        assert text in str(caught.value)
    assert not shards()


def test_nothing_to_extract(photos: Path, extract: Extract) -> None:
    features = extract(hs.data.folder(photos).subset([]))
    assert counts(features) == (0, 0)
    assert len(features) == 0


# --- images that change or cannot be decoded


@ONCE
def test_a_file_that_changes_on_the_way_is_refused(photos: Path, extract: Extract) -> None:
    data = hs.data.folder(photos)
    last = max(range(TOTAL), key=lambda i: data.ids[i])  # samples are visited in the order of their ids
    path = Path(data.source_name(last))
    picture(500).save(path)
    with pytest.raises(DataError, match=rf"{path.name} was changed since it was first read"):
        extract(data)
    assert stored_rows() == 12  # the three batches before it
    assert counts(extract(photos)) == (TOTAL - 12, 12)


@ONCE
def test_a_file_edited_since_is_not_served_what_it_was(photos: Path, extract: Extract) -> None:
    data = hs.data.folder(photos)
    extract(data)
    gone, touched, edited = (Path(data.source_name(i)) for i in (0, 1, 2))
    gone.unlink()
    touched.touch()
    assert counts(extract(data)) == (0, TOTAL)
    picture(501).save(edited)
    with pytest.raises(DataError, match=rf"{edited.name} was changed since it was first read.*open the data set"):
        extract(data)
    assert counts(extract(data.subset([3, 4]))) == (0, 2)


@ONCE
def test_a_tar_written_anew_is_not_served_what_it_was(tmp_path: Path, extract: Extract) -> None:
    def written(first: int) -> Dataset:
        with tarfile.open(tmp_path / "shard.tar", "w") as tar:
            for i in range(4):
                picture(first + i).save(tmp_path / "x.png")
                tar.add(tmp_path / "x.png", f"{i}.png")
                (tmp_path / "x.cls").write_text("ab"[i % 2])
                tar.add(tmp_path / "x.cls", f"{i}.cls")
        return hs.data.webdataset(tmp_path / "shard.tar")

    data = written(0)
    extract(data)
    written(40)
    with pytest.raises(DataError, match="changed since"):
        extract(data)
    (tmp_path / "shard.tar").unlink()
    assert counts(extract(data)) == (0, 4)
    with pytest.raises(ImageError, match=r"shard.tar.*cannot be read"):
        data[0]


@ONCE
def test_arrays_that_were_written_to_are_not_served_what_they_were(extract: Extract) -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (5, 8, 8, 3), np.uint8)
    data = hs.data.arrays(pixels, [0, 1, 0, 1, 1])
    extract(data)
    pixels[...] = 255 - pixels
    with pytest.raises(
        DataError, match=r"image \d of arrays was changed since it was first read.*open the data set"
    ):
        extract(data.subset([1, 2]))
    assert counts(extract(hs.data.arrays(pixels, [0, 1, 0, 1, 1]))) == (5, 0)


def _names(photos: Path) -> dict[str, str]:
    """Id -> path."""
    data = hs.data.folder(photos)
    return {id: data.source_name(i) for i, id in enumerate(data.ids)}


@ONCE
def test_a_broken_image_is_named_and_the_others_are_kept(
    photos: Path, extract: Extract, model: Model, backend: str
) -> None:
    path = photos / "tulip/013.jpg"
    whole = path.read_bytes()
    # Samples are visited in the order of their ids: cut off somewhere so that its own is one of the last three.
    others = [id for id, name in _names(photos).items() if name != str(path)]
    halves = (whole[:length] for length in range(len(whole) // 2, len(whole)))
    path.write_bytes(next(half for half in halves if sample_id(half) > sorted(others)[12]))
    with pytest.raises(ImageError) as caught:
        extract(photos)
    assert caught.value.source == str(path)
    assert stored_rows() == 12
    skipping = hs.data.folder(photos, on_error="skip")
    left = extract(skipping)
    assert [line.path for line in skipping.skipped] == [str(path)]
    assert counts(left) == (2, 12)
    assert len(left) == TOTAL - 1
    assert relative_error(left.numpy(), expected(model, skipping, CUT, backend)) < 1e-5
    assert left.labels.tolist() == [0] * 6 + [1] * 5 + [2] * 3
    path.write_bytes(whole)
    assert counts(extract(photos)) == (1, TOTAL - 1)


# --- features and disks that do not fit


def test_overflow_is_refused_and_not_clipped(photos: Path, extract: Extract, model: Model, backend: str) -> None:
    params = {name: value * (1e8 if name.startswith("fc2") else 1) for name, value in model.params.items()}
    huge = replace(model, params={name: value.astype(np.float32) for name, value in params.items()})
    with pytest.raises(FeatureOverflowError, match=r"more than float16 holds \(65504\); store as bfloat16"):
        extract(photos, "fc2", model=huge, dtype="float16")
    assert stored_rows() == 0
    features = extract(photos, "fc2", model=huge, dtype="bfloat16").numpy().astype(np.float32)
    assert np.abs(features).max() > 65504
    assert relative_error(features, expected(huge, hs.data.folder(photos), "fc2", backend)) < 1e-2


def test_features_that_are_not_numbers(photos: Path, extract: Extract, model: Model) -> None:
    """Computed so from sound weights, or from weights that are none."""
    for value, error, text in (
        (3e38, FeatureOverflowError, "NaN or infinity as it computed them"),
        (np.nan, WeightsError, r"conv1\.weight of node 'conv1' \(conv\) holds NaN"),
    ):
        weight = model.params["conv1.weight"].copy()
        weight[0] = value
        broken = replace(model, params={**model.params, "conv1.weight": weight})
        with pytest.raises(error, match=text):
            extract(photos, "conv1", model=broken)
        assert stored_rows() == 0


@ONCE
def test_a_cache_that_cannot_be(photos: Path, extract: Extract, tmp_path: Path) -> None:
    file = tmp_path / "a-file"
    file.write_text("mine")
    with pytest.raises(CacheNotWritableError, match="HEADSTART_CACHE"):
        extract(photos, cache=file)
    with pytest.raises(CacheNotWritableError):
        extract(photos, cache=file / "below")
    assert file.read_text() == "mine"


@ONCE
def test_too_little_space_is_known_before_anything_is_computed(
    photos: Path, extract: Extract, monkeypatch: Any
) -> None:
    usage = SimpleNamespace(total=10**9, used=10**9 - 84 * 4 * TOTAL + 1, free=84 * 4 * TOTAL - 1)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage)
        patch.setattr(batch_features, "pixel_trunk", None)
        with pytest.raises(DiskSpaceError, match=r"need 4\.9 KiB, and 4\.9 KiB are free"):
            extract(photos)
    assert not shards()
    usage.free += 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert counts(extract(photos)) == (TOTAL, 0)
    usage.free = 0
    assert counts(extract(photos)) == (0, TOTAL)  # what is there needs no space


# --- damage


def flip_a_byte(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)


@ONCE
def test_a_damaged_shard_is_never_used_and_only_its_rows_are_computed_again(
    photos: Path, extract: Extract
) -> None:
    data = hs.data.folder(photos)
    extract(data.subset(range(5)))
    (kept,) = shards()
    good = extract(data).numpy()
    (damaged,) = shards().keys() - {kept}
    flip_a_byte(damaged, 4096 + 100)
    with pytest.raises(DamagedShardError, match="cache verify --repair") as caught:
        extract(data).numpy()
    assert caught.value.path == damaged
    assert np.array_equal(extract(data.subset(range(5))).numpy(), good[:5])
    report = FeatureStore().verify(repair=True)
    assert [path for path, _ in report.damaged] == [damaged]
    again = extract(data)
    assert counts(again) == (TOTAL - 5, 5)
    assert relative_error(again.numpy(), good) < 1e-6


@ONCE
def test_a_shard_with_a_damaged_header_stops_the_extraction(photos: Path, extract: Extract) -> None:
    good = extract(photos).numpy()
    (shard,) = shards()
    flip_a_byte(shard, 50)
    with pytest.raises(DamagedShardError) as caught:
        extract(photos)
    assert caught.value.path == shard
    FeatureStore().verify(repair=True)
    again = extract(photos)
    assert counts(again) == (TOTAL, 0)
    assert relative_error(again.numpy(), good) < 1e-6


# --- drift


def store_as_another(features: Any, rows: np.ndarray) -> Any:
    """Store rows under the features' key in this test's cache, as another backend would."""
    folder = FeatureStore().folder(features.key())
    provenance = {"headstart": "0.0", "backend": "another", "versions": {"another": "1.0"}, "device": "cpu"}
    with folder.writer(rows.shape[1:], "float32", provenance) as out:
        out.add(list(features.ids), rows)
    return folder


def test_features_of_another_backend_are_taken_where_they_are_right(
    photos: Path, extract: Extract, tmp_path: Path, monkeypatch: Any
) -> None:
    mine = extract(photos, cache=tmp_path / "elsewhere")
    folder = store_as_another(mine, mine.numpy() * np.float32(1.0001))
    found = extract(photos)
    assert counts(found) == (0, TOTAL)
    assert found.stats.made_by == ("another",)
    assert len(list((folder.path / "checked").iterdir())) == 1
    # Once compared, they are not compared again.
    monkeypatch.setattr(batch_features, "pixel_trunk", None)
    assert counts(extract(photos)) == (0, TOTAL)


@pytest.mark.slow("keras", "jax")  # core compares
@pytest.mark.parametrize("wrong", ["other", "zeros", "scaled"])
def test_features_of_another_backend_are_refused_where_they_are_wrong(
    photos: Path, extract: Extract, tmp_path: Path, wrong: str
) -> None:
    mine = extract(photos, cache=tmp_path / "elsewhere")
    rows = mine.numpy()
    rows = {"other": rows[::-1], "zeros": np.zeros_like(rows), "scaled": rows * np.float32(1.5)}[wrong]
    folder = store_as_another(mine, np.ascontiguousarray(rows))
    before = shards()
    for _ in range(2):
        with pytest.raises(FeatureDriftError, match="made by another") as caught:
            extract(photos)
    assert str(folder.path) in str(caught.value)
    assert not (folder.path / "checked").exists()
    assert shards() == before


@pytest.mark.slow("keras", "jax")  # core compares
def test_a_wrong_shard_is_found_among_right_ones(photos: Path, extract: Extract, tmp_path: Path) -> None:
    """Two of the samples come from elsewhere; those made here, and those that were compared, hide nothing."""
    data = hs.data.folder(photos)
    extract(data.subset(range(2, TOTAL)))
    right = extract(data.subset([0]), cache=tmp_path / "elsewhere")
    store_as_another(right, right.numpy())
    assert counts(extract(data.subset([0, *range(2, TOTAL)]))) == (0, TOTAL - 1)
    wrong = extract(data.subset([1]), cache=tmp_path / "elsewhere")
    store_as_another(wrong, wrong.numpy() + 1)
    with pytest.raises(FeatureDriftError, match="made by another"):
        extract(data)
    assert counts(extract(data.subset([0, *range(2, TOTAL)]))) == (0, TOTAL - 1)


def test_eviction_forgets_what_was_compared(photos: Path, extract: Extract, tmp_path: Path) -> None:
    mine = extract(photos, cache=tmp_path / "elsewhere")
    folder = store_as_another(mine, mine.numpy())
    extract(photos)
    assert (folder.path / "checked").is_dir()
    store = FeatureStore()
    store.gc(store.gc_plan(0))
    assert not folder.path.exists()


def test_another_version_of_the_same_backend_is_compared_too(
    photos: Path, extract: Extract, monkeypatch: Any
) -> None:
    features = extract(photos)
    folder = FeatureStore().folder(features.key())
    assert not (folder.path / "checked").exists()
    monkeypatch.setattr(batch_features.registry, "versions", lambda name: {name: "99.0"})
    extract(photos)
    assert (folder.path / "checked").is_dir()
    # A wrong machine now: what its trunk computes is not what is stored.
    monkeypatch.setattr(batch_features.registry, "versions", lambda name: {name: "100.0"})
    real = inference.frozen

    def wrong(*args: Any, **kwargs: Any) -> Any:
        graph, params = real(*args, **kwargs)
        return graph, {name: value * 2 for name, value in params.items()}

    monkeypatch.setattr(inference, "frozen", wrong)
    with pytest.raises(FeatureDriftError):
        extract(photos)


# --- interrupts and kills


def test_what_vanishes_in_float16_is_refused(photos: Path, backend: str, tmp_path: Path) -> None:
    """Numbers on the way that are below its range: the rows that come out are zeros as others are."""
    model = hs.model("lenet", classes=3)
    scales = {"conv1.weight": 1e-5, "conv2.weight": 1e-5, "conv1.bias": 0, "conv2.bias": 0, "fc1.bias": 0}
    faint = {name: value * np.float32(scales.get(name, 1)) for name, value in model.params.items()}
    model, data = replace(model, params=faint), hs.data.folder(photos)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "dtype": "float32", "cache": tmp_path / "c"}
    for precision in ("float32", "bfloat16"):
        assert hs.extract(model, data, "fc1", precision=precision, **settings).numpy().any()
    with pytest.raises(
        FeatureUnderflowError, match=r"'fc1' of 15 samples are 0.*precision='bfloat16' or 'float32'"
    ):
        hs.extract(model, data, "fc1", precision="float16", **settings)


def test_halves_are_float32_where_the_cpu_has_none(
    photos: Path, model: Model, backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In which they are as fast or faster; under the key of what was asked for."""
    monkeypatch.setattr(recipe, "cpu_multiplies", lambda dtype: False)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "dtype": "float32", "cache": tmp_path}
    features = {
        precision: hs.extract(model, hs.data.folder(photos), CUT, precision=precision, **settings)
        for precision in ("float32", "float16", "bfloat16")
    }
    full = features["float32"].numpy()
    assert relative_error(features["float16"].numpy(), full) < 1e-6
    assert relative_error(features["bfloat16"].numpy(), full) < 5e-3  # of weights that are rounded once


@ONCE
def test_an_interrupt_keeps_what_is_finished(
    photos: Path, extract: Extract, model: Model, backend: str, monkeypatch: Any
) -> None:
    class Interrupting(shard_writer.ShardWriter):
        def add(self, ids: Any, rows: Any) -> None:
            if "seen" in vars(self):
                raise KeyboardInterrupt
            vars(self)["seen"] = True
            super().add(ids, rows)

    with monkeypatch.context() as patch:
        patch.setattr("headstart.store.feature_folder.ShardWriter", Interrupting)
        with pytest.raises(ExtractionInterrupted, match="the features of 4 of 15 images are kept") as caught:
            extract(photos)
        assert caught.tb is not None
        assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("headstart-")]
    again = extract(photos)
    assert counts(again) == (TOTAL - 4, 4)
    assert relative_error(again.numpy(), expected(model, hs.data.folder(photos), CUT, backend)) < 1e-5


# Run in a child before anything else: shards of few rows on a slow disk, so that a signal comes in between.
SLOW_SHARDS = """
import os, time
from headstart.store import writer
writer.SHARD_NBYTES = 7 * 84 * 4
sync = os.fsync
def slow(file):
    time.sleep(0.05)
    sync(file)
os.fsync = slow
"""

KILLED = (
    SLOW_SHARDS
    + """
import sys
import headstart as hs
folder, backend = sys.argv[1:]
hs.extract(hs.model("lenet", classes=3), hs.data.folder(folder), "relu4", backend=backend, device="cpu",
           dtype="float32", batch_size=3)
"""
)


def wait_for_shards(is_running: Callable[[], bool], least: int) -> None:
    deadline = time.monotonic() + 60
    while len(shards()) < least and is_running() and time.monotonic() < deadline:
        time.sleep(0.002)


@pytest.mark.slow  # test_store_crashes kills at each operation
@pytest.mark.neutral  # no framework hears of it: what is left is the store's
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs signals")
def test_killed_at_any_moment_it_goes_on_where_it_was(
    tmp_path: Path, extract: Extract, model: Model, backend: str
) -> None:
    count = 240
    data = make_folder(tmp_path / "many", {"a": count // 2, "b": count // 2})
    rng = random.Random(0)
    stored = 0
    with victims(backend) as processes:
        for least in (1, 6, 12):
            process = processes.start(KILLED, data, backend)
            wait_for_shards(process.is_running, least)
            time.sleep(rng.uniform(0, 0.05))
            assert process.kill() == -signal.SIGKILL, "it was to be killed before its end"
            assert stored_rows() >= stored
            stored = stored_rows()
            assert not FeatureStore().verify().damaged
    assert 0 < stored < count
    resumed = extract(data)
    assert counts(resumed) == (count - stored, stored)
    assert relative_error(resumed.numpy(), expected(model, hs.data.folder(data), CUT, backend)) < 1e-5


@pytest.mark.of("torch")  # what is kept is the same for all; test_compare sees how a backend's process ends
@pytest.mark.skipif(os.name == "nt", reason="needs SIGINT")
def test_ctrl_c_says_what_is_kept(tmp_path: Path, backend: str) -> None:
    count = 240
    data = make_folder(tmp_path / "many", {"a": count // 2, "b": count // 2})
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(SLOW_SHARDS)
    words = ["extract", "--data", data, "--model", "lenet", "--cuts", "relu4", "--dtype", "float32"]
    words += ["--batch-size", 3, "--backend", backend, "--device", "cpu"]
    command = [sys.executable, "-m", "headstart", *map(str, words)]
    slow = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    with (
        heeded_ctrl_c(),
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=slow) as child,
    ):
        wait_for_shards(lambda: child.poll() is None, 3)
        child.send_signal(signal.SIGINT)
        out, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    said = re.fullmatch(
        rf"interrupted: the features of (\d+) of {count} images are kept; .*", err.splitlines()[-1]
    )
    assert said, err
    kept = int(said[1])
    assert "Traceback" not in err
    assert out == ""
    assert 3 * 7 - 3 <= kept < count  # the batch that completed the third shard may not be counted yet
    assert stored_rows() >= kept
    figures = tmp_path / "figures.json"
    assert headstart(*words, "--json", figures).code == 0
    second = json.loads(figures.read_text())
    assert second["reused"] >= kept
    assert second["extracted"] + second["reused"] == count
