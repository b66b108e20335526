"""`debug_nans`: a value that is known to be NaN or infinite is found where and when it is known to come up, and a
healthy run is the run without it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import FeatureOverflowError, NonFiniteError, SettingError
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.data import Dataset
from headstart.data.order import epoch_order
from headstart.graph import Builder
from headstart.models import Model
from headstart.models.initial import initial_params
from headstart.testing import relative_error, small_data, small_model
from headstart.training import feature_feeds, image_feed
from headstart.training.nans.search import with_batch_statistics

LARGEST = float(np.finfo(np.float32).max)
BATCH = 60  # of 120 samples: two steps
Fit = Callable[..., Any]


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """120 and 40 digits."""
    return small_data()


@pytest.fixture(scope="module")
def lenet() -> Model:
    return hs.model("lenet", classes=10)


@pytest.fixture(scope="module")
def fit(data: tuple[Dataset, Dataset], lenet: Model, backend: str, tmp_path_factory: Any) -> Fit:
    cache = tmp_path_factory.mktemp("cache")

    def call(model: Model = lenet, train: Any = data[0], val: Any = data[1], **settings: Any) -> Any:
        defaults = {"backend": backend, "device": "cpu", "cache": cache, "epochs": 2, "batch_size": BATCH}
        return hs.fit(model, train, val, **{**defaults, "debug_nans": True, **settings})

    return call


def failure(fit: Fit, *args: Any, **settings: Any) -> NonFiniteError:
    with pytest.raises(NonFiniteError) as caught:
        fit(*args, **settings)
    assert "\n" not in str(caught.value)
    return caught.value


def with_params(model: Model, **changed: tuple[Any, Any]) -> Model:
    """Of each parameter named (with `__` for a dot), the values at an index replaced. Nothing is drawn anew."""
    params = {name: value.copy() for name, value in model.params.items()}
    for name, (index, value) in changed.items():
        params[name.replace("__", ".")][index] = value
    return replace(model, params=params, fresh=frozenset())


# --- a healthy run


@pytest.fixture(scope="module")
def numbers() -> tuple[Dataset, Dataset]:
    """120 and 40 samples that are no images, of three classes that can be told apart."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((160, 5)).astype(np.float32), np.arange(160) % 3
    x[np.arange(160), y] += 2
    return hs.data.arrays(x, y).split(0.75, seed=0, by="position")


@pytest.fixture(scope="module")
def mlp(backend: str, numbers: tuple[Dataset, Dataset]) -> Callable[[Any], Model]:
    """A small module of the backend's own, which takes no time to compile, with a head."""
    modules = import_module(f"own_{backend}")
    return lambda head: hs.wrap(
        modules.mlp(5, 4),
        cut=modules.MLP_END,  # the whole of it is the trunk: its last layer is no classifier here
        head=head,
        classes=3,
        example=numbers[0],
        init=lambda seed: modules.mlp(5, 4, seed),
    )


@pytest.mark.parametrize(
    "mode",
    [
        "scratch",
        pytest.param("frozen", marks=pytest.mark.slow("keras", "jax")),  # trunks are watched below
        pytest.param("staged", marks=pytest.mark.of("torch")),
    ],
)
def test_a_healthy_run_is_the_same(
    fit: Fit, mlp: Callable[[Any], Model], numbers: tuple[Dataset, Dataset], mode: str
) -> None:
    """With dropout: its masks come from the same streams. The stages of `staged` are `cached` and `full`."""
    model = mlp([8, 0.5])
    watched, plain = (fit(model, *numbers, mode=mode, debug_nans=on) for on in (True, False))
    for kind in ("history", "head_history"):
        for key in ("step_losses", "val_loss", "accuracy", "val_accuracy", "learning_rate"):
            pair = [np.array(getattr(run, kind)[key], np.float64) for run in (watched, plain)]
            np.testing.assert_allclose(*pair, rtol=1e-5, atol=1e-7)
    last = [run.model.params["head.3.weight"] for run in (watched, plain)]
    assert relative_error(*last) < 1e-4
    assert watched.settings.keys() == plain.settings.keys()


@pytest.mark.of("torch")  # core decides it for every backend in the same way
def test_a_healthy_run_from_the_disk(
    fit: Fit, mlp: Callable[[Any], Model], numbers: tuple[Dataset, Dataset]
) -> None:
    settings = {"memory": 600, "batch_size": 8, "epochs": 1}
    watched, plain = (fit(mlp("linear"), *numbers, **settings, debug_nans=on) for on in (True, False))
    assert watched.settings["features"]["where"] == "disk"
    np.testing.assert_allclose(watched.history["step_losses"], plain.history["step_losses"], rtol=1e-5)
    assert watched.history[0].val_loss == pytest.approx(plain.history[0].val_loss, rel=1e-5)


# --- weights


@pytest.mark.parametrize("name", ["conv2__bias", "fc3__weight"], ids=["trunk", "head"])
@pytest.mark.parametrize("mode", ["cached", "full"])
def test_weights_are_named_before_anything_runs(
    fit: Fit, lenet: Model, mode: str, name: str, tmp_path: Path
) -> None:
    """Even those that a rectifier would hide."""
    error = failure(fit, with_params(lenet, **{name: (0, np.nan)}), mode=mode, cache=tmp_path / "new")
    parameter = name.replace("__", ".")
    assert (error.what, error.node) == ("weights", parameter.partition(".")[0])
    assert (error.epoch, error.batch, error.samples) == (None, None, ())
    assert parameter in str(error)
    assert not list((tmp_path / "new").rglob("*.safetensors"))


def test_weights_that_only_folding_makes_infinite(fit: Fit) -> None:
    model = with_params(small_model(), layer3__0__bn2__weight=(3, 3e38))
    error = failure(fit, model, mode="frozen")
    assert (error.what, error.node) == ("weights", "layer3.0.bn2")
    assert "norm or scale folded in" in str(error)


# --- one sample that overflows


@pytest.fixture(scope="module")
def overflowing(lenet: Model, data: tuple[Dataset, Dataset], fit: Fit, backend: str) -> tuple[Model, int]:
    """A model whose first fully connected layer overflows for one sample, and which of the training samples that
    is: the one of which a feature that this layer takes is by far the largest. For all others its units are below
    zero. They overflow wherever the bias is added: behind the product, or before it, as a sum's first term."""
    conv = {f"conv2__{name}": (..., 100 * lenet.params[f"conv2.{name}"]) for name in ("weight", "bias")}
    strong = with_params(lenet, **conv)
    features = [
        hs.extract(strong, part, "flatten", backend=backend, device="cpu", dtype="float32") for part in data
    ]
    values = np.concatenate([part.numpy("flatten") for part in features]).astype(np.float64)
    second, first = np.sort(values, 0)[-2:]
    feature = int((first - 2.5 * second).argmax())
    assert first[feature] > 2.5 * second[feature] > 1
    row = np.zeros(values.shape[1])
    row[feature] = 0.9 * LARGEST / second[feature]
    place = int(values[:, feature].argmax())
    assert place < len(data[0])
    sums = values[:, feature] * row[feature] / LARGEST
    assert sums[place] - 0.95 > 1 and (np.delete(sums, place) < 0.95).all()
    # Several units, since training drops some; added up with one sign, since of infinities of both comes
    # NaN, for which a rectifier gives 0 where TensorFlow makes it one operation with the layer before.
    units = slice(0, 8)
    alike = {"fc1__weight": (units, row), "fc1__bias": (units, -0.95 * LARGEST)}
    return with_params(strong, **alike, fc2__weight=((slice(None), units), 0.1)), place


def left_out_at_first(place: int, monkeypatch: pytest.MonkeyPatch) -> int:
    """Have the sample at `place` left out of the first epoch; returns its batch in the second, from 1."""

    def order(count: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
        order = epoch_order(count, batch_size, seed, epoch)
        return order if epoch else np.where(order == place, (place + 1) % count, order)

    for module in (feature_feeds, image_feed):
        monkeypatch.setattr(module, "epoch_order", order)
    return int(np.argwhere(epoch_order(120, BATCH, 0, 1) == place)[0, 0]) + 1


TINY: dict[str, Any] = {"optimizer": "sgd", "lr": 1e-6, "standardize": False}
"""of features as they are: the weights that overflow are at the edge of what float32 holds"""


@pytest.mark.parametrize(("mode", "cut"), [("cached", "flatten"), ("frozen", "relu3")])
def test_a_sample_at_a_known_step(
    fit: Fit,
    data: tuple[Dataset, Dataset],
    overflowing: tuple[Model, int],
    mode: str,
    cut: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the head, in the frozen trunk."""
    model, place = overflowing
    batch = left_out_at_first(place, monkeypatch)
    error = failure(fit, model, val=None, mode=mode, cut=cut, **TINY)
    name = data[0].source_name(place)
    assert (error.what, error.node, error.epoch, error.batch) == ("output", "fc1", 2, batch)
    assert (error.samples, error.stage) == ((name,), "head")
    for text in (f"epoch 2, batch {batch} of 2", "'fc1' (linear", f"1 of 60 samples: {name}"):
        assert text in str(error)
    assert ("in the frozen trunk" in str(error)) == (mode == "frozen")


@pytest.mark.slow("keras", "jax")  # core looks for it, as in training
@pytest.mark.parametrize(("mode", "cut"), [("cached", "flatten"), ("frozen", "relu3")])
def test_a_sample_in_validation(
    fit: Fit, data: tuple[Dataset, Dataset], overflowing: tuple[Model, int], mode: str, cut: str
) -> None:
    model, place = overflowing
    error = failure(fit, model, *data[::-1], mode=mode, cut=cut, batch_size=16, **TINY)
    name = data[0].source_name(place)
    assert (error.what, error.node, error.epoch, error.batch) == ("output", "fc1", 1, None)
    assert error.samples == (name,)
    assert "epoch 1, in validation: the output of node 'fc1' (linear" in str(error)
    assert ("in the frozen trunk" in str(error)) == (mode == "frozen")


def test_a_sample_in_an_extraction(
    fit: Fit, data: tuple[Dataset, Dataset], overflowing: tuple[Model, int]
) -> None:
    model, place = overflowing
    error = failure(fit, model, *data[::-1], cut="relu3", dtype="float32")
    assert (error.what, error.node, error.stage) == ("output", "fc1", "extraction")
    assert error.samples == (data[0].source_name(place),)
    assert (error.epoch, error.batch) == (None, None)


def test_a_feature_that_only_the_stored_type_cannot_hold(fit: Fit, lenet: Model) -> None:
    """It is finite, and the error says which type holds it."""
    with pytest.raises(FeatureOverflowError, match=r"float16 holds \(65504\); store as bfloat16"):
        fit(with_params(lenet, fc2__bias=(0, 1e6)), cut="relu4")


# --- training that explodes


def test_an_update_beyond_what_can_be_held(
    fit: Fit, mlp: Callable[[Any], Model], numbers: tuple[Dataset, Dataset]
) -> None:
    """1e40 times any gradient. Both layers are lost; the gradient comes from the last."""
    scale = {"head.0": 1e10, "head.2": 1e10}
    error = failure(fit, mlp([16]), *numbers, optimizer="sgd", lr=1e30, lr_scale=scale)
    assert (error.what, error.node, error.epoch, error.batch) == ("update", "head.2", 1, 1)
    assert error.samples == ()
    assert "the loss and the outputs of all nodes before it are finite" in str(error)


def test_a_loss_beyond_what_can_be_held(
    fit: Fit, mlp: Callable[[Any], Model], numbers: tuple[Dataset, Dataset]
) -> None:
    """Logits that can be held, and their differences that cannot."""
    bias = 0.9 * LARGEST * np.array([-1, 1, -1], np.float32)
    model = with_params(mlp("linear"), head__bias=(slice(None), bias))
    error = failure(fit, model, *numbers, precision="bfloat16")
    assert (error.what, error.node, error.epoch, error.batch) == ("loss", "head", 1, 1)
    assert "precision='float32' instead of 'bfloat16'" in str(error)


@pytest.mark.slow("keras", "jax")  # modules that explode, and updates, are below
def test_a_learning_rate_that_is_too_high(fit: Fit) -> None:
    """After a step with 1e25 the weights are about that, and the second convolution multiplies two such."""
    error = failure(fit, mode="full", optimizer="sgd", lr=1e25, schedule="constant")
    assert (error.what, error.node, error.stage) == ("output", "conv2", "all")
    assert (error.epoch, error.batch, len(error.samples)) == (1, 2, 60)
    assert "a learning rate below 1e+25" in str(error)
    assert "precision=" not in str(error)


# --- modules of one's own


@pytest.fixture(scope="module")
def poisoned() -> tuple[Dataset, int]:
    """120 samples, one of them with a NaN."""
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((120, 5)).astype(np.float32), np.arange(120) % 3
    x[77, 2] = np.nan
    return hs.data.arrays(x, y), 77


@pytest.mark.slow("keras", "jax")  # core looks for it
@pytest.mark.parametrize("mode", ["full", "frozen", "cached"])
def test_a_poisoned_sample(
    fit: Fit,
    mlp: Callable[[Any], Model],
    poisoned: tuple[Dataset, int],
    mode: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where a rectifier would hide it."""
    train, place = poisoned
    batch = left_out_at_first(place, monkeypatch)
    error = failure(fit, mlp("linear"), train, None, mode=mode)
    assert (error.what, error.node, error.samples) == ("input", "input", (train.source_name(place),))
    assert (error.epoch, error.batch) == ((None, None) if mode == "cached" else (2, batch))
    assert f"the inputs of {train.source_name(place)} hold NaN or infinity" in str(error)


def test_a_module_that_explodes(fit: Fit, mlp: Callable[[Any], Model], numbers: tuple[Dataset, Dataset]) -> None:
    """The native part is one node. In the second stage, of which epochs count from its own first."""
    settings = {"optimizer": "sgd", "lr": 1e-3, "lr_scale": {"trunk": 1e33}}
    error = failure(fit, mlp("linear"), *numbers, mode="staged", head_epochs=3, **settings)
    assert (error.what, error.node, error.stage) == ("output", "trunk", "all")
    assert (error.epoch, error.batch) == (1, 2)
    assert "'trunk' (native)" in str(error)


# --- the parts


def test_the_statistics_of_a_step_are_found_again(backend: str) -> None:
    """What a batch norm that follows the batch has normalised with, from what it keeps."""
    b = Builder()
    x = b.add("norm", "batch_norm", b.conv("conv", "input", 3, 4, 3), channels=4)
    graph = b.graph(b.linear("out", b.add("pool", "global_avg_pool", x), 4, 2))
    before = initial_params(graph, 0, None)
    rng = np.random.default_rng(0)
    images = rng.normal(2, 3, (6, 8, 8, 3)).astype(np.float32)
    framework = registry.load(backend)
    place = framework.place("cpu", "float32")
    trainer = framework.trainer(graph, before, Recipe(hs.SGD(0.1), Softmax(), True, 0), place)
    trainer.step(images, np.arange(6) % 2, 0.1)
    used = with_batch_statistics(graph, before, trainer.params())
    trunk = framework.trunk(graph.upto("conv"), before, ["conv"], place)
    maps = framework.numpy(trunk.run(images)["conv"]).astype(np.float64)
    np.testing.assert_allclose(used["norm.running_mean"], maps.mean((0, 1, 2)), rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(used["norm.running_var"], maps.var((0, 1, 2)), rtol=1e-2)
    assert used["out.weight"] is before["out.weight"]


def test_a_wrong_setting(fit: Fit) -> None:
    with pytest.raises(SettingError, match="debug_nans='yes'; expected True or False"):
        fit(debug_nans="yes")


def test_the_error_can_be_sent_to_another_process(fit: Fit, lenet: Model) -> None:
    error = failure(fit, with_params(lenet, fc3__bias=(0, np.inf)))
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))
