"""A run's folder: one of two runs at any moment, and never the weights of one with the record of the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from faults.campaigns import fork
from faults.saving import assert_whole, kill_while_saving, run_of
from safetensors import safe_open
from safetensors.numpy import load_file

import headstart as hs
from headstart.common import files
from headstart.common.errors import SettingError, WeightsError
from headstart.common.reading import read_json
from headstart.training import saved

pytestmark = [
    pytest.mark.neutral,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes"),
]


@pytest.fixture(autouse=True)
def _any_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HEADSTART_BACKEND", raising=False)
    monkeypatch.setattr("headstart.contract.registry.installed", lambda: ("torch",))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    files = [hs.weights_file(run_of(1).save(tmp_path / str(k))) for k in range(6)]
    assert len({file.name for file in files}) == len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], framework="numpy") as file:
        assert (file.metadata()["architecture"], file.metadata()["classes"]) == ("lenet", '["1-a", "1-b"]')
    assert files[0].read_bytes()[0] % 8 == 0, "numbers that are mapped begin where they may"


def test_killed_at_random(tmp_path: Path) -> None:
    kill_while_saving(tmp_path / "run", 10, seed=1)


def killed_before(call: int) -> SimpleNamespace:
    """Stands for `os` in the writing of files: dies before its Nth replace, or after the last."""
    done = 0

    def replace(source: Path, target: Path) -> None:
        nonlocal done
        done += 1
        if done == call:
            os.kill(os.getpid(), signal.SIGKILL)
        os.replace(source, target)  # noqa: PTH105

    return SimpleNamespace(**(vars(os) | {"replace": replace}))


@pytest.mark.parametrize("call", [1, 2])
def test_killed_between_its_two_files(tmp_path: Path, call: int) -> None:
    folder, other = run_of(1).save(tmp_path / "run"), run_of(2)

    def victim() -> None:
        files.os = killed_before(call)  # type: ignore[assignment]
        other.save(folder)

    assert os.waitpid(fork(victim), 0)[1] == signal.SIGKILL
    assert assert_whole(folder, (1, 2)) == 1
    assert any(name.startswith(".partial-") for name in names(folder))
    other.save(folder)
    assert assert_whole(folder, (1, 2)) == 2
    assert names(folder) == ["run.json", hs.weights_file(folder).name, "weights.safetensors"]


def in_old_format(folder: Path) -> None:
    """As runs were saved before their weights had a name of their own."""
    about = json.loads((folder / "run.json").read_text())
    hs.weights_file(folder).rename(folder / "weights.safetensors")
    del about["weights"], about["checksum"]
    (folder / "run.json").write_text(json.dumps(about | {"format": 1}))


def test_runs_of_the_old_format(tmp_path: Path) -> None:
    folder = run_of(1).save(tmp_path / "run")
    in_old_format(folder)
    assert assert_whole(folder, (1,)) == 1
    assert hs.weights_file(folder).name == "weights.safetensors"
    run_of(2).save(folder)
    assert assert_whole(folder, (2,)) == 2
    assert names(folder) == ["run.json", hs.weights_file(folder).name, "weights.safetensors"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    """Weights of that name without a run are the user's, and so is a link whatever it is called."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "weights.safetensors").write_bytes(b"mine")
    (folder / "weights-mine.safetensors").write_bytes(b"mine")
    (folder / ".partial-mine").symlink_to(tmp_path)
    (tmp_path / "elsewhere").write_bytes(b"mine")
    (folder / f"weights-{'0' * 16}.safetensors").symlink_to(tmp_path / "elsewhere")
    before = names(folder)
    run_of(1).save(folder)
    assert set(before) < set(names(folder))
    assert (tmp_path / "elsewhere").read_bytes() == b"mine"


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(WeightsError, match=rf"is a file; expected the folder .*, such as {tmp_path}"):
        hs.load(tmp_path / "run.json")


def test_what_cannot_be_meant_is_refused(tmp_path: Path) -> None:
    folder = run_of(1).save(tmp_path / "run")
    with pytest.raises(WeightsError, match=r"run: the run of a \w+, which is saved whole: leave out model="):
        hs.load(folder, model=run_of(2).model)
    about = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps(about | {"mode": "cachd"}))
    with pytest.raises(WeightsError, match=r"not a saved run \(unknown mode 'cachd'"):
        hs.load(folder)


def test_a_record_that_was_changed_is_refused(tmp_path: Path) -> None:
    """A flipped bit in a mean, a deviation or a threshold would give other predictions, silently."""
    folder = run_of(1).save(tmp_path / "run")
    record = folder / "run.json"
    whole = record.read_text()
    for name, change in (
        ("preprocess", lambda spec: {**spec, "std": [0.25, *spec["std"][1:]]}),
        ("classes", lambda names: [f"{names[0]}~", *names[1:]]),
        ("threshold", lambda _: 0.7),
    ):
        about = json.loads(whole)
        about["model"][name] = change(about["model"][name])
        record.write_text(json.dumps(about))
        with pytest.raises(WeightsError, match=r"run.json: damaged or edited .* take the entry 'checksum' out"):
            hs.load(folder)
    del about["checksum"]
    record.write_text(json.dumps(about))
    assert hs.load(folder).model.threshold == 0.7, "of those of before, and of whoever meant it"


def test_torchvisions_names_are_found(tmp_path: Path) -> None:
    run = run_of(1)
    tensors = load_file(hs.weights_file(run.save(tmp_path / "run")))
    assert load_file(tmp_path / "run" / "weights.safetensors").keys() == tensors.keys(), "by the name of before"
    assert {name for name in tensors if name.startswith("conv1")} == {"conv1.weight", "conv1.bias"}
    for folder in (tmp_path, tmp_path / "runs"):  # above it, and one that is nearly called so
        with pytest.raises(WeightsError, match=rf"no run is saved there .*; did you mean {tmp_path / 'run'}\?"):
            hs.weights_file(folder)


def exchange(folder: Path, other: Path) -> None:
    shutil.copyfile(hs.weights_file(other), hs.weights_file(folder))


def lose(folder: Path, other: Path) -> None:
    hs.weights_file(folder).unlink()


def lead_out(folder: Path, other: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    about["weights"]["file"] = "../b/weights-0123456789abcdef.safetensors"
    (folder / "run.json").write_text(json.dumps(about))


@pytest.mark.parametrize("damage", [exchange, lose, lead_out])
def test_other_weights_are_refused(tmp_path: Path, damage: Callable[[Path, Path], None]) -> None:
    folder, other = run_of(1).save(tmp_path / "a"), run_of(2).save(tmp_path / "b")
    damage(folder, other)
    with pytest.raises(WeightsError, match=str(folder)):
        hs.load(folder)


def test_saved_to_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = run_of(1).save(tmp_path / "run"), run_of(2)
    calls = 0

    def read(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        about = read_json(*args)
        if calls == 1:
            other.save(folder)
        return about

    monkeypatch.setattr(saved, "read_json", read)
    assert assert_whole(folder, (1, 2)) == 2
    assert calls > 1


def test_one_saves_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl")
    folder = run_of(1).save(tmp_path / "run")
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    monkeypatch.setattr("headstart.common.outputs.LOCK_SECONDS", 0.05)
    with pytest.raises(SettingError, match="another process has been writing there"):
        run_of(2).save(folder)
    os.close(handle)
    assert assert_whole(folder, (1,)) == 1
    run_of(2).save(folder)
    assert assert_whole(folder, (2,)) == 2


def test_figures_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    run = run_of(1)
    record = {**run.history[0].as_dict(), "loss": np.nan, "val_loss": np.inf, "step_losses": [np.nan]}
    diverged = hs.Run(run.model, "full", None, "torch", type(run.history).from_list([record]))
    folder = diverged.save(tmp_path / "run")
    json.loads((folder / "run.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    last = hs.load(folder).history[-1]
    assert np.isnan([last.loss, last.val_loss, *last.step_losses]).all()
    assert hs.load(folder).diverged
