"""A training that is killed goes on from its checkpoint, and gives to the bit what it would have given."""

from __future__ import annotations

import random
import signal
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart
from victims import victims

import headstart as hs
from headstart.common.errors import (
    CheckpointError,
    MissingAbilityError,
    SettingError,
    UnknownOptionError,
    WatchingWarning,
)
from headstart.contract import registry
from headstart.training import stage
from headstart.training.checkpoints import keeping
from headstart.training.checkpoints.files import read_stage, stage_file, write_stage
from headstart.training.run import Run

SETTINGS: dict[str, Any] = {"epochs": 4, "batch_size": 16, "device": "cpu", "workers": 1}
MODES: dict[str, dict[str, Any]] = {
    "cached": {},
    "frozen": {"optimizer": "sgd"},
    "full": {"augment": "flip,crop", "lr_scale": {"conv1": 0.1}},
    "scratch": {"schedule": "cosine", "warmup": 0.25},
    "staged": {"head_epochs": 3, "monitor": "val_accuracy"},
}


@pytest.fixture(autouse=True)
def _written_after_every_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(keeping, "SHARE", 0.0)


def model_of() -> Any:
    """With dropout, which draws."""
    return hs.model("lenet", classes=10, head=(16, 0.5))


def parts() -> tuple[Any, Any]:
    train, val = hs.data.digits().subset(range(100)).split(0.7)
    return train, val


class Killed(BaseException):
    pass


def killed_after(epochs: int) -> Callable[[str, Any], None]:
    """Ends the training as a kill does, after so many epochs of all stages; the last of them is not kept."""
    done = 0

    def on_epoch(stage: str, record: Any) -> None:
        nonlocal done
        done += 1
        if done == epochs:
            raise Killed

    return on_epoch


def assert_equal(run: Run, undisturbed: Run) -> None:
    """In all but what the clock says."""
    for mine, other in ((run.history, undisturbed.history), (run.head_history, undisturbed.head_history)):
        assert mine.best_epoch == other.best_epoch
        assert [replace(r, seconds=None) for r in mine] == [replace(r, seconds=None) for r in other]  # type: ignore[arg-type]
    for name, value in undisturbed.model.params.items():
        np.testing.assert_array_equal(run.model.params[name], value, err_msg=name)
    assert run.validation == undisturbed.validation
    assert run.model.threshold == undisturbed.model.threshold
    assert (run.scores is None) == (undisturbed.scores is None)
    if run.scores is not None and undisturbed.scores is not None:
        assert run.scores.as_dict() == undisturbed.scores.as_dict()


def interrupted(folder: Path, after: int, **settings: Any) -> None:
    """A training whose checkpoint is in the folder, killed in its epoch `after`, of all stages."""
    with pytest.raises(Killed):
        hs.fit(
            model_of(), *parts(), **{**SETTINGS, "checkpoint": folder, **settings}, on_epoch=killed_after(after)
        )


@pytest.mark.of("torch")
@pytest.mark.parametrize(
    "mode",
    # staged has a stage of each kind
    [mode if mode in ("cached", "staged") else pytest.param(mode, marks=pytest.mark.slow) for mode in MODES],
)
def test_a_training_goes_on_as_if_nothing_had_been(mode: str, backend: str, tmp_path: Path) -> None:
    """Wherever it is broken off: before the first epoch is kept, between the stages, in each of them, at the end;
    twice, too. And what keeps it does not change it."""
    settings = {**SETTINGS, "mode": mode, **MODES[mode]}
    undisturbed = hs.fit(model_of(), *parts(), **settings)
    total = len(undisturbed.history) + len(undisturbed.head_history)
    trained: list[int] = []
    for broken in range(1, total + 1):
        folder = tmp_path / str(broken)
        interrupted(folder, broken, mode=mode, **MODES[mode])
        if broken == 2 and total > 3:
            with pytest.raises(Killed):
                hs.fit(model_of(), *parts(), **settings, resume=folder, on_epoch=killed_after(2))
        trained.clear()
        run = hs.fit(
            model_of(),
            *parts(),
            **settings,
            resume=folder,
            on_epoch=lambda _, record: trained.append(record.epoch),
        )
        assert_equal(run, undisturbed)
        again = 2 if broken == 2 and total > 3 else broken - 1
        assert len(trained) == total - again, "what was done was done again"
    assert_equal(hs.fit(model_of(), *parts(), **settings, resume=folder), undisturbed)  # it had ended


@pytest.mark.slow("keras", "jax")  # the suite has going on from a state
def test_a_training_goes_on_in_its_second_stage(backend: str, tmp_path: Path) -> None:
    """Of one mode where compiling takes long: the one that trains all parameters, those of a frozen trunk too."""
    settings = {**SETTINGS, "mode": "staged", **MODES["staged"]}
    undisturbed = hs.fit(model_of(), *parts(), **settings)
    interrupted(tmp_path, 6, **settings)
    assert {path.name for path in tmp_path.glob("state-*")} == {"state-head.safetensors", "state-all.safetensors"}
    epochs: list[int] = []
    run = hs.fit(
        model_of(), *parts(), **settings, resume=tmp_path, on_epoch=lambda _, record: epochs.append(record.epoch)
    )
    assert_equal(run, undisturbed)
    assert epochs == [3, 4]


PROGRAM = """
import sys
import headstart as hs
from headstart.training.checkpoints import keeping
keeping.LEAST_SECONDS = keeping.SHARE = 0.0
from training.test_resume import SLOW, model_of, parts
hs.fit(model_of(), *parts(), **SLOW, **{sys.argv[1]: sys.argv[2]})
"""
SLOW = {**SETTINGS, "mode": "staged", "epochs": 30, "head_epochs": 60}


@pytest.mark.slow  # above, each epoch is broken off
@pytest.mark.of("torch")  # a process that is killed leaves files, and those are the same for all
def test_killed_at_random_moments(backend: str, tmp_path: Path) -> None:
    """Processes by SIGKILL, in each stage."""
    undisturbed = hs.fit(model_of(), *parts(), **SLOW)
    folder, chance = tmp_path / "kept", random.Random(1)
    with victims("torch", "training.test_resume") as processes:
        for name in ("head", "all"):
            process = processes.start(PROGRAM, "checkpoint" if name == "head" else "resume", folder)
            while process.is_running() and not stage_file(folder, name).exists():
                time.sleep(0.005)
            time.sleep(chance.uniform(0.0, 0.2))
            assert process.kill() == -signal.SIGKILL, name
    assert_equal(hs.fit(model_of(), *parts(), **SLOW, resume=folder), undisturbed)


# ---- what is in the folder


@pytest.mark.of("torch")
def test_the_folder_holds_the_run_of_the_best_epoch(backend: str, tmp_path: Path) -> None:
    interrupted(tmp_path, 3)
    run = hs.load(tmp_path)
    assert [record.epoch for record in run.history][-1] <= 2
    undisturbed = hs.fit(model_of(), *parts(), **SETTINGS)
    done = undisturbed.history["val_loss"][: len(run.history)]
    assert run.best_epoch == 1 + int(np.argmin(done))
    assert run.evaluate(parts()[1]).loss == pytest.approx(min(done), rel=1e-3)


@pytest.mark.of("torch")
def test_it_is_written_once_a_second_and_at_the_end(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs of milliseconds are not slowed down."""
    monkeypatch.setattr(keeping, "LEAST_SECONDS", 3600.0)
    written = []
    write = keeping.write_stage

    def noted(path: Path, content: Any) -> None:
        written.append(path.name)
        write(path, content)

    monkeypatch.setattr(keeping, "write_stage", noted)
    hs.fit(model_of(), *parts(), **SETTINGS, mode="staged", checkpoint=tmp_path)
    assert written == ["state-head.safetensors", "state-all.safetensors"]


@pytest.mark.of("torch")
def test_a_checkpoint_goes_on_in_another_folder(backend: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "mode": "staged"}
    interrupted(tmp_path / "first", 6, mode="staged")
    path = stage_file(tmp_path / "first", "all")
    content = read_stage(path)
    write_stage(path, replace(content, about={**content.about, "seconds": content.about["seconds"] + 1000}))
    before = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    with pytest.raises(Killed):
        hs.fit(
            model_of(), *parts(), **settings, resume=tmp_path / "first", checkpoint=tmp_path / "second",
            on_epoch=killed_after(2),
        )  # fmt: skip
    assert {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()} == before
    run = hs.fit(model_of(), *parts(), **settings, resume=tmp_path / "second")
    assert 1000 < run.seconds < 1100, "what the processes before took is its time as well"
    assert_equal(run, hs.fit(model_of(), *parts(), **settings))


@pytest.mark.slow("keras", "jax")  # core tells of epochs
def test_a_training_is_watched_from_where_it_is(backend: str, tmp_path: Path) -> None:
    """For a value that is not finite, and not any more."""
    undisturbed = hs.fit(model_of(), *parts(), **SETTINGS)
    interrupted(tmp_path, 3)
    with pytest.raises(Killed):
        hs.fit(model_of(), *parts(), **SETTINGS, resume=tmp_path, debug_nans=True, on_epoch=killed_after(2))
    epochs: list[int] = []
    run = hs.fit(
        model_of(), *parts(), **SETTINGS, resume=tmp_path, on_epoch=lambda _, record: epochs.append(record.epoch)
    )
    assert epochs == [4]
    np.testing.assert_allclose(run.history["val_loss"], undisturbed.history["val_loss"], rtol=1e-5)


@pytest.mark.of("torch")
def test_what_an_observer_ended_stays_ended(backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.training.observers import LogLine

    monkeypatch.setattr(LogLine, "epoch", lambda self, end: end.record.epoch == 2)
    first = hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=tmp_path)
    monkeypatch.undo()
    assert len(first.history) == 2
    assert_equal(hs.fit(model_of(), *parts(), **SETTINGS, resume=tmp_path), first)


@pytest.mark.of("torch")
def test_a_disk_that_is_full_does_not_end_a_training(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keeping, "save", full)
    with pytest.warns(WatchingWarning, match=r"cannot be written \(No space left on device\)") as told:
        run = hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=tmp_path)
    assert len(run.history) == SETTINGS["epochs"]
    assert len(told) == 1


# ---- what is refused


@pytest.fixture(scope="module")
def kept(backend: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=folder)
    return folder


@pytest.mark.of("torch")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"epochs": 5}, "began with epochs=4, and here it is 5"),
        ({"lr": 0.5}, "began with lr=None, and here it is 0.5"),
        ({"mode": "frozen"}, "began with mode='cached', and here it is 'frozen'"),
        ({"optimizer": hs.SGD()}, "began with optimizer=None, and here it is {'name': 'sgd'"),
        ({"seed": 1}, "began with seed=0, and here it is 1"),
        ({"model": {"seed": 1}}, "began with the model's weights at the start '"),
        ({"model": {"head": (8, 0.5)}}, "began with the model's graph '"),
        ({"train": 60}, "began with the number of training samples 66, and here it is 60"),
        ({"val": "less"}, "began with the number of validation samples"),
        ({"val": None}, "began with the number of validation samples .*, and here it is none"),
        ({"order": "turned"}, r"began with the training samples \(digest of their ids\) '"),
    ],
    ids=str,
)
def test_another_training_is_refused(kept: Path, change: dict[str, Any], said: str) -> None:
    """With the first thing that differs."""
    train, val = parts()
    change = dict(change)
    model = hs.model("lenet", **{"classes": 10, "head": (16, 0.5), **change.pop("model", {})})
    if "train" in change:
        train = train.subset(range(change.pop("train")))
    if change.pop("order", None):
        train = train.subset(np.arange(len(train))[::-1])
    if "val" in change:
        val = None if change.pop("val") is None else val.subset(range(len(val) - 1))
    with pytest.raises(SettingError, match=said):
        hs.fit(model, train, val, **{**SETTINGS, **change}, resume=kept)


@pytest.mark.of("torch")
def test_features_that_were_made_otherwise_are_refused(backend: str, tmp_path: Path) -> None:
    """In place of pictures: what no option says of them."""
    model = model_of()
    halves, floats = (
        [hs.extract(model, data, dtype=dtype) for data in parts()] for dtype in ("float16", "float32")
    )
    hs.fit(model, *floats, **SETTINGS, checkpoint=tmp_path)
    for features in (halves, [floats[0], halves[1]]):
        with pytest.raises(SettingError, match=r"features' own precision, dtype and views .*float32.* is none"):
            hs.fit(model, *features, **SETTINGS, resume=tmp_path)
    hs.fit(model, *floats, **SETTINGS, resume=tmp_path)


@pytest.mark.of("torch")
def test_another_order_of_the_samples_is_refused(backend: str, tmp_path: Path) -> None:
    """As memory has it."""
    model = hs.model("resnet18_half", weights="tinyimagenet", classes=10, size=32)
    settings = {**SETTINGS, "batch_size": 8, "epochs": 2}
    streamed = {**settings, "memory": "40KB"}
    undisturbed = hs.fit(model, *parts(), **streamed)
    assert undisturbed.settings["features"]["where"] == "disk"
    with pytest.raises(Killed):
        hs.fit(model, *parts(), **streamed, checkpoint=tmp_path, on_epoch=killed_after(2))
    with pytest.raises(SettingError, match=r"in another order .* memory= has them"):
        hs.fit(model, *parts(), **settings, resume=tmp_path)
    assert_equal(hs.fit(model, *parts(), **streamed, resume=tmp_path), undisturbed)


@pytest.mark.of("torch")
def test_defaults_that_are_others_by_now_are_refused(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of another version: the options are the same, and the steps would not be."""
    monkeypatch.setattr(stage, "default_optimizer", lambda graph, everything: hs.AdamW(lr=0.25))
    with pytest.raises(SettingError, match=r"the steps would be others .* the version that training\.json"):
        hs.fit(model_of(), *parts(), **SETTINGS, resume=kept)


@pytest.mark.of("torch")
def test_what_is_no_checkpoint_is_told(kept: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no checkpoint is there \(training.json is missing\)"):
        hs.fit(model_of(), *parts(), **SETTINGS, resume=tmp_path / "nowhere")
    with pytest.raises(SettingError, match="checkpoint is there already; go on with it by resume="):
        hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=kept)
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match="nothing can be written there"):
        hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=tmp_path / "file")


@pytest.mark.of("torch")
@pytest.mark.parametrize("name", ["state-all.safetensors", "state-head.safetensors", "training.json"])
def test_what_is_damaged_is_told_and_nothing_else_is_lost(backend: str, name: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "mode": "staged", "head_epochs": 1}
    interrupted(tmp_path, 3, **settings)
    content = (tmp_path / name).read_bytes()
    for damaged in (content[: len(content) // 2], b"", content.replace(b":", b"?", 1)):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(CheckpointError, match=name):
            hs.fit(model_of(), *parts(), **settings, resume=tmp_path)
        assert (tmp_path / name).read_bytes() == damaged
    assert hs.load(tmp_path).history
    (tmp_path / name).write_bytes(content)
    hs.fit(model_of(), *parts(), **settings, resume=tmp_path)


@pytest.mark.of("torch")
def test_a_backend_that_gives_no_state_keeps_none(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(registry.describe(backend), abilities=frozenset())
    monkeypatch.setattr(registry, "_described", lambda name: plain)
    with pytest.raises(MissingAbilityError, match="leave out checkpoint= and resume="):
        hs.fit(model_of(), *parts(), **SETTINGS, checkpoint=tmp_path)


@pytest.mark.of("torch")
def test_a_sweep_keeps_none(backend: str, tmp_path: Path) -> None:
    with pytest.raises(UnknownOptionError, match="unknown setting 'checkpoint' of sweep"):
        hs.sweep(model_of(), *parts(), grid={"lr": [0.1]}, checkpoint=tmp_path)  # type: ignore[call-arg]


@pytest.mark.of("torch")
def test_on_the_command_line(backend: str, tmp_path: Path) -> None:
    words = ["fit", "--data", "digits", "--model", "lenet", "--epochs", 1, "--batch-size", 64, "--device", "cpu"]
    folder = tmp_path / "kept"
    first = headstart(*words, "--checkpoint", folder)
    assert first.code == 0, first.err
    again = headstart(*words, "--resume", folder)
    assert again.code == 0, again.err
    rows = [next(line for line in said.out.splitlines() if " cached " in line) for said in (first, again)]
    results = [row.split()[1] for row in rows]
    assert "%" in results[0] and results[0] == results[1]
    other = headstart(*words, "--seed", 3, "--resume", folder)
    assert other.code == 2
    assert "began with seed=0, and here it is 3" in other.err.strip().splitlines()[-1]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        scored = headstart("evaluate", "--run", folder, "--data", "digits")
    assert scored.code == 0 and "what the run was trained on" in scored.err
