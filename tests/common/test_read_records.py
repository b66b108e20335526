"""What is read of a comparison or a run may come from anywhere: typed errors, of one line, and never a wait."""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.mutations import mutations
from faults.saving import run_of

import headstart as hs
from headstart.common.errors import HeadstartError, SettingError, WeightsError
from headstart.common.machine import cache_root
from headstart.common.outputs import json_text
from headstart.common.places import data_root
from headstart.common.reading import DEPTH, parse_json, read_json
from headstart.models import pins
from headstart.training.comparison import read_comparison
from headstart.training.sample_texts import bits_text
from headstart.training.scores import scores_of
from headstart.training.scores.outcome import Outcome
from headstart.training.validation import Mistake, Validation

pytestmark = pytest.mark.neutral

COUNT = int(os.environ.get("HEADSTART_FUZZ_RECORDS", "60"))
SEED = int(os.environ.get("HEADSTART_FUZZ_SEED", "0"))


@pytest.fixture(autouse=True)
def _any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_BACKEND", raising=False)
    monkeypatch.setattr("headstart.contract.registry.installed", lambda: ("torch",))
    # the same in every page, and nearly all of the time that one takes
    monkeypatch.setattr("headstart.report.curves.script", lambda: "")
    monkeypatch.setattr("headstart.report.curves.curves", lambda *of: {})


def whole_run() -> Any:
    run = run_of(1)
    mistake = Mistake("0" * 32, 3, 0, 1, 0.75, 1.5)
    right = bits_text(np.array([True, True, False, True]))
    validation = Validation(4, ((0, 0, 2), (0, 1, 1), (1, 1, 1)), (mistake,), right=right, ids="0" * 32)
    scores = scores_of("single", np.eye(2)[[0, 0, 1, 1]], np.array([0, 0, 0, 1]), ["a", "b"])
    extraction = hs.features.feature_set.ExtractionStats(3, 1, 0.5, ("torch",))
    settings = {"seed": 0, "optimizer": {"all": {"name": "sgd", "lr": 0.1}}, "versions": {"torch": "2"}}
    return hs.Run(
        run.model, "full", None, "torch", run.history, run.history, extraction, 1.0, settings,
        {"name": "photos", "train": 3, "val": 4, "classes": ["a", "b"], "skipped": [["x.jpg", "broken"]]}, 100,
        validation,
        Outcome.known(scores),
        before={name: run.model.params[name] for name in ("conv1.weight",)},
    )  # fmt: skip


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    comparison = hs.comparison({"one": whole_run(), "two": whole_run()}, title="Two")
    comparison.rows[0].update(mode="cached", speedup_over_frozen=3.0, pays_off_after_epochs=2)
    comparison["pictures"]["0" * 32] = "data:image/png;base64,AAAA"
    comparison["errors"]["jax"] = {"type": "crash", "message": "its last words"}
    content: dict[str, Any] = json.loads(json_text(comparison))
    return content


def test_comparisons_that_were_edited(figures: dict[str, Any], tmp_path: Path) -> None:
    refused = 0
    path = tmp_path / "compare.json"
    for what, text in mutations(figures, COUNT, SEED):
        path.write_text(text)
        try:
            read_comparison(path).html()
        except SettingError as error:
            refused += 1
            assert "\n" not in str(error), what
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert COUNT // 20 < refused < COUNT


def test_runs_that_were_edited(tmp_path: Path) -> None:
    folder = whole_run().save(tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    del about["checksum"]
    refused = 0
    for what, text in mutations(about, COUNT, SEED):
        (folder / "run.json").write_text(text)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                run = hs.load(folder, backend="torch" if "backend" not in what else None)
                hs.comparison([run]).html()
        except HeadstartError as error:
            refused += 1
            assert "\n" not in str(error), what
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
    assert COUNT // 20 < refused < COUNT


def test_an_epoch_whose_score_has_no_name(tmp_path: Path) -> None:
    folder = whole_run().save(tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    del about["checksum"]
    about["history"][0]["score"] = {"inner": "accuracy"}
    (folder / "run.json").write_text(json.dumps(about))
    with pytest.raises(HeadstartError, match="score"):
        hs.load(folder, backend="torch")


@pytest.mark.parametrize("end", ["NaN", "Infinity", "1e999"])
def test_an_interval_without_an_end(end: str, figures: dict[str, Any], tmp_path: Path) -> None:
    """Then the page has none, in its tables and in what is drawn."""
    text = json.dumps(figures)
    known = json.dumps(figures["rows"][0]["scores"]["intervals"]["accuracy"][1])
    path = tmp_path / "compare.json"
    path.write_text(text.replace(f"{known}]", f"{end}]"))
    assert end in path.read_text()
    html = read_comparison(path).html().lower()
    assert not any(f"to {word}" in html for word in ("nan", "inf"))


def test_classes_of_a_saved_run(tmp_path: Path) -> None:
    """Of an earlier version they are composed now; two that are one name are refused."""
    folder = whole_run().save(tmp_path / "run")
    about = json.loads((folder / "run.json").read_text())
    del about["checksum"]
    names = about["model"]["classes"]
    cases = [
        (["cafe\u0301", *names[1:]], None),
        ([names[1], *names[1:]], "twice"),
        (["caf\u00e9", "cafe\u0301", *names[2:]], "two spellings"),
        (["", *names[1:]], "holds ''"),
    ]
    for changed, said in cases:
        about["model"]["classes"] = changed
        (folder / "run.json").write_text(json.dumps(about))
        if said is None:
            assert hs.load(folder).model.classes[0] == "caf\u00e9"
        else:
            with pytest.raises(WeightsError, match=said):
                hs.load(folder)


READERS: dict[str, tuple[str, Callable[[Path], Any], type[HeadstartError]]] = {
    "comparison": ("compare.json", lambda folder: read_comparison(folder / "compare.json"), SettingError),
    "run": ("run.json", hs.load, WeightsError),
    "pins": ("pins.json", lambda folder: pins.read_pins(folder / "pins.json"), WeightsError),
    "weights": (
        "w.safetensors",
        lambda folder: hs.model("lenet", weights=folder / "w.safetensors"),
        WeightsError,
    ),
    "features": ("features.json", hs.load_features, HeadstartError),
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def folder(path: Path) -> None:
    path.mkdir()


def deep(path: Path) -> None:
    path.write_text("[" * 100_000)


def huge(path: Path) -> None:
    """A terabyte, of which nothing is on the disk."""
    with path.open("wb") as file:
        file.truncate(1 << 40)


def binary(path: Path) -> None:
    path.write_bytes(b"\xff\xfe\x00\x00")


def header(path: Path) -> None:
    """A header of safetensors of an exabyte."""
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{" * 100)


@pytest.mark.parametrize("make", [pipe, zeros, folder, deep, huge, binary, header])
@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_such_file(tmp_path: Path, reader: str, make: Callable[[Path], None]) -> None:
    name, read, error = READERS[reader]
    make(tmp_path / name)
    start = time.process_time()
    with pytest.raises(error) as caught:
        read(tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 5


def test_what_json_may_hold(tmp_path: Path) -> None:
    for text, said in (
        ('{"a": 1, "a": 2}', "stands twice"),
        ("9" * 5000, "too large"),
        (str(2**64), "too large"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested deeper"),
        ("[" * 99_999 + "]" * 99_999, "nested deeper"),
        (b"\xff", "utf-8"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_json(text)
    assert parse_json("\ufeff[1]".encode()) == [1], "a mark of Windows' editors"
    (tmp_path / "a.json").write_text("{}")
    assert read_json(tmp_path / "a.json", 2, "anything") == {}
    with pytest.raises(SettingError, match="more than 1 B"):
        read_json(tmp_path / "a.json", 1, "anything")


def test_no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`~nobody` is nobody's, and without HOME and an entry in the table of users there is no `~`."""

    def no_home(path: Path) -> Path:
        if path.parts[0].startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)
    for call in (
        lambda: hs.load("~nobody/run"),
        lambda: hs.load_features("~nobody/saved"),
        lambda: hs.model("lenet", weights="~nobody/w.safetensors"),
        lambda: run_of(1).save("~nobody/run"),
        lambda: read_comparison("~nobody/compare.json"),
    ):
        with pytest.raises(HeadstartError, match="home folder"):
            call()


@pytest.mark.parametrize("path", ["", None, 3])
def test_what_is_no_path(path: Any) -> None:
    """An empty one, of a variable that is not set, is not the folder one is in."""
    for call in (hs.load, hs.load_features, hs.weights_file, run_of(1).save, read_comparison):
        with pytest.raises(HeadstartError, match="expected that of a file or folder"):
            call(path)


def test_no_home_for_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def nowhere(*_: object, **__: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr("platformdirs.user_cache_path", nowhere)
    for name in ("HEADSTART_CACHE", "HEADSTART_DATA"):
        monkeypatch.delenv(name, raising=False)
    for root in (cache_root, data_root):
        with pytest.raises(SettingError, match="HEADSTART_CACHE"):
            root()
