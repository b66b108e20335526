"""What is known of samples: labels of three tasks, groups, weights and named parts, and that all of it follows."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feature_sets import folder_of

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SavedFeaturesError, SettingError, UnknownNameError
from headstart.data.annotations import Annotations
from headstart.data.dataset import ArraySource, Dataset
from headstart.features import packed
from headstart.features.feature_set import ExtractionStats, FeatureSet

pytestmark = pytest.mark.neutral

N = 60
RNG = np.random.default_rng(3)
SINGLE = RNG.integers(0, 3, N)
MULTI = RNG.integers(0, 2, (N, 3)).astype(np.uint8)
TARGETS = RNG.normal(50, 20, (N, 2)).astype(np.float32)
GROUPS = np.array([f"patient {k // 5}" for k in range(N)], object)
WEIGHTS = RNG.random(N).astype(np.float32)
PARTS = (np.arange(N) % 3).astype(np.int8)
KINDS: dict[str, Annotations] = {
    "single": Annotations(SINGLE, ("ant", "bee", "cow"), groups=GROUPS, weights=WEIGHTS, parts=PARTS),
    "multi": Annotations(MULTI, ("ant", "bee", "cow"), "multi", groups=GROUPS, weights=WEIGHTS, parts=PARTS),
    "regression": Annotations(TARGETS, ("hue", "size"), "regression", weights=WEIGHTS, parts=PARTS),
}


def data_of(annotations: Annotations, name: str = "made") -> Dataset:
    images = np.random.default_rng(1).integers(0, 256, (len(annotations), 4, 4, 3), np.uint8)
    return Dataset(ArraySource(images, name), annotations, name)


def features_of(data: Dataset, root: Path) -> FeatureSet:
    folder = folder_of(root, "fc", "float32")
    with folder.writer((1,), "float32", {}) as out:
        out.add(list(data.ids), np.arange(len(data), dtype=np.float32)[:, None])
    return FeatureSet(data.name, data.ids, data.annotations, {"fc": [folder]}, ExtractionStats(0, 0, 0.0, ()))


def assert_same(mine: Any, theirs: Any) -> None:
    assert (mine.ids, mine.task, mine.classes, mine.groups) == (
        theirs.ids,
        theirs.task,
        theirs.classes,
        theirs.groups,
    )
    for name in ("labels", "weights"):
        a, b = getattr(mine, name), getattr(theirs, name)
        assert (a is None and b is None) or (a.dtype == b.dtype and np.array_equal(a, b)), name
    assert list(mine.parts) == list(theirs.parts)


@pytest.mark.parametrize("task", KINDS)
def test_everything_follows_its_sample(task: str) -> None:
    about = KINDS[task]
    data = data_of(about)
    assert data.task == task and len(data) == N and not data.labels.flags.writeable
    rows = [7, 2, 40]
    chosen = data.subset(rows)
    assert chosen.ids == tuple(data.ids[k] for k in rows)
    assert np.array_equal(chosen.labels, about.labels[rows])
    assert chosen.weights is not None and np.array_equal(chosen.weights, WEIGHTS[rows])
    assert chosen.groups == (None if about.groups is None else tuple(GROUPS[rows]))
    assert {name: len(part) for name, part in chosen.parts.items()} == {"val": 2, "test": 1}
    label = data[7].label
    assert label == SINGLE[7] if task == "single" else np.array_equal(label, about.labels[7])
    assert data.val.ids == tuple(np.array(data.ids)[PARTS == 1]) and not data.val.parts


def test_named_parts_and_their_absence() -> None:
    whole = data_of(KINDS["single"])
    assert list(whole.parts) == ["train", "val", "test"] and sum(map(len, whole.parts.values())) == N
    with pytest.raises(
        DataError, match=r"came split already, into train, val, test, and is not split: take data\.train"
    ):
        whole.split(0.8)
    with pytest.raises(DataError, match="is not cut into folds"):
        whole.folds(3)
    assert len(whole.train.split(0.5)) == 2
    some = whole.subset(np.flatnonzero(PARTS == 0))
    with pytest.raises(DataError, match="made has no part 'val'; it came with train"):
        _ = some.val
    with pytest.raises(DataError, match=r"came in one piece and has no part 'test'; split it"):
        _ = whole.train.test


def test_only_selects_samples_or_columns() -> None:
    kept = data_of(KINDS["single"]).only(["cow", "ant"])
    assert kept.classes == ("cow", "ant") and len(kept) == int((SINGLE != 1).sum())
    assert [("cow", "ant")[k] for k in kept.labels] == [("ant", "bee", "cow")[k] for k in SINGLE if k != 1]
    assert kept.weights is not None and np.array_equal(kept.weights, WEIGHTS[SINGLE != 1])
    labels = data_of(KINDS["multi"]).only(["cow", "ant"])
    assert len(labels) == N and np.array_equal(labels.labels, MULTI[:, [2, 0]])
    assert np.array_equal(data_of(KINDS["regression"]).only(["size"]).labels, TARGETS[:, 1:])
    with pytest.raises(UnknownNameError, match="label 'cat'"):
        data_of(KINDS["multi"]).only(["cat"])


@pytest.mark.parametrize("task", KINDS)
def test_a_saved_set_keeps_them(tmp_path: Path, task: str) -> None:
    features = features_of(data_of(KINDS[task]), tmp_path / "store")
    loaded = hs.load_features(features.save(tmp_path / "saved"))
    assert_same(loaded, features)
    assert_same(loaded.train, features.train)
    assert '"headstart-saved-features/2"' in (tmp_path / "saved" / packed.DESCRIPTION).read_text()
    plain = FeatureSet("plain", features.ids, Annotations(SINGLE, ("a", "b", "c")), {"fc": [features.folder()]},
                       features.stats)  # fmt: skip
    plain.save(tmp_path / "plain")
    assert '"headstart-saved-features/1"' in (tmp_path / "plain" / packed.DESCRIPTION).read_text()


@pytest.mark.parametrize(
    ("task", "name", "value", "reason"),
    [
        ("single", "parts", np.full(N, 3, np.int8), "not what features.json says"),
        ("single", "weights", np.full(N, -1, np.float32), "not what features.json says"),
        ("single", "weights", np.zeros(3, np.float32), "not what features.json says"),
        ("single", "groups", np.full(N, 99, np.int32), "not what features.json says"),
        ("single", "group_names", np.frombuffer(b"[1]", np.uint8), "not what features.json says"),
        ("multi", "labels", np.full((N, 3), 2, np.uint8), "labels reach to 2"),
        ("multi", "labels", np.zeros((N, 4), np.uint8), "not what features.json says"),
        ("regression", "labels", np.full((N, 2), np.nan, np.float32), "labels are not all finite"),
    ],
)
def test_a_strangers_samples_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str, name: str, value: Any, reason: str
) -> None:
    features = features_of(data_of(KINDS[task]), tmp_path / "store")
    save = packed.packed_samples.save_tensors
    monkeypatch.setattr(
        "headstart.features.packed_samples.save_tensors", lambda sound: save({**sound, name: value})
    )
    folder = features.save(tmp_path / "saved")
    with pytest.raises(SavedFeaturesError, match=reason):
        hs.load_features(folder)


def test_exports_of_other_tasks(tmp_path: Path) -> None:
    features = features_of(data_of(KINDS["multi"]), tmp_path / "store")
    table = pytest.importorskip("pyarrow") and features.arrow()
    assert table.column_names == ["id", "label", "group", "weight", "features"]
    assert table["label"].to_pylist() == MULTI.tolist() and table["group"].to_pylist() == list(GROUPS)
    folder = features.save_npy(tmp_path / "npy")
    assert np.array_equal(np.load(folder / "labels.npy"), MULTI)


# Groups and folds -------------------------------------------------------------------------------------------


def grouped(sizes: dict[str, int], classes: int = 2) -> Dataset:
    groups = [name for name, size in sizes.items() for _ in range(size)]
    labels = np.arange(len(groups)) % classes
    return data_of(Annotations(labels, tuple(f"c{k}" for k in range(classes)), groups=np.array(groups, object)))


def test_no_group_is_cut_and_growing_moves_none() -> None:
    data = grouped({f"site {k}": 4 for k in range(40)})
    train, val = data.split(0.7, seed=2)
    sides = [set(part.groups or ()) for part in (train, val)]
    assert not sides[0] & sides[1] and len(sides[0] | sides[1]) == 40 and len(sides[1]) > 4
    grown = grouped({f"site {k}": 4 + k % 3 for k in range(60)}).split(0.7, seed=2)
    assert not set(grown[0].groups or ()) & sides[1] and not set(grown[1].groups or ()) & sides[0]
    assert train.split(0.5)[0].groups, "the groups are still known"


def test_groups_that_swallow_a_split() -> None:
    with pytest.raises(
        DataError, match=r"the group 'big' has 90 of the 100 samples of made, more than either part"
    ):
        grouped({"big": 90, "a": 4, "b": 3, "c": 3}).split(0.8)
    large = (
        r"the group 'big' has 90 of the 100 samples .* more than 2 of 4 folds are to have, .* 10 are left to train"
    )
    with pytest.warns(DataWarning, match=large):
        grouped({"big": 90, "a": 4, "b": 3, "c": 3}).folds(4)
    with pytest.raises(DataError, match="the group 'all' has 20 of the 20 samples of made, more than either"):
        grouped({"all": 20}).split(0.8)
    with pytest.raises(SettingError, match='by="position" would cut the groups'):
        grouped({"a": 4, "b": 4}).split(0.5, by="position")
    assert [set(half.groups or ()) for half in grouped({"a": 4, "b": 4}).split(0.5)] in (
        [{"a"}, {"b"}],
        [{"b"}, {"a"}],
    )
    lopsided = grouped({"half": 50, **{f"s{k}": 2 for k in range(25)}})
    for seed in range(12):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            val = lopsided.split(0.8, seed)[1]
        far = not 10 <= len(val) <= 40
        assert [warning.category for warning in said] == [DataWarning] * far
        assert not far or f"has {len(val)} of 100 samples, not about 20%" in str(said[0].message)


@pytest.mark.parametrize("groups", [False, True])
@pytest.mark.parametrize("task", KINDS)
def test_folds_hold_every_sample_out_once(task: str, groups: bool) -> None:
    about = KINDS[task].without_parts()
    data = data_of(Annotations(about.labels, about.classes, task, groups=GROUPS if groups else None))
    folds = data.folds(4, seed=1)
    assert len(folds) == 4 and sorted(id for _, val in folds for id in val.ids) == sorted(data.ids)
    for number, (train, val) in enumerate(folds):
        assert len(val) and sorted(train.ids + val.ids) == sorted(data.ids)
        assert not groups or not set(train.groups or ()) & set(val.groups or ())
        assert (val.splits[-1].by, val.splits[-1].fold, val.splits[-1].folds) == ("fold", number, 4)
        if task == "single":
            assert set(train.labels) == {0, 1, 2}
    assert [val.ids for _, val in data.folds(4, seed=1)] == [val.ids for _, val in folds]
    if not groups:
        half = data.subset(range(30)).folds(4, seed=1)
        assert all(set(small.ids) <= set(large.ids) for (_, small), (_, large) in zip(half, folds, strict=True))


def test_folds_of_few_samples() -> None:
    data = data_of(Annotations(np.array([0, 0, 1, 1, 1]), ("a", "b")))
    for seed in range(40):
        for train, val in data.folds(5, seed):
            assert len(val) == 1 and len(train) == 4
        for train, _ in data.folds(2, seed):
            assert set(train.labels) == {0, 1}, "a class of two is in both folds"
    with pytest.raises(DataError, match="it has 5 different samples; expected at least 6"):
        data.folds(6)
    for k in (1, 0, True, 2.5, "3"):
        with pytest.raises(SettingError, match="k is"):
            data.folds(k)  # type: ignore[arg-type]


def test_features_fold_as_their_images(tmp_path: Path) -> None:
    data = data_of(KINDS["single"].without_parts())
    features = features_of(data, tmp_path)
    for mine, theirs in zip(features.folds(3), data.folds(3), strict=True):
        assert_same(mine[0], theirs[0])
        assert_same(mine[1], theirs[1])
    saved = hs.load_features(features.folds(3)[1][1].save(tmp_path / "saved"))
    assert saved.splits == data.folds(3)[1][1].splits


@pytest.mark.parametrize("task", ["multi", "regression"])
def test_labels_of_other_tasks_split(task: str) -> None:
    about = KINDS[task]
    data = data_of(Annotations(about.labels, about.classes, task))
    train, val = data.split(0.5)
    assert sorted(train.ids + val.ids) == sorted(data.ids) and 15 < len(val) < 45
    assert len(data.split(0.8, by="position")[0]) == 48
    nothing = data_of(Annotations(np.zeros((4, 2), np.uint8), ("a", "b"), "multi"))
    for seed in range(20):
        assert all(map(len, nothing.split(0.5, seed)))


# Doors ------------------------------------------------------------------------------------------------------
