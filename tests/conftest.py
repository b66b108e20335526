"""What every test has: a cache of its own, and the backend that this environment is for."""

from __future__ import annotations

import atexit
import gc
import os
import random
import re
import sys
import zlib
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.contract import recipe, registry

XLA_FLAGS_END = (0, 11)
"""the first jaxlib that does not know the flags that tox names, and ends the process at once"""
GIVES_WAY = 4
"""how much nicer the workers of an environment on all cores are than processes of one core: what can be divided is
left for the end"""
SELDOM = (50_000, 20, 20)
"""how many more objects than were freed, and how many collections of the younger ones, make one of garbage"""
FIRST = (None, registry.names()[0])
"""the backends of environments that run what needs no framework"""

_running: list[pytest.Config] = []
"""pytest's runs in this process: behind the first those of tests that run pytest (contract/test_planted.py)"""


def pytest_configure(config: pytest.Config) -> None:
    """Workers of pytest-xdist, and environments that run side by side, keep to a core each, before any framework
    counts them: two pools of threads that spin on the same cores slow each other down many times over."""
    _running.append(config)
    if len(_running) > 1:
        return
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_setaffinity") else []
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    number = _core_of_environment() if worker is None else int(worker.removeprefix("gw"))
    if cores and number is not None:
        os.sched_setaffinity(0, {cores[number % len(cores)]})
    if worker is not None and os.environ.get("HEADSTART_TEST_CORES"):
        os.nice(GIVES_WAY)
    gc.set_threshold(*SELDOM)
    # What is asked for in half precision is tested in that, whatever the processor is for.
    recipe.cpu_multiplies = lambda dtype: True
    _spare_xla()
    _draw_the_same_examples()


def pytest_collection_finish() -> None:
    """What is there now, frameworks and tests, stays to the end, and need not be looked through by each collection
    of garbage: with Keras and JAX that took a seventh of the time, since JAX frees what it holds in each, too."""
    if len(_running) > 1:
        return
    gc.collect()
    gc.freeze()
    _spare_tensorflow()


@pytest.fixture(scope="module")
def own_garbage() -> None:
    """For modules that collect garbage: what the tests before have made is left out, which took a second each."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Libraries that count what they have left at the end, as Triton does, find nothing. Not before pytest itself
    has looked for garbage, of which there is none in what was imported."""
    _running.pop()
    if not _running:
        atexit.register(gc.unfreeze)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: none for an environment that has its place on one core, else one a core: the longest of those
    that run side by side has no place, and fills whatever the others leave."""
    return 0 if _core_of_environment() is not None else len(os.sched_getaffinity(0))


def _core_of_environment() -> int | None:
    """The number of the core that this environment of tox shares with others: HEADSTART_TEST_CORES has the names
    of those on one core with commas between them, a word a core. One of them computes while another waits for its
    servers and child processes, which is a fifth of torch's time."""
    groups = os.environ.get("HEADSTART_TEST_CORES", "").split()
    name = os.environ.get("TOX_ENV_NAME")
    return next((number for number, group in enumerate(groups) if name in group.split(",")), None)


def _spare_xla() -> None:
    """Before JAX is imported, here and in what tests start."""
    # tests' programs are many and small, and each test has a cache of its own
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
    with suppress(PackageNotFoundError, KeyError):
        flags = os.environ["HEADSTART_TEST_XLA_FLAGS"]
        numbers = tuple(int(number) for number in version("jaxlib").split(".")[:2])
        if numbers < XLA_FLAGS_END:
            os.environ.setdefault("XLA_FLAGS", flags)


def _spare_tensorflow() -> None:
    """Graphs of networks that run for a moment take longer to optimise than to run."""
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow and os.environ.get("HEADSTART_TEST_TF_OPTIMIZER") == "off":
        tensorflow.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def _draw_the_same_examples() -> None:
    """Tests of properties pass or fail by the code alone: not by which examples this run has drawn, nor by how
    busy the machine is with others."""
    with suppress(ModuleNotFoundError):  # some environments have no Hypothesis
        from hypothesis import HealthCheck, settings

        settings.register_profile(
            "repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
        )
        settings.load_profile("repeatable")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadscope`, but for tests/parity: its three longest files take two workers as long as two and a half
    of them, so there a unit of work is what a file asks of one network, whose fixtures its tests share."""
    from xdist.scheduler import LoadScopeScheduling

    class ByNetwork(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file, _, test = nodeid.partition("::")
            if not file.startswith("tests/parity/"):
                return str(super()._split_scope(nodeid))
            name, _, parameters = test.rstrip("]").partition("[")
            return f"{file}::{parameters.split('-')[0] or name}"

    return ByNetwork(config, log) if config.getoption("dist") == "loadscope" else None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Each test draws the same numbers in every run, whichever tests were before it: modules are made with weights
    that nobody has seeded. Keras takes its seeds from `random`; JAX has none but those that it is given."""
    seed = zlib.crc32(item.nodeid.encode())
    random.seed(seed)
    np.random.seed(seed)
    if torch := sys.modules.get("torch"):
        torch.manual_seed(seed)


@pytest.fixture(scope="session")
def _caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where each test that has no folder has its cache, once it keeps something."""
    folder = tmp_path_factory.mktemp("caches")
    return (folder / str(number) for number in count())


@pytest.fixture(autouse=True)
def _own_cache(request: pytest.FixtureRequest, _caches: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees the user's cache or data, nor another test's. A folder is made for whoever asks for one only:
    pytest looks through those of all tests before to number it."""
    own = request.getfixturevalue("tmp_path") if "tmp_path" in request.fixturenames else next(_caches)
    monkeypatch.setenv("HEADSTART_CACHE", str(own / "cache"))
    monkeypatch.setenv("HEADSTART_DATA", str(own / "data"))


@pytest.fixture(scope="session")
def backend() -> str:
    """The one that HEADSTART_BACKEND names, else the first installed. Named and missing is a failure."""
    named = os.environ.get(registry.VARIABLE)
    if named is None and not registry.installed():
        pytest.skip("no backend is installed")
    return registry.choose(named or registry.installed()[0])


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URL of an empty bucket, on a server of S3's protocol that a module's tests share."""
    pytest.importorskip("moto")
    from object_server import served

    with served() as server:
        yield server.url


@pytest.fixture(scope="module")
def proxy() -> Iterator[Any]:
    """An `object_proxy.ObjectProxy` before such a server: it counts requests, and can have bad days."""
    pytest.importorskip("moto")
    from object_proxy import proxied
    from object_server import served

    with served() as server, proxied(server.endpoint) as proxy:
        yield proxy


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests of one framework (`@pytest.mark.of`) belong to the environments that have chosen it. What needs no
    framework (`@pytest.mark.neutral`) runs once, in the first one's, not three times; in a module that is marked
    in one of these ways, a test may be for each of them all the same (`@pytest.mark.each`). What takes long
    (`@pytest.mark.slow`) is left to `tox -e slow`, unless `-m` or the test's own name asks for it."""
    named = _environment()
    first = named in FIRST
    asked = config.getoption("markexpr") or any("::" in argument for argument in config.args)
    others = [
        item
        for item in items
        if (
            not item.get_closest_marker("each")
            and (
                ((mark := item.get_closest_marker("of")) and mark.args != (named,))
                or (item.get_closest_marker("neutral") and not first)
            )
        )
        or (not asked and any(not mark.args or named in mark.args for mark in item.iter_markers("slow")))
    ]
    if others:
        config.hook.pytest_deselected(items=others)
        left = set(others)
        items[:] = [item for item in items if item not in left]


def _environment() -> str | None:
    """The backend that this environment has chosen."""
    return os.environ.get(registry.VARIABLE) or next(iter(registry.installed()), None)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """A module whose own mark says that all of its tests are for other environments is not imported there: that,
    and making its tests only to leave them out, took a quarter of the time before the first one. One that is
    asked for is."""
    if collection_path.suffix != ".py" or not collection_path.name.startswith("test_"):
        return None
    asked = {Path(argument.partition("::")[0]).absolute() for argument in config.args}
    if collection_path in asked:
        return None
    text = collection_path.read_text("utf-8")
    mark = re.search("^pytestmark = .*", text, re.MULTILINE)
    if mark is None or "mark.each" in text:
        return None
    named = _environment()
    of = re.search(r"\bmark\.of\(\"(\w+)\"\)", mark[0])
    neutral = "mark.neutral" in mark[0] and named not in FIRST
    return True if neutral or (of is not None and of[1] != named) else None
