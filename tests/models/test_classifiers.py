"""Classifiers that are more than a linear layer at the end: what new classes replace, what files have of it, where
the trunk ends, and that training starts where a guess would."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import headstart as hs
from headstart.common.errors import SettingError, WeightsError
from headstart.graph import Builder, Graph
from headstart.models import ARCHITECTURES
from headstart.models.architecture import Architecture, imagenet
from headstart.models.classifiers import Head, classifier
from headstart.models.layouts import SAME, by_rules
from headstart.models.layouts import published as named_by

WIDTH = 256


def _features(b: Builder) -> str:
    x = b.conv("features.0", "input", 3, WIDTH, 3, stride=2, bias=True, initial="uniform")
    return b.add("features.1", "relu", x)


def convolved(name: str, classes: int, head: Head, size: int) -> Graph:
    """As SqueezeNet (Iandola et al. 2016, arXiv:1602.07360) ends: a convolution with an output for each class, a
    rectifier, and the average."""
    b = Builder()
    x = _features(b)
    if head != "linear":
        x = b.add("pool", "global_avg_pool", x)
        return b.graph(classifier(b, "classifier", x, WIDTH, classes, head))
    x = b.add("classifier.0", "dropout", x, rate=0.5)
    x = b.conv("classifier.1", x, WIDTH, classes, 1, bias=True, initial="uniform")
    return b.graph(b.add("classifier.3", "global_avg_pool", b.add("classifier.2", "relu", x)))


def layered(name: str, classes: int, head: Head, size: int) -> Graph:
    """As MobileNetV3 (Howard et al. 2019, arXiv:1905.02244) ends: two linear layers."""
    b = Builder()
    x = _features(b)
    x = b.add("avgpool", "global_avg_pool", x)
    if head != "linear":
        return b.graph(classifier(b, "classifier", x, WIDTH, classes, head))
    x = b.add("classifier.1", "hard_swish", b.linear("classifier.0", x, WIDTH, 64))
    return b.graph(b.linear("classifier.3", b.add("classifier.2", "dropout", x, rate=0.2), 64, classes))


THEIRS = by_rules("theirs", (r"classifier\.(\d+)\.(\w+)", r"head.fc\1.\2"))
# architecture: (build, classifier, layer that scores, default cut, its parameters)
KINDS = {
    "convolved": (convolved, "classifier.1", "classifier.1", "features.1", {"classifier.1"}),
    "layered": (layered, "classifier", "classifier.3", "avgpool", {"classifier.0", "classifier.3"}),
    "last_of_two": (layered, "classifier.3", "classifier.3", "classifier.1", {"classifier.3"}),
}


@pytest.fixture(
    params=[
        pytest.param(kind, marks=[] if kind == "convolved" else pytest.mark.slow("keras", "jax")) for kind in KINDS
    ]
)
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    build, replaced, *_ = KINDS[request.param]
    row = Architecture(
        request.param, build, replaced, imagenet(16, 16), stack="classifier", layouts=(SAME, THEIRS)
    )
    monkeypatch.setitem(ARCHITECTURES, request.param, row)  # type: ignore[misc]
    return request.param


def layers(names: object) -> set[str]:
    return {str(name).rpartition(".")[0] for name in names}  # type: ignore[attr-defined]


@pytest.mark.neutral
def test_what_is_replaced(kind: str, tmp_path: Path) -> None:
    _, _, scoring, cut, fresh = KINDS[kind]
    published = hs.model(kind, classes=7)
    assert published.default_cut == cut
    assert ARCHITECTURES[kind].scoring == scoring
    params = dict(published.params)
    path = tmp_path / "weights.safetensors"
    for layout in (SAME, THEIRS):
        save_file(named_by(published.graph, params, layout), path)
        same = hs.model(kind, weights=path)
        assert len(same.classes) == 7 and not same.fresh
        assert all(np.array_equal(same.params[name], value) for name, value in params.items())
        other = hs.model(kind, weights=path, classes=3, head="linear")
        assert layers(other.fresh) == fresh
        hidden = hs.model(kind, weights=path, classes=3, head=[5])
        assert layers(hidden.fresh) == {"classifier.0", "classifier.2"}
    del params[f"{scoring}.weight"], params[f"{scoring}.bias"]
    save_file(params, path)
    with pytest.raises(SettingError, match="has no classifier"):
        hs.model(kind, weights=path)
    if fresh == {scoring}:
        assert layers(hs.model(kind, weights=path, classes=3).fresh) == fresh
    with pytest.raises(WeightsError):
        hs.model("lenet", weights=path, classes=3)


@pytest.mark.slow("keras", "jax")  # core guesses; the suite trains whatever graph there is
def test_it_is_trained_from_a_guess(kind: str, backend: str, tmp_path: Path) -> None:
    """The first loss is about that of a uniform guess; drawn as a convolution, a classifier of many channels would
    be sure of something."""
    data = hs.data.digits().subset(range(48))
    model = hs.model(kind, classes=10)
    fast: dict[str, Any] = {"epochs": 2, "batch_size": 16, "dtype": "float32", "lr": 1e-3, "device": "cpu"}
    runs = {mode: hs.fit(model, data, None, mode=mode, backend=backend, **fast) for mode in ("cached", "frozen")}
    first, second = (np.concatenate([r.step_losses for r in run.history]) for run in runs.values())
    assert abs(first[0] - math.log(10)) < 0.7
    np.testing.assert_allclose(first, second, rtol=1e-3)
    loaded = hs.load(runs["cached"].save(tmp_path / "run"), backend=backend)
    np.testing.assert_allclose(loaded.predict(data), runs["cached"].predict(data), rtol=1e-4, atol=1e-5)
    held = load_file(hs.weights_file(tmp_path / "run"))
    assert held.keys() == model.params.keys()
