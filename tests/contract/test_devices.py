"""What a device may be called, and what becomes of it on machines that have and have not what was asked for."""

from __future__ import annotations

import warnings

import pytest

from headstart.common import machine
from headstart.common.errors import BackendError, DeviceWarning, UnknownNameError
from headstart.contract import devices, recipe
from headstart.contract.recipe import PRECISIONS, Place

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize(
    ("device", "kind", "index"),
    [("cpu", "cpu", 0), ("cuda", "cuda", 0), ("cuda:0", "cuda", 0), ("cuda:12", "cuda", 12), ("tpu:3", "tpu", 3)],
)
def test_a_device_is_a_kind_and_an_index(device: str, kind: str, index: int) -> None:
    assert devices.parse(device) == (kind, index)
    place = Place(devices.name_of(kind, index), "float32")
    assert (place.kind, place.index) == (kind, index)
    assert place.device == (kind if index == 0 else device), "the first of a kind has the kind's name"


@pytest.mark.parametrize(
    "device",
    ["gpu", "cuda:", "cuda:-1", "cuda:01", "cuda:x", "cuda:99999", "CUDA", "cpu:0", "", "cuda 1", 3, None],
)
def test_what_is_no_device_is_refused(device: str) -> None:
    with pytest.raises(UnknownNameError, match=r"expected one of auto, cpu, cuda, cuda:N, mps, mps:N"):
        devices.parse(device)


def test_float16_is_not_for_training() -> None:
    assert {p: Place("cuda:1", p).for_training for p in PRECISIONS} == {
        "float32": Place("cuda:1", "float32"),
        "tf32": Place("cuda:1", "tf32"),
        "bfloat16": Place("cuda:1", "bfloat16"),
        "float16": Place("cuda:1", "float32"),
    }


NO_KERNEL = "CUDA error: no kernel image is available for execution on the device"


class Machine:
    """One with `counts` devices, some of which compute nothing."""

    def __init__(self, broken: tuple[str, ...] = (), **counts: int) -> None:
        self.counts, self.broken = counts, broken
        self.asked: list[str] = []
        self.tried: list[str] = []

    def decide(self, device: str) -> str:
        return devices.decide("torch", device, ("cpu", "cuda", "mps"), self.count, self.trial)

    def count(self, kind: str) -> int:
        self.asked.append(kind)
        return self.counts.get(kind, 0)

    def trial(self, device: str) -> None:
        self.tried.append(device)
        if device in self.broken:
            raise RuntimeError(f"{NO_KERNEL}\nCompile with")


def test_a_cpu_asks_for_nothing_else() -> None:
    machine = Machine(cuda=2, mps=1)
    assert machine.decide("cpu") == "cpu"
    assert machine.asked == machine.tried == []


@pytest.mark.parametrize(
    ("counts", "device", "decided"),
    [
        ({}, "auto", "cpu"),
        ({"cuda": 1}, "auto", "cuda"),
        ({"mps": 1}, "auto", "mps"),
        ({"cuda": 2, "mps": 1}, "auto", "cuda"),
        ({"cuda": 2}, "cuda", "cuda"),
        ({"cuda": 2}, "cuda:0", "cuda"),
        ({"cuda": 2}, "cuda:1", "cuda:1"),
    ],
)
def test_what_is_decided(counts: dict[str, int], device: str, decided: str) -> None:
    machine = Machine(**counts)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert machine.decide(device) == decided
    assert machine.tried == ([] if decided == "cpu" else [decided]), "what is used was tried"


def test_auto_leaves_a_device_that_does_not_compute() -> None:
    """A card that today's wheels have no code for, and no other: the CPU, and the reason is said."""
    machine = Machine(("cuda",), cuda=1)
    with pytest.warns(DeviceWarning) as warned:
        assert machine.decide("auto") == "cpu"
    (said,) = [str(warning.message) for warning in warned]
    assert said == (
        f"device 'auto': torch finds a CUDA device and cannot compute on it (RuntimeError: {NO_KERNEL}), so it is "
        "not used; device='cpu' asks for none"
    )


def test_auto_tries_the_next_kind() -> None:
    with pytest.warns(DeviceWarning):
        assert Machine(("cuda",), cuda=1, mps=1).decide("auto") == "mps"


@pytest.mark.parametrize(
    ("machine", "device", "said"),
    [
        (Machine(), "cuda", "device 'cuda' was asked for, and torch finds no CUDA device; use device='cpu'"),
        (
            Machine(cuda=2),
            "cuda:2",
            "device 'cuda:2' was asked for, and torch finds 2 of that kind, the last of which is 'cuda:1'; "
            "use device='cuda:1', or use device='cpu'",
        ),
        (
            Machine(("cuda",), cuda=1),
            "cuda",
            f"device 'cuda' was asked for, and torch cannot compute on it (RuntimeError: {NO_KERNEL}); "
            "use device='cpu'",
        ),
    ],
)
def test_a_device_asked_for_by_name_is_there_or_an_error(machine: Machine, device: str, said: str) -> None:
    with pytest.raises(BackendError) as raised:
        machine.decide(device)
    assert str(raised.value) == said


def test_a_kind_that_a_backend_has_not() -> None:
    with pytest.raises(
        UnknownNameError, match=r"unknown device 'xpu'; expected one of auto, cpu, cuda, cuda:N, mps"
    ):
        Machine().decide("xpu")


@pytest.mark.parametrize(
    ("flags", "computed"),
    [
        ("avx2 f16c fma", {"bfloat16": "float32", "float16": "float32"}),
        ("avx512bw avx512_bf16", {"bfloat16": "bfloat16", "float16": "float32"}),
        ("amx_bf16 avx512_fp16", {"bfloat16": "bfloat16", "float16": "float16"}),
        ("fp asimd asimdhp", {"bfloat16": "float32", "float16": "float16"}),
        ("", {"bfloat16": "bfloat16", "float16": "float16"}),  # a system that does not say
    ],
)
def test_a_cpu_computes_in_what_it_has_instructions_for(
    monkeypatch: pytest.MonkeyPatch, flags: str, computed: dict[str, str]
) -> None:
    monkeypatch.setattr(machine, "cpu_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr(recipe, "cpu_multiplies", machine.cpu_multiplies)  # which tests leave out: conftest.py
    machine.cpu_multiplies.cache_clear()
    try:
        for precision in PRECISIONS:
            assert Place("cpu", precision).arithmetic == computed.get(precision, precision)
            assert Place("cuda:1", precision).arithmetic == precision
    finally:
        machine.cpu_multiplies.cache_clear()
