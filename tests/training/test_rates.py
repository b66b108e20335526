"""Learning rates by part of the network, and auxiliary classifiers in training, as users name them. What a backend
makes of a parameter's rate and of an auxiliary loss is in the conformance suite."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import FrozenWarning, SettingError
from headstart.common.log import handed_to
from headstart.contract import registry
from headstart.models import Model, googlenet
from headstart.testing import small_data, small_model
from headstart.training.job import job_of
from headstart.training.rates import check_modules, rate_multiples, warn_of_scale
from headstart.training.settings import Settings
from headstart.training.unheeded import among, tell_unheeded

PARAMS = ("conv1.weight", "layer1.0.conv1.weight", "layer1.0.bn1.bias", "layer1.1.conv1.weight", "fc.weight")


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        (None, {}),
        (1, {}),
        (0.1, dict.fromkeys(PARAMS[:4], 0.1)),
        ({"pretrained": 0.1}, dict.fromkeys(PARAMS[:4], 0.1)),
        ({"layer1": 0.5}, dict.fromkeys(PARAMS[1:4], 0.5)),
        ({"layer1": 0.5, "layer1.0": 0.2}, {PARAMS[1]: 0.2, PARAMS[2]: 0.2, PARAMS[3]: 0.5}),
        (
            {"layer1": 0.5, "pretrained": 0.1, "layer1.0.bn1.bias": 1},
            {PARAMS[0]: 0.1, PARAMS[1]: 0.5, PARAMS[3]: 0.5},
        ),
        ({"fc": 3.0}, {"fc.weight": 3.0}),
    ],
)
def test_the_innermost_module_counts(scale: Any, expected: dict[str, float]) -> None:
    assert rate_multiples(PARAMS, {"fc.weight"}, scale) == expected


@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), float("inf"), True, "0.1", {"fc": 0}, {"fc": None}])
def test_scales_that_cannot_be(scale: Any) -> None:
    with pytest.raises(SettingError, match=r"lr_scale.*expected a positive number"):
        hs.fit(small_model(), *small_data(), lr_scale=scale)


def test_an_unknown_module_suggests() -> None:
    with pytest.raises(SettingError, match=r"'layer11'.*layer1"):
        check_modules(PARAMS, {"layer11": 0.1})
    with pytest.raises(SettingError, match=r"'layer1\.0\.relu1'"):
        hs.fit(small_model(), *small_data(), lr_scale={"layer1.0.relu1": 0.1})


@pytest.mark.parametrize(
    ("scale", "trained", "said"),
    [
        (0.1, PARAMS, []),
        (0.1, PARAMS[4:], ["'pretrained': no pretrained layer is trained"]),
        ({"layer1": 0.5, "fc": 2.0}, PARAMS[3:], []),
        (
            {"layer1": 0.5, "layer1.0": 0.2, "fc": 2.0},
            PARAMS[3:],
            ["'layer1.0': none of its parameters is trained"],
        ),
        ({"layer1": 0.5, "pretrained": 0.1}, PARAMS[1:], ["'pretrained': no further pretrained layer is trained"]),
    ],
)
def test_rates_that_nothing_has_are_told(scale: Any, trained: Any, said: list[str]) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", FrozenWarning)
        warn_of_scale([(trained, {"fc.weight"})], scale)
    assert len(told) == len(said)
    for text, warning in zip(said, told, strict=True):
        assert text in str(warning.message)


def heard(settings: dict[str, Any], modes: Sequence[str] = ()) -> list[str]:
    """What is said of options that are not heeded, as warnings and in the log, by trainings in these modes."""
    lines: list[str] = []
    with warnings.catch_warnings(record=True) as told, handed_to(lambda _level, line: lines.append(line)):
        warnings.simplefilter("always", FrozenWarning)
        with among(modes):
            for mode in modes or [settings["mode"]]:
                job = job_of(small_model(), small_data()[0], None, Settings(**{**settings, "mode": mode}))
                tell_unheeded(job)
    return [str(warning.message) for warning in told] + lines


@pytest.mark.of("torch")
@pytest.mark.parametrize(
    ("settings", "modes", "said"),
    [
        ({"lr_scale": 0.1}, ["cached", "full"], []),
        ({"lr_scale": 0.1}, ["cached", "frozen"], ["lr_scale=0.1 changes nothing of 'pretrained'"]),
        ({"lr_scale": 0.1}, ["cached", "scratch"], ["lr_scale=0.1 changes nothing of 'pretrained'"]),
        ({"lr_scale": 0.1, "mode": "frozen"}, [], ["lr_scale=0.1 changes nothing of 'pretrained'"]),
        ({"lr_scale": {"layer1": 0.1}, "cut": "layer1.0"}, ["cached"], []),
        ({"batch_norm": "train"}, ["cached"], ["batch_norm='train' changes nothing: no batch norm is trained"]),
        ({"batch_norm": "train", "cut": "layer4.0"}, ["cached"], []),
        ({"batch_norm": "train"}, ["cached", "full"], []),
        ({"batch_norm": "train", "mode": "full"}, [], []),
        (
            {"dtype": "float32"},
            ["full", "scratch"],
            ["dtype='float32' changes nothing: no features are stored in"],
        ),
        ({"dtype": "float32"}, ["full", "cached"], []),
        (
            {"dtype": "bfloat16", "mode": "frozen"},
            [],
            ["dtype='bfloat16' changes nothing: no features are stored"],
        ),
        ({"dtype": "float32", "mode": "staged"}, [], []),
        ({"mode": "full"}, [], []),
    ],
)
def test_what_no_mode_heeds_is_said_once(settings: dict[str, Any], modes: list[str], said: list[str]) -> None:
    found = heard(settings, modes)
    assert len(found) == len(said), found
    assert all(line.startswith(text) for line, text in zip(found, said, strict=True)), found


@pytest.mark.of("torch")
@pytest.mark.parametrize(("cut", "expected"), [(None, "frozen"), ("layer4.0", "train")])
def test_a_run_records_what_was_done_with_batch_norms(cut: str | None, expected: str, tmp_path: Path) -> None:
    train, _ = small_data(24)
    settings: dict[str, Any] = {
        "epochs": 1,
        "batch_norm": "train",
        "batch_size": 12,
        "cache": tmp_path,
        "cut": cut,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FrozenWarning)
        run = hs.fit(small_model(), train, **settings, backend="torch", device="cpu")
    assert run.settings["batch_norm"] == expected


@pytest.mark.of("torch")  # which rate is whose is core's; what a backend makes of it, the conformance suite sees
def test_pretrained_layers_move_less(backend: str) -> None:
    """One step, so that a change is proportional to its rate."""
    train, _ = small_data(30)
    settings = {"mode": "full", "epochs": 1, "batch_size": 24, "optimizer": hs.SGD(0.01, momentum=0.0)}
    start = small_model().reseeded(0, everything=False)
    whole = hs.fit(small_model(), train, **settings, backend=backend, device="cpu").model.params
    scale = {"pretrained": 0.1, "layer4": 0.5}
    parts = hs.fit(small_model(), train, **settings, lr_scale=scale, backend=backend, device="cpu")
    assert parts.settings["lr_scale"] == scale
    for name, expected in (("conv1.weight", 0.1), ("layer3.1.bn2.bias", 0.1), ("layer4.0.conv1.weight", 0.5)):
        ratio = np.linalg.norm(parts.model.params[name] - start[name]) / np.linalg.norm(whole[name] - start[name])
        assert ratio == pytest.approx(expected, rel=1e-3), name
    np.testing.assert_allclose(parts.model.params["fc.weight"], whole["fc.weight"], atol=1e-7)


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    return hs.data.arrays(rng.integers(0, 256, (20, 48, 48, 3), np.uint8), np.arange(20) % 2).split(0.8)


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Model:
    """A GoogLeNet of three blocks: all eleven take compilers most of a minute."""
    channels = (4, 4, 4, 4, 4, 4)
    blocks = {"inception3a": channels, "maxpool3": (3,), "inception4a": channels, "inception4d": channels}
    monkeypatch.setattr(googlenet, "BLOCKS", blocks)
    auxiliary = {"aux1": ("inception4a", 16, 0.3), "aux2": ("inception4d", 16, 0.3)}
    monkeypatch.setattr(googlenet, "AUXILIARY", auxiliary)
    return hs.model("googlenet", classes=2, size=48)


@pytest.mark.slow("keras", "jax")  # the suite has their losses, parity what they compute
def test_auxiliary_heads_are_there_in_training(backend: str, tiny: Any, shallow: Model, tmp_path: Path) -> None:
    model = shallow
    assert [name for name, _ in model.graph.auxiliary] == ["aux1.fc2", "aux2.fc2"]
    settings = {"epochs": 1, "batch_size": 8, "backend": backend, "device": "cpu"}
    full = hs.fit(model, *tiny, mode="scratch", lr=1e-3, **settings)
    assert len(full.history[0].auxiliary_losses) == 2
    assert all(0.3 < loss < 3 for loss in full.history[0].auxiliary_losses)
    assert not np.array_equal(full.model.params["aux1.fc2.weight"], model.params["aux1.fc2.weight"])
    folder = full.save(tmp_path / "run")
    again = hs.load(folder, backend=backend)
    assert again.history[0] == full.history[0]
    assert again.model.params.keys() == full.model.params.keys()
    for name, value in full.model.params.items():
        np.testing.assert_array_equal(again.model.params[name], value, name)
    images = model.preprocess.normalise(np.stack([model.preprocess.apply(tiny[1].load(0)[0])] * 2))
    native = registry.load(backend).call(full.native, images)
    np.testing.assert_allclose(native[0], full.predict(tiny[1])[0], rtol=1e-3, atol=1e-4)


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_auxiliary_heads_are_trained_from_pixels_only(backend: str, tiny: Any, shallow: Model) -> None:
    settings = {"epochs": 1, "batch_size": 8, "backend": backend, "device": "cpu"}
    cached = hs.fit(shallow, *tiny, mode="cached", **settings)
    assert cached.history[0].auxiliary_losses == ()
    assert not cached.model.graph.auxiliary
    assert not any(name.startswith("aux") for name in cached.model.params)
    without = hs.fit(hs.model("googlenet", classes=2, size=48, auxiliary=False), *tiny, mode="cached", **settings)
    assert without.extraction is not None
    assert without.extraction.extracted == 0, "the key of a trunk does not know of auxiliary classifiers"
