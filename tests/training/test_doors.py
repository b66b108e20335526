"""What `fit`, `evaluate`, `predict` and the others take, and what they say of anything else; labels by name, and
copies, where training and validation data meet."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import DataError, DataWarning, ImageError, SettingError
from headstart.data import Dataset
from headstart.data.door import described

pytestmark = pytest.mark.of("torch")  # what comes in is core's

COLOURS = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220]])
FAST: dict[str, Any] = {"epochs": 6, "batch_size": 8, "lr": 0.05, "device": "cpu"}


def picture(kind: int, seed: int) -> np.ndarray:
    noise = np.random.default_rng([kind, seed]).normal(0, 20, (12, 12, 3))
    return np.clip(COLOURS[kind] + noise, 0, 255).astype(np.uint8)


def some(kinds: list[int], names: list[str] | None, start: int = 0) -> Dataset:
    """Pictures of these kinds of colours; `names` of the kinds that are there, in the order of their numbers."""
    present = sorted(set(kinds))
    images = np.stack([picture(kind, start + i) for i, kind in enumerate(kinds)])
    return hs.data.arrays(images, [present.index(kind) for kind in kinds], classes=names)


@pytest.fixture(scope="module")
def train() -> Dataset:
    return some([0, 1, 2] * 8, ["ant", "bee", "cow"])


@pytest.fixture(scope="module")
def val() -> Dataset:
    """It lacks the first class: 0 is bee here, 1 is cow."""
    return some([1, 2] * 6, ["bee", "cow"], 100)


@pytest.fixture(scope="module")
def run(train: Dataset, backend: str) -> hs.Run:
    return hs.fit(hs.model("lenet", classes=3), train, None, backend=backend, **FAST)


@pytest.mark.parametrize("named", [False, True])
def test_validation_data_that_lack_a_class(named: bool, train: Dataset, val: Dataset, backend: str) -> None:
    model = hs.model("lenet", classes=train.classes if named else 3)
    by_name = hs.data.arrays([val[i].image for i in range(len(val))], val.labels + 1, classes=train.classes)
    expected = hs.fit(model, train, by_name, backend=backend, **FAST)
    assert expected.history[-1].val_accuracy == 1.0
    trained = hs.fit(model, train, val, backend=backend, **FAST)
    assert [r.val_loss for r in trained.history] == [r.val_loss for r in expected.history]
    assert trained.validation == expected.validation
    assert trained.data["classes"] == ["ant", "bee", "cow"]
    if named:
        return
    features = [hs.extract(model, part, backend=backend, device="cpu") for part in (train, val)]
    heads = hs.sweep(model, *features, grid={"lr": [0.05]}, epochs=6, batch_size=8, backend=backend, device="cpu")
    assert heads.table()[0]["val_accuracy"] == 1.0
    rows = hs.compare_modes(model, train, val, ["cached"], backend=backend, **FAST)
    assert rows["data"]["classes"] == ["ant", "bee", "cow"] and rows.rows[0]["val_accuracy"] == 1.0


def test_evaluation_knows_what_was_trained_on(
    run: hs.Run, val: Dataset, train: Dataset, tmp_path: Path, backend: str
) -> None:
    loaded = hs.load(run.save(tmp_path / "run"), backend=backend)
    for trained in (run, loaded):
        assert trained.model.classes == ("ant", "bee", "cow") and trained.model.named_classes, (
            "made with classes=3"
        )
        assert trained.evaluate(val).accuracy == 1.0
        assert trained.evaluate(hs.extract(run.model, val, backend=backend, device="cpu")).accuracy == 1.0
        assert trained.evaluate(some([0, 1, 2], None, 300)).accuracy == 1.0, "as many numbers are positions"
        with pytest.raises(DataError, match=r"only here \[dog\], only there \[ant, cow\]"):
            trained.evaluate(some([0, 1], ["bee", "dog"], 300))
        with pytest.raises(DataError, match="numbers are no names"):
            trained.evaluate(some([1, 2], None, 300))


def test_saved_features_keep_names_and_parts(train: Dataset, tmp_path: Path, backend: str) -> None:
    model = hs.model("lenet", classes=3)
    plain = some([0, 1, 2] * 4, None)
    for data in (train, plain):
        parts = data.split(0.7, seed=2)
        for part in (data, *parts):
            features = hs.extract(model, part, backend=backend, device="cpu")
            saved = hs.load_features(features.save(tmp_path / f"{data.named_classes}-{len(part)}"))
            assert saved.named_classes is data.named_classes and saved.splits == part.splits
            for a, b, c in zip(part.split(0.6), features.split(0.6), saved.split(0.6), strict=True):
                assert a.ids == b.ids == c.ids
                assert a.labels.tolist() == b.labels.tolist() == c.labels.tolist()
    assert parts[0].splits[0].as_dict() == {"by": "id", "fraction": 0.7, "seed": 2, "side": "first"}


def test_what_is_not_validated_is_said(
    tmp_path: Path, backend: str, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a folder without a part for it too, with the way to have it; the command holds a share out."""
    for part, start in (("train", 0), ("test", 50)):
        for kind, name in enumerate(("ant", "bee")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(4):
                file = tmp_path / "photos" / part / name / f"{i}.png"
                Image.fromarray(picture(kind, start + 10 * kind + i)).save(file)
    model, settings = hs.model("lenet", classes=["ant", "bee"]), {**FAST, "epochs": 1, "backend": backend}
    caplog.set_level("INFO", logger="headstart")
    run = hs.fit(model, str(tmp_path / "photos"), **settings)
    (line,) = (text for text in caplog.messages if "nothing is validated" in text)
    assert line.startswith("photos: ") and "train, val = data.split(0.8)" in line and "--split" in line
    assert "not validated" in repr(run) and run.scores is None
    caplog.clear()
    validated = hs.fit(model, *hs.data.folder(tmp_path / "photos").train.split(0.8), **settings)
    assert not [text for text in caplog.messages if "nothing is validated" in text]
    assert "not validated" not in repr(validated)
    monkeypatch.chdir(tmp_path)
    line = [
        "fit",
        "--data",
        "photos",
        "--model",
        "lenet",
        "--epochs",
        "1",
        "--backend",
        backend,
        "--device",
        "cpu",
    ]
    done = headstart(*line)
    assert done.code == 0 and "to validate" in done.err and "nothing is validated" not in done.err


def test_copies_are_warned_of(train: Dataset, backend: str) -> None:
    with pytest.warns(DataWarning, match="3 of 3 validation samples are exact copies"):
        run = hs.fit(hs.model("lenet", classes=3), train, train.subset([3, 4, 5]), backend=backend, **FAST)
    said = "The scores are too good: 3 of 3 validation samples were trained on as well."
    assert said in hs.comparison([run]).conclusion().doubts, "also to who reads the report only"


@pytest.mark.slow("keras", "jax")  # core reads what is given
@pytest.mark.each
def test_whatever_is_predicted(run: hs.Run, tmp_path: Path, backend: str) -> None:
    for kind in range(3):
        Image.fromarray(picture(kind, 7)).save(tmp_path / f"{kind}.png")
    expected = run.predict([picture(kind, 7) for kind in range(3)])
    found = run.predict(tmp_path)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    mixed = [(tmp_path / "2.png").read_bytes(), picture(0, 7), Image.fromarray(picture(1, 7))]
    found = hs.predict(run.model, mixed, backend=backend, device="cpu")
    np.testing.assert_allclose(found, expected[[2, 0, 1]], rtol=1e-4, atol=1e-5)
    assert run.predict([]).shape == hs.predict(run.model, np.zeros((0, 8, 8, 3), np.uint8)).shape == (0, 3)
    features = hs.extract(run.model, hs.data.arrays([picture(k, 7) for k in range(3)], [0, 1, 2]), backend=backend)
    np.testing.assert_allclose(hs.predict(run.model, features, backend=backend), expected, rtol=1e-2, atol=1e-2)


def test_floats_that_are_not_normalised(run: hs.Run, backend: str) -> None:
    x = np.stack([picture(kind, 7) for kind in range(3)])
    ready = run.model.preprocess.normalise(np.stack([run.model.preprocess.apply(Image.fromarray(a)) for a in x]))  # type: ignore[union-attr]
    np.testing.assert_allclose(run.predict(ready), run.predict(x), rtol=1e-4, atol=1e-5)
    wrong = {
        "pixels 0..255": x.astype(np.float32),
        "pixels 0..1": x / 255,
        "nan at": np.full((1, 32, 32, 3), np.nan, np.float32),
    }
    for reason, images in wrong.items():
        for call in (run.predict, lambda x: hs.forward(run.model, x, backend=backend)):
            with pytest.raises(SettingError, match=reason):
                call(images)
    with pytest.raises(SettingError, match=r"np.moveaxis\(images, 1, -1\)"):
        run.predict(ready.transpose(0, 3, 1, 2))


class ImageFolder:
    """As torchvision's is called."""

    root = "photos"


ImageFolder.__module__ = "torchvision.datasets.folder"


class DataLoader:
    dataset = ImageFolder()


DataLoader.__module__ = "torch.utils.data.dataloader"


class Frame:
    pass


Frame.__module__ = "pandas.core.frame"


class Repeated:
    """As a set of tf.data."""

    element_spec: Any = (None, SimpleNamespace(shape=SimpleNamespace(rank=0)))

    def as_numpy_iterator(self) -> None: ...

    def cardinality(self) -> int:
        return -1


def foreign() -> dict[str, tuple[Any, str]]:
    """What people have -> what is said of it."""
    x = np.zeros((4, 8, 8, 3), np.uint8)
    return {
        "tuple": ((x, [0, 1, 0, 1]), "a tuple of two; .*hs.data.arrays\\(*"),
        "pairs": ([[x[0], 0], [x[1], 1]], "a list of pairs"),
        "array": (x, "a numpy ndarray; .*hs.data.arrays"),
        "folder": (ImageFolder(), "a torchvision ImageFolder; .*hs.data.folder('photos')"),
        "loader": (DataLoader(), "a torch DataLoader; .*hs.data.folder('photos')"),
        "frame": (Frame(), "a pandas Frame; .*list(table['image'])"),
        "generator": ((i for i in [1]), "can be read once only"),
        "none": (None, "is None"),
        "model": (hs.model("lenet", classes=2), "a model"),
        "dict": ({"x": x}, "a dict"),
    }


def test_what_means_a_data_set(tmp_path: Path, run: hs.Run, backend: str) -> None:
    """Paths, tables, frames, pairs and map-style sets are opened at every door."""
    kinds = ("ant", "bee", "cow")
    pairs = []
    for kind in range(3):
        for i in range(3):
            path = tmp_path / "photos" / kinds[kind] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture(kind, 20 + i)).save(path)
            pairs.append((str(path), kinds[kind]))
    (tmp_path / "t.csv").write_text("\n".join(["file,label", *(f"{file},{kind}" for file, kind in pairs)]))
    (tmp_path / "val").mkdir()
    (tmp_path / "photos" / "bee").rename(tmp_path / "val" / "bee")
    val = tmp_path / "val"  # of one class alone
    (tmp_path / "photos" / "bee").symlink_to(val / "bee")

    class Listed:
        samples: ClassVar = [(file, kinds.index(kind)) for file, kind in pairs]
        classes = kinds

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, index: int) -> Any:
            raise AssertionError("files are read, not the set")

    model = hs.model("lenet", classes=kinds, size=32)
    losses = set()
    for thing in (tmp_path / "photos", str(tmp_path / "t.csv"), pairs, Listed()):
        with pytest.warns(DataWarning, match="exact copies"):
            done = hs.fit(model, thing, str(val), backend=backend, **FAST)
        losses.add((done.history[-1].loss, done.history[-1].val_loss))
        assert len(hs.extract(model, thing, backend=backend, device="cpu")) == 9
        with pytest.warns(DataWarning, match="9 of 9 samples"):
            assert done.evaluate(thing).samples == 9
    assert len(losses) == 1
    with pytest.raises(SettingError, match="unknown data set 'photo'"):
        hs.fit(model, "photo", None, backend=backend)


@pytest.mark.parametrize("kind", foreign())
def test_what_is_no_data_set(kind: str, run: hs.Run, train: Dataset, backend: str) -> None:
    thing, said = foreign()[kind]
    model: Any = run.model
    doors: dict[str, Callable[[], Any]] = {
        "train is ": lambda: hs.fit(model, thing, None, backend=backend),
        "data is ": lambda: hs.extract(model, thing, backend=backend),
        "data is": lambda: run.evaluate(thing),
        "train is": lambda: hs.plan(model, thing, backend=backend),
        "train": lambda: hs.compare_modes(model, thing, None, ["cached"], backend=backend),
    }
    if thing is not None:
        doors["val is "] = lambda: hs.fit(model, train, thing, backend=backend)
        doors["val is"] = lambda: hs.sweep(model, train, thing, grid={"lr": [1.0]}, backend=backend)
    doors["data"] = lambda: hs.compare(thing)
    words = said.replace("{}", "")
    for start, door in doors.items():
        with pytest.raises(SettingError) as caught:
            door()
        text = str(caught.value)
        assert text.startswith(start)
        assert words.split(";")[0] in text
        if start != "data" and "hs.data" in words:
            assert words[words.index("hs.data") :].rstrip("(*\\") in text
    if kind in ("loader", "frame", "none", "model", "folder"):
        with pytest.raises(SettingError, match=f"images is {re.escape(words.split(';')[0].removeprefix('is '))}"):
            hs.predict(model, thing, backend=backend)


PAIRS = "hs.data.wrap([(sample['image'], sample['label']) for sample in {}])"


def test_dicts_of_images_and_labels_become_pairs() -> None:
    """As sets of several libraries give them, and TensorFlow's catalogue all at once and in parts."""
    sample = {"id": 7, "image": np.zeros((2, 2, 3), np.uint8), "label": 2}
    indexed = type("Dataset", (), {"__getitem__": lambda self, index: sample})()
    iterated = type("_IterableDataset", (), {"__iter__": lambda self: iter([sample])})()
    for thing in (indexed, iterated, [sample]):
        assert described(thing, "x")[1] == PAIRS.format("x")
    with_more = [(sample["image"], 2, "a path")]
    assert described(with_more, "x")[1].startswith("hs.data.wrap([(sample[0], sample[1]) for sample in x])")
    unsaid = described([{"pixels": 0, "age": 1}], "x")[1]  # a dict is two names when it is taken for a pair
    assert unsaid.endswith("for sample in x]), with their names of 'pixels', 'age'")
    columns = {"image": np.zeros((1, 2, 2, 3), np.uint8), "label": [2]}
    assert described(columns, "x")[1] == "hs.data.arrays(x['image'], x['label'])"
    line = "take one of its parts, hs.data.arrays(x['train']['image'], x['train']['label'])"
    assert described({"train": columns}, "x")[1] == line
    assert described({"train": Repeated()}, "x")[1] == "take one of its parts, x['train']"
    of_columns = "hs.data.arrays(data['image'], data['label'])"
    for thing, line in ((columns, of_columns), ([sample], PAIRS.format("data"))):
        with pytest.raises(DataError, match=re.escape(line)):
            hs.data.wrap(thing)


def test_sets_of_tensorflow_are_read_in_one_pass() -> None:
    _, mend = described(Repeated(), "train")
    assert mend.startswith("images, labels = zip(*train.take(n).as_numpy_iterator()), then hs.data.arrays(")
    of_dicts = Repeated()
    of_dicts.element_spec = {"image": None, "label": Repeated.element_spec[1]}
    assert described(of_dicts, "train")[1] == PAIRS.format("train.take(n).as_numpy_iterator()")
    of_dicts.element_spec["label"] = SimpleNamespace(shape=SimpleNamespace(rank=1))
    assert described(of_dicts, "train")[1] == PAIRS.format("train.unbatch().take(n).as_numpy_iterator()")


def test_predictions_of_what_is_not_there(run: hs.Run, train: Dataset, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image files in"):
        run.predict(tmp_path)
    with pytest.raises(DataError, match="no such file or folder"):
        run.predict(tmp_path / "missing.png")
    with pytest.raises(DataError, match="no image files in"):
        run.predict([tmp_path])
    with pytest.raises(ImageError, match="image 0"):
        run.predict(b"text")
    for wrong, reason in (("", "names no file"), ("https://example.org/a.png", "not read here"),
                          (io.BytesIO(b"text"), "images.read"), (str(tmp_path / "*.png"), "no file .* matches"),
                          (np.zeros((3, 8, 8), np.uint8), "channels first, or three grey ones"),
                          (np.ma.array(np.zeros((1, 2, 2, 3), np.uint8), mask=True), "12 of 12 values are masked"),
                          (np.uint8(3), "shape"), ([None], "is a NoneType"),
                          ((train, train), "a tuple of data sets")):  # fmt: skip
        with pytest.raises((SettingError, DataError), match=reason):
            hs.fit(run.model, wrong, None) if isinstance(wrong, tuple) else run.predict(wrong)


def test_what_is_no_model(train: Dataset) -> None:
    wrong = {
        "the name 'lenet'; .*hs.model": "lenet",
        "None": None,
        "type ImageFolder; .*call it": ImageFolder,
        "a torchvision ImageFolder; .*hs.wrap": ImageFolder(),
        "a data set; .*comes first": train,
    }
    for said, thing in wrong.items():
        doors: list[Callable[[Any], Any]] = [
            lambda model: hs.fit(model, train),
            lambda model: hs.sweep(model, train, train, grid={"lr": [1.0]}),
            lambda model: hs.compare_modes(model, train, None),
            lambda model: hs.plan(model, train),
            lambda model: hs.extract(model, train),
            lambda model: hs.verify(model, train),
            lambda model: hs.predict(model, train),
            lambda model: hs.forward(model, np.zeros((1, 8, 8, 3), np.float32)),
            hs.native,
        ]
        for door in doors:
            with pytest.raises(SettingError, match=f"model is {said}"):
                door(thing)


def test_a_run_is_no_model(run: hs.Run, train: Dataset) -> None:
    with pytest.raises(SettingError, match=r"model is a Run; .*: its \.model"):
        hs.predict(run, train)  # type: ignore[arg-type]
    for size in (0, "8", 2.5):
        with pytest.raises(SettingError, match="batch_size is"):
            run.predict(np.zeros((1, 32, 32, 3), np.float32), batch_size=size)  # type: ignore[arg-type]
