"""Published files, as timm and torchvision write them, on the way that users go: from a hub on this machine into
the cache and a model, whose logits are then those of the library that wrote the file.

The parameters are random: there is no network here, and random ones tell layers apart better than trained ones.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchvision
from hub_server import HubServer, keep_apart, local_hub
from safetensors.torch import save

import headstart as hs
from headstart.models import ARCHITECTURES, pickles, pins
from headstart.models.architecture import Hub, Pickled
from headstart.models.weights import class_names
from headstart.testing import relative_error


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    keep_apart(monkeypatch, tmp_path)
    # no pins: these are other files than the published ones
    (tmp_path / "pins.json").write_text("{}")
    monkeypatch.setattr(pins, "shipped_pins", lambda: tmp_path / "pins.json")
    with local_hub(monkeypatch) as server:
        yield server


def drawn(make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
    """The network with every number drawn by us: libraries take longer over theirs, and a new network's statistics
    and scales hide what is exchanged."""
    with torch.device("meta"):
        network = make()
    network = network.to_empty(device="cpu").eval()
    state = network.state_dict()
    assert state.keys() >= {name for name, _ in network.named_buffers()}, "whose values only the library knows"
    generator = torch.Generator().manual_seed(1)
    for name, value in state.items():
        if not value.is_floating_point():
            value.zero_()
        elif name.endswith(("running_mean", "bias")):
            value.uniform_(-0.2, 0.2, generator=generator)
        elif value.ndim == 1:
            value.uniform_(0.5, 1.5, generator=generator)
        else:
            value.uniform_(-1, 1, generator=generator).mul_((6 / value[0].numel()) ** 0.5)
    return network


def logits(network: torch.nn.Module, x: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        found: np.ndarray = network(torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))).numpy()
    return found


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("resnet18", 64),
        ("mobilenet_v2", 64),
        ("densenet121", 64),
        ("convnext_tiny", 64),
        ("vit_small_patch16_224", 224),
    ],
)
def test_timms_files(server: HubServer, name: str, size: int) -> None:
    row = ARCHITECTURES[name].weights["imagenet"]
    assert isinstance(row, Hub)
    network = drawn(lambda: timm.create_model(row.repo.removeprefix("timm/"), pretrained=False))
    server.add(row.repo, {row.file: save(network.state_dict(), {"format": "pt"})})
    model = hs.model(name, weights="imagenet")
    assert model.classes == class_names("imagenet")
    assert model.preprocess == row.preprocess
    x = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    found = hs.forward(model, x, backend="torch", device="cpu")["logits"]
    assert relative_error(found, logits(network, x)) < 1e-4


def test_what_timm_says_of_its_files(server: HubServer) -> None:
    """Rows hold what timm's own configurations say: repository, crop, interpolation, mean and deviation."""
    compared = 0
    for arch in ARCHITECTURES.values():
        for row in arch.weights.values():
            if not isinstance(row, Hub):
                continue
            theirs = timm.get_pretrained_cfg(row.repo.removeprefix("timm/"))
            assert theirs is not None, row.repo
            assert theirs.hf_hub_id == row.repo
            # some were also evaluated at a larger size than they were trained at
            pairs = {(theirs.input_size[-1], theirs.crop_pct)}
            if theirs.test_input_size is not None:
                pairs.add((theirs.test_input_size[-1], theirs.test_crop_pct or theirs.crop_pct))
            allowed = {(size, int(size / share)) for size, share in pairs}
            assert (row.preprocess.size, row.preprocess.resize) in allowed, row.repo
            assert row.preprocess.interpolation == theirs.interpolation
            assert row.preprocess.mean == pytest.approx(theirs.mean)
            assert row.preprocess.std == pytest.approx(theirs.std)
            assert (row.classes == "imagenet") == (theirs.num_classes == 1000)
            compared += 1
    assert compared > 20


@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("alexnet", 224, marks=pytest.mark.slow), ("googlenet", 224)]
)
def test_torchvisions_pickles(
    server: HubServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, size: int
) -> None:
    row = ARCHITECTURES[name].weights["imagenet"]
    assert isinstance(row, Pickled)
    more: dict[str, Any] = {"init_weights": False, "transform_input": False} if name == "googlenet" else {}
    network = drawn(lambda: torchvision.models.get_model(name, weights=None, **more))
    out = io.BytesIO()
    torch.save(network.state_dict(), out)
    digits = hashlib.sha256(out.getvalue()).hexdigest()[:8]
    path = f"/models/{name}-{digits}.pth"
    server.files[path] = out.getvalue()
    local = replace(row, url=f"{server.store}{path}", sha256=digits)
    monkeypatch.setitem(
        ARCHITECTURES,  # type: ignore[arg-type]
        name,
        replace(ARCHITECTURES[name], weights={"imagenet": local}),
    )
    model = hs.model(name, weights="imagenet")
    assert model.classes == class_names("imagenet")
    x = np.random.default_rng(0).standard_normal((2, size, size, 3)).astype(np.float32)
    found = hs.forward(model, x, backend="torch", device="cpu")["logits"]
    assert relative_error(found, logits(network, x)) < 1e-4
    # from now on it needs no torch
    monkeypatch.setattr(pickles, "ask_child", lambda *_: pytest.fail("the pickle was read again"))
    again = hs.model(name, weights="imagenet")
    assert all(np.array_equal(again.params[key], model.params[key]) for key in model.params)


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_either_librarys_files_can_be_imported(server: HubServer, tmp_path: Path, library: str) -> None:
    make: Any = timm.create_model if library == "timm" else torchvision.models.get_model
    names = {"timm": "mobilenetv2_100", "torchvision": "mobilenet_v2"}
    network = drawn(lambda: make(names[library], num_classes=7))
    wrapped = torch.nn.DataParallel(network)
    torch.save({"state_dict": wrapped.state_dict(), "epoch": 3}, tmp_path / "mine.pth")
    from headstart.models.importing import import_weights

    kept = import_weights(tmp_path / "mine.pth", "mobilenet_v2", allow_pickle=True, classes=list("abcdefg"))
    assert json.loads(pickles.provenance(kept)["classes"]) == list("abcdefg")
    model = hs.model("mobilenet_v2", weights="mine")
    x = np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)
    found = hs.forward(model, x, backend="torch", device="cpu")["logits"]
    assert relative_error(found, logits(network, x)) < 1e-4
