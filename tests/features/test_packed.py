"""Saved feature sets: that they are the set that was saved, whatever happens to the folder or while it is written,
and that the page on the format tells the truth."""

from __future__ import annotations

import errno
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from blake3 import blake3
from feature_sets import CLASSES, damage, folder_of, made, some_ids
from PIL import Image
from safetensors.numpy import save_file

import headstart as hs
from headstart import store as store_package
from headstart.cli import main as cli
from headstart.common.errors import (
    CacheNotWritableError,
    DamagedShardError,
    DataError,
    DiskSpaceError,
    SavedFeaturesError,
    SettingError,
)
from headstart.features import extract as extraction
from headstart.features import packed
from headstart.features.feature_set import ExtractionStats, FeatureSet
from headstart.store import DTYPES, FeatureStore, files, writer

pytestmark = pytest.mark.neutral

FORMAT = Path(str(store_package.__file__)).parent / "FORMAT.md"
FLIPS = 1000


@pytest.fixture
def features(tmp_path: Path) -> FeatureSet:
    return made(tmp_path / "cache", {"pool": (2, 2, 3), "fc": (5,)}, makers=("torch", "jax"))


def same(one: FeatureSet, other: FeatureSet) -> None:
    """Raise unless both are the same set, bit for bit."""
    assert (one.name, one.ids, one.classes, one.cuts) == (other.name, other.ids, other.classes, other.cuts)
    assert (one.labels.tolist(), one.views, one.stats.made_by) == (
        other.labels.tolist(),
        other.views,
        other.stats.made_by,
    )
    for cut in one.cuts:
        for view in range(one.views):
            assert one.key(cut, view) == other.key(cut, view)
            a, b = one.numpy(cut, view), other.numpy(cut, view)
            assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change features.json, with the checksum that goes with it."""
    path = folder / packed.DESCRIPTION
    content = json.loads(path.read_text())
    del content["checksum"]
    change(content)
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["checksum"] = blake3(text.encode()).hexdigest(length=16)
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


# -------------------------------------------------------------------------------------------- what comes back


@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_loaded_is_what_was_saved(tmp_path: Path, dtype: str) -> None:
    features = made(tmp_path / "cache", {"pool": (3, 5, 4), "fc": (7,)}, dtype=dtype, views=3)
    rows = features.numpy("fc", 2).tobytes()
    folder = features.save(tmp_path / "new" / "saved")
    loaded = hs.load_features(folder)
    same(loaded, features)
    assert (loaded.stats.extracted, loaded.stats.reused) == (0, 20)
    loaded.save(tmp_path / "again")  # a saved set, too, can be saved
    shutil.rmtree(tmp_path / "cache")
    shutil.move(folder, tmp_path / "moved")
    same(hs.load_features(str(tmp_path / "moved")), hs.load_features(tmp_path / "again"))
    assert hs.load_features(tmp_path / "moved").numpy("fc", 2).tobytes() == rows


def test_makers_are_kept(tmp_path: Path, features: FeatureSet) -> None:
    def by_maker(features: FeatureSet, cut: str) -> dict[str, list[str]]:
        sources = features.folder(cut).sources(features.ids)
        return {made.maker: sorted(features.ids[i] for i in places) for made, _, places in sources}

    loaded = hs.load_features(features.save(tmp_path / "saved"))
    assert loaded.stats.made_by == ("jax", "torch")
    for cut in features.cuts:
        rows = by_maker(features, cut)
        assert len(rows["torch"]) == 11 and len(rows["jax"]) == 10  # the double with the first
        assert by_maker(loaded, cut) == rows


def test_only_this_sets_rows_are_saved(tmp_path: Path, features: FeatureSet) -> None:
    part = features.subset([20, 0, 2, 5])
    folder = part.save(tmp_path / "saved")
    same_ids = {part.ids[0], part.ids[1], part.ids[3]}
    assert [info.rows for info in FeatureStore(folder, shared=()).infos()] == [3, 3]
    loaded = hs.load_features(folder)
    assert set(loaded.folder("fc").ids()) == same_ids
    assert loaded.labels.tolist() == part.labels.tolist() == [2, 0, 2, 2]
    assert np.array_equal(loaded.numpy("fc"), features.numpy("fc")[[20, 0, 2, 5]])


def test_loading_and_reading_write_nothing(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    before = files_of(folder)
    assert len(before) == 1 + 2 * (1 + 3) + 2  # two trunks of a description and two shards; samples, features.json
    loaded = hs.load_features(folder)
    same(loaded, features)
    loaded.folder("fc").mark_checked("some", "one")
    assert files_of(folder) == before


def test_no_row_comes_from_a_shared_cache(tmp_path: Path, features: FeatureSet, monkeypatch: Any) -> None:
    monkeypatch.setenv("HEADSTART_CACHE_SHARED", str(tmp_path / "cache"))
    folder = features.save(tmp_path / "saved")
    for path in (folder / "features").glob("*/*.safetensors"):
        path.unlink()
    with pytest.raises(SavedFeaturesError):
        hs.load_features(folder)


def test_a_split_is_that_of_the_data_set(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (60, 8, 8, 3), np.uint8), rng.integers(0, 3, 60)
    data = hs.data.arrays(images, labels, classes=list(CLASSES))
    rows = {id: rng.normal(size=4).astype(np.float32) for id in data.ids}
    folder = folder_of(tmp_path, "fc", "float32")
    with folder.writer((4,), "float32", {}) as out:
        out.add(list(rows), np.stack(list(rows.values())))
    stats = ExtractionStats(60, 0, 0.0, ())
    features = FeatureSet("flowers", data.ids, data.annotations, {"fc": [folder]}, stats)
    for fraction, seed in ((0.8, 0), (0.5, 7), (0.01, 3)):
        for part, of_data in zip(features.split(fraction, seed), data.split(fraction, seed), strict=True):
            assert part.ids == of_data.ids and part.labels.tolist() == of_data.labels.tolist()
            assert np.array_equal(part.numpy(), np.stack([rows[id] for id in of_data.ids]))
    with pytest.raises(SettingError, match="fraction is 1"):
        features.split(1)
    with pytest.raises(DataError, match="flowers cannot be split: none of its 3 samples"):
        features.subset([int(np.argmax(data.labels == label)) for label in range(3)]).split()


# ------------------------------------------------------------------------------------------------- being saved


def test_a_saved_set_is_replaced_on_request_only(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    (folder / "notes.txt").write_text("mine")
    before = files_of(folder)
    other = made(tmp_path / "other", {"fc": (4,)}, ids=some_ids(9, seed=5), dtype="float32")
    with pytest.raises(SettingError, match="holds a saved feature set already; replace it"):
        other.save(folder)
    assert files_of(folder) == before
    other.save(folder, replace=True)
    same(hs.load_features(folder), other)
    assert len(list(folder.glob("samples-*"))) == len(list((folder / "features").iterdir())) == 1
    assert (folder / "notes.txt").read_text() == "mine"


def test_replacing_mends(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    loaded = hs.load_features(folder)
    damage(loaded, 3)
    shard = next(loaded.folder("fc").path.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1])
    (folder / packed.DESCRIPTION).write_text("{}")
    with pytest.raises(SavedFeaturesError):
        hs.load_features(folder)
    features.save(folder, replace=True)
    same(hs.load_features(folder), features)


DYING = """
import os, signal, sys
from pathlib import Path
from feature_sets import made

root, replace = Path(sys.argv[1]), sys.argv[2] == "True"
features = made(root / "cache", {"pool": (2, 2, 3), "fc": (5,)}, makers=("torch", "jax"))
rename = os.replace
for moment in range(1, 100):
    folder = root / f"{replace}-{moment}"
    if replace:
        features.subset(range(0, 21, 2)).save(folder)
    child = os.fork()
    if not child:
        left = moment
        def dying(source, target):
            global left
            for step in (lambda: None, lambda: rename(source, target)):
                step()
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
        os.replace = dying
        features.save(folder, replace=replace)
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        break
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("replace", [False, True])
def test_every_death_leaves_a_set_or_none(tmp_path: Path, features: FeatureSet, replace: bool) -> None:
    """Killed before and after each file gets its name, until the save completes."""
    earlier = features.subset(range(0, 21, 2))
    command = [sys.executable, "-c", DYING, str(tmp_path / "dying"), str(replace)]
    subprocess.run(
        command, check=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}, timeout=60
    )
    folders = [tmp_path / "dying" / f"{replace}-{k}" for k in range(1, 100)]
    folders = [folder for folder in folders if folder.exists()]
    # Of each trunk a description (there already) and two shards; then samples and features.json. One lived.
    assert len(folders) == 2 * ((4 if replace else 6) + 2) + 1
    counts = []
    for folder in folders:
        try:
            loaded = hs.load_features(folder)
        except SavedFeaturesError as error:
            assert "not saved to the end" in str(error)
            counts.append(0)
        else:
            counts.append(len(loaded))
            same(loaded, features if len(loaded) == 21 else earlier)
        features.save(folder, replace=replace or counts[-1] == 21)
        same(hs.load_features(folder), features)
    assert counts == [11 if replace else 0] * (len(folders) - 2) + [21, 21]


def test_what_is_there_is_not_copied_twice(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    before = {path: path.stat().st_mtime_ns for path in (folder / "features").rglob("*.safetensors")}
    (folder / "features.json").unlink()
    with pytest.raises(SavedFeaturesError, match=r"no features\.json: they were not saved to the end"):
        hs.load_features(folder)
    features.save(folder)
    assert {path: path.stat().st_mtime_ns for path in (folder / "features").rglob("*.safetensors")} == before


def test_damaged_features_are_not_saved(tmp_path: Path, features: FeatureSet) -> None:
    path = damage(features, 3)
    with pytest.raises(DamagedShardError, match=path.name):
        features.save(tmp_path / "saved")
    with pytest.raises(SavedFeaturesError):
        hs.load_features(tmp_path / "saved")


def test_where_nothing_can_be_saved(tmp_path: Path, features: FeatureSet, monkeypatch: Any) -> None:
    with pytest.raises(SettingError, match="no samples to save"):
        features.subset([]).save(tmp_path / "saved")
    with pytest.raises(SettingError, match="is the store that these features are in"):
        features.save(tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(CacheNotWritableError, match=r"cannot save features to .*file.*; save to a folder"):
        features.save(tmp_path / "file" / "saved")
    monkeypatch.setattr(files, "free_space", lambda path: 100)
    with pytest.raises(DiskSpaceError, match=r"need 480 B, and 100 B are free at .*saved; .*save to another disk"):
        features.save(tmp_path / "saved")


def test_a_disk_may_fill_at_any_moment(tmp_path: Path, features: FeatureSet, monkeypatch: Any) -> None:
    real, left = os.write, 0

    def write(handle: int, data: Any) -> int:
        nonlocal left
        left -= 1
        if left <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    folder = tmp_path / "saved"
    for moment in range(1, 100):
        left = moment
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "write", write)
            try:
                features.save(folder)
                break
            except DiskSpaceError as error:
                assert re.fullmatch(
                    rf"cannot save features to {folder}: No space left.*save to another disk", str(error)
                )
        with pytest.raises(SavedFeaturesError):
            hs.load_features(folder)
    assert moment > 4
    same(hs.load_features(folder), features)
    assert not list(folder.rglob(".partial-*"))


def test_saving_takes_bounded_memory(tmp_path: Path, monkeypatch: Any) -> None:
    features = made(tmp_path / "cache", {"pool": (64, 64, 8)}, ids=some_ids(400))
    assert features.nbytes() > 25e6
    monkeypatch.setattr(packed, "PIECE_NBYTES", 1 << 20)
    monkeypatch.setattr(writer, "SHARD_NBYTES", 2 << 20)
    tracemalloc.start()
    features.save(tmp_path / "saved")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10e6


# ------------------------------------------------------------------------------------------ damage and strangers


def test_every_flipped_bit_is_noticed(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    rng = random.Random(0)
    for path in (folder / "features.json", next(folder.glob("samples-*"))):
        whole = path.read_bytes()
        for _ in range(FLIPS // 2):
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data)
            with pytest.raises(SavedFeaturesError, match=rf"{path.name}.* copy the folder again"):
                hs.load_features(folder)
        for length in rng.sample(range(len(whole)), 100):
            path.write_bytes(whole[:length])
            with pytest.raises(SavedFeaturesError, match=path.name):
                hs.load_features(folder)
        path.write_bytes(whole)
    same(hs.load_features(folder), features)


def test_what_is_missing_or_damaged_is_named(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    trunk = hs.load_features(folder).folder("fc").path
    shard = next(trunk.glob("*.safetensors"))
    samples = next(folder.glob("samples-*"))
    keep = tmp_path / "kept"
    for path, name in (
        (folder / "features.json", "features.json"),
        (samples, samples.name),
        (trunk, trunk.name),
        (trunk / "trunk.json", "trunk.json"),
        (shard, trunk.name),
    ):
        path.rename(keep)
        with pytest.raises(SavedFeaturesError, match=rf"{name}"):
            hs.load_features(folder)
        keep.rename(path)
    for path, position in ((trunk / "trunk.json", 30), (shard, 100), (shard, -1)):
        data = path.read_bytes()
        changed = bytearray(data)
        changed[position] ^= 4
        path.write_bytes(changed)
        with pytest.raises(SavedFeaturesError, match=rf"{path.name}.*copy the folder again"):
            hs.load_features(folder)
        path.write_bytes(data)
    loaded = hs.load_features(folder)
    path = damage(loaded, 2)  # a row is verified when it is read
    with pytest.raises(DamagedShardError, match=path.name):
        hs.load_features(folder).numpy("pool")
    for nowhere in (tmp_path / "nowhere", shard, tmp_path):
        with pytest.raises(SavedFeaturesError, match=r"features\.json"):
            hs.load_features(nowhere)


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("samples"),
        lambda c: c["samples"].update(blake3="../../../etc/passwd"),
        lambda c: c["samples"].update(file="../samples.safetensors"),
        lambda c: c["samples"].update(count=22),
        lambda c: c["samples"].update(count=0),
        lambda c: c["samples"].update(count=True),
        lambda c: c["samples"].update(count=10**30),
        lambda c: c.update(cuts=[]),
        lambda c: c.update(cuts=[{"cut": "fc", "views": []}]),
        lambda c: c.update(cuts=[{"cut": "fc", "views": [".."]}]),
        lambda c: c.update(cuts=[{"cut": "fc", "views": ["0" * 32]}]),
        lambda c: c.update(cuts=[{"cut": "fc", "views": [["0" * 32]]}]),
        lambda c: c.update(cuts=[c["cuts"][0], c["cuts"][0]]),
        lambda c: c["cuts"][0]["views"].append(c["cuts"][1]["views"][0]),
        lambda c: c.update(cuts={"fc": 1}),
        lambda c: c.update(classes=["one", "two"]),
        lambda c: c.update(classes="abc"),
        lambda c: c.update(name=None),
        lambda c: c.update(format="headstart-saved-features/3"),
        lambda c: c.update(format=None),
    ],
)
def test_a_strangers_description_is_refused(tmp_path: Path, features: FeatureSet, change: Any) -> None:
    folder = features.save(tmp_path / "saved")
    rewrite(folder, lambda content: None)
    same(hs.load_features(folder), features)  # the checksum is not what is refused
    rewrite(folder, change)
    with pytest.raises(SavedFeaturesError, match=str(folder)):
        hs.load_features(folder)


@pytest.mark.parametrize("label", [-1, 3, 2**62])
def test_labels_without_a_class_are_refused(tmp_path: Path, features: FeatureSet, label: int) -> None:
    folder = features.save(tmp_path / "saved")
    labels = features.labels.copy()
    labels[4] = label
    raw = np.frombuffer(bytes.fromhex("".join(features.ids)), np.uint8).reshape(-1, 16)
    save_file({"ids": raw, "labels": labels}, tmp_path / "samples")
    digest = blake3((tmp_path / "samples").read_bytes()).hexdigest(length=16)
    (tmp_path / "samples").rename(folder / f"samples-{digest}.safetensors")
    rewrite(folder, lambda c: c["samples"].update(blake3=digest, file=f"samples-{digest}.safetensors"))
    with pytest.raises(SavedFeaturesError, match="and there are 3 classes"):
        hs.load_features(folder)


def test_links_out_of_the_folder_are_refused(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    for path in (next(folder.glob("samples-*")), next((folder / "features").iterdir())):
        path.rename(tmp_path / "outside")
        path.symlink_to(tmp_path / "outside")
        with pytest.raises(SavedFeaturesError, match="leads out of"):
            hs.load_features(folder)
        path.unlink()
        (tmp_path / "outside").rename(path)
    same(hs.load_features(folder), features)
    (tmp_path / "link").symlink_to(folder)  # to the folder as a whole is the user's own
    same(hs.load_features(tmp_path / "link"), features)


def test_a_pipe_does_not_block(tmp_path: Path, features: FeatureSet) -> None:
    folder = features.save(tmp_path / "saved")
    for path in (next(folder.glob("samples-*")), folder / "features.json"):
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(SavedFeaturesError, match=path.name):
            hs.load_features(folder)


# ------------------------------------------------------------------------------------------- the page FORMAT.md


@pytest.fixture(scope="module")
def reader() -> dict[str, Any]:
    """The reader at the end of the page, as it stands there."""
    found: dict[str, Any] = {}
    code = FORMAT.read_text().split("```python\n")[1].split("```")[0]
    assert "headstart." not in code
    exec(compile(code, str(FORMAT), "exec"), found)
    return found


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pages_reader_reads(tmp_path: Path, reader: dict[str, Any], dtype: str) -> None:
    features = made(tmp_path / "cache", {"pool": (3, 5, 4), "fc": (7,)}, dtype=dtype, views=2, makers=("a", "b"))
    folder = features.save(tmp_path / "saved")
    for cut in features.cuts:
        for view in range(2):
            expected = features.numpy(cut, view)
            in_store = reader["read_trunk"](tmp_path / "cache" / "features" / features.key(cut, view).digest)
            assert set(in_store) == set(features.ids)
            assert np.stack([in_store[id] for id in features.ids]).tobytes() == expected.tobytes()
            rows, labels, classes = reader["read_saved"](folder, cut, view)
            assert (rows.dtype, rows.shape, rows.tobytes()) == (expected.dtype, expected.shape, expected.tobytes())
            assert labels.tolist() == features.labels.tolist() and classes == list(features.classes)
    path = damage(features, 1)
    with pytest.raises(AssertionError):
        reader["read_shard"](path)


def test_the_page_is_right_about_files(tmp_path: Path) -> None:
    def canonical(value: Any) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()

    def digest(data: bytes) -> str:
        return blake3(data).hexdigest(length=16)

    features = made(tmp_path, {"fc": (7,)}, dtype="bfloat16")
    folder = features.folder()
    features.numpy()
    names = {path.name for path in folder.path.iterdir()}
    (shard,) = (name for name in names if name.endswith(".safetensors"))
    assert names == {"trunk.json", "last_used", shard}
    text = (folder.path / "trunk.json").read_text()
    about = json.loads(text)
    assert text == json.dumps(about, indent=2, sort_keys=True) + "\n"
    checksum = about.pop("checksum")
    assert checksum == digest(canonical(about)) and set(about) == {"spec", "digest", "label"}
    assert folder.path.name == about["digest"] == digest(canonical(about["spec"]))
    assert set(about["spec"]) == {"format", "graph", "weights", "preprocess", "views", "precision", "dtype"}
    assert about["spec"]["format"] == 1
    data = (folder.path / shard).read_bytes()
    length = int.from_bytes(data[:8], "little")
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    assert (8 + length) % 4096 == 0 and len(data) == 8 + length + 20 * (7 * 2 + 8 + 16)
    assert set(metadata) == {"format", "trunk", "checksums", "name", "provenance"}
    assert metadata["format"] == "headstart-features/1" and metadata["trunk"] == folder.path.name
    assert json.loads(metadata["provenance"]) == {"backend": "numpy"}
    saved = features.save(tmp_path / "saved")
    description = json.loads((saved / "features.json").read_text())
    checksum = description.pop("checksum")
    assert checksum == digest(canonical(description))
    assert set(description) == {
        "format", "headstart", "name", "classes", "named_classes", "splits", "model", "samples", "cuts"
    }  # fmt: skip
    samples = saved / description["samples"]["file"]
    assert samples.name == f"samples-{digest(samples.read_bytes())}.safetensors"


def test_the_page_is_right_about_ids(tmp_path: Path) -> None:
    def digest(data: bytes) -> str:
        return blake3(data).hexdigest(length=16)

    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (9, 8), (name == "a" and "red") or "blue").save(tmp_path / name / "x.png")
    data = hs.data.folder(tmp_path)
    assert list(data.ids) == [digest((tmp_path / name / "x.png").read_bytes()) for name in ("a", "b")]

    images = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    assert list(hs.data.arrays(images, [0, 1]).ids) == [
        digest(b"(8, 8) uint8 " + image.tobytes()) for image in images
    ]

    x, mask = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones((2, 2), bool)
    expected = [digest(b'[["", "float32", [3]]]\n' + row.tobytes()) for row in x]
    assert list(hs.data.arrays(x, [0, 1]).ids) == expected
    about = b'[["mask", "bool", [2]], ["x", "float32", [3]]]\n'
    expected = [digest(about + m.tobytes() + row.tobytes()) for row, m in zip(x, mask, strict=True)]
    assert list(hs.data.arrays({"x": x, "mask": mask}, [0, 1]).ids) == expected


def test_the_page_is_right_about_weights() -> None:
    w, b = np.arange(6, dtype=np.float32).reshape(2, 3), np.float32(1)
    content = b'["b","float32",[]]\n' + b.tobytes() + b'["w","float32",[2,3]]\n' + w.tobytes()
    assert store_package.params_digest({"w": w, "b": b}) == blake3(content).hexdigest(length=16)


# ----------------------------------------------------------------------------------------- on the command line


@pytest.mark.each
def test_extract_saves(tmp_path: Path, backend: str, monkeypatch: Any, capsys: Any) -> None:
    rng = np.random.default_rng(0)
    for k in range(6):
        folder = tmp_path / "photos" / CLASSES[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30, 40, 3), np.uint8)).save(folder / f"{k}.png")
    out = tmp_path / "saved"

    def extract(cut: str, *options: str) -> None:
        command = ["extract", "--data", str(tmp_path / "photos"), "--model", "lenet", "--cuts", cut]
        monkeypatch.setattr(sys, "argv", ["headstart", *command, "--save", str(out), "--device", "cpu", *options])
        cli.main()

    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    extract("relu4,pool1")
    assert f"saved to {out}" in "".join(capsys.readouterr().out.split("\n")).replace(" ", " ")
    loaded = hs.load_features(out)
    assert (len(loaded), loaded.cuts, loaded.classes) == (6, ("relu4", "pool1"), CLASSES)
    monkeypatch.setattr(extraction, "Extractor", None)  # refused before anything is extracted
    with pytest.raises(SystemExit) as left:
        extract("relu4")
    assert left.value.code == 2 and "--replace" in capsys.readouterr().err
    monkeypatch.undo()
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    extract("relu4", "--replace")
    assert hs.load_features(out).cuts == ("relu4",)
