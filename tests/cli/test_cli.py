"""The command line: what it prints, what it writes as JSON, and how it ends.

Commands that need a framework run in this process, where it is loaded once; whatever concerns the process
itself (exit codes, standard error, interrupts) runs in one of its own.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import headstart as hs
from headstart.cli import main as cli
from headstart.common.errors import UnknownNameError
from headstart.models import ARCHITECTURES
from headstart.store import FeatureStore
from headstart.training import saving

COMMANDS = (
    *("demo", "doctor", "advise", "compare", "fit", "extract", "evaluate", "predict", "models"),
    *("cache ls", "cache info", "cache verify", "cache gc"),
    *(f"weights {name}" for name in ("ls", "fetch", "update", "import", "rm", "pin")),
)
MODES = "scratch, full, frozen, cached, staged"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Cli = Callable[..., Result]


def shell(*arguments: object, cwd: Path | None = None, **environment: str) -> Result:
    """`python -m headstart` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "headstart", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=120,
    )
    return Result(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Cli:
    """The console script's function, in this process."""

    def call(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["headstart", *map(str, arguments)])
        capsys.readouterr()
        try:
            cli.main()
            code: Any = 0
        except SystemExit as leave:
            code = leave.code
        out, err = capsys.readouterr()
        return Result(code or 0, out, err)

    return call


def make_images(root: Path) -> Path:
    """16 images in 2 classes: dark and light."""
    rng = np.random.default_rng(0)
    for name, level in (("dark", 0), ("light", 150)):
        (root / name).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(level, level + 100, (24, 30, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_images(tmp_path / "photos")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, backend: str) -> tuple[Path, Path]:
    """Images, and a run that was trained on them."""
    root = tmp_path_factory.mktemp("saved")
    data = hs.data.folder(make_images(root / "photos"))
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=data.classes, size=32)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": root / "cache", "batch_size": 8}
    run = hs.fit(model, data, None, epochs=8, **settings)
    return root / "photos", run.save(root / "run")


def load(path: Path) -> Any:
    return json.loads(path.read_text())


def shards() -> set[Path]:
    return set(FeatureStore().path.glob("*/*.safetensors"))


# --- help


@pytest.mark.neutral
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_shows_examples(here: Cli, command: str) -> None:
    result = here(*command.split(), "--help")
    assert result.code == 0
    assert "Usage: headstart" in result.out
    if command:
        assert "Examples:" in result.out
        examples = result.out.partition("Examples:\n\n")[2].rstrip().splitlines()
        assert f"headstart {command}" in examples[0]
        for before, line in pairwise(examples):  # a line that the terminal broke could not be copied
            assert line.startswith("    --" if before.endswith(" \\") else "  "), line
    assert result.err == ""


@pytest.mark.neutral
def test_help_lists_every_command(here: Cli) -> None:
    out = here("--help").out + here("cache", "--help").out + here("weights", "--help").out
    assert all(command.split()[-1] in out for command in COMMANDS)
    assert "Examples:" in out


def test_help_imports_no_framework_and_is_quick(tmp_path: Path) -> None:
    """Measured by what is imported, not by a clock."""
    code = (
        "import sys; sys.argv = ['headstart', 'fit', '--help']\nfrom headstart.cli.main import main\ntry: main()\n"
    )
    code += "except SystemExit: pass\n"
    code += "print(sorted({'torch', 'tensorflow', 'keras', 'jax', 'sklearn'} & {*sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == "[]"


@pytest.mark.neutral
def test_version_and_no_arguments() -> None:
    assert shell("--version").out == f"headstart {hs.__version__}\n"
    result = shell()
    assert result.code == 2
    assert "Usage: headstart" in result.out + result.err


# --- mistakes

MISTAKES = {
    "mode": (["fit", "--mode", "cashed"], ["mode 'cashed'", MODES]),
    "data": (["fit", "--data", "flours"], ["data set 'flours'", "digits, cifar10, flowers"]),
    "folder": (["extract", "--data", "no/such"], ["no/such", "does not exist"]),
    "model": (["extract", "--model", "resnet9"], ["model 'resnet9'", "resnet18_half", "lenet"]),
    "models": (["models", "resnet9"], ["model 'resnet9'", "lenet"]),
    "backend": (["fit", "--backend", "tf"], ["backend 'tf'", "torch, keras, jax"]),
    "weights": (["extract", "--weights", "w.safetensors"], ["w.safetensors", "no such weight file"]),
    "cut": (["fit", "--cut", "layer9"], ["'layer9'", "layer4"]),
    "head": (["fit", "--head", "a,b"], ["head 'a,b'", "linear"]),
    "head-zero": (["fit", "--head", "0"], ["(0,)"]),
    "size": (["fit", "--size", "-3"], ["size is -3"]),
    "split": (["fit", "--split", "1.5"], ["1.5", "between 0 and 1"]),
    "run": (["predict", "--run", "nowhere", "x.jpg"], ["nowhere", "no run is saved there"]),
    "run-and-model": (["predict", "--run", "a", "--model", "b", "x.jpg"], ["--run FOLDER", "--model NAME"]),
    "neither": (["predict", "x.jpg"], ["x.jpg: there is no such file or folder"]),
    "no-weights": (["predict", "--model", "lenet", "x.jpg"], ["lenet has no weights"]),
    "on-error": (["extract", "--data", "{photos}", "--on-error", "ignore"], ["'ignore'", "raise, skip"]),
    "info": (["cache", "info", "ffff"], ["'ffff'"]),
    "verify": (["cache", "verify", "ffff"], ["'ffff'"]),
    "gc": (["cache", "gc", "--max-size", "huge"], ["'huge' is no size", "500MB"]),
    "compare-mode": (["compare", "--modes", "cached,cashed"], ["mode 'cashed'", MODES]),
    "compare-no-mode": (["compare", "--modes", ","], ["mode", MODES]),
    "compare-optimizer": (["compare", "--optimizer", "adam"], ["optimizer 'adam'", "sgd, adamw"]),
    "compare-schedule": (["compare", "--schedule", "step"], ["schedule 'step'", "constant, cosine"]),
    "compare-backend": (["compare", "--backends", "tf"], ["backend 'tf'", "torch, keras, jax"]),
}  # fmt: skip


@pytest.mark.slow("keras", "jax")  # the command is the same for all
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(
    here: Cli, photos: Path, tmp_path: Path, backend: str, monkeypatch: Any, mistake: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    before = sorted(tmp_path.iterdir())
    arguments, texts = MISTAKES[mistake]
    result = here(*(argument.format(photos=photos) for argument in arguments))
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    for text in texts:
        assert text in line
    assert sorted(tmp_path.iterdir()) == before, "nothing is written before a mistake is noticed"


@pytest.mark.neutral
def test_a_mistake_is_one_line_of_the_process(tmp_path: Path, backend: str) -> None:
    """And nothing is said besides, whatever Python does as it ends."""
    arguments, texts = MISTAKES["mode"]
    result = shell(*arguments, cwd=tmp_path, HEADSTART_BACKEND=backend)
    assert result.code == 2
    assert result.out == ""
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    assert all(text in line for text in texts)


@pytest.mark.neutral
def test_a_traceback_comes_when_asked_for(here: Cli, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever --debug stands. The process shows it, which is Python's part."""
    result = shell("--debug", "fit", "--mode", "x", HEADSTART_BACKEND=backend)
    assert result.code != 0
    assert "Traceback" in result.err
    assert "UnknownNameError" in result.err
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    with pytest.raises(UnknownNameError):
        here("fit", "--mode", "x", "--debug")


@pytest.mark.neutral
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["fit", "--epoch-count", "3"], "--epoch-count"),
        (["fit", "--epochs", "many"], "--epochs"),
        (["trian"], "trian"),
        (["cache", "delete"], "delete"),
        (["cache", "gc"], "--max-size"),
        (["predict"], "images"),
        (["predict", "--model", "lenet", "--top", "0", "x.jpg"], "--top"),
    ],
)
def test_options_that_do_not_exist(here: Cli, arguments: list[str], text: str) -> None:
    result = here(*arguments)
    assert result.code == 2
    assert text.lower() in result.err.lower()
    assert "Traceback" not in result.err


@pytest.mark.neutral
def test_unknown_option_of_the_process() -> None:
    result = shell("fit", "--nope")
    assert (result.code, result.out) == (2, "")
    assert "--nope" in result.err


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_mistake_that_training_finds_is_one_line(here: Cli, photos: Path, backend: str) -> None:
    for option, value, text in (
        ("--epochs", 0, "epochs=0"),
        ("--batch-size", 0, "batch_size=0"),
        ("--device", "gpu", "device 'gpu'"),
        ("--precision", "half", "precision 'half'"),
        ("--precision", "fp32", "did you mean 'float32'?"),
        ("--dtype", "float8", "dtype='float8'"),
        ("--augment", "flip", "augment= with mode 'cached'"),
    ):
        result = here("fit", "--data", photos, "--size", 32, "--backend", backend, option, value)
        assert (result.code, result.out) == (2, ""), result.err
        assert text in result.err
        assert len(result.err.splitlines()) == 1
        assert result.err.startswith("error: ")
    assert not shards()


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_broken_image_is_named(here: Cli, photos: Path, backend: str) -> None:
    bad = photos / "dark/3.png"
    bad.write_bytes(bad.read_bytes()[:100])
    arguments = ["extract", "--data", photos, "--size", 32, "--backend", backend, "--device", "cpu"]
    result = here(*arguments)
    assert result.code == 2
    assert result.err.splitlines()[-1].startswith(f"error: {bad}: ")
    skipped = here(*arguments, "--on-error", "skip", "--json", photos.parent / "figures.json")
    assert skipped.code == 0
    assert f"skipped {bad}: " in skipped.err
    figures = load(photos.parent / "figures.json")
    assert figures["extracted"] + figures["reused"] == 15


# --- commands and their figures


@pytest.mark.slow("keras", "jax")  # the command is the same for all
def test_fit_in_a_process_of_its_own(photos: Path, tmp_path: Path, backend: str) -> None:
    result = shell(
        "fit", "--data", photos, "--model", "resnet18_half", "--size", 32, "--epochs", 3, "--batch-size", 4,
        "--backend", backend, "--device", "cpu", "--out", tmp_path / "run", "--json", tmp_path / "fit.json",
        "--dtype", "float32", "--split", 0.75, "--split-by", "position", "--lr", 0.02, "--schedule", "constant",
        "--warmup", 0,
    )  # fmt: skip
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["model", "photos", "epoch 1", "epoch 2", "epoch 3"]
    assert lines[1] == "photos: 16 images in 2 classes: dark 8, light 8; 12 to train on, 4 to validate"
    assert "features: 16 extracted, 0 reused" in result.out
    assert f"saved to {tmp_path / 'run'}" in result.out.replace("\n", "")
    assert "4 validation samples are few: each is 25.0 points." in " ".join(result.out.split())
    figures = load(tmp_path / "fit.json")
    assert (figures["backend"], figures["mode"], figures["cut"]) == (backend, "cached", "avgpool")
    assert len(figures["history"]) == 3
    assert figures["val_accuracy"] == figures["history"][figures["best_epoch"] - 1]["val_accuracy"]
    assert (figures["extracted"], figures["reused"], figures["features_made_by"]) == (16, 0, [backend])
    assert figures["data"] == {
        "name": "photos", "train": 12, "val": 4, "classes": ["dark", "light"], "skipped": [],
        "task": "single", "named_classes": True,
        "split": [{"by": "position", "fraction": 0.75, "seed": 0, "side": "first"}],
    }  # fmt: skip
    assert figures["settings"]["optimizer"]["head"]["lr"] == 0.02
    assert figures["model"]["preprocess"]["size"] == 32
    assert figures["versions"]
    assert figures["machine"]["cores"] >= 1
    assert figures["history"][0]["learning_rate"] == pytest.approx(0.02)
    run = hs.load(tmp_path / "run", backend=backend)
    assert run.history.as_list() == figures["history"]
    assert run.best_epoch == figures["best_epoch"]
    assert run.model.classes == ("dark", "light")


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_fit_with_images(here: Cli, photos: Path, tmp_path: Path, backend: str) -> None:
    result = here(
        "fit", "--data", photos, "--model", "lenet", "--mode", "full", "--epochs", 1, "--batch-size", 4,
        "--augment", "flip,crop", "--schedule", "cosine", "--head", "8,4", "--backend", backend, "--device", "cpu",
        "--json", tmp_path / "fit.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "note: lenet has no weights in this package" in result.err
    assert "s/epoch: seconds of an epoch" in result.out, "its table is explained"
    figures = load(tmp_path / "fit.json")
    assert (figures["mode"], figures["cut"], figures["extraction_seconds"]) == ("full", None, 0.0)
    assert figures["model"]["head"] == [8, 4]
    assert figures["settings"]["augment"]["flip"] is True
    assert figures["settings"]["schedule"]["kind"] == "cosine"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_extract(here: Cli, photos: Path, tmp_path: Path, backend: str) -> None:
    arguments: list[object] = ["extract", "--data", photos, "--model", "resnet18_half", "--size", 32]
    arguments += [
        "--cuts",
        "layer4.0,avgpool",
        "--backend",
        backend,
        "--device",
        "cpu",
        "--json",
        tmp_path / "extract.json",
    ]
    first = here(*arguments)
    assert first.code == 0, first.err
    assert "features: 16 extracted, 0 reused" in first.out
    figures = load(tmp_path / "extract.json")
    assert (figures["data"], figures["model"]) == ("photos", "resnet18_half")
    assert [(row["cut"], row["shape"]) for row in figures["cuts"]] == [
        ("layer4.0", [1, 1, 256]),
        ("avgpool", [256]),
    ]
    assert {row["key"] for row in figures["cuts"]} == {info.key for info in FeatureStore().infos()}
    assert (figures["extracted"], figures["reused"], figures["made_by"]) == (16, 0, [backend])
    second = here(*arguments)
    assert f"features: 0 extracted, 16 reused from the cache, made by {backend}" in second.out
    figures = load(tmp_path / "extract.json")
    assert (figures["extracted"], figures["reused"]) == (0, 16)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_predict_with_a_saved_run(here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str) -> None:
    photos, run = saved
    result = here(
        "predict", "--run", run, photos, "--top", 2, "--json", tmp_path / "p.json", "--backend", backend,
        "--device", "cpu",
    )  # fmt: skip
    assert result.code == 0, result.err
    figures = load(tmp_path / "p.json")
    data = hs.data.folder(photos)
    files = sorted(photos.rglob("*.png"))
    assert [row["image"] for row in figures] == [str(file) for file in files]
    expected = hs.load(run, backend=backend).probabilities(data)
    for row, probabilities in zip(figures, expected, strict=True):
        assert dict(map(tuple, row["classes"])) == pytest.approx(
            dict(zip(("dark", "light"), probabilities, strict=True)), abs=1e-5
        )
        assert row["classes"][0][1] >= row["classes"][1][1]
    right = [row["classes"][0][0] == Path(row["image"]).parent.name for row in figures]
    assert np.mean(right) > 0.9
    refused = here("predict", "--run", run, files[0], "--backend", backend, "--json", tmp_path)
    assert (refused.code, refused.out) == (2, "") and "cannot be written" in refused.err, "before it computes"
    full = Path("/dev/full")  # what can be opened and not be written to shows itself in the end
    single = here(
        "predict", "--run", run, files[0], "--backend", backend, *(["--json", full] if full.exists() else [])
    )
    assert not full.exists() or (single.code == 2 and f"{full}: cannot be written" in single.err)
    assert figures[0]["classes"][0][0] in single.out
    assert "light" not in single.out


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_predict_with_a_model_as_it_is(
    here: Cli, photos: Path, tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEADSTART_BACKEND", backend)
    figures = tmp_path / "p.json"
    result = here("predict", "--model", "resnet18_half", "--top", 3, photos / "dark/0.png", "--json", figures)
    assert (result.code, result.err) == (0, "")
    (row,) = load(figures)
    assert len(row["classes"]) == 3
    known = hs.model("resnet18_half", weights="tinyimagenet").classes
    assert len(known) == 200
    assert {name for name, _ in row["classes"]} <= set(known)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_predict_what_is_no_image(here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str) -> None:
    (tmp_path / "empty").mkdir()
    for path, text in ((tmp_path / "empty", "no image files in"), (tmp_path / "missing.jpg", "missing.jpg")):
        result = here("predict", "--run", saved[1], path, "--backend", backend)
        assert result.code == 2
        assert len(result.err.splitlines()) == 1
        assert text in result.err


@pytest.mark.neutral
def test_models(here: Cli, tmp_path: Path) -> None:
    result = here("models", "--json", tmp_path / "models.json")
    assert result.code == 0
    rows = {row["model"]: row for row in load(tmp_path / "models.json")}
    assert rows.keys() == ARCHITECTURES.keys()
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["resnet18"]["multiply_adds"] == pytest.approx(1.814e9, rel=1e-3)
    assert rows["resnet18_half"]["weights"] == ["tinyimagenet"]
    assert "25,557,032" in result.out
    result = here("models", "resnet50", "--json", tmp_path / "cuts.json")
    cuts = {row["cut"]: row for row in load(tmp_path / "cuts.json")}
    assert rows["googlenet"]["multiply_adds"] == pytest.approx(1.498e9, rel=1e-3), "without auxiliary classifiers"
    assert cuts["layer4.2"]["shape"] == [7, 7, 2048]
    assert cuts["layer4.2"]["bytes_per_sample_float16"] == 2 * 7 * 7 * 2048
    assert "layer4.2.conv1" not in cuts
    shares = [row["flops_share_before"] for row in cuts.values()]
    assert shares == sorted(shares)
    assert 0.999 < shares[-1] < 1  # the classifier is all that is left
    assert "layer4.2" in result.out
    assert [row["shape"] for row in load(tmp_path / "cuts.json") if row["cut"] == "layer1.0"] == [[56, 56, 256]]
    here("models", "resnet50", "--size", 64, "--json", tmp_path / "cuts.json")
    assert [row["shape"] for row in load(tmp_path / "cuts.json") if row["cut"] == "layer1.0"] == [[16, 16, 256]]


@pytest.mark.neutral
def test_a_report_that_cannot_be_written(here: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = here("models", "--json", tmp_path / "file" / "models.json")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "cannot be written" in result.err


@pytest.mark.slow("keras", "jax")  # core writes
def test_a_run_that_cannot_be_saved_leaves_what_was_there(
    here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run of before with its report, which is of no other run."""
    photos, out = saved[0], tmp_path / "run"
    settings = ["--backend", backend, "--model", "lenet", "--epochs", 1, "--mode", "full", "--out", out]
    assert here("fit", "--data", photos, *settings).code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert "report.html" in before

    def full(path: Path, chunks: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(saving, "replace_whole", full)
    result = here("fit", "--data", photos, *settings, "--seed", 7)
    assert result.code == 2 and "No space left" in result.err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.slow("keras", "jax")  # core writes
def test_a_run_that_its_disk_has_no_room_for_is_kept_elsewhere(
    here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, out = saved[0], tmp_path / "run"
    settings = ["--backend", backend, "--model", "lenet", "--epochs", 1, "--out", out]
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    written = saving.replace_whole

    def full(path: Path, chunks: Any) -> None:
        if path.is_relative_to(out):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(path, chunks)

    monkeypatch.setattr(saving, "replace_whole", full)
    for command, more in (("fit", []), ("sweep", ["--lr", "0.01,0.1"])):
        result = here(command, "--data", photos, *settings, *more)
        [kept] = (tmp_path / "temporary").glob("headstart-*")
        assert result.code == 2 and f"it is kept in {kept} instead" in result.err.replace("\n", "")
        assert hs.load(kept, backend).model.name == "lenet"
        shutil.rmtree(kept)


def test_too_little_room_is_told_before_the_training(
    here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=1000)
    monkeypatch.setattr("headstart.common.outputs.shutil.disk_usage", lambda path: usage)
    settings = ["--backend", backend, "--model", "lenet", "--epochs", 1, "--out", tmp_path / "run"]
    result = here("fit", "--data", saved[0], *settings)
    assert result.code == 2 and "and 1000 B are free" in result.err
    assert not (tmp_path / "run").exists() and not result.out


def test_a_run_is_saved_whatever_becomes_of_its_report(
    here: Cli, saved: tuple[Path, Path], tmp_path: Path, backend: str
) -> None:
    (tmp_path / "run" / "report.html").mkdir(parents=True)
    settings = ["--backend", backend, "--model", "lenet", "--epochs", 1, "--out", tmp_path / "run"]
    result = here("fit", "--data", saved[0], *settings)
    assert result.code == 2 and "report.html" in result.err and "saved to" in result.out


# --- the cache


@pytest.fixture
def stored(photos: Path, backend: str) -> list[Any]:
    """Two trunks of 16 rows; the second was used last."""
    data = hs.data.folder(photos)
    found = []
    for i, cut in enumerate(("relu3", "relu4")):
        features = hs.extract(
            hs.model("lenet", classes=2), data, cut, backend=backend, device="cpu", dtype="float32"
        )
        found.append(features)
        folder = FeatureStore().path / features.key().digest
        for path in folder.rglob("*"):
            os.utime(path, (time.time() - 1000 + 100 * i,) * 2)
    return found


@pytest.mark.neutral
def test_an_empty_cache(here: Cli, tmp_path: Path) -> None:
    for command in ("ls", "verify"):
        assert here("cache", command, "--json", tmp_path / "out.json").code == 0
    assert load(tmp_path / "out.json") == {
        "shards": 0,
        "rows": 0,
        "damaged": [],
        "set_aside": [],
        "shared": [],
        "unreadable": [],
        "not_moved": [],
    }
    result = here("cache", "gc", "--max-size", "0", "--yes")
    assert result.code == 0
    assert not FeatureStore().root.exists(), "looking creates nothing"


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_cache_ls_and_info(here: Cli, stored: list[Any], tmp_path: Path, backend: str) -> None:
    result = here("cache", "ls", "--json", tmp_path / "ls.json")
    assert result.code == 0
    rows = {row["cut"]: row for row in load(tmp_path / "ls.json")}
    assert rows.keys() == {"relu3", "relu4"}
    assert [rows[cut]["key"] for cut in ("relu3", "relu4")] == [features.key().digest for features in stored]
    row = rows["relu4"]
    assert (row["model"], row["weights"], row["rows"], row["shards"], row["made_by"]) == (
        "lenet", "random", 16, 1, backend
    )  # fmt: skip
    files = [path for path in Path(row["path"]).iterdir() if path.is_file()]
    assert row["bytes"] == sum(path.stat().st_size for path in files)
    assert row["key"][:12] in result.out
    info = here("cache", "info", row["key"][:10], "--json", tmp_path / "info.json")
    assert info.code == 0
    facts = load(tmp_path / "info.json")
    assert facts["key"] == stored[1].key().digest
    assert facts["spec"] == stored[1].key().spec
    assert facts["spec"]["preprocess"]["size"] == 32
    assert row["key"] in info.out


@pytest.mark.neutral
def test_cache_verify_and_repair(here: Cli, stored: list[Any], tmp_path: Path) -> None:
    sound = here("cache", "verify", "--json", tmp_path / "v.json")
    assert sound.code == 0
    assert "32 rows in 2 shards verified, 0 damaged" in sound.out
    assert load(tmp_path / "v.json") == {
        "shards": 2,
        "rows": 32,
        "damaged": [],
        "set_aside": [],
        "shared": [],
        "unreadable": [],
        "not_moved": [],
    }
    key = stored[0].key().digest
    (shard,) = (FeatureStore().path / key).glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    result = here("cache", "verify", "--json", tmp_path / "v.json")
    assert result.code == 1
    assert f"damaged: {shard}: 1 of 16 rows differ" in result.out
    assert "--repair" in result.err
    assert shard.exists()
    assert [path for path, _ in load(tmp_path / "v.json")["damaged"]] == [str(shard)]
    assert here("cache", "verify", stored[1].key().digest).code == 0
    process = shell("cache", "verify")
    assert process.code == 1
    assert str(shard) in process.out
    repaired = here("cache", "verify", "--repair", "--json", tmp_path / "v.json")
    assert repaired.code == 0
    (aside,) = load(tmp_path / "v.json")["set_aside"]
    assert f"set aside: {aside}" in repaired.out
    assert Path(aside).read_bytes() == content
    assert not shard.exists()
    assert here("cache", "verify").code == 0


@pytest.mark.neutral
def test_cache_gc_shows_first_and_deletes_when_told(here: Cli, stored: list[Any], tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in FeatureStore().path.rglob("*") if path.is_file()}
    sizes = {info.key: info.nbytes for info in FeatureStore().infos()}
    old, new = (features.key().digest for features in stored)
    preview = here("cache", "gc", "--max-size", sizes[new], "--json", tmp_path / "gc.json")
    assert preview.code == 0
    assert f"would delete {old[:12]}  lenet at relu3, 16 rows" in preview.out
    assert new[:12] not in preview.out
    assert "nothing was deleted; add --yes" in preview.out
    figures = load(tmp_path / "gc.json")
    assert ([row["key"] for row in figures["trunks"]], figures["deleted"], figures["freed_bytes"]) == (
        [old],
        False,
        0,
    )
    assert {path: path.read_bytes() for path in FeatureStore().path.rglob("*") if path.is_file()} == before
    done = here("cache", "gc", "--max-size", sizes[new], "--yes", "--json", tmp_path / "gc.json")
    assert done.code == 0
    figures = load(tmp_path / "gc.json")
    assert ([row["key"] for row in figures["trunks"]], figures["deleted"]) == ([old], True)
    assert figures["freed_bytes"] == sizes[old]
    assert [info.key for info in FeatureStore().infos()] == [new]
    assert "nothing to delete" in here("cache", "gc", "--max-size", "1GB").out
    assert here("cache", "gc", "--max-size", "0", "--yes").code == 0
    assert FeatureStore().infos() == []


@pytest.mark.neutral
def test_a_reader_that_leaves_is_no_error(tmp_path: Path) -> None:
    """`headstart models | head -1`: no traceback."""
    done = subprocess.run(
        f'"{sys.executable}" -m headstart models | head -1; exit ${{PIPESTATUS[0]}}',
        shell=True, executable="/bin/bash", capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stderr
