"""Devices, generators and arithmetic of the PyTorch backend, as far as a machine without a GPU can tell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place, Recipe
from headstart.graph import Builder
from headstart.models.initial import initial_params

torch = pytest.importorskip("torch", reason="this environment has no torch")
from torch import nn  # noqa: E402

from headstart.backends.doors import torch_arithmetic  # noqa: E402
from headstart.backends.torch import chance, devices, loose  # noqa: E402

pytestmark = [pytest.mark.of("torch"), pytest.mark.filterwarnings("error")]
EXAMPLE = np.zeros((2, 8, 8, 3), np.float32)


@pytest.fixture
def _eight_cards(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eight GPUs of a program that has started none of them."""
    asked: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    # where there is a card, earlier tests have started it
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device="cuda": asked.append(str(device)))
    return asked


def test_generators_of_other_devices_are_left_alone(_eight_cards: list[str]) -> None:
    before = torch.get_rng_state()
    with chance.undrawn(0):
        torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    assert _eight_cards == []


def test_dropout_draws_from_no_generator(_eight_cards: list[str]) -> None:
    b = Builder()
    graph = b.graph(b.linear("fc", b.add("drop", "dropout", "input", rate=0.5), 4, 3))
    recipe = Recipe(hs.SGD(), Softmax(), train_statistics=True, seed=3)
    trainer = registry.load("torch").trainer(graph, initial_params(graph, 0), recipe, Place("cpu", "float32"))
    before = torch.get_rng_state()
    trainer.step(np.ones((5, 4), np.float32), np.zeros(5, np.int64), 0.1)
    assert torch.equal(torch.get_rng_state(), before)
    assert _eight_cards == []


def test_a_generator_that_is_lent_comes_back_after_an_error() -> None:
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), chance.lent([(chance.CPU, chance.seeded_state(7, chance.CPU))]):
        torch.rand(3)
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)


def test_a_seed_is_the_frameworks_own() -> None:
    with chance.seeded(5):
        mine = torch.rand(4)
    assert torch.equal(mine, torch.rand(4, generator=torch.Generator().manual_seed(5)))


# ---- arithmetic


def switches() -> list[object]:
    newer = [switch.fp32_precision for switch in (*torch_arithmetic.GPU_SWITCHES, *torch_arithmetic.CPU_SWITCHES)]
    return [torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32, *newer]


@pytest.fixture
def _torchs_own() -> Iterator[None]:
    before = torch.get_float32_matmul_precision()
    yield
    torch.set_float32_matmul_precision(before)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
@pytest.mark.parametrize("tf32", [False, True])
def test_a_precision_decides_and_the_callers_switches_come_back(
    _torchs_own: None, precision: str, tf32: bool
) -> None:
    torch.set_float32_matmul_precision(precision)
    before = switches()
    with torch_arithmetic.arithmetic(tf32):
        assert torch.backends.cuda.matmul.allow_tf32 is tf32
        assert torch.backends.cudnn.allow_tf32 is tf32
        assert not torch_arithmetic.coarse_on_cpu() or not torch_arithmetic.CPU_SWITCHES
    assert switches() == before


def test_float32_on_a_cpu_is_float32_whatever_the_caller_has_set(_torchs_own: None) -> None:
    seen = []

    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(torch.get_float32_matmul_precision())
            return x.mean((2, 3))

    torch.set_float32_matmul_precision("medium")
    backend = registry.load("torch")
    backend.call(Network(), EXAMPLE)
    assert seen == ["highest"]
    assert torch.get_float32_matmul_precision() == "medium"


def test_places_of_a_gpu_compute_as_their_precision_says() -> None:
    seen = {}
    for precision in ("float32", "tf32", "bfloat16"):
        with devices.computing(Place("cuda", precision)):
            seen[precision] = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    assert seen == {"float32": (False, False), "tf32": (True, True), "bfloat16": (False, False)}


# ---- devices


def test_memory_that_torch_has_taken_and_would_give_again_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    figures = {"mem_get_info": (100, 1000), "memory_reserved": 70, "memory_allocated": 30}
    for name, value in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: (value, device)[0])
    assert devices.free_memory(Place("cuda:1", "float32")) == 140
    assert devices.free_memory(Place("cpu", "float32")) is None


def test_a_card_that_torch_has_no_code_for_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    def ones(*shape: int, device: torch.device) -> torch.Tensor:
        raise RuntimeError("CUDA error: no kernel image is available for execution on the device\nmore")

    monkeypatch.setattr(torch, "ones", ones)
    with pytest.warns(hs.errors.DeviceWarning, match="no kernel image is available"):
        assert registry.load("torch").place("auto", "float32").device == "cpu"


def test_the_first_card_is_meant_by_its_kind_whichever_is_the_current_one() -> None:
    assert devices.device_of(Place("cuda", "float32")) == torch.device("cuda", 0)
    assert devices.device_of(Place("cuda:3", "float32")) == torch.device("cuda", 3)


# ---- tensors that are neither parameters nor buffers


class Held(nn.Module):
    """Computes with tensors that nobody has registered, and looks at values, so that it is run as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)
        self.scale = torch.tensor(2.0)
        self.more = [torch.ones(3), {"shift": (torch.zeros(3), self.scale)}]
        hidden = torch.full((4,), 0.5)
        self.fc.register_forward_hook(lambda _module, _args, y: y + hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.isnan().any():
            raise ValueError("x")
        x = x.mean((2, 3)) * self.scale * self.more[0] + self.more[1]["shift"][0]
        return self.fc(x)


def test_what_a_wrapped_module_holds_goes_to_the_device_with_it() -> None:
    module = Held()
    model = hs.wrap(module, "its end", head="linear", classes=2, example=EXAMPLE)
    backend = registry.load("torch")
    network = backend.native(model.graph, model.params)
    network.to("meta")
    part = next(m for m in network.modules() if isinstance(m, Held))
    tensors = [part.scale, part.more[0], *part.more[1]["shift"]]
    hook = next(iter(part.fc._forward_hooks.values()))
    tensors += [value for value in hook.held.values() if isinstance(value, torch.Tensor)]
    assert len(tensors) == 5
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert part.more[1]["shift"][1] is part.scale
    assert module.scale.device.type == "cpu"


def test_a_module_with_such_tensors_computes_what_it_did() -> None:
    module, x = Held(), np.random.default_rng(0).normal(size=EXAMPLE.shape).astype(np.float32)
    model = hs.wrap(module, "its end", head="linear", classes=2, example=EXAMPLE)
    trunk = model.graph.upto(model.default_cut)
    backend = registry.load("torch")
    expected = module(torch.from_numpy(x).permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(backend.call(backend.native(trunk, model.params), x), expected, atol=1e-6)


def test_what_holds_itself_is_carried_once() -> None:
    module = Held()
    module.more.append(module.more)
    module.around = [module]
    loose.carry(module, lambda tensor: tensor + 1)
    assert float(module.scale) == 3
    assert module.more[2] is module.more


def test_an_average_that_reaches_over_the_edge_is_taken_of_contiguous_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a device whose backward may be wrong for channels-last memory, and where a gradient is wanted."""
    import torch

    from headstart.backends.torch import emit

    seen: list[bool] = []
    pool_of = torch.nn.functional.avg_pool2d

    def pool(x: torch.Tensor, *arguments: Any) -> torch.Tensor:
        seen.append(x.is_contiguous())
        return pool_of(x, *arguments)

    monkeypatch.setattr(emit.F, "avg_pool2d", pool)
    attributes = {"kernel": (3, 3), "stride": (1, 1), "padding": ((1, 1), (1, 1)), "ceil": False}
    x = torch.zeros(1, 4, 5, 5, device="meta").to(memory_format=torch.channels_last)
    for counted in (False, True):
        emit.FUNCTIONS["avg_pool"]({**attributes, "count_padding": counted})(x)
    emit.FUNCTIONS["avg_pool"]({**attributes, "count_padding": True, "ceil": True})(x)
    with torch.no_grad():
        emit.FUNCTIONS["avg_pool"]({**attributes, "count_padding": False})(x)
    inside = {**attributes, "padding": ((0, 0), (0, 0)), "count_padding": True}
    emit.FUNCTIONS["avg_pool"](inside)(x)
    assert seen == [True, True, True, False, False]
