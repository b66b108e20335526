"""The comparison: its arithmetic, its report, and what becomes of it when a child or the user breaks it off.

A child is a new process that starts its framework, which takes seconds: these are few tests, of whole runs.
The command itself is a process where it matters that it is one, and else runs in this one.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import disturbed, headstart, heeded_ctrl_c
from PIL import Image
from sensible_options import SENSIBLE

import headstart as hs
from headstart.common.errors import BackendError, CutError, DataError, SettingError, UnknownNameError
from headstart.contract import registry
from headstart.store import FeatureStore
from headstart.training import compare as comparison
from headstart.training import tensorboard
from headstart.training.compare import CompareArguments
from headstart.training.comparison import finish_entry, pays_off_after, speedup
from headstart.training.options import fields_for

MODES = ["scratch", "full", "frozen", "cached", "staged"]


def modes_of(backend: str) -> dict[str, list[str]]:
    """Of the first comparison, and of a second one of all modes, which is made where compiling them takes no time.
    What a child does with a mode, and what it finds in the cache, is the same for all; what a backend does, other
    tests see without a child."""
    first = {"first": ["frozen", "cached"]}
    return {**first, "second": MODES} if backend == "torch" else first


def make_images(root: Path, count: int = 20, seed: int = 0) -> Path:
    """Two classes of `count` images: dark and light."""
    rng = np.random.default_rng(seed)
    for name, level in (("dark", 0), ("light", 150)):
        (root / name).mkdir(parents=True)
        for i in range(count):
            Image.fromarray(rng.integers(level, level + 100, (24, 30, 3), np.uint8)).save(root / name / f"{i}.png")
    return root


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "headstart", "compare", *map(str, arguments)]


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, timeout=300, env={**os.environ, **environment}
    )


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


# --- arithmetic


@pytest.mark.parametrize(
    ("extraction", "cached", "frozen", "epochs"),
    [
        (10.0, 1.0, 6.0, 2),  # 10 + 2 * 1 = 2 * 6
        (10.1, 1.0, 6.0, 3),
        (9.9, 1.0, 6.0, 2),
        (4.0, 1.0, 6.0, 1),
        (0.0, 1.0, 6.0, 1),  # found in the cache
        (10.0, 6.0, 6.0, None),  # never
        (0.0, 7.0, 6.0, None),
        (10.0, 1.0, None, None),  # nothing to compare with
        (1000.0, 0.0, 1.0, 1000),
    ],
)
def test_when_a_cache_has_paid_for_itself(
    extraction: float, cached: float, frozen: float | None, epochs: int | None
) -> None:
    assert pays_off_after(extraction, cached, frozen) == epochs
    if epochs is not None and frozen is not None:
        assert extraction + epochs * cached <= epochs * frozen
        assert epochs == 1 or extraction + (epochs - 1) * cached > (epochs - 1) * frozen


@pytest.mark.parametrize(
    ("frozen", "seconds", "factor"), [(6.0, 2.0, 3.0), (1.0, 4.0, 0.25), (None, 2.0, None), (6.0, 0.0, None)]
)
def test_speedup(frozen: float | None, seconds: float, factor: float | None) -> None:
    assert speedup(frozen, seconds) == factor


def row(backend: str, mode: str, seconds: float, extraction: float = 0.0) -> dict[str, Any]:
    return {
        "backend": backend, "mode": mode, "extraction_seconds": extraction, "seconds_per_epoch": {"total": seconds}
    }  # fmt: skip


def whole_row(backend: str, mode: str, seconds: float) -> dict[str, Any]:
    """With all that a report is made of."""
    phases = {"data": 0.0, "trunk": 0.0, "head": seconds, "total": seconds}
    accuracies = {"accuracy": 0.5, "val_accuracy": 0.5, "val_loss": 1.0}
    record = {"epoch": 1, "loss": 1.0, "seconds": phases, "learning_rate": 0.1, "auxiliary_losses": []}
    return {
        **row(backend, mode, seconds), **accuracies, "label": f"{backend} {mode}", "cut": None,
        "history": [record | accuracies], "head_history": [], "seconds_per_epoch": phases, "extracted": 0,
        "reused": 0, "features_made_by": [], "total_seconds": seconds, "parameters": {"trained": 10, "all": 20},
        "validation": None, "kernels": None, "settings": {"seed": 0},
    }  # fmt: skip


@pytest.mark.parametrize("order", [["frozen", "cached", "full"], ["cached", "full", "frozen"]])
def test_rows_are_compared_with_their_own_backends_frozen_row(order: list[str]) -> None:
    """In whichever order the modes come."""
    mine = {
        "frozen": row("a", "frozen", 6.0),
        "cached": row("a", "cached", 1.0, 9.0),
        "full": row("a", "full", 12.0),
    }
    rows = [row("b", "frozen", 100.0), row("b", "cached", 1.0)]
    for mode in order:
        finish_entry(mine[mode], rows)
        rows.append(mine[mode])
    assert [mine[mode]["speedup_over_frozen"] for mode in ("frozen", "cached", "full")] == [1.0, 6.0, 0.5]
    assert [mine[mode]["pays_off_after_epochs"] for mode in ("frozen", "cached", "full")] == [None, 2, None]


@pytest.mark.parametrize(
    "other",
    [
        {"model": "another"},
        {"cut": "layer3"},
        {"parameters": {"trained": 9, "all": 20}},
        {"settings": {"batch_size": 8}},
        {"settings": {"solver": "ridge"}},
        {"history": [{"step_losses": [0.1, 0.2]}]},
        {"validation": {"samples": 12}},
    ],
)
def test_an_epoch_of_something_else_is_no_measure_of_speed(other: dict[str, Any]) -> None:
    """Runs of any kind may be in one comparison; the frozen run that is of the same kind counts."""
    cached, frozen, alike = (row("a", mode, 6.0, 9.0) for mode in ("cached", "frozen", "frozen"))
    cached |= {"seconds_per_epoch": {"total": 1.0}, **other}
    finish_entry(cached, [frozen])
    assert (cached["speedup_over_frozen"], cached["pays_off_after_epochs"]) == (None, None)
    finish_entry(alike | other, [frozen, cached])
    assert (cached["speedup_over_frozen"], cached["pays_off_after_epochs"]) == (6.0, 2)
    full = row("a", "full", 12.0) | {"cut": None, "parameters": {"trained": 20, "all": 20}}
    finish_entry(full, [frozen | {"cut": "layer3"}])
    assert full["speedup_over_frozen"] == 0.5, "which trains more of the same"


def test_without_a_frozen_row_nothing_is_claimed() -> None:
    cached = row("a", "cached", 1.0, 9.0)
    finish_entry(cached, [row("b", "frozen", 6.0)])
    assert (cached["speedup_over_frozen"], cached["pays_off_after_epochs"]) == (None, None)


# --- a whole comparison


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, backend: str) -> dict[str, Any]:
    """Two modes, then all of them on the same cache."""
    root = tmp_path_factory.mktemp("compare")
    photos = make_images(root / "photos")
    arguments = ["--data", photos, "--model", "resnet18_half", "--backends", backend, "--size", 32]
    arguments += ["--batch-size", 8, "--epochs"]
    environment = {"HEADSTART_CACHE": str(root / "cache")}
    found: dict[str, Any] = {"photos": photos, "root": root}
    more = {"first": [2, "--tensorboard", root / "board"], "second": [1]}
    for name, modes in modes_of(backend).items():
        out, figures = root / name / "out", root / name / "figures.json"
        words = [*arguments, *more[name], "--modes", ",".join(modes), "--device", "cpu", "--out", out]
        words += ["--json", figures]
        if name == "first":  # a process, in which no framework is to say anything
            done = run(*words, **environment)
            code, said, err = done.returncode, done.stdout, done.stderr
        else:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HEADSTART_CACHE", environment["HEADSTART_CACHE"])
                code, said, err = headstart("compare", *words)
        assert code == 0, err
        shards = {path: path.stat().st_mtime_ns for path in (root / "cache").rglob("*.safetensors")}
        written = [json.loads(path.read_text()) for path in (out / "compare.json", figures)]
        assert written[0] == written[1]
        found[name] = {"report": written[0], "out": said, "err": err, "shards": shards}
    return found


def test_the_report_says_everything(finished: dict[str, Any], backend: str) -> None:
    report = finished["first"]["report"]
    assert [(row["backend"], row["mode"]) for row in report["rows"]] == [(backend, "frozen"), (backend, "cached")]
    for row in report["rows"]:
        assert row["cut"] == "avgpool"
        assert 0 <= row["val_accuracy"] <= 1
        assert row["val_accuracy"] == row["history"][-1]["val_accuracy"]
        assert len(row["history"]) == 2
        seconds = row["seconds_per_epoch"]
        assert seconds.keys() == {"data", "trunk", "head", "total"}
        assert seconds["total"] == pytest.approx(seconds["data"] + seconds["trunk"] + seconds["head"])
        assert row["total_seconds"] > seconds["total"]
    frozen, cached = report["rows"]
    assert frozen["seconds_per_epoch"]["trunk"] > 0
    assert cached["seconds_per_epoch"]["trunk"] == 0
    assert (frozen["extraction_seconds"], frozen["speedup_over_frozen"]) == (0.0, 1.0)
    assert frozen["pays_off_after_epochs"] is None
    assert cached["extraction_seconds"] > 0
    assert (cached["extracted"], cached["reused"], cached["features_made_by"]) == (40, 0, [backend])
    ratio = frozen["seconds_per_epoch"]["total"] / cached["seconds_per_epoch"]["total"]
    assert cached["speedup_over_frozen"] == pytest.approx(ratio)
    assert cached["pays_off_after_epochs"] == pays_off_after(
        cached["extraction_seconds"], cached["seconds_per_epoch"]["total"], frozen["seconds_per_epoch"]["total"]
    )
    np.testing.assert_allclose(
        frozen["history"][-1]["step_losses"], cached["history"][-1]["step_losses"], rtol=2e-2
    )
    assert report["machine"]["cores"] >= 1
    assert report["machine"]["cpu"]
    assert report["versions"] == {backend: registry.versions(backend)}
    assert report["data"] == {
        "name": "photos", "train": 32, "val": 8, "classes": ["dark", "light"], "skipped": [],
        "task": "single", "named_classes": True,
        "split": [{"by": "id", "fraction": 0.8, "seed": 0, "side": "first"}],
    }  # fmt: skip
    assert (report["model"]["name"], report["model"]["weights"]) == ("resnet18_half", "tinyimagenet")
    assert report["model"]["preprocess"]["size"] == 32
    assert report["settings"]["fit"]["epochs"] == 2
    assert report["settings"]["backends"] == [backend]
    assert report["errors"] == {}


def test_the_table_has_a_line_a_mode(finished: dict[str, Any], backend: str) -> None:
    for name, modes in modes_of(backend).items():
        out = finished[name]["out"]
        lines = [line.split() for line in _tables(finished[name])]
        assert [words[0] for words in lines if words and words[0] in MODES] == modes
        assert "32 training and 8 validation images, 2 classes; resnet18_half (tinyimagenet) at 32 px" in out
        assert f"{backend} (" in out
        assert f"\nTake {backend} " in out and "compare.json" in out
    err = finished["first"]["err"].splitlines()
    assert [line.partition(":")[0] for line in err] == [
        "model",
        "photos",
        *(f"{backend} {mode} epoch {i}" for mode in ("frozen", "cached") for i in (1, 2)),
    ], "the data once, a line an epoch, and no chatter of frameworks"


def _tables(done: dict[str, Any]) -> list[str]:
    """The lines before what they come to is said in words."""
    lines: list[str] = done["out"].partition("\nTake ")[0].splitlines()
    return lines


@pytest.mark.of("torch")
def test_a_second_comparison_extracts_nothing(finished: dict[str, Any]) -> None:
    rows = {row["mode"]: row for row in finished["second"]["report"]["rows"]}
    for mode in rows.keys() & {"cached", "staged"}:
        assert (rows[mode]["extracted"], rows[mode]["reused"]) == (0, 40)
    assert finished["second"]["shards"] == finished["first"]["shards"]
    assert len(finished["first"]["shards"]) == 2  # training and validation
    (line,) = (line for line in _tables(finished["second"]) if line.split()[:1] == ["cached"])
    assert line.split()[6].endswith("*"), "the table marks features that were there already"


@pytest.mark.of("torch")
def test_all_modes_run_with_one_epoch(finished: dict[str, Any]) -> None:
    report = finished["second"]["report"]
    assert [row["mode"] for row in report["rows"]] == MODES
    for row in report["rows"]:
        assert len(row["history"]) == 1
        assert len(row["head_history"]) == (row["mode"] == "staged")
        assert (row["cut"] is None) == (row["mode"] in ("scratch", "full"))
        assert (row["pays_off_after_epochs"] is None) or row["mode"] == "cached"
        assert row["speedup_over_frozen"] > 0
        assert row["features_made_by"] == ([row["backend"]] if row["mode"] in ("cached", "staged") else [])


# --- mistakes, before anything is started


def test_each_run_has_a_folder_of_its_own_for_tensorboard(finished: dict[str, Any], backend: str) -> None:
    folders = {path.name for path in (finished["root"] / "board").iterdir()}
    assert folders == {f"{backend}-frozen", f"{backend}-cached"}


@pytest.fixture
def no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    start = subprocess.Popen

    def refuse(command: list[str], *args: Any, **settings: Any) -> Any:
        if command[0] == sys.executable:  # else `platform` asks the system what it is
            pytest.fail("a child was started")
        return start(command, *args, **settings)

    monkeypatch.setattr(subprocess, "Popen", refuse)


@pytest.mark.usefixtures("no_children")
@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"backends": ("tf",)}, UnknownNameError, "backend 'tf'; expected one of torch, keras, jax"),
        ({"modes": ("cached", "cashed")}, UnknownNameError, "mode 'cashed'"),
        ({"modes": ()}, SettingError, "scratch, full, frozen, cached, staged"),
        ({"cut": "layer9"}, CutError, "layer9"),
        ({"cut": "layer4.0.conv1"}, CutError, "layer4.0"),
        ({"model": "resnet9"}, UnknownNameError, "resnet9"),
        ({"data": "flours"}, UnknownNameError, "flours"),
        ({"data": "no/such"}, DataError, "no/such"),
        ({"split": 2.0}, SettingError, "between 0 and 1"),
        ({"size": 0}, SettingError, "size"),
        ({"head": ()}, SettingError, "head"),
        ({"fit": {"epochs": 0}}, SettingError, "epochs=0; expected an integer of 1 or more"),
        ({"fit": {"optimizer": "adam"}}, UnknownNameError, "optimizer 'adam'"),
        ({"fit": {"dtype": "float64"}}, SettingError, "dtype='float64'"),
        ({"fit": {"device": "gpu"}}, UnknownNameError, "device 'gpu'; expected one of auto, cpu, cuda"),
    ],
)
def test_a_mistake_is_found_first(
    tmp_path: Path, backend: str, change: dict[str, Any], error: type[Exception], text: str
) -> None:
    arguments = CompareArguments(**{"data": "digits", "backends": (backend,), **change})
    with pytest.raises(error) as caught:
        comparison.run_backends(arguments, tmp_path / "out")
    assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_children")
def test_backends_named_wrongly(backend: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=f"named twice: {backend}"):
        comparison.run_backends(CompareArguments(backends=(backend, backend)))
    for missing in set(registry.names()) - set(registry.installed()):
        with pytest.raises(BackendError, match=rf"pip install 'headstart\[{missing}\]'"):
            comparison.run_backends(CompareArguments(backends=(backend, missing)))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="cannot be written"):
        comparison.run_backends(CompareArguments(backends=(backend,)), tmp_path / "file" / "out")


@pytest.mark.usefixtures("no_children")
def test_arguments_of_a_comparison_in_python(backend: str) -> None:
    """One name stands for a list of it; nothing is trained twice; what is at hand has no name."""
    for modes, text in [
        ("cache", "unknown mode 'cache'"),
        (["cached", "cached"], "modes named twice: cached"),
        ([], "modes names none; expected one or more of scratch"),
    ]:
        with pytest.raises(SettingError, match=text):
            hs.compare("digits", modes=modes, backends=backend)
    with pytest.raises(SettingError, match="unknown backend 'pytorch'"):
        hs.compare("digits", backends="pytorch")
    data = hs.data.digits()
    model = hs.model("resnet18_half", classes=data.classes)
    at_hand: list[dict[str, Any]] = [{"data": data}, {"val": data}, {"test": data}, {"model": model}]
    for argument in at_hand:
        with pytest.raises(SettingError, match=f"{next(iter(argument))} is a .* hs.compare_modes"):
            hs.compare(**argument)
    with pytest.raises(SettingError, match="modes named twice: frozen"):
        hs.compare_modes(model, data, modes=["frozen", "cached", "frozen"], backend=backend)


@pytest.mark.usefixtures("no_children")
def test_what_is_written_meanwhile_must_be_possible(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    for option in ("tensorboard", "profile"):
        with pytest.raises(SettingError, match=f"^{option}=.*nothing can be written there"):
            comparison.run_backends(CompareArguments(backends=(backend,), fit={option: str(tmp_path / "file")}))
    monkeypatch.setattr(tensorboard, "find_spec", lambda name: None)
    with pytest.raises(SettingError, match=r"pip install 'headstart\[tensorboard\]'"):
        comparison.run_backends(CompareArguments(backends=(backend,), fit={"tensorboard": str(tmp_path / "new")}))


@pytest.mark.neutral  # no framework is started
@pytest.mark.parametrize("option", ["--backends", "--modes", "--cut"])
def test_a_mistake_ends_the_command_with_2(tmp_path: Path, backend: str, option: str) -> None:
    """As a process, of which one is enough, and so here."""
    arguments = {"--backends": backend, "--out": tmp_path / "out", option: "nonsense"}
    words = [part for pair in arguments.items() for part in pair]
    if option == "--cut":
        done = run(*words)
        code, err = done.returncode, done.stderr
    else:
        code, _, err = headstart("compare", *words)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert "nonsense" in line
    assert not (tmp_path / "out").exists()


# --- what goes to the children


@pytest.mark.slow("keras", "jax")  # core hands them on
def test_a_child_hands_every_option_to_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """But for tensorboard, whose writer need not be installed. The framework is imported by then, which is in no
    run's seconds."""
    asked = {
        option.name: SENSIBLE[option.name] for option in fields_for("compare") if option.name != "tensorboard"
    }
    asked |= {"cache": str(tmp_path / "cache"), "profile": str(tmp_path / "traces")}
    environment = disturbed(
        tmp_path / "site",
        f"""
import importlib
module = importlib.import_module("headstart.training.fit")
def noted(model, train, val, **options):
    from pathlib import Path
    from headstart.common.errors import SettingError
    import sys
    assert {backend!r} in sys.modules
    del options["on_epoch"]
    Path({str(tmp_path / "options")!r}).write_text(repr(options))
    raise SettingError("this is enough")
module.fit = noted
""",
    )
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    report = hs.compare("digits", backends=[backend], modes=["staged"], **asked)
    assert report["errors"] == {backend: {"type": "SettingError", "message": "this is enough"}}
    handed = {"mode": "staged", "backend": backend, **asked}
    handed["profile"] = str(tmp_path / "traces" / f"{backend}-staged")
    names = {name: getattr(hs, name) for name in ("SGD", "Schedule", "Augment")}
    assert eval((tmp_path / "options").read_text(), names) == handed


@pytest.mark.of("torch")  # what crosses is the same for all
def test_children_train_for_the_task_of_a_table(tmp_path: Path) -> None:
    """Ranked by the task's score, and printed so."""
    rng, lines = np.random.default_rng(0), ["file,light,red"]
    for i in range(30):
        light, red = rng.integers(0, 200), rng.integers(0, 50)
        image = np.full((8, 8, 3), light, np.uint8)
        image[..., 0] += np.uint8(red)
        Image.fromarray(image).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{light},{red / 50}")
    (tmp_path / "table.csv").write_text("\n".join(lines))
    table = ["--data", tmp_path / "table.csv", "--image", "file", "--label", "light,red"]
    settings = [
        "--model",
        "lenet",
        "--weights",
        "none",
        "--epochs",
        1,
        "--batch-size",
        8,
        "--out",
        tmp_path / "out",
    ]
    names = ["--modes", "frozen,cached", "--backends", "torch"]
    done = headstart("compare", *table, *settings, *names)
    assert done.code == 0, done.err
    assert "validation images, 2 targets;" in done.out
    assert "val MAE" in done.out and "val acc" not in done.out
    frozen, cached = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert frozen["score"] == "standardised_mae" and frozen["val_accuracy"] is None
    assert cached["val_score"] == pytest.approx(frozen["val_score"], rel=1e-3)
    assert [row["against_best"] is None for row in (frozen, cached)].count(True) == 1
    assert all(row["validation"]["terms"] and row["validation"]["misses"] for row in (frozen, cached))


# --- children that fail


@pytest.mark.of("torch")  # how a process ends, and what becomes of its rows, is the same for all
def test_a_child_that_crashes_is_reported_and_the_rows_are_kept(
    finished: dict[str, Any], tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second mode ends the process without a word to Python."""
    environment = disturbed(
        tmp_path / "site",
        """
import importlib
module = importlib.import_module("headstart.training.fit")
fit, calls = module.fit, []
def crashing(*args, **settings):
    calls.append(settings["mode"])
    if len(calls) == 2:
        import warnings
        from headstart.common import errors
        warnings.warn("the weights have left", errors.DivergedWarning)
        warnings.warn("as the parent has said", errors.DataWarning)
        os.write(2, b"the last words")
        os.abort()
    return fit(*args, **settings)
module.fit = crashing
""",
    )
    monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, out, err = headstart(
            "compare", "--data", finished["photos"], "--backends", backend, "--modes", "cached,frozen,full",
            "--epochs", 1, "--model", "lenet", "--size", 32, "--batch-size", 8, "--device", "cpu",
            "--out", tmp_path / "out",
        )  # fmt: skip
    assert code == 1
    report = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert [row["mode"] for row in report["rows"]] == ["cached"]
    error = report["errors"][backend]
    assert error["type"] == "crash"
    assert f"the {backend} process ended with signal {int(signal.SIGABRT)}" in error["message"]
    assert "the last words" in error["message"]
    assert f"error: {backend}: the {backend} process ended" in err
    assert "warning: the weights have left\n" in err and "as the parent has said" not in err
    assert any(line.split()[:1] == ["cached"] for line in out.splitlines())


@pytest.mark.of("torch")  # how a process ends, and what becomes of its rows, is the same for all
def test_a_child_that_is_killed_while_test_data_are_scored_keeps_what_was_trained(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the system does where memory is short. The row before has its test scores, once."""
    code = """
import importlib, signal
module = importlib.import_module("headstart.training.run")
evaluate, calls = module.Run.evaluate, []
def killed(self, *args, **settings):
    calls.append(self)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate(self, *args, **settings)
module.Run.evaluate = killed
"""
    monkeypatch.setenv("PYTHONPATH", disturbed(tmp_path / "site", code)["PYTHONPATH"])
    heard: list[str] = []
    arguments = CompareArguments(
        data=str(make_images(tmp_path / "photos", 12)),
        test=str(make_images(tmp_path / "others", 5, seed=1)),
        model="lenet",
        size=32,
        backends=(backend,),
        modes=("cached", "frozen"),
        fit={"epochs": 1, "device": "cpu"},
    )
    done = comparison.run_backends(arguments, tmp_path / "out", lambda event: heard.append(event["event"]))
    assert f"signal {int(signal.SIGKILL)}" in done["errors"][backend]["message"]
    for rows in (done.rows, json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]):
        assert [(row["mode"], bool(row.get("test"))) for row in rows] == [("cached", True), ("frozen", False)]
    assert heard.count("row") == 1 and "trained" not in heard


@pytest.mark.neutral  # no framework is started
@pytest.mark.parametrize(
    ("code", "how"),
    [
        ("os.abort()", f"signal {int(signal.SIGABRT)}"),
        ("os._exit(7)", "exit code 7"),
        ("sys.exit('no framework today')", "exit code 1"),
    ],
)
@pytest.mark.parametrize("modes", [1, 9000], ids=["small", "larger-than-a-pipe"])
def test_a_child_that_never_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, code: str, how: str, modes: int
) -> None:
    """It has not even read what it is to do; with much to read, writing to it fails."""
    if code.startswith("sys.exit"):
        # An exception in sitecustomize is ignored; one in the module is not.
        code = f"import headstart.common.progress as p\np.report_to = lambda f: {code}"
    for name, value in disturbed(tmp_path / "site", code).items():
        monkeypatch.setenv(name, value)
    events: list[Any] = []
    arguments = CompareArguments(
        data=str(make_images(tmp_path / "photos", 2)), backends=(backend,), modes=("cached",) * modes
    )
    report = comparison.run_backends(arguments, listener=events.append)
    error = report["errors"][backend]
    assert error["type"] == "crash"
    assert f"ended with {how}" in error["message"]
    assert (report["rows"], [event["event"] for event in events]) == ([], ["backend"])


@pytest.mark.neutral  # no framework is started
def test_the_other_backends_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    """The first backend's child dies; the second one's, for lack of a second framework, only says that it ran."""
    second = next(name for name in registry.names() if name != backend)
    monkeypatch.setattr(comparison.registry, "choose", lambda name: name)
    monkeypatch.setattr(comparison.registry, "versions", lambda name: {})
    event = json.dumps({"event": "row", "row": whole_row(second, "cached", 1.0)})
    code = f"""
mark = {str(tmp_path / "the first one was here")!r}
if os.path.exists(mark):
    os.write(1, {(event + chr(10)).encode()!r})
    os._exit(0)
open(mark, "w").close()
os._exit(3)
"""
    for name, value in disturbed(tmp_path / "site", code).items():
        monkeypatch.setenv(name, value)
    events: list[Any] = []
    photos = make_images(tmp_path / "photos", 5)
    arguments = CompareArguments(data=str(photos), backends=(backend, second))
    report = comparison.run_backends(arguments, tmp_path / "out", events.append)
    assert [event["backend"] for event in events if event["event"] == "backend"] == [backend, second]
    assert report["errors"].keys() == {backend}
    assert [row["backend"] for row in report["rows"]] == [second]
    assert json.loads((tmp_path / "out" / "compare.json").read_text()) == json.loads(json.dumps(report))
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert f"the {backend} process ended with exit code 3" in page
    assert f"{second} cached" in page


@pytest.mark.of("torch")  # what writes is the same for all
def test_a_comparison_whose_disk_becomes_full_is_kept_elsewhere(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, temporary, wrote = tmp_path / "out", tmp_path / "temporary", comparison.write_json
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))

    def full(path: Path, content: Any) -> Path:
        if path.is_relative_to(out) and content.rows:
            raise SettingError(f"{path}: cannot be written (No space left on device)")
        return wrote(path, content)

    monkeypatch.setattr(comparison, "write_json", full)
    data = str(make_images(tmp_path / "photos", 5))
    with pytest.raises(SettingError, match=r"No space left.*it is kept in .*headstart-"):
        comparison.run_backends(CompareArguments(data=data, backends=(backend,), modes=("cached",)), out)
    [kept] = temporary.glob("headstart-*")
    assert len(json.loads((kept / "compare.json").read_text())["rows"]) == 1
    assert (kept / "report.html").is_file()


@pytest.mark.of("torch")  # what crosses is the same for all
def test_what_a_child_refuses_is_a_mistake(tmp_path: Path, backend: str) -> None:
    """Images are decoded by the children alone."""
    photos = make_images(tmp_path / "photos")
    broken = photos / "dark" / "3.png"
    broken.write_bytes(broken.read_bytes()[:300])
    names = ["--model", "lenet", "--weights", "none", "--backends", backend, "--modes", "cached"]
    code, _, err = headstart("compare", "--data", photos, *names, "--out", tmp_path / "out")
    assert code == 2
    assert err.splitlines()[2].startswith(f"error: {backend}: {broken}: ")
    assert err.count("\n") == 3
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["errors"][backend]["type"] == "ImageError"


# --- Ctrl-C

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")


def interrupt(arguments: list[str], environment: dict[str, str], ready: Callable[[str], bool]) -> tuple[int, str]:
    """Start a comparison, send SIGINT to it alone as soon as `ready(what it has said)`, and see that both
    processes end. Returns exit code and standard error."""
    with (
        tempfile.NamedTemporaryFile() as said,
        heeded_ctrl_c(),
        subprocess.Popen(
            arguments,
            stdout=subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, **environment},
        ) as parent,
    ):
        deadline = time.monotonic() + 120
        while not ready(Path(said.name).read_text()) and parent.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        started = children(parent.pid)
        parent.send_signal(signal.SIGINT)
        try:
            parent.wait(60)
        except subprocess.TimeoutExpired:
            for process in (*started, parent.pid):
                os.kill(process, signal.SIGKILL)
            raise
        err = Path(said.name).read_text()
    assert len(started) == 1, err
    assert not any(map(is_running, started))
    return parent.returncode, err


@pytest.mark.neutral  # no framework is started
def test_ctrl_c_while_test_data_are_scored_keeps_what_was_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str
) -> None:
    """A child tells a row when its test data are scored, or somebody stops that."""
    events = [{"event": "mode", "mode": "cached"}, {"event": "row", "row": whole_row(backend, "cached", 1.0)}]
    mode, row = (f"{json.dumps(event)}\n".encode() for event in events)
    code = f"""
import signal
signal.signal(signal.SIGINT, lambda *about: (os.write(1, {row!r}), os._exit(130)))
os.write(1, {mode!r})
signal.pause()
"""
    for name, value in disturbed(tmp_path / "site", code).items():
        monkeypatch.setenv(name, value)

    def stopped(event: dict[str, Any]) -> None:
        if event["event"] == "mode":
            raise KeyboardInterrupt

    arguments = CompareArguments(data=str(make_images(tmp_path / "photos", 5)), backends=(backend,))
    with pytest.raises(KeyboardInterrupt):
        comparison.run_backends(arguments, tmp_path / "out", stopped)
    [kept] = json.loads((tmp_path / "out" / "compare.json").read_text())["rows"]
    assert kept["mode"] == "cached"
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow  # test_extract and the test below have a half of it each
@needs_proc
@pytest.mark.of("torch")  # which features are kept is the same for all; training sees how a backend's process ends
def test_ctrl_c_in_extraction_keeps_the_features(tmp_path: Path, backend: str) -> None:
    photos = make_images(tmp_path / "photos", 120)
    # Shards of seven rows on a slow disk.
    environment = disturbed(
        tmp_path / "site",
        """
import time
from headstart.store import writer
writer.SHARD_NBYTES = 7 * 84 * 2
sync = os.fsync
def slow(file):
    time.sleep(0.05)
    sync(file)
os.fsync = slow
""",
    )
    arguments = command(
        "--data", photos, "--backends", backend, "--modes", "cached", "--model", "lenet", "--batch-size", 3,
        "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    code, err = interrupt(
        arguments, environment, lambda err: len(list(FeatureStore().path.glob("*/*.safetensors"))) >= 3
    )
    assert code == 130, err
    assert "Traceback" not in err
    said = re.match(r"interrupted: the features of (\d+) of \d+ images are kept; ", err.splitlines()[-1])
    assert said, err
    kept = int(said[1])
    assert kept >= 21 - 3  # the batch that completed the third shard may not be counted yet
    assert FeatureStore().infos()[0].rows >= kept
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"] == []


@pytest.mark.slow("keras", "jax")  # how processes end is the same for all
@needs_proc
def test_ctrl_c_in_training_ends_both_processes(finished: dict[str, Any], tmp_path: Path, backend: str) -> None:
    arguments = command(
        "--data", finished["photos"], "--backends", backend, "--modes", "frozen", "--model", "lenet",
        "--size", 32, "--batch-size", 8, "--epochs", 5000, "--device", "cpu", "--out", tmp_path / "out",
    )  # fmt: skip
    code, err = interrupt(arguments, {}, lambda err: "frozen epoch 1" in err)
    assert code == 130, err
    assert err.splitlines()[-1] == "interrupted"
    assert "Traceback" not in err
