"""Data sets: ids, splits, subsets; and that an image changed under our feet is noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from headstart import data
from headstart.common.errors import DataError, SettingError
from headstart.data import dataset, file_system

pytestmark = pytest.mark.neutral


def numbered(labels: list[int], classes: list[str] | None = None) -> data.Dataset:
    """Image i is 1 x 2 pixels that say i, so that a mixed-up row shows."""
    images = np.array([[[i // 256, i % 256]] for i in range(len(labels))], np.uint8)
    return data.arrays(images, labels, classes)


def number(image: np.ndarray) -> int:
    return int(image[0, 0, 0]) * 256 + int(image[0, 1, 0])


def numbers(dataset: data.Dataset) -> list[int]:
    return [number(sample.image) for sample in dataset]


@given(
    st.lists(st.integers(0, 4), min_size=2, max_size=80),
    st.floats(0.01, 0.99),
    st.integers(0, 2**32),
)
def test_split_by_position_is_stratified_and_repeats(labels: list[int], fraction: float, seed: int) -> None:
    whole = numbered(labels, list("abcde"))
    counts = np.bincount(labels, minlength=5)
    if counts.max() < 2:
        with pytest.raises(DataError, match="cannot be split"):
            whole.split(fraction, seed, by="position")
        return
    train, val = whole.split(fraction, seed, by="position")
    assert sorted(numbers(train) + numbers(val)) == list(range(len(labels)))
    assert numbers(train) == sorted(numbers(train))
    for part in (train, val):
        assert part.labels.tolist() == [labels[i] for i in numbers(part)]
        assert part.classes == whole.classes
    taken = np.bincount(train.labels, minlength=5)
    for n, k in zip(counts, taken, strict=True):
        assert k == n if n < 2 else 1 <= k <= n - 1
        assert n < 2 or abs(k - n * fraction) <= 1
    assert numbers(whole.split(fraction, seed, by="position")[0]) == numbers(train)


def test_split_by_position_is_pinned() -> None:
    # Users compare runs across versions: this split must never change.
    train, val = numbered([0, 1] * 10).split(0.7, seed=3, by="position")
    assert numbers(val) == [4, 6, 11, 16, 17, 19]
    assert len(train) == 14


def test_split_depends_on_the_seed() -> None:
    whole = numbered([0] * 50 + [1] * 50)
    assert numbers(whole.split(seed=0)[0]) != numbers(whole.split(seed=1)[0])


def test_splitting_a_split() -> None:
    first, _ = numbered([0] * 20 + [1] * 20).split(0.5)
    train, val = first.split(0.5)
    assert sorted(numbers(train) + numbers(val)) == numbers(first)


@pytest.mark.parametrize("fraction", [0, 1, 1.5, -0.2])
def test_wrong_fraction(fraction: float) -> None:
    with pytest.raises(SettingError, match="fraction"):
        numbered([0, 1, 0, 1]).split(fraction)


def test_classes_of_which_there_are_none() -> None:
    some = numbered([0, 1])
    assert some.only([1]).classes == ("1",)  # type: ignore[list-item]
    for wrong in (None, "01", {"0", "1"}, [], ["0", "0"], [None]):
        with pytest.raises(SettingError, match="classes"):
            some.only(wrong)  # type: ignore[arg-type]


def test_wrong_seed() -> None:
    with pytest.raises(SettingError, match="seed is -1"):
        numbered([0, 1, 0, 1]).split(seed=-1)


def test_subset_keeps_order_and_repeats() -> None:
    part = numbered(list(range(6))).subset([4, 0, 4])
    assert numbers(part) == part.labels.tolist() == [4, 0, 4]
    assert part.ids[0] == part.ids[2] != part.ids[1]
    assert part.subset(np.array([1])).labels.tolist() == [0]
    assert len(part.subset([])) == 0


@pytest.mark.parametrize("wrong", [[6], [-1], [0.5], [[0]], [True, False], 3])
def test_wrong_subset(wrong: object) -> None:
    with pytest.raises(SettingError, match="indices"):
        numbered(list(range(6))).subset(wrong)  # type: ignore[arg-type]


def test_indexing() -> None:
    dataset = numbered([0, 1, 1])
    assert number(dataset[-1].image) == 2
    assert dataset[1].image.shape == (1, 2, 3)
    assert dataset[np.int64(1)].label == 1
    with pytest.raises(IndexError):
        dataset[3]
    with pytest.raises(ValueError, match="read-only"):
        dataset.labels[0] = 9


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k, name in enumerate(["cat", "dog"]):
        (tmp_path / name).mkdir()
        for i in range(3):
            Image.new("RGB", (4, 3), (80 * i, 100 * k, 0)).save(tmp_path / name / f"{i}.png")
    return tmp_path


def test_id_is_the_digest_of_the_encoded_bytes(photos: Path) -> None:
    dataset = data.folder(photos)
    content = (photos / "cat" / "1.png").read_bytes()
    assert dataset.ids[1] == dataset[1].id == dataset.load(1)[1] == blake3(content).digest()[:16].hex()
    assert len(set(dataset.ids)) == 6


def test_ids_do_not_depend_on_names_or_labels(photos: Path) -> None:
    before = set(data.folder(photos).ids)
    (photos / "cat" / "0.png").rename(photos / "dog" / "moved.png")
    assert set(data.folder(photos).ids) == before


def test_splits_share_the_hashing(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = data.folder(photos)
    ids = dataset.ids
    monkeypatch.setattr("headstart.data.file_system.read_file", lambda path: pytest.fail(f"{path} read again"))
    train, val = dataset.split(0.5)
    assert sorted(train.ids + val.ids) == sorted(ids)


def test_file_changed_between_id_and_decoding_is_noticed(photos: Path) -> None:
    dataset = data.folder(photos)
    assert dataset.ids
    Image.new("RGB", (4, 3), "white").save(photos / "cat" / "0.png")
    with pytest.raises(DataError, match=r"0\.png was changed since"):
        dataset.load(0)
    assert data.folder(photos).load(0)[0].getpixel((0, 0)) == (255, 255, 255)


def test_pixels_changed_in_the_callers_array_are_noticed() -> None:
    images = np.zeros((2, 3, 3), np.uint8)
    dataset = data.arrays(images, [0, 1])
    assert dataset.ids
    images[1] = 7
    dataset.load(0)
    with pytest.raises(DataError, match="image 1 of arrays was changed"):
        dataset.load(1)


@pytest.mark.parametrize("where", ["images", "other inputs", "a set", "files that stat says nothing of"])
def test_one_of_many_that_changed_is_noticed_without_being_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """As its stored features are asked for, of a data set that was opened before."""
    count = 400
    pixels = np.arange(count * 12, dtype=np.uint32).view(np.uint8).reshape(count, 4, 4, 3).copy()
    labels = np.arange(count) % 2
    if where == "images":
        made = data.arrays(pixels, labels)
    elif where == "other inputs":
        made = data.arrays(pixels.view(np.int8), labels)
    elif where == "a set":

        class Set:
            def __len__(self) -> int:
                return count

            def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
                if not 0 <= i < count:
                    raise IndexError(i)
                return pixels[i], int(labels[i])

        made = data.wrap(Set())
    else:
        monkeypatch.setattr(file_system, "stamp_of", lambda path: None)  # as on Windows
        for i in range(count):
            (tmp_path / str(labels[i])).mkdir(exist_ok=True)
            Image.fromarray(pixels[i]).save(tmp_path / str(labels[i]) / f"{i}.bmp")
        made = data.folder(tmp_path)
    assert len(set(made.ids)) == count
    made.check_unchanged(range(count))
    monkeypatch.setattr(dataset, "MOMENT_SECONDS", 60)  # of a machine that does much beside it
    if where.startswith("files"):
        path = Path(made.source_name(300))
        path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    else:
        pixels[300] ^= 1
    with pytest.raises(DataError, match="was changed since it was first read"):
        made.check_unchanged(range(count))


def test_source_names(photos: Path) -> None:
    assert data.folder(photos).subset([4]).source_name(0) == str(photos / "dog" / "1.png")
    assert numbered([0, 1, 2]).subset([2]).source_name(0) == "image 2 of arrays"


def test_repr(photos: Path) -> None:
    assert repr(numbered([0, 1, 0])) == "Dataset('arrays', 3 images, 2 classes)"
