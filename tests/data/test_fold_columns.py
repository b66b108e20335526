"""Folds that a table says: whose samples are held out together, as they are written, and what is refused."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import PredefinedSplit

import headstart as hs
from headstart.common.errors import DataError, DataWarning, SettingError, UnknownNameError
from headstart.data.copies import warn_of_copies_across
from headstart.data.names import in_order
from headstart.data.summary import data_lines
from headstart.data.untrained import warn_of_single_in_folds

N = 12
FOLDS = ["2", "10", "-1", "2", "a", "10"] * 2


@pytest.fixture
def columns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    for k in range(N):
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(f"{k}.png")
    return {"file": [f"{k}.png" for k in range(N)], "label": ["ant", "ant", "bee"] * (N // 3), "fold": list(FOLDS)}


def written(columns: dict[str, Any]) -> str:
    rows = [list(columns), *zip(*columns.values(), strict=True)]
    Path("t.csv").write_text("".join(",".join(map(str, row)) + "\n" for row in rows), "utf-8")
    return "t.csv"


def places(part: hs.data.Dataset, of: hs.data.Dataset) -> list[int]:
    place = {id: k for k, id in enumerate(of.ids)}
    return [place[id] for id in part.ids]


@pytest.mark.neutral
def test_the_folds_are_those_of_scikit_learns_predefined_split(columns: dict[str, Any]) -> None:
    data = hs.data.table(written(columns), fold="fold")
    assert data.fold_names == ("2", "10", "a"), "as people count"
    numbers = [data.fold_names.index(fold) if fold != "-1" else -1 for fold in FOLDS]
    assert data.fold_numbers().tolist() == numbers == data.fold_numbers(3, seed=7).tolist()
    pairs = data.folds()
    expected = list(PredefinedSplit(numbers).split())
    assert len(pairs) == len(expected) == 3
    for (train, val), (to_train, held_out) in zip(pairs, expected, strict=True):
        assert places(train, data) == to_train.tolist()
        assert places(val, data) == held_out.tolist()
        assert train.fold_names == val.fold_names == (), "a pair is a split, and has no folds of its own"
    part = pairs[1][1].splits[-1]
    assert part.as_dict() == {
        "by": "fold",
        "fraction": pytest.approx(8 / 12),
        "seed": 0,
        "side": "second",
        "fold": 1,
        "folds": 3,
        "name": "10",
    }
    assert type(part).from_dict(json.loads(json.dumps(part.as_dict()))) == part
    (line,) = data_lines(data, None, None)
    assert line.endswith("; in 3 folds of 2 to 4, and 2 that are never held out")


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("folds", "names"),
    [
        ([0, 1, 2] * 4, ("0", "1", "2")),
        (np.array([0, 1, -1] * 4, np.int8), ("0", "1")),
        ([0.0, 1.0, -1.0] * 4, ("0", "1")),
        (["0", "1", "-1.0"] * 4, ("0", "1")),
        ([False, True] * 6, ("False", "True")),
        ([b"x", b"y"] * 6, ("x", "y")),
        (["fold 10", " fold 9 "] * 6, ("fold 9", "fold 10")),
        (["2021-03", "2020-11"] * 6, ("2020-11", "2021-03")),
        ([f"{k}" for k in range(N)], tuple(map(str, range(N)))),
    ],
)
def test_folds_are_named_as_they_are_written(columns: dict[str, Any], folds: Any, names: tuple[str, ...]) -> None:
    data = hs.data.table(columns | {"fold": folds}, fold="fold")
    assert data.fold_names == names
    pictures = np.random.default_rng(0).integers(0, 256, (N, 4, 4, 3), np.uint8)
    assert hs.data.arrays(pictures, [0, 1] * 6, folds=folds).fold_names == names


@pytest.mark.neutral
def test_names_in_the_order_of_people() -> None:
    names = ["-5", "1.5", "2", "10", "A", "b", "fold 2", "fold 10", "fold 10b"]
    for shuffled in (names[::-1], names[3:] + names[:3]):
        assert in_order(shuffled) == names
    assert in_order(["9" * 5000, "1"]) == ["1", "9" * 5000], "Python makes no number of it"


@pytest.mark.neutral
@pytest.mark.parametrize("empty", ["", " ", "nan", "NA", "None"])
def test_a_row_without_a_fold_is_named(columns: dict[str, Any], empty: str) -> None:
    columns["fold"][4] = empty
    message = r"t.csv: .*(row|line) \d+.* has no fold in column 'fold'; expected one in every row, -1 where"
    with pytest.raises(DataError, match=message):
        hs.data.table(written(columns), fold="fold")
    columns["fold"][4] = None
    with pytest.raises(DataError, match="has no fold in column 'fold'"):
        hs.data.table(columns, fold="fold")


@pytest.mark.neutral
def test_what_is_no_column_of_folds(columns: dict[str, Any]) -> None:
    with pytest.raises(UnknownNameError, match="fould"):
        hs.data.table(columns, fold="fould")
    with pytest.raises(SettingError, match="both name the column 'fold'"):
        hs.data.table(columns, fold="fold", group="fold")
    with pytest.raises(DataError, match=r"which are parts, and no folds; say split= \(--split-column\)"):
        hs.data.table(columns | {"fold": ["train", "test"] * 6}, fold="fold")
    with pytest.warns(DataWarning, match="the folds '01' and '1' differ in how they are written"):
        hs.data.table(columns | {"fold": ["1", "01"] * 6}, fold="fold")
    for folds, message in ((["x"] * N, "came in the fold 'x' alone"), ([-1] * N, "came in 0 folds")):
        with pytest.raises(DataError, match=message):
            hs.data.table(columns | {"fold": folds}, fold="fold").folds()


@pytest.mark.neutral
def test_other_folds_and_splits_are_refused(columns: dict[str, Any]) -> None:
    data = hs.data.table(columns, fold="fold")
    with pytest.raises(SettingError, match="5 folds of table, which came in 3"):
        data.folds(5)
    with pytest.raises(DataError, match=r"came in 3 folds, and is not split: take data.folds\(\)"):
        data.split()
    plain = hs.data.table({name: of for name, of in columns.items() if name != "fold"})
    other = data.without_folds()
    assert other.fold_names == () and plain.without_folds() is plain
    np.testing.assert_array_equal(other.fold_numbers(4, 2), plain.fold_numbers(4, 2))
    np.testing.assert_array_equal(other.fold_numbers(), plain.fold_numbers(5))
    assert [part.ids for part in other.split(0.7)] == [part.ids for part in plain.split(0.7)]


@pytest.mark.neutral
def test_of_data_with_parts_those_to_train_on_have_folds(columns: dict[str, Any]) -> None:
    split = ["train"] * 8 + ["test"] * 4
    folds = FOLDS[:8] + ["", None, "99", "2"]
    data = hs.data.table(columns | {"split": split, "fold": folds}, split="split", fold="fold")
    assert data.train.fold_names == ("2", "10", "a") == data.fold_names
    assert data.test.fold_names == () and len(data.test.split(0.5)) == 2
    assert len(data.train.fold_numbers()) == 8
    assert "; in 3 folds of 1 to 3, and 1 that are never held out" in data_lines(data, None, None)[0]
    with pytest.raises(DataError, match="has no fold"):
        hs.data.table(columns | {"split": split[::-1], "fold": folds}, split="split", fold="fold")


@pytest.mark.neutral
def test_rows_that_are_left_out(columns: dict[str, Any]) -> None:
    """The folds of the others stay, and one of which none is left is told."""
    for k in (0, 4):
        Path(f"{k}.png").write_bytes(b"no image")
    Path("10.png").unlink()
    with pytest.warns(
        DataWarning, match="no sample of the fold 'a' is left, as all their rows are left out, so th"
    ):
        data = hs.data.table(written(columns), fold="fold", on_error="skip")
    kept = [k for k in range(N) if k not in (0, 4, 10)]
    assert data.fold_names == ("2", "10")
    assert data.fold_numbers().tolist() == [{"2": 0, "10": 1, "-1": -1}[FOLDS[k]] for k in kept]
    columns["fold"][1], columns["label"][1] = "unlabelled", ""
    with pytest.warns(DataWarning, match="no sample of the folds 'a' and 'unlabelled' is left"):
        hs.data.table(written(columns), fold="fold", on_error="skip")


@pytest.mark.neutral
def test_rows_of_one_file_agree_on_its_fold(columns: dict[str, Any]) -> None:
    columns["file"][3], columns["label"][3] = "0.png", "ant"
    assert len(hs.data.table(columns, fold="fold")) == N - 1, "the same fold"
    columns["fold"][3] = "a"
    with pytest.raises(DataError, match=r"as 'ant' in fold '2' and in .* as 'ant' in fold 'a'"):
        hs.data.table(columns, fold="fold")
    with pytest.raises(DataError, match=r"with the fold '2' and in .* with 'a'; expected one fold a picture"):
        hs.data.table(columns, fold="fold", task="multi")


@pytest.mark.neutral
def test_what_the_folds_cut_is_told(columns: dict[str, Any]) -> None:
    """Groups, copies, and classes of which nothing is trained on, or nothing is held out."""
    data = hs.data.table(columns | {"who": ["p", "q"] * 6}, fold="fold", group="who")
    with pytest.warns(
        DataWarning, match="2 of 2 groups have samples in more than one fold of table, as the group"
    ):
        warn_of_copies_across(data, data.fold_numbers())
    Image.open("0.png").save("1.png")
    data = hs.data.table(columns, fold="fold")
    with pytest.warns(DataWarning, match="copy of samples in another fold.* or have copies in one fold"):
        warn_of_copies_across(data, data.fold_numbers())
    labels = ["only a" if fold == "a" else "never" if fold == "-1" else "both" for fold in FOLDS]
    data = hs.data.table(columns | {"label": labels}, fold="fold")
    with pytest.warns(DataWarning) as caught:
        warn_of_single_in_folds(data, data.fold_numbers())
    first, second = (str(warning.message) for warning in caught)
    assert "the class 'never' has no sample that is held out in a fold" in first
    assert (
        "the class 'only a' has samples in one fold alone: where that is held out, none was trained on" in second
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = hs.data.table(columns | {"who": FOLDS, "label": ["ant", "bee"] * 6}, fold="fold", group="who")
        data = data.subset(np.delete(np.arange(N), [0, 1]))
        warn_of_copies_across(data, data.fold_numbers())


@pytest.mark.neutral
def test_folds_go_wherever_the_samples_go(columns: dict[str, Any]) -> None:
    data = hs.data.table(columns, fold="fold")
    some = data.subset([5, 1, 0])
    assert some.fold_names == ("2", "10") and some.fold_numbers().tolist() == [1, 1, 0]
    assert data.only(["bee"]).fold_names == ("10",)
    assert data.only(["bee", "ant"]).fold_names == data.fold_names


@pytest.mark.neutral
def test_parquet_json_and_frames(columns: dict[str, Any]) -> None:
    pandas = pytest.importorskip("pandas")
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns["fold"] = [0, 1, -1, 2] * 3
    parquet.write_table(pyarrow.table(columns), "t.parquet")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    Path("t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    frame = pandas.DataFrame(columns)
    sources = ["t.parquet", "t.jsonl", frame, frame.assign(fold=frame.fold.astype("category")), columns]
    for source in sources:
        data = hs.data.table(source, fold="fold")
        assert data.fold_names == ("0", "1", "2")
        assert data.fold_numbers().tolist() == columns["fold"]
    frame.loc[3, "fold"] = None
    with pytest.raises(DataError, match="has no fold in column 'fold'"):
        hs.data.table(frame, fold="fold")


@pytest.mark.neutral
def test_sets_of_hugging_faces_library(columns: dict[str, Any]) -> None:
    datasets = pytest.importorskip("datasets")
    del columns["file"]
    pictures = [Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)) for k in range(N)]
    features = {"image": datasets.Image(), "label": datasets.Value("string"), "fold": datasets.Value("string")}
    made = datasets.Dataset.from_dict({"image": pictures, **columns}, datasets.Features(features))
    data = hs.data.huggingface(made, fold="fold")
    assert data.fold_names == ("2", "10", "a")
    assert data.fold_numbers().tolist() == [{"2": 0, "10": 1, "a": 2, "-1": -1}[fold] for fold in FOLDS]
    made.save_to_disk("saved")
    assert hs.data.huggingface("saved", fold="fold").fold_names == data.fold_names


@pytest.mark.neutral
def test_every_fold_is_held_out_once(columns: dict[str, Any]) -> None:
    data = hs.data.table(columns, fold="fold")
    held_out = list(itertools.chain.from_iterable(places(val, data) for _, val in data.folds()))
    assert sorted(held_out) == [k for k in range(N) if FOLDS[k] != "-1"]
