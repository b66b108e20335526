"""Data that came in parts, from the folder to what is trained, validated and tested on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image
from report_pages import Parsed

import headstart as hs
from headstart.common.errors import DataError, SettingError
from headstart.data.opening import opened
from headstart.training.checks import opened as both
from headstart.training.opening import model_and_data
from headstart.training.run import Run

QUICK = [
    "--model",
    "lenet",
    "--weights",
    "none",
    "--size",
    "32",
    "--device",
    "cpu",
    "--epochs",
    "1",
    "--batch-size",
    "4",
]


def tree(root: Path, **parts: str) -> Path:
    """Part -> the letters of its classes, four pictures each."""
    number = 0
    for part, letters in parts.items():
        for letter in letters:
            for i in range(4):
                number += 1
                path = root / part / letter / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    return root


def open_at(root: Path) -> Any:
    def open_one(name: str, like: Any) -> Any:
        return hs.data.folder(root / name if name else root, classes=None if like is None else like.classes)

    return open_one


@pytest.mark.neutral
def test_what_is_trained_validated_and_tested_on(tmp_path: Path) -> None:
    whole = tree(tmp_path, train="abc", valid="ab", test="ca")
    of_folder = opened("", open_at(whole))
    sizes = lambda of: [None if part is None else len(part) for part in of]  # noqa: E731
    assert sizes(of_folder) == [12, 8, 8] and of_folder.test.classes == ("a", "b", "c")
    named = opened("train", open_at(whole), val="valid", test="test")
    assert sizes(named) == [12, 8, 8]
    for mine, other in zip(of_folder, named, strict=True):
        assert (mine.ids, mine.labels.tolist()) == (other.ids, other.labels.tolist())
    assert sizes(opened("train", open_at(whole), test="test", split=0.5))[2] == 8
    assert len(opened("train", open_at(whole), split=0.5).val) not in (0, 12)
    only = opened("train", open_at(whole), val="valid", only=["b", "a"])
    assert sizes(only) == [8, 8, None] and only.val.classes == ("b", "a")
    for arguments, reason in (
        ({"split": 0.8}, "split is 0.8, and there is nothing to hold out: validation data came with"),
        ({"val": "valid"}, "has a part 'val' of its own, and --val valid"),
    ):
        with pytest.raises(SettingError, match=reason):
            opened("", open_at(whole), **arguments)  # type: ignore[arg-type]
    for how in ({"split": 0.5}, {"split_by": "position"}):
        with pytest.raises(
            SettingError, match=f"{next(iter(how))} is .* validation data are valid; leave out --split"
        ):
            opened("train", open_at(whole), val="valid", **how)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"none of the classes .*: 'c'"):
        opened("valid", open_at(whole), test="test")
    for further in ({"val": "elsewhere"}, {"test": "elsewhere"}):  # not all of it, which is not what was asked for
        part = next(iter(further))
        tree(tmp_path / "elsewhere", train="abc", **{"test" if part == "val" else "val": "abc"})
        with pytest.raises(DataError, match=f"elsewhere has no part '{part}'; it came with train"):
            opened("train", open_at(whole), **further)  # type: ignore[arg-type]
        shutil.rmtree(tmp_path / "elsewhere")


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_fit_takes_the_parts_that_the_data_have(tmp_path: Path, backend: str) -> None:
    data = hs.data.folder(tree(tmp_path, train="abc", val="ab", test="ca"))
    model = hs.model("lenet", classes=data.classes, size=32)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "batch_size": 4, "epochs": 1}
    run = hs.fit(model, data, **settings)
    other = hs.fit(model, data.train, data.val, **settings)
    assert run.history[-1].loss == other.history[-1].loss
    assert run.history[-1].val_loss == other.history[-1].val_loss
    assert (run.data["train"], run.data["val"]) == (12, 8)
    features = hs.extract(model, data, backend=backend, device="cpu")
    saved = hs.load_features(features.save(tmp_path / "saved"))
    assert list(saved.parts) == ["train", "val", "test"]
    assert hs.fit(model, saved, **settings).history[-1].val_loss == other.history[-1].val_loss
    with pytest.raises(SettingError, match="train came in the parts train, val, test, and val is given as well"):
        hs.fit(model, data, data.test, **settings)
    assert len(hs.sweep(model, data, grid={"lr": [0.1]}, **settings).runs) == 1
    assert run.evaluate(data.test).samples == 8


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_the_command(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root = tree(tmp_path / "photos", train="abc", val="ab", test="ca")
    figures = tmp_path / "figures.json"
    done = headstart("fit", "--data", root, *QUICK, "--json", figures)
    assert done.code == 0 and "8 test samples: accuracy" in done.out and "% (95 %: " in done.out, done.err
    about = json.loads(figures.read_text())
    assert about["test"]["samples"] == 8 and (about["data"]["train"], about["data"]["val"]) == (12, 8)
    page = " | ".join(filter(str.strip, Parsed(figures.with_suffix(".html").read_text("utf-8")).texts))
    assert "score | validation | 95 % | test | 95 % | accuracy |" in page
    parts = ("--data", root / "train", "--val", root / "val", "--test", root / "test")
    done = headstart("fit", *parts, *QUICK, "--only", "a,b", "--json", figures)
    assert done.code == 0 and "test: 4 images in 2 classes: a 4, b 0" in done.err, done.err
    done = headstart("fit", *parts, *QUICK, "--json", figures)
    again = json.loads(figures.read_text())
    assert done.code == 0 and again["test"] == about["test"] and again["val_loss"] == about["val_loss"]
    done = headstart("fit", "--data", root, *QUICK, "--split", "0.7")
    assert done.code == 2 and done.err.count("\n") == 1 and "leave out --split" in done.err
    done = headstart("sweep", "--data", root, "--lr", "0.1,0.01", *QUICK)
    assert done.code == 0 and "8 test samples of the best" in done.out, done.err
    saved = tmp_path / "saved"
    words = ("--model", "lenet", "--weights", "none", "--size", "32", "--device", "cpu")
    assert headstart("extract", "--data", root, *words, "--save", saved, "--only", "c,a").code == 0
    assert hs.load_features(saved).train.classes == ("c", "a")
    done = headstart("fit", "--features", saved, *QUICK)
    assert done.code == 0 and "8 test samples" in done.out, done.err
    for words in (("--data", root), ("--task", "multi"), ("--on-error", "skip", "--weight-column", "w")):
        done = headstart("fit", "--features", saved, *QUICK, *words)
        flags = ", ".join(word for word in words if str(word).startswith("--"))
        assert done.code == 0 and "8 test samples" in done.out, done.err
        assert done.err.count(f"{flags} with --features {saved}: said of images, which are not read") == 1, (
            done.err
        )


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_table_in_the_command(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root = tree(tmp_path / "photos", train="abc", val="ab")
    rows = ["picture_file;kind;where"]
    for path in sorted(root.rglob("*.png")):
        rows.append(f"{path.relative_to(root)};{path.parent.name};{path.parents[1].name}")
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    figures, again = tmp_path / "figures.json", tmp_path / "again.json"
    assert headstart("fit", "--data", root, *QUICK, "--json", figures).code == 0
    columns = ("--image", "picture_file", "--label", "kind", "--split-column", "where", "--root", root)
    done = headstart("fit", "--data", table, *columns, *QUICK, "--json", again)
    assert done.code == 0, done.err
    mine, other = (json.loads(path.read_text()) for path in (figures, again))
    # the folder's samples come in another order than the table's, and are trained on in it
    assert (mine["data"]["train"], mine["data"]["val"], mine["data"]["classes"]) == (
        other["data"]["train"], other["data"]["val"], other["data"]["classes"]
    )  # fmt: skip
    done = headstart("fit", "--data", table, "--image", "picture_fil", "--label", "kind", *QUICK)
    assert done.code == 2 and done.err.count("\n") == 1 and "did you mean 'picture_file'" in done.err
    done = headstart("fit", "--data", table, *columns, "--task", "multi", *QUICK, "--json", again)
    assert done.code == 0 and json.loads(again.read_text())["score"] == "micro_f1", done.err
    words = ("--model", "lenet", "--weights", "none", "--size", "32", "--device", "cpu")
    done = headstart("extract", "--data", table, *columns, "--task", "multi", *words, "--save", tmp_path / "saved")
    assert done.code == 0 and hs.load_features(tmp_path / "saved").task == "multi", done.err


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("task", "labels", "further"),
    [
        ("multi", ["red;green", "red", "green", "red;green"], ["green", "red", "green", "red"]),  # never both
        ("regression", ["1.5", "2", "0.25", "4"], ["3", "1", "2", "3"]),  # whole by chance
    ],
)
def test_further_tables_are_of_the_task_of_the_first(
    tmp_path: Path, task: str, labels: list[str], further: list[str]
) -> None:
    tree(tmp_path, a="a", b="b")
    for name, cells in (("a", labels), ("b", further)):
        rows = [f"{name}/{name}/{i}.png,{cell}" for i, cell in enumerate(cells)]
        (tmp_path / f"{name}.csv").write_text("\n".join(["file,tags", *rows]))
    first, second = str(tmp_path / "a.csv"), str(tmp_path / "b.csv")
    named = model_and_data(data=first, val=second, test=second, model="lenet", weights="none", size=32)
    train, val = both(hs.data.table(first), second)
    for data in (named.val, named.test, val):
        assert (data.task, data.classes) == (task, train.classes) == (named.train.task, named.train.classes)
        expected = [[cell == name for name in train.classes] for cell in further]
        numbers = [[float(cell)] for cell in further] if task == "regression" else expected
        assert data.labels.tolist() == numbers


@pytest.mark.neutral
def test_a_part_without_an_image_is_refused(tmp_path: Path) -> None:
    root = tree(tmp_path, train="abc")
    for letter in "abc":
        (root / "val" / letter).mkdir(parents=True)
    with pytest.raises(
        DataError, match=r"has no usable image in its part 'val'; expected at least one in the class folders"
    ):
        hs.data.folder(root)  # else a share of train/ would be validated on, and nobody told


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_what_the_command_cannot_mean(tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root = tree(tmp_path / "photos", train="abc", val="ab")
    (tmp_path / "val.csv").write_text("picture;kind\n" + "".join(f"photos/val/a/{i}.png;a\n" for i in range(4)))
    columns = ("--image", "picture", "--label", "kind")
    for words, reason in (
        (("--data", root / "train", *columns), "image=, label=: of tables, and not of a folder of images"),
        (("--data", "digits", "--task", "multi"), "task=: of tables, and not of digits"),
        (("--data", root / "gone.csv"), "there is no table"),
        (("--data", tmp_path / "val.csv", *columns), "has the class 'a' only; expected at least 2 to tell apart"),
        (("--data", root, "--only", "a"), "has the class 'a' only"),
    ):
        for command in ("fit", "plan"):
            done = headstart(command, *words)
            assert (done.code, done.out, done.err.count("\n")) == (2, "", 1) and reason in done.err, done
    done = headstart(
        "fit", "--data", root / "train", "--val", tmp_path / "val.csv", *columns, *QUICK, "--out", tmp_path / "run"
    )
    assert done.code == 0 and "validation: val: 4 images in 3 classes: a 4, b 0, c 0" in done.err, done.err
    done = headstart("evaluate", "--run", tmp_path / "run", "--data", root / "val", "--task", "multi")
    assert (done.code, done.out) == (2, "") and "task=: of tables, and not of a folder of images" in done.err, done


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_command_that_is_stopped_while_it_scores_the_test_data(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was trained is saved, reported and told all the same; a report stands beside the run before that."""
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root, out = tree(tmp_path / "photos", train="abc", val="ab", test="ca"), tmp_path / "run"
    figures = tmp_path / "figures.json"
    command = ("fit", "--data", root, *QUICK, "--out", out, "--json", figures)
    assert headstart(*command).code == 0
    beside: list[bool] = []

    def stopped(*_: object, **__: object) -> None:
        beside.append((out / "report.html").is_file())
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "evaluate", stopped)
    figures.unlink()
    done = headstart(*command)
    assert done.code == 130 and f"saved to {out}, with report.html" in done.out.replace("\n", " "), done
    assert beside == [True] and "test" not in json.loads(figures.read_text())
    figures.unlink()
    done = headstart("sweep", "--data", root, "--lr", "0.1,0.01", *QUICK, "--json", figures)
    assert done.code == 130 and "0.01" in done.out and figures.is_file(), done


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.filterwarnings("default:.*of groups")
def test_test_samples_of_groups_that_were_trained_on_stand_in_the_report(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    root = tree(tmp_path / "photos", train="ab", val="ab", test="ab")
    rows = ["file,label,split,who"]
    for i, path in enumerate(sorted(root.rglob("*.png"))):
        part = path.parents[1].name
        who = "one" if part == "train" or (part == "test" and path.name == "0.png") else i
        rows.append(f"{path.relative_to(root)},{path.parent.name},{part},{who}")
    (table := tmp_path / "labels.csv").write_text("\n".join(rows))
    out, figures = tmp_path / "run", tmp_path / "figures.json"
    options = ("--data", table, "--root", root, "--group", "who", *QUICK)
    done = headstart("fit", *options, "--out", out, "--json", figures)
    assert done.code == 0 and "2 of 8 test samples are of groups that training or validation" in done.err
    assert json.loads(figures.read_text())["test"]["of_seen_groups"] == 2
    said = "2 test samples are of groups that were trained or validated on as well"
    assert said in " ".join(Parsed((out / "report.html").read_text("utf-8")).texts)
    assert headstart("sweep", *options, "--lr", "0.1", "--json", figures).code == 0
    assert json.loads(figures.read_text())["test"]["of_seen_groups"] == 2
    compared = headstart("compare", *options, "--modes", "cached", "--out", tmp_path / "compared")
    assert compared.code == 0 and said in " ".join((tmp_path / "compared/report.html").read_text("utf-8").split())
