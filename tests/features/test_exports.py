"""Features as other programs get them: which memory, which bits, in which order, and what is refused."""

from __future__ import annotations

import gc
import io
import json
import multiprocessing
import os
import pickle
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from feature_sets import CLASSES, damage, made, some_ids

from headstart.common import memory
from headstart.common.errors import (
    BackendError,
    CacheNotWritableError,
    DamagedShardError,
    ExportError,
    MissingAbilityError,
    SettingError,
    UnknownNameError,
)
from headstart.contract import registry
from headstart.data.annotations import DTYPES as ANNOTATED
from headstart.data.annotations import Annotations
from headstart.data.order import epoch_order
from headstart.features import exports
from headstart.features.feature_set import FeatureSet
from headstart.store import DTYPES, FeatureFolder, ids_to_array

pytestmark = pytest.mark.usefixtures("own_garbage")

METHODS: dict[str, Callable[..., Any]] = {"torch": FeatureSet.torch, "keras": FeatureSet.tf, "jax": FeatureSet.jax}


def memory_of(tensor: Any, backend: str) -> tuple[int, bytes]:
    """Where a tensor begins, and its bytes."""
    if backend == "torch":
        return tensor.data_ptr(), tensor.view(import_module("torch").uint8).numpy().tobytes()
    if backend == "jax":
        return tensor.unsafe_buffer_pointer(), np.asarray(tensor).tobytes()
    tf = import_module("tensorflow")
    view = np.asarray(memoryview(tf.bitcast(tensor, tf.uint8)))
    return view.ctypes.data, view.tobytes()


def bits(array: np.ndarray) -> np.ndarray:
    return array.reshape(len(array), -1).view(np.uint8)


# ------------------------------------------------------------------------------------------------------ tensors


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tensor_is_the_memory_that_was_read(tmp_path: Path, monkeypatch: Any, backend: str, dtype: str) -> None:
    features = made(tmp_path, {"pool": (3, 5, 4), "fc": (7,)}, dtype=dtype, views=2)
    read: list[int] = []
    original = FeatureFolder.read

    def reading(self: FeatureFolder, ids: Any, out: Any = None) -> Any:
        rows = original(self, ids, out)
        read.append(rows.ctypes.data)
        return rows

    for cut, view in (("pool", 0), ("fc", 1)):
        expected = features.numpy(cut, view)
        with monkeypatch.context() as patch:
            patch.setattr(FeatureFolder, "read", reading)
            tensor = METHODS[backend](features, cut, view)
        gc.collect(1)
        assert tuple(tensor.shape) == expected.shape
        assert dtype in str(tensor.dtype)
        assert memory_of(tensor, backend) == (read[-1], expected.tobytes())


def test_tensors_of_any_number_of_rows_compute(tmp_path: Path, backend: str) -> None:
    """Slices of memory that does not begin where TensorFlow wants it abort the process."""
    features = made(tmp_path, {"fc": (7,)}, dtype="bfloat16")
    for count in (0, 1, 3):
        tensor = METHODS[backend](features.subset(range(count)))
        assert tuple(tensor.shape) == (count, 7)
        total = sum(float(value) for k in range(count) for value in tensor[k])
        assert total == pytest.approx(float(features.numpy()[:count].astype(np.float64).sum()), abs=0.1)


def test_any_backend_s_name_or_export_hands_out_features(tmp_path: Path, backend: str) -> None:
    features = made(tmp_path, {"fc": (7,)})
    export = {"keras": "tf"}.get(backend, backend)
    for target in {backend, export}:
        assert type(features.to(target)) is type(METHODS[backend](features))
        np.testing.assert_array_equal(np.asarray(features.to(target)), features.numpy())
    with pytest.raises(UnknownNameError, match="unknown target 'numpy'; expected one of torch, tf, jax, keras"):
        features.to("numpy")
    if backend == "jax":
        with pytest.raises(
            MissingAbilityError, match=r"cannot make data sets of features; .*features.to\('jax'\)"
        ):
            features.to_dataset("jax")
    else:
        assert type(features.to_dataset(export)) is type(getattr(features, f"{export}_dataset")())


def test_nothing_is_pickled_that_python_cannot_pickle(tmp_path: Path) -> None:
    """Iterators: since Python 3.12 with a warning, from 3.14 on not at all."""
    rows = exports.FeatureRows(made(tmp_path, {"fc": (7,)}), None, 0)

    def order(rows: exports.FeatureRows) -> bytes:
        return np.concatenate([features for features, _ in rows.batches(4, shuffle=True)]).tobytes()

    passes = [order(rows) for _ in range(2)]
    assert passes[0] != passes[1]

    class Strict(pickle.Pickler):
        def reducer_override(self, thing: Any) -> Any:
            assert not isinstance(thing, Iterator), f"{type(thing).__name__} is an iterator"
            return NotImplemented

    stream = io.BytesIO()
    Strict(stream).dump(rows)
    assert order(pickle.loads(stream.getvalue())) == passes[0], "a copy begins at the first pass"


def test_memory_begins_where_it_is_wanted() -> None:
    for count in range(1, 50):
        array = memory.aligned_empty((count, 3), np.dtype(np.float16))
        assert array.shape == (count, 3) and array.flags.c_contiguous and array.ctypes.data % 64 == 0
    assert memory.aligned_empty((0, 3), np.dtype(ml_dtypes.bfloat16)).shape == (0, 3)


def test_a_damaged_row_reaches_no_tensor(tmp_path: Path, backend: str) -> None:
    features = made(tmp_path)
    path = damage(features, 4)
    with pytest.raises(DamagedShardError, match=path.name):
        METHODS[backend](features)


def test_a_framework_that_is_missing_is_named(tmp_path: Path, monkeypatch: Any) -> None:
    features = made(tmp_path)
    monkeypatch.setattr(registry, "find_spec", lambda name: None)
    for name, method in {**METHODS, "torch ": FeatureSet.torch_dataset, "keras ": FeatureSet.tf_dataset}.items():
        with pytest.raises(BackendError, match=rf"pip install 'headstart\[{name.strip()}\]'"):
            method(features)


@pytest.mark.of("keras")
def test_keras_without_tensorflow_makes_no_tf_tensors(tmp_path: Path, monkeypatch: Any) -> None:
    features = made(tmp_path)
    monkeypatch.delitem(sys.modules, "headstart.backends.keras.exports", raising=False)
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(BackendError, match=r"needs tensorflow, .*pip install 'headstart\[keras\]'"):
        features.tf()


# ----------------------------------------------------------------------------------------------------- data sets


@pytest.mark.of("torch")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_torch_dataset_is_read_a_batch_at_a_time(tmp_path: Path, monkeypatch: Any, dtype: str) -> None:
    torch = import_module("torch")
    features = made(tmp_path, dtype=dtype)
    reads: list[int] = []
    original = FeatureFolder.read

    def reading(self: FeatureFolder, ids: Any, out: Any = None) -> Any:
        reads.append(len(ids))
        return original(self, ids, out)

    monkeypatch.setattr(FeatureFolder, "read", reading)
    data = features.torch_dataset()
    assert isinstance(data, torch.utils.data.Dataset)
    assert len(data) == 21 and reads == []
    loader = torch.utils.data.DataLoader(data, batch_size=8)
    batches = list(loader)
    assert reads == [8, 8, 5]
    assert torch.equal(torch.cat([x for x, _ in batches]), features.torch())
    assert torch.cat([y for _, y in batches]).tolist() == features.labels.tolist()
    x, y = data[-1]
    assert torch.equal(x, features.torch()[20]) and (type(y), y) == (int, 2)
    for position in (21, -22):
        with pytest.raises(IndexError, match="there are 21 samples"):
            data[position]
    assert len(list(data)) == 21  # iteration ends


@pytest.mark.of("torch")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more workers than a test has cores
def test_torch_workers_read_for_themselves(tmp_path: Path) -> None:
    torch = import_module("torch")
    features = made(tmp_path, {"pool": (32, 32, 8)}, ids=some_ids(60), dtype="bfloat16")
    data = features.torch_dataset()
    next(iter(data))
    assert len(pickle.dumps(data)) < features.nbytes() / 20, "features went along"
    context = multiprocessing.get_context("forkserver")  # to which data go as to a new process
    context.set_forkserver_preload(["torch"])  # once, and not in each worker
    loader = torch.utils.data.DataLoader(
        data, batch_size=8, shuffle=True, num_workers=2, multiprocessing_context=context
    )
    expected = {row.tobytes(): label for row, label in zip(features.numpy(), features.labels, strict=True)}
    seen = []
    for x, y in loader:
        for row, label in zip(x.view(torch.uint16).numpy(), y.tolist(), strict=True):
            seen.append((row.tobytes(), label % 3))
    # The third sample has the first one's features and a label of its own.
    double = features.numpy()[0].tobytes()
    assert len(seen) == 60 and {row for row, _ in seen} == set(expected)
    assert all(label == expected[row] for row, label in seen if row != double)
    assert sorted(label for row, label in seen if row == double) == [0, 2]


@pytest.mark.of("keras")
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_tf_dataset_has_a_static_form(tmp_path: Path, monkeypatch: Any, dtype: str) -> None:
    tf = import_module("tensorflow")
    monkeypatch.setattr(exports, "PIECE_NBYTES", 500)  # several pieces
    features = made(tmp_path, dtype=dtype)
    data = features.tf_dataset()
    assert data.element_spec == (tf.TensorSpec((3, 5, 4), getattr(tf, dtype)), tf.TensorSpec((), tf.int64))
    assert len(data) == 21
    rows, labels = zip(*data, strict=True)
    assert (bits(np.stack([row.numpy() for row in rows])) == bits(features.numpy())).all()
    assert np.stack(labels).tolist() == features.labels.tolist()
    for drop, first, sizes in ((False, None, [8, 8, 5]), (True, 8, [8, 8])):
        data = features.tf_dataset(batch_size=8, drop_remainder=drop)
        assert data.element_spec[0].shape.as_list() == [first, 3, 5, 4]
        assert data.element_spec[1].shape.as_list() == [first]
        assert len(data) == len(sizes) and [len(y) for _, y in data] == sizes


@pytest.mark.of("keras")
def test_a_tf_dataset_shuffles_every_pass_as_training_does(tmp_path: Path) -> None:
    features = made(tmp_path, labels=np.arange(21), dtype="float32")
    data = features.tf_dataset(batch_size=8, shuffle=True, seed=3)
    for epoch in range(2):
        order = epoch_order(21, 1, 3, epoch).reshape(-1)
        rows, labels = zip(*data, strict=True)
        assert np.concatenate(labels).tolist() == order.tolist()
        assert np.array_equal(np.concatenate(rows), features.numpy()[order])


@pytest.mark.of("keras")
def test_a_damaged_row_ends_a_tf_dataset(tmp_path: Path) -> None:
    tf = import_module("tensorflow")
    features = made(tmp_path)
    path = damage(features, 4)
    with pytest.raises(tf.errors.OpError, match=path.name):
        list(features.tf_dataset(batch_size=8))


def test_settings_of_a_tf_dataset(tmp_path: Path) -> None:
    features = made(tmp_path)
    for size in (0, -1, 2.0, True):
        with pytest.raises(SettingError, match="batch_size is"):
            features.tf_dataset(batch_size=size)
    with pytest.raises(SettingError, match="seed is -1"):
        features.tf_dataset(seed=-1)


# --------------------------------------------------------------------------------------------------------- Arrow


@pytest.fixture(scope="module")
def pa() -> Any:
    """In an environment that is made for these tests it has to be there."""
    if find_spec("pyarrow") is None and registry.VARIABLE not in os.environ:
        pytest.skip("pyarrow is not installed")
    return import_module("pyarrow")


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_an_arrow_table_holds_the_memory_that_was_read(tmp_path: Path, pa: Any, dtype: str) -> None:
    features = made(tmp_path, {"pool": (3, 5, 4), "fc": (7,)}, dtype=dtype, views=2)
    for cut, shape in (("pool", [3, 5, 4]), ("fc", [7])):
        table = features.arrow(cut, 1)
        assert table.column_names == ["id", "label", "class", "features"] and table.num_rows == 21
        assert table.schema.field("id").type == pa.binary(16) and table.schema.field("label").type == pa.int64()
        assert [id.hex() for id in table["id"].to_pylist()] == list(features.ids)
        assert table["label"].to_pylist() == features.labels.tolist()
        assert table["class"].to_pylist() == [CLASSES[label] for label in features.labels]
        (chunk,) = table["features"].chunks
        assert chunk.type.shape == shape
        rows = chunk.to_numpy_ndarray()
        assert rows.dtype == dtype and np.array_equal(rows, features.numpy(cut, 1))
        assert chunk.storage.flatten().buffers()[1].address % 64 == 0, "read into its place, not copied"
        about = table.schema.metadata
        assert about[b"headstart.trunk"].decode() == features.key(cut, 1).digest
        assert (about[b"headstart.cut"].decode(), about[b"headstart.view"]) == (cut, b"1")


@pytest.mark.parametrize("task", ["multi", "regression"])
def test_labels_and_targets_leave_with_their_names(tmp_path: Path, pa: Any, task: str) -> None:
    features, names = made(tmp_path), ("low", "a;b", "10")
    numbers = np.arange(63).reshape(21, 3)
    labels = numbers % 2 if task == "multi" else numbers / 8
    about = Annotations(labels.astype(ANNOTATED[task]), names, task)
    several = FeatureSet("several", features.ids, about, {"fc": [features.folder()]}, features.stats)
    table = several.arrow()
    assert table.column_names == ["id", "label", "features"] and table["label"].to_pylist() == labels.tolist()
    said = {key.decode(): text.decode() for key, text in table.schema.metadata.items()}
    assert said["headstart.task"] == task and tuple(json.loads(said["headstart.classes"])) == names
    folder = several.save_npy(tmp_path / "npy")
    assert np.load(folder / "labels.npy").tolist() == labels.tolist()
    assert tuple(np.load(folder / "classes.npy")) == names


def test_an_arrow_file_keeps_the_shape(tmp_path: Path, pa: Any) -> None:
    features = made(tmp_path)
    path = str(tmp_path / "features.arrow")
    with pa.OSFile(path, "wb") as sink, pa.ipc.new_file(sink, features.arrow().schema) as writer:
        writer.write_table(features.arrow())
    with pa.memory_map(path) as source:
        again = pa.ipc.open_file(source).read_all()
        assert np.array_equal(again["features"].chunk(0).to_numpy_ndarray(), features.numpy())


def test_arrow_has_no_bfloat16(tmp_path: Path, pa: Any) -> None:
    features = made(tmp_path, dtype="bfloat16")
    for dtype in (None, "bfloat16"):
        with pytest.raises(ExportError, match=r"Arrow has no bfloat16; arrow\(dtype='float32'\)"):
            features.arrow(dtype=dtype)
    rows = features.arrow(dtype="float32")["features"].chunk(0).to_numpy_ndarray()
    assert rows.dtype == np.float32 and (rows == features.numpy().astype(np.float32)).all()
    with pytest.raises(SettingError, match="dtype='float16'; expected 'bfloat16', as stored, or 'float32'"):
        features.arrow(dtype="float16")
    with pytest.raises(SettingError, match="nothing to make a table of"):
        features.subset([]).arrow(dtype="float32")


def test_arrow_without_pyarrow_says_how_to_install_it(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ExportError, match=r"pip install 'headstart\[arrow\]'"):
        made(tmp_path).arrow()


# ---------------------------------------------------------------------------------------------------------- .npy


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_npy_files_are_what_is_stored(tmp_path: Path, monkeypatch: Any, dtype: str) -> None:
    monkeypatch.setattr(exports, "PIECE_NBYTES", 500)  # several pieces
    features = made(tmp_path, dtype=dtype, views=2)
    folder = features.save_npy(tmp_path / "new" / "npy", view=1)
    assert {path.name for path in folder.iterdir()} == {"features.npy", "labels.npy", "ids.npy", "classes.npy"}
    rows = np.load(folder / "features.npy", mmap_mode="r")
    assert rows.dtype == dtype and np.array_equal(rows, features.numpy(view=1))
    labels = np.load(folder / "labels.npy")
    assert labels.dtype == np.int64 and np.array_equal(labels, features.labels)
    assert np.array_equal(np.load(folder / "ids.npy"), ids_to_array(features.ids))
    assert np.load(folder / "classes.npy").tolist() == list(CLASSES)
    with pytest.raises(SettingError, match="exists already; expected a folder that is empty or does not exist"):
        features.save_npy(folder)


def test_npy_has_no_bfloat16(tmp_path: Path) -> None:
    features = made(tmp_path, dtype="bfloat16")
    with pytest.raises(ExportError, match=r"\.npy has no bfloat16; save_npy\(dtype='float32'\)"):
        features.save_npy(tmp_path / "npy")
    assert not (tmp_path / "npy").exists()
    rows = np.load(features.save_npy(tmp_path / "npy", dtype="float32") / "features.npy")
    assert rows.dtype == np.float32 and (rows == features.numpy().astype(np.float32)).all()


def test_npy_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    features = made(tmp_path / "cache")
    damage(features, 20 - 2)
    with pytest.raises(DamagedShardError):
        features.save_npy(tmp_path / "out" / "npy")
    assert list((tmp_path / "out").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(CacheNotWritableError, match=r"cannot save features to .*save to a folder that can be"):
        features.save_npy(tmp_path / "file" / "npy")


def test_npy_files_are_written_in_bounded_memory(tmp_path: Path, monkeypatch: Any) -> None:
    features = made(tmp_path, {"pool": (64, 64, 8)}, ids=some_ids(400), dtype="float16")
    monkeypatch.setattr(exports, "PIECE_NBYTES", 1 << 20)
    assert features.nbytes() > 25e6
    tracemalloc.start()
    features.save_npy(tmp_path / "npy")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5e6
