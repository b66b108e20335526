"""Extraction by processes of this machine, one for each device: rows are those of a plain extraction,
whoever dies; no process is left, however it ends, and each sees its own card.

The CPU stands for two devices, and a backend in plain numpy for a framework, which each process had to import."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import headstart, heeded_ctrl_c
from ray_clusters import gone, kill, make_photos, processes_below

import headstart as hs
from headstart.contract import registry
from headstart.contract.description import Description
from headstart.contract.opening import NO_CARDS
from headstart.contract.recipe import Place
from headstart.errors import BackendError, EngineError, ExtractionInterrupted, ImageError, SettingError
from headstart.features.engines import planning, processes
from headstart.features.engines.device_listing import listed
from headstart.features.engines.process_worker import DONE
from headstart.features.engines.processes import Process, seeing_one
from headstart.features.engines.settings import Processes, processes_on
from headstart.store import FeatureStore
from headstart.testing.samples import shaken, tiny_model

pytestmark = pytest.mark.neutral
OUTSIDE = Path(__file__).parent.parent / "outside"
COUNT = 48
UNHURRIED = """
import os, time
from dataclasses import replace
from headstart_numpy import DESCRIPTION
from headstart_numpy.backend import BACKEND, NumpyTrunk

DESCRIPTION, run = replace(DESCRIPTION, module=__name__), NumpyTrunk.run

def after_a_while(self, images):
    time.sleep(float(os.environ.get("UNHURRIED", "0")))
    return run(self, images)

NumpyTrunk.run = after_a_while
"""
"""a backend in plain numpy, that can be told to take its time"""
TWO = ["cpu", "cpu"]


@pytest.fixture(scope="module")
def _numpy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A backend without a framework, installed here and in what is started here."""
    registry.names()  # what is installed without it is kept
    folder = tmp_path_factory.mktemp("site")
    info = folder / "headstart_numpy-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: headstart-numpy\nVersion: 0.1\n")
    (info / "entry_points.txt").write_text("[headstart.backends]\nnumpy = unhurried:DESCRIPTION\n")
    (folder / "unhurried.py").write_text(UNHURRIED)
    description = Description(module="unhurried", modules=("numpy",), distributions=(), install="")
    with pytest.MonkeyPatch.context() as path:
        path.syspath_prepend(str(folder))
        path.syspath_prepend(str(OUTSIDE))
        path.setenv("PYTHONPATH", f"{folder}{os.pathsep}{OUTSIDE}")
        registry.register("numpy", description)
        yield
        del registry._registered["numpy"]
        registry.register("nothing", description)  # which forgets what was cached
        del registry._registered["nothing"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), COUNT, width=32)


@pytest.fixture
def extract(_numpy: None, photos: Path) -> Callable[..., Any]:
    def call(data: Path = photos, **settings: Any) -> Any:
        settings = {"backend": "numpy", "dtype": "float32", "batch_size": 2, "workers": 1, **settings}
        return hs.extract(shaken(tiny_model()), hs.data.folder(data), **settings)

    return call


def workers() -> list[int]:
    return [pid for pid, command in processes_below(os.getpid()).items() if "process_worker" in command]


def rows_stored() -> int:
    return sum(info.rows for info in FeatureStore().infos())


def test_a_process_that_dies_costs_its_task(
    extract: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """What it had not stored is computed again, by another that takes its place, and rows are those of a plain
    extraction, each of them once."""
    caplog.set_level("INFO", "headstart")
    expected = extract(cache=tmp_path / "plain", device="cpu").numpy()
    send, killed = Process.send, []

    def send_and_kill(self: Process, what: Any) -> None:
        send(self, what)
        if not killed:
            os.write(self._words.fileno(), b"the driver\nwas updated\n")
            killed.append(self.pid)
            kill(self.pid)

    monkeypatch.setattr(Process, "send", send_and_kill)
    features = extract(devices=TWO)
    assert features.stats.extracted == COUNT and np.array_equal(features.numpy(), expected)
    assert rows_stored() == COUNT and gone(workers())
    assert "2 processes, of " in caplog.text and "each: cpu, cpu" in caplog.text
    (line,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert f"process {killed[0]} on cpu has died (signal 9: the driver was updated); 6 of its task's 6" in line
    again = extract(devices=TWO)
    assert (again.stats.extracted, again.stats.reused) == (0, COUNT)


def test_ctrl_c_keeps_what_is_computed(extract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the tasks that are under way, too; and leaves no process. The rest is computed afterwards."""
    take, seen = processes.Driver._take, []
    monkeypatch.setattr(planning, "TASKS", 1)

    def interrupted(self: Any, process: Any, kind: str, value: Any) -> None:
        take(self, process, kind, value)
        if kind == DONE and value and not seen:
            seen.extend(workers())
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as driver, heeded_ctrl_c(), pytest.raises(ExtractionInterrupted) as caught:
        driver.setattr(processes.Driver, "_take", interrupted)
        driver.setenv("UNHURRIED", "0.1")
        extract(devices=TWO)
    assert len(seen) == 2 and gone(seen)
    kept = rows_stored()
    assert 0 < kept < COUNT and f"the features of {kept} of {COUNT} images are kept" in str(caught.value)
    rest = extract(device="cpu")
    assert (rest.stats.reused, rest.stats.extracted) == (kept, COUNT - kept)


def test_a_picture_that_does_not_decode_is_the_error_that_it_always_is(extract: Any, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "broken", 8, width=32)
    broken = folder / "class1" / "00005.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ImageError, match=r"00005\.jpg"):
        extract(folder, devices=TWO)
    assert gone(workers())


def test_data_that_cannot_be_sent_are_named(_numpy: None) -> None:
    data = hs.data.digits().subset(range(4))
    data.unsendable = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(SettingError, match=r"tiny and .* cannot be sent to other processes .*pass engine=hs\.Ray"):
        hs.extract(tiny_model(), data, backend="numpy", devices=TWO)


def test_a_device_that_is_not_there_is_named(extract: Any) -> None:
    with pytest.raises(EngineError, match=r"on cuda:1: unknown device 'cuda' \(of backend 'numpy'\)"):
        extract(devices=["cpu", "cuda:1"])
    assert gone(workers())


def test_a_process_that_cannot_start_says_why(extract: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "WORKER", "headstart.nowhere")
    with pytest.raises(EngineError, match=r"on cpu no process starts: exit code 1: .*No module named"):
        extract(devices=TWO)


def test_all_of_one_device_is_a_plain_extraction(
    extract: Any, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which a line says. What is there is asked in another process."""
    monkeypatch.setattr(processes, "run", lambda *_: pytest.fail("processes were started"))
    words = ("--data", photos, "--size", 32, "--model", "lenet", "--backend", "numpy", "--devices", "all")
    result = headstart("extract", *words)
    assert result.code == 0, result.err
    assert "devices='all': numpy finds one, cpu, and this process extracts on it" in result.err
    assert extract(devices=["cpu"]).stats.extracted == COUNT


def test_devices_are_listed_as_far_as_they_compute() -> None:
    class Framework:
        def __init__(self, best: str, count: int) -> None:
            self.best, self.count = best, count

        def place(self, device: str, precision: str) -> Place:
            name = self.best if device == "auto" else device
            if int(name.partition(":")[2] or 0) >= self.count:
                raise BackendError("there is no such device")
            return Place(name, precision)

    for best, count, names in (
        ("cpu", 1, ["cpu"]),
        ("cuda", 1, ["cuda"]),
        ("cuda", 3, ["cuda", "cuda:1", "cuda:2"]),
    ):
        framework: Any = Framework(best, count)
        assert listed(framework, "float32") == names


@pytest.mark.parametrize(
    ("name", "visible", "called", "sees"),
    [
        ("cuda:1", None, "cuda", "1"),
        ("cuda", None, "cuda", "0"),
        ("cuda:1", "4,7", "cuda", "7"),
        ("cuda:1", "GPU-aa, GPU-bb", "cuda", "GPU-bb"),
        ("cuda:2", "4,7", "cuda:2", None),  # the framework says that there are two
        ("xpu:1", None, "xpu:1", None),
    ],
)
def test_a_process_sees_one_card(name: str, visible: str | None, called: str, sees: str | None) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert seeing_one(name, environment) == (called, {} if sees is None else {"CUDA_VISIBLE_DEVICES": sees})
    assert seeing_one("cpu", environment) == ("cpu", NO_CARDS)


def test_what_devices_may_be() -> None:
    assert processes_on(None, None, "cuda") == (None, "cuda")
    assert processes_on("all", None, "auto") == (Processes(), "auto")
    assert processes_on(["cuda:1"], None, "auto") == (None, "cuda:1")
    assert processes_on(("cuda", "cuda:1"), None, "auto") == (Processes(("cuda", "cuda:1")), "auto")
    for wrong in ("cuda:0", [], [0, 1], "ALL", 2, ["auto", "cpu"]):
        with pytest.raises(SettingError, match="devices="):
            processes_on(wrong, None, "auto")
    for more in ({"engine": hs.Ray(), "device": "auto"}, {"engine": None, "device": "cpu"}):
        with pytest.raises(SettingError, match="leave out one of them"):
            processes_on("all", **more)


def test_gpus_all_needs_no_ray(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from headstart.cli import options

    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert options.EngineOptions(gpus="all").engine() == Processes()
    assert isinstance(options.EngineOptions(gpus="2").engine(), hs.Ray)
