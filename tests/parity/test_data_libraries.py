"""Sets and frames of the libraries themselves: the same pictures are the same samples as from a folder."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError
from headstart.data.door import described

NAMES = ("ant", "bee", "cow")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder a class, six pictures each."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for k, name in enumerate(NAMES):
        for i in range(6):
            path = tmp_path / "photos" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.random.default_rng([k, i]).integers(0, 255, (9, 8, 3), np.uint8)).save(path)
    return tmp_path / "photos"


def told(data: Any) -> dict[str, str]:
    """Id -> the name of its class."""
    return {id: data.classes[k] for id, k in zip(data.ids, data.labels, strict=True)}


def files(root: Path) -> list[str]:
    return [str(path) for path in sorted(root.rglob("*.png"))]


def names(root: Path) -> list[str]:
    return [Path(file).parent.name for file in files(root)]


def test_frames_of_polars(root: Path) -> None:
    pl = pytest.importorskip("polars")
    expected = told(hs.data.folder(root))
    content = [Path(file).read_bytes() for file in files(root)]
    kinds = pl.Series(names(root), dtype=pl.Categorical)
    for frame in (
        pl.DataFrame({"file": files(root), "label": names(root)}),
        pl.DataFrame({"file": files(root), "label": kinds}),
        pl.DataFrame({"file": files(root), "label": kinds.cast(pl.Enum(list(NAMES)))}),
        pl.DataFrame({"image": content, "label": names(root)}),
        pl.DataFrame({"image": [{"bytes": encoded, "path": None} for encoded in content], "label": names(root)}),
    ):
        assert told(hs.data.table(frame)) == expected, frame.schema
    several = pl.DataFrame({"file": files(root), "label": [[name, "all"] for name in names(root)]})
    assert hs.data.table(several).labels.sum(0).tolist() == [18, 6, 6, 6]
    numbers = pl.Series([[0.5, k] for k in range(18)], dtype=pl.Array(pl.Float64, 2))
    targets = hs.data.table(pl.DataFrame({"file": files(root), "y": numbers}), label="y")
    assert (targets.task, targets.labels[3].tolist()) == ("regression", [0.5, 3.0])
    with pytest.raises(DataError, match="1 of 18 rows have no label in 'label', the first: row 1"):
        hs.data.table(pl.DataFrame({"file": files(root), "label": [None, *names(root)[1:]]}))
    with pytest.raises(DataError, match=r"is a LazyFrame; collect it first: frame\.collect\(\)"):
        hs.data.table(pl.DataFrame({"file": files(root), "label": names(root)}).lazy())


def test_tables_of_arrow_and_pandas(root: Path) -> None:
    pa, pd = pytest.importorskip("pyarrow"), pytest.importorskip("pandas")
    expected = told(hs.data.folder(root))
    content = [Path(file).read_bytes() for file in files(root)]
    columns: dict[str, Any] = {"file": files(root), "label": names(root)}
    halves = [{name: values[part] for name, values in columns.items()} for part in (slice(7), slice(7, None))]
    for frame in (
        pa.table({name: pa.array(values, pa.large_string()) for name, values in columns.items()}),
        pa.table({"file": files(root), "label": pa.array(names(root)).dictionary_encode()}),
        pa.table({"image": pa.array(content, pa.large_binary()), "label": names(root)}),
        pa.RecordBatch.from_pydict(columns),
        pa.concat_tables([pa.table(half) for half in halves]),
        pd.DataFrame({"file": files(root), "label": pd.Categorical(names(root))}),
        pd.DataFrame(
            {"file": [Path(file) for file in files(root)], "label": pd.array(names(root), dtype="string")}
        ),
    ):
        assert told(hs.data.table(frame)) == expected
    exact = pa.table({"file": files(root), "y": [Decimal(k) / 2 for k in range(18)]})
    assert hs.data.table(exact, label="y").labels[:3, 0].tolist() == [0, 0.5, 1]
    holes = pd.DataFrame({"file": files(root), "label": pd.array([None, *[1] * 9, *[2] * 8], dtype="Int64")})
    with pytest.raises(DataError, match="1 of 18 rows have no label"):
        hs.data.table(holes)
    assert hs.data.table(holes, on_error="skip").classes == ("1", "2")


def test_columns_of_frames_as_labels_of_arrays() -> None:
    pa, pd, pl = (pytest.importorskip(name) for name in ("pyarrow", "pandas", "polars"))
    images, labels = np.zeros((4, 3, 3, 3), np.uint8), np.array([[0, 1], [1, 1], [0, 0], [0, 1]])
    columns = {"sun": labels[:, 0], "rain": labels[:, 1]}
    for frame in (
        pd.DataFrame(columns),
        pl.DataFrame(columns),
        pa.table(columns),
        pd.DataFrame(columns).astype(bool),
    ):
        for task in ("multi", "regression"):
            data = hs.data.arrays(images, frame, task=task)
            assert (data.classes, data.named_classes) == (("sun", "rain"), True)
            assert data.labels.tolist() == labels.tolist()
        data = hs.data.arrays(images, frame, ["rain", "sun"], task="multi")
        assert (data.classes, data.labels.tolist()) == (("rain", "sun"), labels[:, ::-1].tolist())
        data = hs.data.arrays(images, frame, ["soleil", "pluie"], task="multi")
        assert (data.classes, data.labels.tolist()) == (("soleil", "pluie"), labels.tolist())
    numbers = pd.DataFrame(labels)
    assert not hs.data.arrays(images, numbers, task="multi").named_classes
    lists = pd.DataFrame({"tags": [["sun"], [], ["rain"], ["sun"]]})
    assert hs.data.arrays(images, lists["tags"], task="multi").classes == ("rain", "sun")


def test_columns_of_pandas_in_two_orders_are_told(root: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"file": files(root), "label": names(root)})
    mixed = frame.sample(frac=1, random_state=0)
    assert told(hs.data.table({"file": mixed["file"], "label": mixed["label"]})) == told(hs.data.folder(root))
    assert told(hs.data.table(mixed)) == told(hs.data.folder(root))
    with pytest.warns(DataWarning, match="the column 'file' and the column 'label' have one index in two orders"):
        hs.data.table({"file": frame["file"], "label": mixed["label"]})
    images, some = np.zeros((18, 3, 3, 3), np.uint8), frame["label"].reset_index(drop=True)
    with pytest.warns(DataWarning, match="labels and groups have one index in two orders"):
        hs.data.arrays(images, frame["label"], groups=mixed["file"])
    some.index = range(18, 36)  # of another frame
    assert len(hs.data.arrays(images, frame["label"], groups=some)) == 18


def test_sets_of_torchvision(root: Path) -> None:
    torch, tv = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    utils, transforms = torch.utils.data, tv.transforms
    folder, ImageFolder = hs.data.folder(root), tv.datasets.ImageFolder  # noqa: N806
    expected = told(folder)
    whole = ImageFolder(root)
    first, second = utils.random_split(whole, [12, 6], torch.Generator().manual_seed(0))
    part: Callable[..., Any] = utils.Subset
    for items, positions in (
        (whole, range(18)),
        (first, first.indices),
        (second, second.indices),
        (part(whole, torch.arange(17, -1, -5)), range(17, -1, -5)),
        (part(first, [3, 0]), [first.indices[3], first.indices[0]]),
        (utils.ConcatDataset([part(whole, [16, 0]), whole]), [16, 0, *range(18)]),
    ):
        data = hs.data.wrap(items)
        assert data.ids == tuple(folder.ids[i] for i in positions), "read from its files"
        assert told(data).items() <= expected.items() and data.classes == NAMES
    changed = hs.data.wrap(part(ImageFolder(root, transform=transforms.ToTensor()), [0, 7]))
    assert told(changed).items() <= expected.items()
    assert changed.notes == ("subset: its files are read without its transform, as preprocessing is the model's",)
    merged = hs.data.wrap(ImageFolder(root, target_transform=lambda k: min(k, 1)))
    assert (merged.classes, merged.labels.tolist()) == (("0", "1"), [min(k, 1) for k in folder.labels])
    fake = hs.data.wrap(tv.datasets.FakeData(6, (3, 10, 12), 3))
    again = hs.data.wrap(tv.datasets.FakeData(6, (3, 10, 12), 3))
    assert fake[0].image.shape == (10, 12, 3) and fake.ids == again.ids and len(set(fake.ids)) == 6
    for transform in (transforms.ToTensor(), transforms.PILToTensor()):
        with pytest.raises(DataError, match="The set has a transform: make it without"):
            hs.data.wrap(tv.datasets.FakeData(6, (3, 10, 12), 3, transform=transform))
    model = hs.model("lenet", weights=None, classes=3)
    for items, count in ((first, 12), (whole, 18), (tv.datasets.FakeData(6, (3, 10, 12), 3), 6)):
        assert len(hs.extract(model, items, backend="torch", device="cpu")) == count, "at every door"
    with pytest.raises(SettingError, match="without a transform to floats"):
        hs.extract(model, tv.datasets.FakeData(6, (3, 10, 12), 3, transform=transforms.ToTensor()))


def test_sets_of_the_hub_from_disk(root: Path) -> None:
    library = pytest.importorskip("datasets")
    library.disable_progress_bars()
    folder = hs.data.folder(root)
    features = library.Features({"image": library.Image(), "label": library.ClassLabel(names=list(NAMES))})

    def rows(positions: range) -> Any:
        columns = {"image": [files(root)[i] for i in positions], "label": [names(root)[i] for i in positions]}
        return library.Dataset.from_dict(columns, features=features)

    halves = {"train": rows(range(0, 18, 2)), "validation": rows(range(1, 18, 2))}
    library.DatasetDict(halves).save_to_disk("saved")
    data = hs.data.huggingface("saved")
    assert told(data) == told(folder) and data.train.ids == folder.ids[::2] and data.val.ids == folder.ids[1::2]
    whole = rows(range(18))
    shown = whole.with_transform(lambda batch: {"other": [0] * len(batch["image"])})
    for items in (whole, whole.shuffle(seed=0), whole.with_format("numpy"), shown):
        assert told(hs.data.huggingface(items)) == told(folder), "whatever it shows its user"
    with pytest.raises(DataError, match="is a IterableDataset; expected"):
        hs.data.huggingface(whole.to_iterable_dataset())
    gap = library.Dataset.from_dict({**whole[:0], "image": [*files(root)[:2], None], "label": [0, 1, 2]}, features)
    with pytest.raises(DataError, match="the data set, row 3: names no image"):
        _ = hs.data.huggingface(gap).ids
    fewer = hs.data.huggingface(whole, classes=["cow", "ant"], on_error="skip")
    assert told(fewer) == {id: name for id, name in told(folder).items() if name != "bee"}
    assert [skipped.reason for skipped in fewer.skipped] == ["6 of 18 rows are of none of the classes: 'bee'"]
    left = hs.data.huggingface(gap, on_error="skip")
    assert len(left) == 2 and [skipped.reason for skipped in left.skipped] == ["names no image"]


def by_line(thing: Any, **names: Any) -> Any:
    """The data set that the line of code for `thing` makes, which is called data."""
    scope = {"hs": hs, "np": np, "data": thing, **names}
    *first, last = described(thing, "data")[1].split(", of uint8 images")[0].split(", then ")
    for line in first:
        exec(line, scope)
    return eval(last, scope)


def test_a_loader_is_told_with_what_its_sampler_takes(root: Path) -> None:
    torch, tv = pytest.importorskip("torch"), pytest.importorskip("torchvision")
    utils, whole, folder = torch.utils.data, tv.datasets.ImageFolder(root), hs.data.folder(root)
    loader = utils.DataLoader(whole, sampler=utils.SubsetRandomSampler([16, 0, 7]))
    assert by_line(loader, torch=torch).ids == tuple(folder.ids[i] for i in (16, 0, 7))
    assert by_line(utils.DataLoader(whole, shuffle=True)).ids == folder.ids
    with pytest.raises(
        DataError, match=r"the set is a DataLoader; .* of a loader its set, hs\.data\.wrap\(data\.dataset\)"
    ):
        hs.data.wrap(loader)
    with pytest.raises(DataError, match=r"the set is a zip; .*hs\.data\.wrap\(list\(data\)\)"):
        hs.data.wrap(zip(files(root), names(root), strict=True))  # type: ignore[arg-type]
    mask = torch.arange(18) < 9
    with pytest.raises(DataError, match="indices of a part of a set are booleans"):
        hs.data.wrap(utils.Subset(whole, mask))


@pytest.mark.of("keras")
def test_lines_for_sets_of_tensorflow_lose_nothing(root: Path) -> None:
    tf, keras = pytest.importorskip("tensorflow"), pytest.importorskip("keras")
    pictures = np.stack([np.asarray(Image.open(file)) for file in files(root)])
    numbers = np.repeat(range(3), 6)
    expected = hs.data.arrays(pictures, numbers)
    of, hot = tf.data.Dataset.from_tensor_slices, np.eye(3, dtype=np.float32)[numbers]
    for data in (
        of((pictures, numbers)),
        of((pictures, numbers)).batch(5),
        of((pictures, numbers)).batch(6).repeat(),
        of({"image": pictures, "label": numbers}),
        of({"image": pictures, "label": numbers}).batch(7),
    ):
        found = by_line(data, n=18)
        assert (found.ids, found.labels.tolist()) == (expected.ids, numbers.tolist())
    grey = by_line(of((pictures[..., 0], numbers)).batch(4))
    assert grey.ids == hs.data.arrays(pictures[..., 0], numbers).ids
    shuffled = by_line(of((pictures, numbers)).shuffle(18).batch(5))
    assert told(shuffled) == told(expected)
    weighted = by_line(of((pictures, numbers, np.arange(18.0))).batch(5))
    assert weighted.ids == expected.ids and weighted.weights.tolist() == list(range(18))
    for data in (of((pictures, hot)), of((pictures, hot)).batch(5)):
        with pytest.raises(DataError, match=r"They are one-hot, .*np\.argmax\(labels, axis=1\)"):
            by_line(data)
    line = described(of(pictures).batch(5), "data")[1]
    assert line.startswith(
        "images = list(data.unbatch().as_numpy_iterator()), then hs.data.arrays(images, labels)"
    )
    folder, parts = hs.data.folder(root), []
    for subset in ("training", "validation"):
        part = keras.utils.image_dataset_from_directory(
            root, validation_split=0.5, subset=subset, seed=3, image_size=(8, 8), batch_size=4, verbose=False
        )
        parts.append(by_line(part))
        assert parts[-1].classes == NAMES and len(parts[-1]) == 9
    assert told(parts[0]) | told(parts[1]) == told(folder), "the files, and not what was made of them"
    assert not set(parts[0].ids) & set(parts[1].ids)

    class Batches(keras.utils.PyDataset):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> Any:
            return pictures[5 * index : 5 * index + 5], numbers[5 * index : 5 * index + 5]

    encoded = tf.constant([Path(file).read_bytes() for file in files(root)])
    columns = hs.data.table({"image": encoded, "label": tf.constant(names(root))})
    assert (columns.ids, columns.classes) == (folder.ids, NAMES) and told(columns) == told(folder)
    found = by_line(Batches())
    assert (found.ids, found.labels.tolist()) == (expected.ids, numbers.tolist())
