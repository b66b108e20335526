"""Results lie apart from what they are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from PIL import Image

import headstart as hs
from headstart.cli.apart import check_apart
from headstart.common.errors import SettingError

pytestmark = pytest.mark.neutral


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text("file,label\n0.png,a\n1.png,b\n", "utf-8")
    Path("link.csv").symlink_to("labels.csv")
    for k in range(2):
        Image.fromarray(np.full((6, 5, 3), 20 * k, np.uint8)).save(f"{k}.png")
    Path("photos/cat").mkdir(parents=True)
    Path("run").mkdir()
    Path("run/run.json").write_text("{}", "utf-8")


@pytest.mark.parametrize(
    "words",
    [
        "predict labels.csv --csv labels.csv",
        "predict --csv=./labels.csv labels.csv",
        "predict --top 3 --csv link.csv labels.csv",
        "predict --json 0.png -- 1.png 0.png",
        "fit --data labels.csv --json link.csv",
        "evaluate --run run --data labels.csv --cached --json labels.csv",
        "fit --data photos --test labels.csv --json labels.csv",
        "report labels.csv --out labels.csv",
        "evaluate --run run --data labels.csv --json run/run.json",
    ],
)
def test_a_file_that_is_read_is_not_replaced(words: str) -> None:
    before = Path("labels.csv").read_bytes()
    with pytest.raises(SettingError, match=r"this file is read, and would be replaced; name another"):
        check_apart(words.split())
    code, _, err = headstart(*words.split())
    assert (code, err.count("\n")) == (2, 1) and "would be replaced" in err
    assert Path("labels.csv").read_bytes() == before


@pytest.mark.parametrize(
    "words",
    [
        "predict labels.csv --csv new.csv",
        "predict 0.png --json /dev/stdout",
        "fit --data labels.csv --json labels.json --csv",
        "fit --data photos --out run --json labels.csv",
        "fit --data photos --out photos",
        "fit --data photos --out photos2/run",
        "predict s3://bucket/x.png --json --csv=",
    ],
)
def test_other_files_are_written(words: str, caplog: Any) -> None:
    check_apart(words.split())
    assert not caplog.records


def test_a_folder_that_is_written_into_data_is_told(caplog: Any) -> None:
    check_apart(["fit", "--data", "photos", "--out", "photos/run", "--checkpoint=elsewhere"])
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("--out photos/run lies in --data photos: who reads these data again reads it with them")


def test_predictions_do_not_replace_the_table_of_the_pictures() -> None:
    model, before = hs.model("lenet", weights=None, classes=["a", "b"]), Path("labels.csv").read_bytes()
    with pytest.raises(SettingError, match=r"link.csv: this file is read, and would be replaced"):
        hs.write_predictions(model, "labels.csv", "link.csv", device="cpu")
    assert Path("labels.csv").read_bytes() == before
