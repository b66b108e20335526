"""What the caller has set in torch changes nothing of what headstart computes, and is not changed by it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, wrapped

import headstart as hs

pytestmark = pytest.mark.of("torch")

DATA = hs.data.digits().subset(np.arange(32)).split(0.75, seed=0)


def results(own: Any, net: Any, cache: Path) -> dict[str, np.ndarray]:
    """What comes out of each door."""
    model = wrapped(own, net)
    found = {"features": hs.extract(model, DATA[0], cache=cache, device="cpu").numpy("trunk")}
    for mode in ("cached", "full", "scratch"):
        run = fit(model, DATA, cache, mode=mode, epochs=1)
        found |= {f"{mode} {name}": value for name, value in run.model.params.items()}
        found[mode] = run.predict(X)
    zoo = hs.model("lenet", classes=10, size=32)
    found["zoo"] = fit(zoo, DATA, cache, mode="frozen", cut="conv1", epochs=1, backend="torch").predict(DATA[1])
    found["forward"] = hs.forward(model, X, device="cpu")["logits"]
    assert hs.native(model, backend="torch")(own.nchw(X)).device.type == "cpu"
    return found


@contextmanager
def default_dtype(name: str) -> Iterator[None]:
    import torch

    torch.set_default_dtype(getattr(torch, name))
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def every_module(hook: Callable[..., Any]) -> Iterator[None]:
    from torch.nn.modules.module import register_module_forward_hook

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def deterministic() -> Iterator[None]:
    import torch

    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def settings() -> list[Any]:
    import torch

    return [
        torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype(),
        torch.get_default_device(), torch.is_autocast_enabled("cpu"), torch.are_deterministic_algorithms_enabled(),
        len(torch.nn.modules.module._global_forward_hooks),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


@pytest.fixture(scope="module")
def expected(own: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    return results(own, own.small(), tmp_path_factory.mktemp("plain"))


@pytest.mark.parametrize("name", ["no_grad", "inference", "float64", "bfloat16", "meta", "autocast", "rules"])
def test_what_the_caller_has_set_changes_nothing(
    own: Any, expected: dict[str, np.ndarray], name: str, tmp_path: Path
) -> None:
    import torch

    net = own.small()
    with ExitStack() as stack:
        stack.enter_context(
            {
                "no_grad": torch.no_grad,
                "inference": torch.inference_mode,
                "float64": lambda: default_dtype("float64"),
                "bfloat16": lambda: default_dtype("bfloat16"),
                "meta": lambda: torch.device("meta"),
                "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
                "rules": deterministic,
            }[name]()
        )
        if name == "inference":
            net = own.small()  # of inference tensors, which are never trained
        before = settings()
        found = results(own, net, tmp_path)
        assert settings() == before
    assert found.keys() == expected.keys()
    for what, value in expected.items():
        np.testing.assert_array_equal(found[what], value, err_msg=f"{what} under {name}")


def test_hooks_on_every_module_count_only_if_they_change_nothing(own: Any) -> None:
    calls: list[Any] = []
    with every_module(lambda module, *_: calls.append(type(module).__name__)):
        hs.wrap(own.small(), "block", P)
        assert set(calls) <= {"Small", "Block", "Conv2d", "BatchNorm2d", "Linear"}
    with every_module(lambda _m, _i, value: value * 2), pytest.raises(hs.errors.SettingError, match="at the cut"):
        hs.wrap(own.small(), "block", P)


def test_triton_is_left_out_where_tensorflow_came_first(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their two LLVMs in one process end it, and torch.export, torch.fx and torchvision import triton."""
    from headstart.backends.doors.torch import door

    monkeypatch.delitem(sys.modules, "triton", raising=False)
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with door():
        assert "triton" not in sys.modules
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    with door(), pytest.raises(ModuleNotFoundError):
        import triton  # noqa: F401
    monkeypatch.setitem(sys.modules, "triton", there := ModuleType("triton"))
    with door():
        assert sys.modules["triton"] is there
