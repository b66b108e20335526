"""The three backends beside each other: same weights, same data, same order, same start, hence the same numbers
within the frameworks' rounding; and one backend's features serve the others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from known_answers import BY_NAME, Original
from safetensors.torch import load_file
from shortened import shortened
from sparing import Trainers

import headstart as hs
from headstart.contract import registry
from headstart.store.feature_store import FeatureStore
from headstart.testing import BLOCK_CUT, relative_error, shaken, small_data, small_model

BACKENDS = registry.names()


@pytest.fixture(scope="module")
def data():
    return small_data(120)


def runs_of(data, cache, **settings):
    model = settings.pop("model", None) or small_model()
    settings = {"epochs": 1, "batch_size": 12, "dtype": "float32", "device": "cpu", **settings}
    return [hs.fit(model, *data, backend=name, cache=cache / name, **settings) for name in BACKENDS]


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        pytest.param("cached", {}, marks=pytest.mark.slow),  # hidden has a linear layer last, too
        ("cached", {"cut": BLOCK_CUT}),
        ("cached", {"model": small_model(head=[48]), "optimizer": "sgd", "lr": 0.05, "label_smoothing": 0.1}),
        # the suite and zoo compare frozen with cached in each
        pytest.param("frozen", {"schedule": "cosine", "warmup": 0.2}, marks=pytest.mark.slow),
    ],
    ids=["linear", "block", "hidden", "frozen"],
)
def test_losses_agree_over_the_first_epoch(data, tmp_path, mode, settings) -> None:
    check_first_epochs(runs_of(data, tmp_path, mode=mode, **settings))


def check_first_epochs(runs) -> None:
    first = runs[0].history[0]
    assert len(first.step_losses) == 8, "no sample is left out"
    for run in runs[1:]:
        np.testing.assert_allclose(run.history[0].step_losses, first.step_losses, rtol=1e-2)
        assert run.history[0].val_loss == pytest.approx(first.val_loss, rel=1e-2)


@pytest.fixture(scope="module")
def whole_networks(data, tmp_path_factory):
    """A ResNet with a block in each layer, all of it trained, without and with augmentation: a list of three runs
    each. Each backend compiles it once."""
    settings = {"mode": "full", "optimizer": hs.SGD(0.01, nesterov=True, weight_decay=1e-4)}
    with shortened(BY_NAME["resnet18"]) as row, pytest.MonkeyPatch.context() as patch:
        settings["model"] = hs.model(row.name, classes=10, size=32)
        for name in BACKENDS:
            backend = registry.load(name)
            patch.setattr(backend, "trainer", Trainers(backend, 2).trainer)
        folder = tmp_path_factory.mktemp("whole")
        return [runs_of(data, folder, augment=augment, **settings) for augment in (None, "flip,crop")]


@pytest.mark.slow  # below, all weights are trained once; zoo gives what was trained back to torchvision
class TestWholeNetworks:
    @pytest.fixture(autouse=True)
    def original(self) -> Iterator[Original]:
        with shortened(BY_NAME["resnet18"]) as row:
            yield row.original

    @pytest.mark.parametrize("augmented", [False, True])
    def test_losses_agree_over_the_first_epoch(self, whole_networks, augmented) -> None:
        check_first_epochs(whole_networks[augmented])
        assert not np.allclose(*(of_one[0].history[0].step_losses for of_one in whole_networks), rtol=1e-2)

    @pytest.mark.parametrize("place", range(len(BACKENDS)), ids=BACKENDS)
    def test_a_trained_network_loads_into_torchvision(
        self, whole_networks, original, data, tmp_path, place
    ) -> None:
        """What `save` writes is a state dict of torchvision's own class, by name and layout."""
        run = whole_networks[0][place]
        model = hs.model("resnet18", classes=10, size=32)
        assert not any(
            np.array_equal(value, model.params[name])
            for name, value in run.model.params.items()
            if "weight" in name
        )
        state = load_file(hs.weights_file(run.save(tmp_path / "run")))
        theirs = original.make(10, 32).eval()
        missing, unexpected = theirs.load_state_dict(state, strict=False)
        assert not unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing)
        images = np.stack([model.preprocess.apply(data[1].load(i)[0]) for i in range(6)])
        x = torch.tensor(model.preprocess.normalise(images)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            expected = theirs(x).numpy()
        assert relative_error(run.predict(data[1].subset(range(6))), expected) < 1e-4


@pytest.mark.slow  # the suite holds statistics to a naive reference in each, whole networks are below
def test_losses_agree_where_statistics_are_trained(tmp_path) -> None:
    """On noise, with a block in each layer, and with plain gradient descent. The digits are flat in most places,
    so that in training mode many activations lie within rounding of a rectifier's corner, and each framework's
    gradient is then about 1 % off that in float64; Adam's division makes steps of such differences."""
    rng = np.random.default_rng(0)
    noise = hs.data.arrays(rng.integers(0, 256, (120, 64, 64, 3), np.uint8), rng.integers(0, 10, 120))
    with shortened(BY_NAME["resnet18_half"]):
        model = small_model(size=64, weights=None)
        settings = {"model": model, "mode": "scratch", "optimizer": hs.SGD(0.003, momentum=0.0)}
        runs = runs_of(noise.split(0.8), tmp_path, **settings)
    for run in runs[1:]:
        np.testing.assert_allclose(run.history[0].step_losses, runs[0].history[0].step_losses, rtol=1e-2)
        for name, value in runs[0].model.params.items():
            if "running_mean" in name:
                change = np.linalg.norm(value)
                assert np.linalg.norm(run.model.params[name] - value) < 1e-2 * change, name


def test_gradients_of_the_head_agree(data, tmp_path) -> None:
    """One step of plain gradient descent, so that the parameters' change is the gradient."""
    start = replace(small_model(), fresh=frozenset())  # a fresh output layer starts at zero, and lets none through
    steps = runs_of(
        tuple(part.subset(np.arange(12)) for part in data),
        tmp_path,
        model=start,
        mode="cached",
        cut=BLOCK_CUT,
        optimizer=hs.SGD(1.0, momentum=0.0),
        schedule="constant",
        warmup=0.0,
    )
    for name in start.graph.after(BLOCK_CUT, start.input_shape).param_shapes():
        changes = [run.model.params[name] - start.params[name] for run in steps]
        if "running" in name:
            assert not np.any(changes), name
            continue
        for change in changes[1:]:
            assert np.linalg.norm(change - changes[0]) < 1e-3 * np.linalg.norm(changes[0]), name


def test_one_backends_features_serve_the_others(data, tmp_path) -> None:
    made = hs.extract(small_model(), data[0], "avgpool", backend="torch", cache=tmp_path)
    assert made.stats.extracted == len(set(data[0].ids))
    shards = sorted(path.name for path in tmp_path.rglob("*.safetensors"))
    for name in BACKENDS:
        again = hs.extract(small_model(), data[0], "avgpool", backend=name, cache=tmp_path)
        assert again.stats.extracted == 0
        assert again.stats.made_by == ("torch",)
        assert np.array_equal(again.numpy(), made.numpy())
    assert sorted(path.name for path in tmp_path.rglob("*.safetensors")) == shards
    assert len(FeatureStore(tmp_path).infos()) == 1


def test_a_run_saved_by_one_predicts_in_the_others(data, tmp_path) -> None:
    run = hs.fit(small_model(), *data, epochs=2, backend="keras", cache=tmp_path)
    folder = run.save(tmp_path / "run")
    expected = run.predict(data[1])
    for name in BACKENDS:
        assert relative_error(hs.load(folder, backend=name).predict(data[1]), expected) < 1e-4


def test_every_cut_agrees(tmp_path) -> None:
    model = shaken(small_model())
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    cuts = list(model.graph.cuts())
    outputs = [hs.forward(model, x, cuts, backend=name) for name in BACKENDS]
    for cut in cuts:
        for other in outputs[1:]:
            assert relative_error(other[cut], outputs[0][cut]) < 1e-4, cut
