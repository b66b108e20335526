"""The command on tables of several labels, and of numbers, an image: its options reach the training, and what was
trained is evaluated by its own scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs

LABELS, TARGETS = ("bright", "red", "striped"), ("year", "metres")
TRAINED, TESTED = 24, 8


def tables(folder: Path, names: tuple[str, ...]) -> list[Path]:
    """One to train on and one of other images, each row an image and its labels, 0 or 1, or its targets."""
    rng = np.random.default_rng(0)
    paths = []
    for part, count in (("train", TRAINED), ("test", TESTED)):
        labels = rng.random((count, len(names)))
        rows = (labels < 0.4).astype(int) if names == LABELS else 1900 + 100 * labels
        lines = [",".join(("file", *names))]
        for i, row in enumerate(rows.tolist()):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(folder / f"{part}{i}.png")
            lines.append(",".join((f"{part}{i}.png", *map(str, row))))
        paths.append(folder / f"{part}.csv")
        paths[-1].write_text("\n".join(lines))
    return paths


@pytest.mark.of("torch")  # core decides it for every backend in the same way
@pytest.mark.parametrize(
    ("names", "options", "recorded", "shown", "of_another_task"),
    [
        (
            LABELS,
            ["--pos-weight", "red=3,striped=2", "--threshold", "best"],
            {"pos_weight": {"red": 3.0, "striped": 2.0}, "threshold": "best"},
            "F1, micro",
            ["--huber", 1],
        ),
        (TARGETS, ["--huber", 0.5], {"huber": 0.5}, "mean absolute error", ["--pos-weight", "balanced"]),
    ],
    ids=["multi", "regression"],
)
def test_a_table_is_learnt_by_its_task(
    names: tuple[str, ...],
    options: list[Any],
    recorded: dict[str, Any],
    shown: str,
    of_another_task: list[Any],
    tmp_path: Path,
    backend: str,
) -> None:
    train, test = tables(tmp_path, names)
    columns = ["--image", "file", "--label", ",".join(names)]
    place = ["--backend", backend, "--device", "cpu"]
    fit = ["fit", "--data", train, *columns, "--model", "lenet", "--epochs", 1, "--batch-size", 8, *place]
    trained = headstart(*fit, *options, "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    run = hs.load(tmp_path / "run")
    assert {name: run.settings[name] for name in recorded} == recorded
    assert run.model.classes == names
    evaluated = headstart("evaluate", "--run", tmp_path / "run", "--data", test, *columns, *place)
    assert shown in evaluated.out, evaluated.err
    result = hs.evaluate(
        run, hs.data.table(test, image="file", label=list(names), task=run.model.task), device="cpu"
    )
    table, misses = result.as_tables()[-1], result.validation.misses
    assert table.columns[0] == "worst samples" and len(misses) == min(len(table.rows), TESTED) > 1
    errors = [miss.error for miss in misses]
    assert errors == sorted(errors, reverse=True)
    for (name, expected, predicted, error), miss in zip(table.rows, misses, strict=True):
        assert Path(name).name == f"test{miss.index}.png"
        assert f"/test{miss.index}.p" in evaluated.out, "the rest may stand on the next line"
        assert (expected, predicted, error) == (miss.label, miss.predicted, f"{miss.error:.4g}")
        assert error in evaluated.out and expected[:20] in evaluated.out
    refused = headstart(*fit, *of_another_task)
    assert refused.code == 2
    assert "goes with the task" in refused.err.splitlines()[-1]
