"""A fit, and what follows it, on pictures in a bucket."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.common.errors import DataWarning
from headstart.common.objects import Objects, open_objects

pytestmark = pytest.mark.of("torch")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for k, name in enumerate(("dark", "light")):
        (tmp_path / "here" / name).mkdir(parents=True)
        for i in range(16):
            pixels = np.random.default_rng([k, i]).integers(100 * k, 100 * k + 120, (40, 36, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / "here" / name / f"{i}.png")
    return tmp_path / "here"


def test_a_fit_from_a_url_is_that_of_the_folder(
    bucket: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{bucket}/fit/here"
    for path in root.rglob("*.png"):
        open_objects(url).put(path.relative_to(root).as_posix(), path.read_bytes())
    reads: list[str] = []
    fetch = Objects.fetch
    monkeypatch.setattr(Objects, "fetch", lambda *asked: (reads.append(asked[1]), fetch(*asked))[1])
    fitted = headstart("fit", "--data", url, "--model", "lenet", "--epochs", "3", "--out", tmp_path / "run")
    assert fitted.code == 0, fitted.err
    assert f"{url}: 32 images in 2 classes: dark 16, light 16" in fitted.err
    assert len(set(reads)) == 32 and len(reads) <= 2 * 32
    saved = json.loads((tmp_path / "run" / "run.json").read_text())
    assert saved["data"]["name"] == url and saved["extraction"]["extracted"] == 32
    assert url in (tmp_path / "run" / "report.html").read_text()
    for file in [*tmp_path.rglob("*.json"), *tmp_path.rglob("*.html"), *tmp_path.rglob("*.sqlite3")]:
        assert b"test-secret-value" not in file.read_bytes()

    reads.clear()
    run = hs.load(tmp_path / "run")
    assert (
        headstart("fit", "--data", root, "--model", "lenet", "--epochs", 3, "--out", tmp_path / "local").code == 0
    )
    local = hs.load(tmp_path / "local")
    for name, array in local.model.params.items():
        assert np.array_equal(array, run.model.params[name]), name
    again = headstart("fit", "--data", url, "--model", "lenet", "--epochs", "21", "--out", tmp_path / "again")
    assert (again.out + again.err).count("kept epoch") == 1, "what the table says, the log does not"
    assert again.code == 0 and "0 extracted, 32 reused" in again.out
    report_of_run = len(reads)  # pictures for its report
    assert report_of_run <= 12

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # on what it was trained on, figures are too good
        evaluated = headstart("evaluate", "--run", tmp_path / "run", "--data", url)
    assert evaluated.code == 0, evaluated.err
    table = tmp_path / "said.csv"
    predicted = headstart("predict", "--run", tmp_path / "run", "--csv", table, url)
    assert predicted.code == 0, predicted.err
    rows = table.read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [f"{url}/{path}" for path in in_order(root)]
    assert np.array_equal(hs.predict(run.model, f"{url}/dark/0.png"), hs.predict(run.model, root / "dark/0.png"))
    assert np.array_equal(hs.predict(run.model, url), hs.predict(run.model, str(root)))


def in_order(root: Path) -> list[str]:
    return [path.relative_to(root).as_posix() for path in sorted(root.rglob("*.png"), key=str)]


def test_modes_that_read_pictures_in_every_epoch(bucket: str, root: Path) -> None:
    url = f"{bucket}/frozen/here"
    for path in root.rglob("*.png"):
        open_objects(url).put(path.relative_to(root).as_posix(), path.read_bytes())
    histories = []
    for data in (hs.data.folder(url), hs.data.folder(root)):
        run = hs.fit(hs.model("lenet", classes=data.classes), data, mode="frozen", epochs=2, augment="flip")
        histories.append([record.loss for record in run.history])
    assert histories[0] == histories[1]
