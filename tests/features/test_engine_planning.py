"""What an engine is named by, how work is cut into tasks, and how many workers a cluster has room for."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from planning_cost import cost_of_planning

import headstart as hs
from headstart.common.environment import SAID_OF_WAITING
from headstart.common.machine import cpus
from headstart.errors import EngineError, SettingError, UnknownOptionError
from headstart.features.engines.planning import TASKS, Task, task_size, tasks_of
from headstart.features.engines.ray_cluster import Crew, crew_for, imported
from headstart.features.engines.ray_engine import Driver, Worker
from headstart.features.engines.settings import check_engine
from headstart.features.engines.shown import Places
from headstart.features.engines.work import Outcome
from headstart.store.ids import array_to_ids

pytestmark = pytest.mark.neutral
IDS = st.sets(st.text("01234567", min_size=32, max_size=32), max_size=30)
NODES = st.dictionaries(st.sampled_from(["layer3", "layer4", "avgpool"]), IDS, max_size=3)


@given(st.lists(NODES, max_size=3), st.integers(1, 9))
def test_what_is_lacking_is_in_one_task_each(lacking: list[Mapping[str, set[str]]], size: int) -> None:
    """At every node and in every view just that, and no task is larger than it may be."""
    tasks = tasks_of([{node: sorted(ids) for node, ids in by_node.items()} for by_node in lacking], size)
    planned = [(task.view, node, id) for task in tasks for node in task.nodes for id in array_to_ids(task.ids)]
    assert sorted(planned) == sorted(
        (view, node, id) for view, by_node in enumerate(lacking) for node, ids in by_node.items() for id in ids
    )
    assert all(0 < len(task) <= size for task in tasks)
    assert all(array_to_ids(task.ids) == sorted(array_to_ids(task.ids)) for task in tasks)


def test_nodes_that_lack_the_same_share_tasks() -> None:
    ids = [f"{i:032x}" for i in range(100)]
    tasks = tasks_of([{"layer3": ids, "avgpool": ids[:50]}], 30)
    assert [(task.nodes, len(task)) for task in tasks] == [
        (("layer3",), 30), (("layer3",), 20), (("layer3", "avgpool"), 30), (("layer3", "avgpool"), 20)
    ]  # fmt: skip


def test_a_task_is_little_more_than_its_ids() -> None:
    (task,) = tasks_of([{"avgpool": [f"{i:032x}" for i in range(1000)]}], 1000)
    assert len(pickle.dumps(task)) < 16 * 1000 + 500
    assert len(pickle.dumps(tasks_of([{"avgpool": [f"{i:032x}" for i in range(1000)]}], 10)[0])) < 700


@pytest.mark.parametrize(
    ("total", "workers", "rows", "batch", "size"),
    [
        (2_000, 1, 65_536, 64, 65_536),  # nobody to share with
        (2_000, 2, 65_536, 64, 256),  # four each
        (10, 8, 65_536, 64, 64),  # no less than a batch
        (10_000_000, 8, 65_536, 64, 65_536),  # no more than a shard
        (10_000_000, 8, 1_000, 64, 960),  # whole batches
        (10_000_000, 8, 10, 64, 64),
    ],
)
def test_the_size_of_a_task(total: int, workers: int, rows: int, batch: int, size: int) -> None:
    assert task_size(total, workers, rows, batch) == size
    assert total / size <= max(workers * TASKS, total / (rows // batch * batch or batch))


def test_a_million_ids_are_planned_in_seconds() -> None:
    """Ten million, at length: tests/machines."""
    seconds, gigabytes = cost_of_planning(1_000_000)
    assert seconds < 6 and gigabytes < 0.4


def test_places_of_ids() -> None:
    """Of equal ids the first."""
    ids = [f"{i * 7 % 50:032x}" for i in range(60)]
    places = Places(ids)
    (task,) = tasks_of([{"avgpool": ids[:50]}], 100)
    expected = [ids.index(id) for id in array_to_ids(task.ids)]
    assert places.of(task.ids).tolist() == expected and places.of(task.ids).dtype == np.int64


# ---- an interrupt at a moment of its own


def test_an_interrupt_between_two_lines_ends_all_and_keeps_what_is_finished() -> None:
    """One worker has answered, and Ctrl-C comes as its next task is taken and not sent yet."""
    ids = [f"{i:032x}" for i in range(4)]
    ray, way, actor = MagicMock(), MagicMock(), MagicMock()
    work = actor.work.options.return_value.remote
    work.return_value = iter(["what the worker says"])
    job = SimpleNamespace(plan=lambda workers: tasks_of([{"avgpool": ids}], 2))
    driver = Driver(ray, Crew(workers=1, gpus=0, cpus=1), job, way, parcel=None, params=None)
    driver._workers, driver._free_places = [Worker(actor, begun=None)], 0
    driver._fill()
    assert work.call_count == 1
    ray.get.return_value = outcome = Outcome(shards={"avgpool": ["shard"]})
    ray.exceptions.RayTaskError = ray.exceptions.RayError = type("RayError", (Exception,), {})
    work.side_effect = KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        driver._has_answered(driver._workers[0])
    driver.leave()
    (brought,) = way.bring.call_args_list
    assert array_to_ids(brought.args[0].ids) == ids[:2] and brought.args[1] == outcome.shards
    ray.wait.assert_not_called()
    ray.kill.assert_called_once_with(actor, no_restart=True)


# ---- what a worker is told


@pytest.mark.parametrize(
    "said",
    [
        {"GOMP_SPINCOUNT": "3000", "KMP_BLOCKTIME": "0", "OPENBLAS_THREAD_TIMEOUT": "18"},
        {"OMP_WAIT_POLICY": "ACTIVE", "OPENBLAS_THREAD_TIMEOUT": "30"},
    ],
)
def test_threads_of_a_worker_wait_as_those_here(monkeypatch: pytest.MonkeyPatch, said: dict[str, str]) -> None:
    """Also on a machine whose part of Ray was started without that being said."""
    for name in SAID_OF_WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HEADSTART_CACHE", "here")
    job, way = SimpleNamespace(plan=lambda workers: []), SimpleNamespace(nodes_own=("HEADSTART_CACHE",))
    driver = Driver(MagicMock(), Crew(workers=1, gpus=0, cpus=3), job, way, parcel=None, params=None)
    driver._start()
    (environment, *_), _ = driver._workers[0].actor.start.remote.call_args
    told = {name: value for name, value in environment.items() if not name.startswith("HEADSTART_")}
    assert told == said | {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    assert environment["HEADSTART_CPUS"] == "3" and "HEADSTART_CACHE" not in environment


# ---- how many workers


def crew(settings: hs.Ray, *nodes: tuple[float, float], device: str = "auto") -> Crew:
    return crew_for(settings, device, [{"CPU": cpus, **({"GPU": gpus} if gpus else {})} for cpus, gpus in nodes])


@pytest.mark.parametrize(
    ("settings", "nodes", "expected"),
    [
        ({}, [(2, 0)], Crew(1, 0, 2)),
        ({}, [(2, 0), (2, 0), (4, 0)], Crew(4, 0, 2)),
        ({}, [(16, 0), (0, 0)], Crew(1, 0, 16)),  # a head that is to do no work
        ({"workers": 2}, [(2, 0)], Crew(2, 0, 1)),
        ({"workers": 2}, [(2, 0), (2, 0), (2, 0)], Crew(2, 0, 2)),
        ({"workers": 4}, [(3, 0), (3, 0)], Crew(4, 0, 1)),
        ({"cpus_per_worker": 3}, [(8, 0), (4, 0)], Crew(3, 0, 3)),
        ({}, [(16, 4), (16, 4)], Crew(8, 1, 4)),
        ({}, [(16, 0), (16, 4)], Crew(4, 1, 4)),
        ({"gpus_per_worker": 0.5}, [(16, 1)], Crew(2, 0.5, 8)),
        ({"gpus_per_worker": 2}, [(16, 4)], Crew(2, 2, 8)),
        ({"gpus_per_worker": 0}, [(16, 4)], Crew(1, 0, 16)),
        ({"gpus_per_worker": 1, "workers": 3}, [(16, 4)], Crew(3, 1, 4)),
        ({"gpus_per_worker": 1, "cpus_per_worker": 8}, [(16, 4)], Crew(2, 1, 8)),
    ],
)  # fmt: skip
def test_the_crew(settings: dict[str, Any], nodes: list[tuple[float, float]], expected: Crew) -> None:
    assert crew(hs.Ray(**settings), *nodes) == expected


@pytest.mark.parametrize(
    ("settings", "device", "text"),
    [
        (
            {"gpus_per_worker": 1},
            "auto",
            "room for 0 of 1 worker of 1 GPU and 1 CPU; its machines have: 2 CPUs",
        ),
        ({}, "cuda", "room for 0 of 1 worker of 1 GPU and 1 CPU"),
        ({"workers": 3}, "auto", "room for 2 of 3 workers of 1 CPU"),
        ({"cpus_per_worker": 4}, "auto", "room for 0 of 1 worker of 4 CPUs"),
    ],
)
def test_what_there_is_no_room_for(settings: dict[str, Any], device: str, text: str) -> None:
    with pytest.raises(EngineError, match=text):
        crew(hs.Ray(**settings), (2, 0), device=device)


# ---- the name of an engine


@pytest.mark.parametrize(
    "settings",
    [
        {"workers": 0}, {"workers": 1.5}, {"workers": True}, {"cpus_per_worker": 0}, {"gpus_per_worker": -1},
        {"gpus_per_worker": 1.5}, {"gpus_per_worker": "1"}, {"gpus_per_worker": True}, {"address": ""},
        {"address": 3}, {"address": "ray://head:10001"},
    ],
)  # fmt: skip
def test_what_is_no_engine(settings: dict[str, Any]) -> None:
    with pytest.raises(SettingError):
        hs.Ray(**settings)


def test_an_engine_is_plain_data() -> None:
    engine = hs.Ray("auto", workers=8, gpus_per_worker=1)
    assert pickle.loads(pickle.dumps(engine)) == engine == hs.Ray("auto", 8, 1)
    with pytest.raises(SettingError, match=r"engine='ray'; expected None or an hs.Ray"):
        check_engine("ray", "auto")
    with pytest.raises(SettingError, match="gives each worker its own GPUs; expected the kind alone, 'cuda'"):
        check_engine(engine, "cuda:1")
    check_engine(engine, "cuda")
    with pytest.raises(UnknownOptionError, match="engine"):
        hs.plan(None, object(), engine=engine)  # type: ignore[call-arg]


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr("importlib.import_module", lambda name: __import__(name))
    with pytest.raises(EngineError, match=r"needs ray, which is not installed: pip install 'headstart\[ray\]'"):
        imported()


def test_an_older_ray_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    monkeypatch.setattr("headstart.features.engines.ray_cluster.version", lambda name: "2.9.3")
    with pytest.raises(EngineError, match=r"ray 2.60 or later, 2.9.3 is here"):
        imported()


def test_a_worker_keeps_to_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = cpus()
    monkeypatch.setenv("HEADSTART_CPUS", "1")
    assert cpus() == 1
    for nonsense in ("0", "1.5", "-3", "many", ""):
        monkeypatch.setenv("HEADSTART_CPUS", nonsense)
        assert cpus() == (1 if nonsense == "0" else everything)
    monkeypatch.setenv("HEADSTART_CPUS", "4096")
    assert cpus() == everything


def test_a_task_has_a_length() -> None:
    assert len(Task(0, ("avgpool",), np.zeros((3, 16), np.uint8))) == 3
