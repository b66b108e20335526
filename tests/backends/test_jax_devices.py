"""Where JAX keeps and computes what: nothing on a device that nobody asked for, float32 in full where it is said.
Devices are the CPU's, called otherwise; a card is needed for no test."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from jax_epochs import STEPS, epoch_of

from headstart.common.errors import BackendError, DeviceWarning
from headstart.contract.recipe import Place

pytestmark = pytest.mark.of("jax")


@pytest.fixture(scope="module")
def child(backend: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    program = Path(__file__).with_name("jax_devices.py")
    folder = tmp_path_factory.mktemp("devices")
    # What cannot be written is not tried to: some jaxlibs end the process then, and here it is an error.
    cache = {"JAX_ENABLE_COMPILATION_CACHE": "true", "JAX_RAISE_PERSISTENT_CACHE_ERRORS": "true"}
    environ = {**os.environ, "HEADSTART_CACHE": str(folder), **cache}
    ended = subprocess.run(
        [sys.executable, str(program), str(folder)], capture_output=True, text=True, env=environ
    )
    assert ended.returncode == 0, ended.stderr[-2000:]
    return json.loads(ended.stdout)  # type: ignore[no-any-return]


def test_nothing_lies_on_the_default_device(child: dict[str, Any]) -> None:
    for what in ("cpu", "cuda:1", "native", "fit cached", "fit frozen"):
        assert child["default"] not in child[what], what


def test_device_cpu_touches_no_other(child: dict[str, Any]) -> None:
    assert child["cpu"] == [child["host"]]


def test_a_native_module_runs_on_the_cpu(child: dict[str, Any]) -> None:
    """Whoever calls it."""
    assert child["native runs on"] == [child["host"]]


def test_state_lies_where_it_is_used(child: dict[str, Any]) -> None:
    cpu, second = (child["results"][name]["places"] for name in ("cpu", "cuda:1"))
    assert set(map(tuple, cpu.values())) == {(child["host"],)}
    assert set(map(tuple, second.values())) == {("3",)}


def test_devices_compute_the_same(child: dict[str, Any]) -> None:
    cpu, second = (child["results"][name] for name in ("cpu", "cuda:1"))
    for what in ("out", "losses", "logits", "trained"):
        np.testing.assert_allclose(second[what], cpu[what], rtol=1e-4, err_msg=what)
    np.testing.assert_allclose(child["called"], cpu["out"], rtol=1e-4)


def test_auto_is_the_best_kind_that_is_there(child: dict[str, Any]) -> None:
    assert child["decided"] == "cuda"


def test_float32_is_never_less(child: dict[str, Any]) -> None:
    """On a CPU it is so by itself, and what it computes must not change."""
    assert child["precisions"] == {
        "cpu float32": ["DEFAULT"],
        "cpu tf32": ["DEFAULT"],
        "cpu bfloat16": ["DEFAULT"],
        "cuda float32": ["HIGHEST"],
        "cuda tf32": ["HIGH>"],
        "cuda bfloat16": ["DEFAULT"],
    }


def test_programs_are_kept_apart_for_a_device_that_is_not_the_cpu(child: dict[str, Any]) -> None:
    assert Path(child["programs of the cpu"]).name.startswith("jax-cpu-")
    folder, files = child["programs"]
    assert Path(folder).parts[-2:] == ("programs", "jax")
    assert any(name.startswith("jit_") for name in files)


@pytest.mark.parametrize(
    ("kind", "keeps"), [("fine", True), ("of a group", False), ("of somebody else", False), ("of nobody", False)]
)
def test_programs_are_run_from_no_folder_of_others(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str, keeps: bool
) -> None:
    from headstart.backends.doors import jax_programs as programs

    set_to: list[str] = []
    config = SimpleNamespace(
        jax_compilation_cache_dir=None,
        jax_enable_compilation_cache=True,
        update=lambda name, value: set_to.append(value),
    )
    monkeypatch.setattr(programs, "jax", SimpleNamespace(config=config))
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    folder = tmp_path / "programs" / "jax"
    if kind == "of a group":
        folder.mkdir(parents=True)
        folder.chmod(0o770)
    elif kind == "of somebody else":
        monkeypatch.setattr(os, "geteuid", lambda: folder.stat().st_uid + 1)
    elif kind == "of nobody":
        (tmp_path / "programs").write_text("no folder")
    with warnings.catch_warnings():
        programs.keep_programs(Place("cuda", "float32"))
    assert set_to == ([str(folder)] if keeps else [])
    config.jax_compilation_cache_dir = "the user's"
    programs.keep_programs(Place("cuda", "float32"))
    assert len(set_to) == keeps


def test_what_is_compiled_for_a_cpu_is_kept_for_that_one(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A second process finds all programs, another processor none, and one that says nothing keeps nothing."""
    from headstart.backends.doors import jax_programs

    program = """
import sys, warnings
warnings.simplefilter("error")
from pathlib import Path
from headstart.backends.doors import jax_programs
from headstart.contract.recipe import Place
jax_programs.CPUINFO = Path(sys.argv[1])
import jax
hits = []
noted = lambda event, **more: hits.append(event) if event.endswith("cache_hits") else None
jax.monitoring.register_event_listener(noted)
jax_programs.keep_programs(Place("cpu", "float32"))
jax.jit(lambda x: x * 2 + 1)(jax.numpy.ones(3))
print(len(hits), jax.config.jax_compilation_cache_dir)
"""
    monkeypatch.setenv("HEADSTART_CACHE", str(tmp_path))
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "true")
    cpus = {name: tmp_path / name for name in ("first", "second")}
    cpus["first"].write_text("model name : A\nflags : avx2\ncpu MHz : 1\n\nmodel name : B\n")
    cpus["second"].write_text("model name : A\nflags : avx512f\n")

    def run(cpu: str) -> tuple[int, str]:
        command = [sys.executable, "-c", program, str(cpus[cpu])]
        hits, folder = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        return int(hits), folder

    hits, folder = run("first")
    assert (hits, Path(folder).parent) == (0, tmp_path / "programs")
    cpus["first"].write_text("model name : A\nflags : avx2\ncpu MHz : 2\n\nmodel name : B\n")
    again, same = run("first")
    assert again == len(list(Path(folder).glob("*-cache"))) > 0 and same == folder
    others, other = run("second")
    assert others == 0 and other != folder
    monkeypatch.setattr(jax_programs, "CPUINFO", tmp_path / "silent")
    assert jax_programs._name(Place("cpu", "float32")) is None


def test_what_must_not_be_written_is_not(backend: str) -> None:
    """As long as one thread compiles such programs; then JAX's setting is what it was."""
    from threading import Event, Thread

    import jax

    from headstart.backends.doors.jax_programs import MIN_SECONDS, unkept

    before = getattr(jax.config, MIN_SECONDS)
    inside, leave = Event(), Event()

    def other() -> None:
        with unkept():
            inside.set()
            leave.wait(60)

    thread = Thread(target=other)
    with unkept():
        thread.start()
        assert inside.wait(60)
    assert getattr(jax.config, MIN_SECONDS) == float("inf")
    leave.set()
    thread.join()
    assert getattr(jax.config, MIN_SECONDS) == before
    with pytest.raises(ValueError, match="of the caller"), unkept():
        raise ValueError("of the caller")
    assert getattr(jax.config, MIN_SECONDS) == before


def test_a_folder_of_programs_is_bounded(backend: str, tmp_path: Path) -> None:
    from headstart.backends.doors.jax_programs import bound

    for i, name in enumerate(("c", "a", "b")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (i, i))
    bound(tmp_path, 30)
    assert len(list(tmp_path.iterdir())) == 3
    bound(tmp_path, 25)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.fixture
def jax_devices(backend: str) -> Any:
    from headstart.backends.doors import jax_devices

    return jax_devices


def decide(device: str, precision: str) -> Place:
    from headstart.backends.jax import arrays

    return arrays.decide(device, precision)


def test_jax_may_have_been_kept_from_the_cpu(jax_devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """JAX_PLATFORMS=cuda is a usual setting."""
    import jax

    from headstart.contract import registry
    from headstart.testing.samples import linear_graph

    real, config = jax.local_devices, SimpleNamespace(jax_platforms="cuda")
    card = real()[0]

    def local_devices(backend: str | None = None) -> list[Any]:
        if backend not in (None, "cuda"):
            raise RuntimeError(f"Unknown backend {backend}")
        return [card]

    monkeypatch.setattr(jax, "local_devices", local_devices)
    with monkeypatch.context() as patch:
        patch.setattr(jax_devices, "jax", SimpleNamespace(local_devices=local_devices, config=config))
        with pytest.raises(BackendError, match=r"'cpu'.*JAX_PLATFORMS is 'cuda'.*set it to 'cuda,cpu'"):
            decide("cpu", "float32")
    framework = registry.load("jax")
    monkeypatch.setattr(sys.modules[type(framework._inner).__module__], "keep_programs", lambda place: None)
    assert framework.place("auto", "float32") == Place("cuda", "float32")
    graph = linear_graph()
    params = {name: np.ones(shape, np.float32) for name, shape in graph.param_shapes().items()}
    native = framework.native(graph, params)
    np.testing.assert_array_equal(framework.call(native, np.ones((1, 7), np.float32)), np.full((1, 4), 8.0))
    exported = framework.exports().tensor(np.ones(3, np.float32))
    assert exported.devices() == {card}


def test_auto_leaves_a_device_that_does_not_compute(jax_devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = jax_devices.devices_of("cpu")

    from headstart.backends.jax import arrays

    def fails(device: str) -> None:
        raise RuntimeError("no kernel image is available")

    monkeypatch.setattr(jax_devices, "devices_of", lambda kind: cpu if kind in ("cpu", "cuda") else [])
    assert decide("auto", "float32") == Place("cuda", "float32")
    monkeypatch.setattr(arrays, "trial", fails)
    with pytest.warns(DeviceWarning, match="no kernel image"):
        assert decide("auto", "tf32") == Place("cpu", "tf32")


@pytest.mark.parametrize(
    ("stats", "left"),
    [
        ({"bytes_limit": 70, "bytes_in_use": 30}, 40),
        ({"bytes_in_use": 30}, None),
        ({}, None),
        (None, None),
        (RuntimeError("UNIMPLEMENTED"), None),
    ],
)
def test_memory_is_told_where_an_allocator_has_a_limit(
    jax_devices: Any, monkeypatch: pytest.MonkeyPatch, stats: Any, left: int | None
) -> None:
    def memory_stats() -> Any:
        if isinstance(stats, Exception):
            raise stats
        return stats

    monkeypatch.setattr(jax_devices, "device_of", lambda place: SimpleNamespace(memory_stats=memory_stats))
    assert jax_devices.free_memory(Place("cuda:1", "float32")) == left
    assert jax_devices.free_memory(Place("cpu", "float32")) is None


def test_what_records_say_of_a_card(jax_devices: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    facts = jax_devices.device_facts
    card = SimpleNamespace(
        device_kind="NVIDIA H100",
        client=SimpleNamespace(platform_version="PJRT C API\ncuda 13000"),
        memory_stats=lambda: {"bytes_limit": 60 << 30},
        compute_capability="9.0",
    )
    (tmp_path / "version").write_text("580.1\n")
    plugin = SimpleNamespace(cuda_runtime_get_version=lambda: 13000, cudnn_get_version=lambda: 91900)
    monkeypatch.setitem(sys.modules, "jax_cuda13_plugin._versions", plugin)  # type: ignore[arg-type]
    monkeypatch.setattr(jax_devices, "DRIVER", tmp_path / "version")
    monkeypatch.setattr(jax_devices, "device_of", lambda place: card)
    expected = {
        "name": "NVIDIA H100",
        "platform": "PJRT C API cuda 13000",
        "memory_limit": 60 << 30,
        "capability": "9.0",
        "tf32": True,
        "driver": "580.1",
        "cuda": 13000,
        "cudnn": 91900,
    }
    assert facts(Place("cuda", "tf32")) == expected
    assert facts(Place("cuda", "float32")) == {**expected, "tf32": False}

    def missing() -> int:
        raise RuntimeError("cuDNN not found.")

    plugin.cudnn_get_version = missing
    assert facts(Place("cuda", "tf32")) == {name: expected[name] for name in expected if name != "cudnn"}
    card.compute_capability = "7.5"
    assert facts(Place("cuda", "tf32"))["tf32"] is False
    assert facts(Place("tpu", "float32")).keys() == {"name", "platform", "memory_limit"}


def test_jax_is_told_not_to_take_a_whole_card(backend: str) -> None:
    """Unless its user has said how much."""
    from headstart.backends.jax.backend import TAKING, defaults

    name = "XLA_PYTHON_CLIENT_PREALLOCATE"
    assert defaults({})[name] == "false"
    for variable in TAKING:
        assert name not in defaults({variable: "0.5"})


def test_xla_is_told_what_it_knows(
    card: None, jax_devices: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An option that a version of it does not know would end every program; and its user comes first."""
    told = jax_devices.options.__wrapped__
    (name,) = jax_devices.OPTIONS["cuda"]
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    assert told("cpu") is None
    assert told("cuda") == {name: False}
    monkeypatch.setenv("XLA_FLAGS", f"--{name}=true")
    assert told("cuda") is None
    monkeypatch.delenv("XLA_FLAGS")
    monkeypatch.setitem(jax_devices.OPTIONS, "cuda", {"xla_gpu_make_coffee": True})
    with caplog.at_level(logging.DEBUG, logger="headstart"):
        assert told("cuda") is None
    assert "xla_gpu_make_coffee" in caplog.text


@pytest.fixture
def card(jax_devices: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU is called "cuda", too."""
    cpu = jax_devices.devices_of("cpu")
    monkeypatch.setattr(jax_devices, "devices_of", lambda kind: cpu if kind in ("cpu", "cuda") else [])


@pytest.mark.parametrize(
    ("heads", "channels"), [(2, 8), (1, 8)], ids=["of a size that it has not", "where it is not"]
)
def test_attention_without_cudnn(
    card: None, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, heads: int, channels: int
) -> None:
    """The first batch finds out, and says so to those who ask; the numbers are XLA's own."""
    from headstart.contract import registry
    from headstart.testing.reference import random_params
    from headstart.testing.samples import Builder, of_shape

    b = Builder()
    x = b.linear("qkv", "input", channels, 3 * channels)
    graph = of_shape(b.graph(b.add("attention", "attention", x, heads=heads)), (5, channels))
    params = random_params(graph, 0)
    tokens = np.random.default_rng(0).standard_normal((2, 5, channels)).astype(np.float32)
    framework, outputs = registry.load("jax"), []
    monkeypatch.setenv("HEADSTART_FUSED", "0")  # a CPU's own forms round in other places
    for device in ("cpu", "cuda"):
        trunk = framework.trunk(graph, params, ["attention"], Place(device, "bfloat16"))
        with caplog.at_level(logging.DEBUG, logger="headstart"):
            outputs += [framework.numpy(trunk.run(tokens)["attention"]) for _ in range(2)]
        for name, value in trunk.params().items():
            np.testing.assert_array_equal(value, params[name])
    for output in outputs[1:]:
        np.testing.assert_allclose(output, outputs[0], rtol=0.02, atol=1e-3)
    assert caplog.text.count("attention is XLA's own") == 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_rows_leave_a_device_as_they_are_stored(card: None, dtype: str) -> None:
    import ml_dtypes

    from headstart.contract import registry
    from headstart.testing.reference import random_params
    from headstart.testing.samples import two_layers

    graph = two_layers(["relu"])
    nodes = [node.name for node in graph.nodes[1:]]
    (columns,) = graph.nodes[0].attrs["shape"]
    params = {name: value * (value.ndim > 1) for name, value in random_params(graph, 0).items()}  # without biases
    framework = registry.load("jax")
    trunk = framework.trunk(graph, params, nodes, Place("cuda", "float32"))
    rng = np.random.default_rng(0)
    batches = [rng.standard_normal((3, columns)).astype(np.float32) * scale for scale in (1, 2, 3, 1e7, 1e-12, 4)]
    stored = {nodes[0]: np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype), nodes[-1]: np.dtype("f4")}
    taken: list[int] = []

    def noted() -> Iterator[np.ndarray]:
        for number, batch in enumerate(batches):
            taken.append(number)
            yield batch

    for number, outputs in enumerate(trunk.stream(noted(), stored)):
        expected = trunk.run(batches[number])
        assert outputs.keys() == stored.keys()
        for node, rows in outputs.items():
            in_full = dtype == "float16" and node == nodes[0] and number in (3, 4)  # too large, and too small
            assert rows.dtype == ("float32" if in_full else stored[node])
            np.testing.assert_array_equal(rows, framework.numpy(expected[node]).astype(rows.dtype))
        assert taken[-1] == min(number + 2, len(batches) - 1), "a few batches are under way, not more"
    assert number == len(batches) - 1


def test_half_a_trunk(backend: str) -> None:
    """float16 is nearer to float32 than bfloat16, on a CPU as elsewhere."""
    from headstart.contract import registry
    from headstart.testing import relative_error
    from headstart.testing.reference import random_params, run
    from headstart.testing.samples import every_op, of_shape

    framework, graph = registry.load("jax"), of_shape(every_op(), (17, 11, 3))
    params = random_params(graph, 0)
    images = np.random.default_rng(0).standard_normal((2, 17, 11, 3)).astype(np.float32)
    expected = run(graph, params, images)["both"]
    errors = [
        relative_error(
            framework.numpy(framework.trunk(graph, params, ["both"], place).run(images)["both"]), expected
        )
        for place in (Place("cpu", "float16"), Place("cpu", "bfloat16"))
    ]
    assert 1e-5 < errors[0] < errors[1] / 2


@pytest.mark.parametrize("many", [False, True], ids=["one head", "64 heads"])
def test_an_epoch_takes_what_it_is_compiled_for_a_gpu_with(backend: str, many: bool) -> None:
    trainer, arguments = epoch_of(Place("cpu", "float32"), many)
    carry, (losses, _) = trainer._epoch.trace(*arguments).out_info
    assert losses.shape[0] == STEPS and len(carry) == len(trainer.carry)
