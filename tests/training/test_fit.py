"""`hs.fit` as a user meets it: mistakes are named before anything is done, arguments are left alone, what is
recorded is what was asked for, and a run can be used, saved and loaded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import headstart as hs
from headstart.common.errors import (
    BackendError,
    CutError,
    DataError,
    ImageError,
    SettingError,
    UnknownNameError,
    WeightsError,
)
from headstart.contract.checked import CheckedBackend
from headstart.contract.registry import installed, names
from headstart.data import Dataset
from headstart.models import Model
from headstart.store.keys import params_digest
from headstart.testing import relative_error, small_data, small_model
from headstart.training.history import History, Record
from headstart.training.job import job_of
from headstart.training.settings import Settings

Fit = Callable[..., Any]


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    """120 and 40 digits."""
    return small_data()


@pytest.fixture(scope="module")
def lenet() -> Model:
    return hs.model("lenet", classes=10)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all: what is extracted once serves the other tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fit(data: tuple[Dataset, Dataset], lenet: Model, backend: str, cache: Path) -> Fit:
    """`hs.fit` with lenet on the digits, small."""

    def call(
        model: Model = lenet, train: Dataset = data[0], val: Dataset | None = data[1], **settings: Any
    ) -> Any:
        settings = {"backend": backend, "device": "cpu", "cache": cache, "epochs": 1, "batch_size": 24, **settings}
        return hs.fit(model, train, val, **settings)

    return call


@pytest.fixture(scope="module")
def run(fit: Fit) -> Any:
    """A head on the shipped trunk, trained on the cache."""
    return fit(small_model(), mode="cached", epochs=3)


HOT: dict[str, Any] = {"lr": 0.01, "schedule": "constant", "warmup": 0.0}
"""what brings a head far in few epochs"""


@pytest.fixture(scope="module")
def staged(fit: Fit) -> tuple[Any, list[tuple[str, Record]]]:
    """A run of both stages, and what its `on_epoch` was called with."""
    calls: list[tuple[str, Record]] = []
    run = fit(
        small_model(),
        mode="staged",
        epochs=2,
        head_epochs=4,
        **HOT,
        lr_scale=0.03,
        on_epoch=lambda stage, record: calls.append((stage, record)),
    )
    return run, calls


def losses(run: Any) -> list[tuple[float, ...]]:
    return run.history["step_losses"]


def shards(cache: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in cache.rglob("*.safetensors")}


ONCE = pytest.mark.of("torch")
"""what core does with every backend in the same way"""

# --- mistakes


MODES = "scratch, full, frozen, cached, staged"
MISTAKES: dict[str, tuple[dict[str, Any], type[Exception], list[str]]] = {
    "mode": ({"mode": "cashed"}, UnknownNameError, ["mode 'cashed'", MODES, "did you mean 'cached'"]),
    "cut": ({"cut": "layer9"}, CutError, ["'layer9'", "layer4", "avgpool"]),
    "cut-in-a-branch": ({"cut": "layer4.0.conv1"}, CutError, ["'layer4.0.conv1'", "layer3.1", "layer4.0"]),
    "cut-unused": ({"cut": "layer9", "mode": "full"}, CutError, ["'layer9'", "layer4"]),
    "cut-at-the-end": ({"cut": "fc"}, CutError, ["'fc'"]),
    "backend": ({"backend": "tf"}, UnknownNameError, ["backend 'tf'", "torch, keras, jax"]),
    "optimizer": ({"optimizer": "adam"}, UnknownNameError, ["optimizer 'adam'", "sgd, adamw", "'adamw'"]),
    "lr": ({"lr": -1.0}, SettingError, ["lr=-1.0", "positive"]),
    "lr-nan": ({"lr": float("nan")}, SettingError, ["lr=nan", "finite"]),
    "schedule": ({"schedule": "step"}, UnknownNameError, ["schedule 'step'", "constant, cosine"]),
    "warmup": ({"warmup": 1.5}, SettingError, ["warmup=1.5", "0 <= warmup < 1"]),
    "device": ({"device": "gpu"}, UnknownNameError, ["device 'gpu'", "auto, cpu, cuda"]),
    "device-index": ({"device": "cuda:one"}, UnknownNameError, ["device 'cuda:one'", "cuda:N"]),
    "precision": ({"precision": "fp16"}, UnknownNameError, ["'fp16'", "float32, tf32, bfloat16, float16"]),
    **{
        f"float16-{mode}": (
            {"precision": "float16", "mode": mode},
            SettingError,
            ["precision='float16'", f"mode '{mode}'", "use precision='bfloat16', or mode 'cached' or 'frozen'"],
        )
        for mode in ("full", "scratch", "staged")
    },
    "dtype": ({"dtype": "float8"}, SettingError, ["'float8'", "float16, float32, bfloat16"]),
    "dtype-unused": (
        {"dtype": "float8", "mode": "frozen"},
        SettingError,
        ["'float8'", "float16, float32, bfloat16"],
    ),
    "epochs": ({"epochs": 0}, SettingError, ["epochs=0", "integer of 1 or more"]),
    "epochs-float": ({"epochs": 2.5}, SettingError, ["epochs=2.5", "integer of 1 or more"]),
    "epochs-bool": ({"epochs": True}, SettingError, ["epochs=True", "integer of 1 or more"]),
    "batch": ({"batch_size": 0}, SettingError, ["batch_size=0", "integer of 1 or more"]),
    "batch-none": ({"batch_size": None}, SettingError, ["batch_size=None", "integer of 1 or more"]),
    "seed": ({"seed": -1}, SettingError, ["seed=-1", "integer of 0 or more"]),
    "seed-huge": ({"seed": 2**32}, SettingError, ["below 2**32"]),
    "seed-none": ({"seed": None}, SettingError, ["seed=None", "integer of 0 or more"]),
    "workers": ({"workers": 0, "mode": "frozen"}, SettingError, ["workers", "0", "1 or more"]),
    "smoothing": ({"label_smoothing": 1.0}, SettingError, ["label_smoothing=1.0", "0 <= label_smoothing < 1"]),
    "smoothing-text": ({"label_smoothing": "0.1"}, SettingError, ["label_smoothing='0.1'"]),
    "batch-norm": ({"batch_norm": "thaw"}, SettingError, ["batch_norm='thaw'", "auto, frozen, train"]),
    "augment": ({"augment": "rotate", "mode": "full"}, UnknownNameError, ["'rotate'", "flip, crop, none"]),
    "augment-cached": (
        {"augment": "flip"},
        SettingError,
        ["augment= with mode 'cached'", "computed once", "'scratch' or 'full' or 'frozen'"],
    ),
    "head-epochs": ({"head_epochs": 2}, SettingError, ["head_epochs goes with mode 'staged', not with 'cached'"]),
    "head-epochs-zero": ({"head_epochs": 0, "mode": "staged"}, SettingError, ["head_epochs=0", "1 or more"]),
}


@pytest.mark.slow("keras", "jax")  # core looks
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_and_costs_nothing(
    mistake: str, run: Any, fit: Fit, cache: Path, data: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    settings, error, texts = MISTAKES[mistake]
    before = shards(cache)
    with pytest.raises(error) as caught:
        fit(small_model(), **settings)
    assert isinstance(caught.value, hs.HeadstartError)
    for text in texts:
        assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert before
    assert shards(cache) == before
    # Nor is anything computed before it is noticed.
    with pytest.raises(error):
        fit(small_model(), **settings, cache=tmp_path / "new")
    assert not shards(tmp_path / "new")


@pytest.mark.parametrize("name", [name for name in names() if name not in installed()])
def test_a_missing_framework_is_named(fit: Fit, name: str) -> None:
    with pytest.raises(BackendError, match=rf"pip install 'headstart\[{name}\]'"):
        fit(backend=name)


def test_labels_out_of_range(fit: Fit) -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 9, 9, 3), np.uint8)
    with pytest.raises(DataError, match=r"label 2 of image 2 is out of range; allowed are 0 to 1"):
        hs.data.arrays(images, [0, 1, 2, 0, 1, 2], classes=["a", "b"])
    with pytest.raises(DataError, match=r"label -1 of image 1 is out of range; allowed are 0 to 1"):
        hs.data.arrays(images, [0, -1, 1, 0, 1, 1])
    three = hs.data.arrays(images, [0, 1, 2, 0, 1, 2])
    for train, val in ((three, None), (three.subset([0, 1]), three)):
        with pytest.raises(DataError, match=r"has the label 2; the model has 2 classes, so labels are 0 to 1"):
            fit(hs.model("lenet", classes=2), train, val)


@pytest.mark.slow("keras", "jax")  # core looks
def test_one_class_is_not_enough(fit: Fit, data: tuple[Dataset, Dataset]) -> None:
    threes = data[0].subset(np.flatnonzero(data[0].labels == 3))
    with pytest.raises(DataError, match=rf"all {len(threes)} training samples are of one class"):
        fit(train=threes)
    others = data[1].subset(np.flatnonzero(data[1].labels == 3))
    assert fit(val=others).history[0].val_accuracy is not None  # to validate on, it is


@pytest.mark.slow("keras", "jax")  # core looks
def test_classes_must_match(fit: Fit, data: tuple[Dataset, Dataset]) -> None:
    other = hs.model("lenet", classes=[f"digit {i}" for i in range(10)])
    with pytest.raises(DataError, match=r"\[0, 1, 2, 3, 4, ...\] are not .*\[digit 0, .*classes=data.classes"):
        fit(other)
    assert fit(hs.model("lenet", classes=data[0].classes)).model.classes == data[0].classes


@pytest.mark.parametrize("which", ["train", "val"])
def test_no_data(fit: Fit, data: tuple[Dataset, Dataset], which: str) -> None:
    with pytest.raises(DataError, match=f"the {which} data set 'digits' is empty"):
        fit(**{which: data[0].subset([])})


# --- arguments are left alone


@pytest.mark.parametrize("mode", ["cached", *(pytest.param(mode, marks=ONCE) for mode in ("frozen", "full"))])
def test_nothing_that_was_passed_is_changed(fit: Fit, data: tuple[Dataset, Dataset], mode: str) -> None:
    model = small_model(head=[12])
    params, digest, fresh = dict(model.params), params_digest(model.params), model.fresh
    rows = [(part.ids, part.labels.copy(), len(part)) for part in data]
    optimizer, schedule = hs.SGD(lr=0.02), hs.Schedule("cosine")
    trained = fit(model, mode=mode, optimizer=optimizer, schedule=schedule, lr=0.01)
    assert params_digest(model.params) == digest
    assert all(model.params[name] is params[name] for name in params)
    assert (model.fresh, model.head) == (fresh, (12,))
    assert (optimizer, schedule) == (hs.SGD(lr=0.02), hs.Schedule("cosine"))
    for part, (ids, labels, count) in zip(data, rows, strict=True):
        assert (part.ids, len(part)) == (ids, count)
        assert np.array_equal(part.labels, labels)
    assert trained.model is not model
    assert not trained.model.fresh
    assert params_digest(trained.model.params) != digest


def test_a_run_is_shown_in_a_line(run: Any) -> None:
    """Weights, records and mistakes are not printed."""
    for shown in (run, run.model):
        text = repr(shown)
        assert len(text) < 200 and "\n" not in text and repr(run.model.name) in text
    assert f"mode {run.mode!r}" in repr(run) and "confusion" not in repr(run.validation)


def test_training_goes_on_from_a_run(fit: Fit, run: Any) -> None:
    """A run's model is a model: nothing of it is drawn anew."""
    more = fit(run.model, mode="cached", epochs=1)
    assert more.history[0].loss < run.history[0].loss
    assert more.history[0].loss == pytest.approx(run.history[-1].loss, rel=0.6)


# --- what is recorded


def test_without_validation_data(fit: Fit) -> None:
    record = fit(val=None, mode="full").history[0]
    assert (record.val_loss, record.val_accuracy) == (None, None)
    assert record["val_loss"] is None
    assert math.isfinite(record.loss)


def test_validation_changes_nothing(fit: Fit) -> None:
    assert losses(fit(val=None, mode="full")) == losses(fit(mode="full"))


@pytest.mark.parametrize("mode", ["cached", "full"])
def test_a_batch_larger_than_the_data(fit: Fit, mode: str) -> None:
    run = fit(mode=mode, batch_size=1000)
    assert [len(steps) for steps in losses(run)] == [1]
    assert run.settings["batch_size"] == 120
    assert run.predict(np.zeros((3, 8, 8, 3), np.uint8), batch_size=1000).shape == (3, 10)


@pytest.mark.slow("keras", "jax")  # core records
def test_the_rates_and_settings_are_recorded(fit: Fit) -> None:
    run = fit(
        epochs=3,
        optimizer="sgd",
        lr=0.05,
        schedule="cosine",
        warmup=0.2,
        label_smoothing=0.1,
        seed=7,
        dtype="float32",
    )
    rates = hs.Schedule("cosine", 0.2).rates(0.05, 15)
    assert [len(steps) for steps in losses(run)] == [5, 5, 5]
    assert run.history["learning_rate"] == [float(rate) for rate in rates[4::5]]
    assert run.history["epoch"] == [1, 2, 3]
    settings = run.settings
    assert settings["schedule"] == {"kind": "cosine", "warmup": 0.2}
    assert settings["optimizer"]["head"] == {
        "name": "sgd", "lr": 0.05, "momentum": 0.9, "nesterov": False, "weight_decay": 0.0
    }  # fmt: skip
    assert (settings["label_smoothing"], settings["seed"], settings["epochs"]) == (0.1, 7, 3)
    assert (settings["batch_size"], settings["feature_dtype"], settings["device"]) == (24, "float32", "cpu")
    assert (settings["batch_norm"], settings["augment"], settings["precision"]) == ("frozen", None, "float32")
    assert settings["threads"] >= 1
    assert settings["versions"]
    json.dumps(settings)
    assert (run.mode, run.cut) == ("cached", "relu4")
    assert run.seconds > 0


@ONCE
def test_label_smoothing_is_in_the_loss_and_not_in_the_validation(fit: Fit, data: Any) -> None:
    """At the first step nothing is trained yet, so its loss follows from the initial weights."""
    model = small_model()
    plain, smooth = (fit(model, lr=1e-9, label_smoothing=s, dtype="float32") for s in (0.0, 0.3))
    assert plain.history[0].val_loss == pytest.approx(smooth.history[0].val_loss, rel=1e-5)
    # Smoothed: 0.7 of the plain cross-entropy, and 0.3 of the mean of -log p over all classes.
    probability = plain.probabilities(data[0])
    uniform = -np.log(probability).mean(1)
    assert smooth.history[0].loss == pytest.approx(0.7 * plain.history[0].loss + 0.3 * uniform.mean(), rel=1e-3)


@ONCE
@pytest.mark.parametrize("mode", ["full", "frozen"])
def test_augmentation_is_used_and_repeats(fit: Fit, lenet: Model, mode: str) -> None:
    settings: dict[str, Any] = {"mode": mode, "epochs": 2}
    if mode == "frozen":
        settings["cut"] = "relu3"
    plain = fit(**settings)
    augmented = fit(**settings, augment="flip,crop")
    assert losses(augmented) == losses(fit(**settings, augment=hs.Augment()))
    assert losses(augmented) != losses(plain)
    assert losses(augmented) != losses(fit(**settings, augment="flip"))
    assert augmented.settings["augment"] == {"flip": True, "crop": [0.35, 1.0]}
    assert losses(fit(**settings, augment="none")) == losses(plain)


@ONCE
def test_epochs_are_reported_as_they_end(fit: Fit) -> None:
    calls: list[tuple[str, Record]] = []
    run = fit(epochs=3, on_epoch=lambda stage, record: calls.append((stage, record)))
    assert [stage for stage, _ in calls] == ["head"] * 3
    assert [record for _, record in calls] == list(run.history)
    calls.clear()
    run = fit(mode="full", epochs=2, on_epoch=lambda stage, record: calls.append((stage, record)))
    assert [stage for stage, _ in calls] == ["all"] * 2
    assert [record for _, record in calls] == list(run.history)


@ONCE
def test_an_error_in_the_callback_is_the_callers(fit: Fit) -> None:
    def stop(stage: str, record: Record) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        fit(epochs=3, on_epoch=stop)


# --- staged


@ONCE
def test_staged_trains_the_head_then_everything(staged: tuple[Any, list[tuple[str, Record]]]) -> None:
    run, calls = staged
    assert (len(run.head_history), len(run.history)) == (4, 2)
    assert [(stage, record.epoch) for stage, record in calls] == [
        ("head", 1), ("head", 2), ("head", 3), ("head", 4), ("all", 1), ("all", 2)
    ]  # fmt: skip
    assert [record for _, record in calls] == [*run.head_history, *run.history]
    assert run.settings["optimizer"].keys() == {"head", "all"}
    assert [run.settings["optimizer"][stage]["lr"] for stage in ("head", "all")] == [0.01, 0.01]
    assert run.settings["stages"]["all"]["max_epochs"] == 2
    assert run.extraction is not None
    assert run.cut == "avgpool"


@ONCE
def test_the_second_stage_starts_from_the_trained_head(staged: tuple[Any, Any], fit: Fit) -> None:
    run, _ = staged
    first, last = run.history[0].step_losses[0], run.head_history[-1].loss
    assert last < math.log(10) / 2
    assert abs(first - last) < 0.5
    assert first < math.log(10) / 2
    before = small_model().params
    assert not np.array_equal(run.model.params["conv1.weight"], before["conv1.weight"])
    # Its first stage is what `cached` does.
    cached = fit(small_model(), mode="cached", epochs=4, **HOT)
    np.testing.assert_allclose(losses(cached), run.head_history["step_losses"], rtol=1e-4)


@ONCE
def test_staged_augments_its_second_stage(fit: Fit) -> None:
    plain, augmented = (fit(mode="staged", augment=augment) for augment in (None, "flip,crop"))
    assert plain.head_history["step_losses"] == augmented.head_history["step_losses"]
    assert losses(plain) != losses(augmented)
    assert (len(plain.head_history), len(plain.history)) == (1, 1)


# --- using a run


@ONCE
def test_all_kinds_of_images_predict_the_same(run: Any, data: tuple[Dataset, Dataset], tmp_path: Path) -> None:
    val = data[1]
    pixels = np.stack([val[i].image for i in range(len(val))])
    pictures = [Image.fromarray(image) for image in pixels]
    paths = [tmp_path / f"{i}.png" for i in range(len(val))]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    expected = run.predict(val)
    assert expected.shape == (40, 10)
    assert expected.dtype == np.float32
    for images in (
        pixels,
        pictures,
        paths,
        [str(path) for path in paths],
        list(pixels),
        [paths[0], *pictures[1:]],
    ):
        assert relative_error(run.predict(images), expected) < 1e-5
    assert relative_error(run.predict(pixels, batch_size=7, workers=1), expected) < 1e-5
    assert (expected.argmax(1) == val.labels).mean() == pytest.approx(run.history[-1].val_accuracy, abs=0.03)
    probabilities = run.probabilities(val)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    assert np.array_equal(probabilities.argmax(1), expected.argmax(1))


def test_images_of_differing_sizes_and_modes(run: Any, data: tuple[Dataset, Dataset]) -> None:
    picture = Image.fromarray(data[1][0].image)
    other = [picture.convert("L"), picture.convert("RGBA"), picture]
    logits = run.predict([*other, Image.new("RGB", (50, 20))])
    for row in logits[:3]:
        np.testing.assert_allclose(row, logits[2], rtol=1e-4, atol=1e-4)
    assert not np.allclose(logits[3], logits[2], atol=1e-2)


@ONCE
def test_what_is_known_of_a_device_is_kept(
    data: tuple[Dataset, Dataset], backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the run, in its folder, in comparisons and plans, and in the report."""
    card = {"name": "Graphics <1>", "memory": 80 << 30, "tf32": False, "cudnn": "9.19"}
    monkeypatch.setattr(CheckedBackend, "device_facts", lambda self, place: dict(card))
    model = hs.model("lenet", classes=10)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": tmp_path / "cache"}
    run = hs.fit(model, data[0], None, epochs=1, **settings)
    assert run.settings["device_facts"] == card
    assert hs.load(run.save(tmp_path / "run"), backend=backend).settings["device_facts"] == card
    assert hs.plan(model, data[0], cuts="fc2", **settings).facts["device_facts"] == card
    page = run.report(tmp_path / "report.html").read_text()
    assert "of memory, Graphics &lt;1&gt;" in page
    assert "device_facts.cudnn" in page and "Graphics <1>" not in page


@pytest.mark.slow("keras", "jax")  # the suite has low precision
def test_precision_is_that_of_predicting(run: Any, data: tuple[Dataset, Dataset]) -> None:
    """And none of training: a run's own does not count."""
    full = run.predict(data[1])
    low = run.predict(data[1], precision="bfloat16")
    assert low.dtype == np.float32
    assert 1e-5 < relative_error(low, full) < 5e-2
    assert relative_error(hs.predict(run.model, data[1], backend=run.backend, precision="bfloat16"), low) < 1e-5
    evaluated = run.evaluate(data[1], precision="bfloat16")
    assert evaluated.loss != run.evaluate(data[1]).loss
    features = hs.extract(run.model, data[1], run.cut, backend=run.backend, dtype="float32")
    of_features = run.predict(features, precision="bfloat16")
    assert 1e-6 < relative_error(of_features, run.predict(features)) < 5e-2
    with pytest.raises(UnknownNameError, match="unknown precision 'half'"):
        run.predict(data[1], precision="half")


def test_images_that_cannot_be_predicted(run: Any, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    with pytest.raises(ImageError, match=r"text\.jpg"):
        run.predict([tmp_path / "text.jpg"])
    with pytest.raises(ImageError, match=r"missing\.jpg"):
        run.predict([str(tmp_path / "missing.jpg")])
    with pytest.raises(SettingError, match=r"a batch of images \(n, h, w, 3\)"):
        run.predict(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(SettingError, match=r"float32 images \(n, h, w, 3\)"):
        run.predict(np.zeros((2, 3, 32, 32), np.float32))


def test_no_images_give_no_predictions(run: Any, data: tuple[Dataset, Dataset]) -> None:
    for nothing in (data[1].subset([]), np.zeros((0, 32, 32, 3), np.float32)):
        assert run.predict(nothing).shape == (0, 10)


# --- saving and loading


def resnet18_names() -> set[str]:
    """torchvision's state dict, less its counters of batches."""
    norm = ("weight", "bias", "running_mean", "running_var")
    found = {"conv1.weight", "fc.weight", "fc.bias", *(f"bn1.{part}" for part in norm)}
    for layer in range(1, 5):
        for block in range(2):
            prefix = f"layer{layer}.{block}"
            found |= {f"{prefix}.conv{i}.weight" for i in (1, 2)}
            found |= {f"{prefix}.bn{i}.{part}" for i in (1, 2) for part in norm}
        if layer > 1:
            found |= {f"layer{layer}.0.downsample.0.weight"}
            found |= {f"layer{layer}.0.downsample.1.{part}" for part in norm}
    return found


@pytest.fixture(scope="module")
def saved(run: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run.save(tmp_path_factory.mktemp("run") / "deep" / "run")


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    folder = tmp_path / "run"
    folder.mkdir()
    for path in saved.iterdir():
        if not path.is_symlink():
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_weights_have_torchvisions_names(saved: Path) -> None:
    weights = hs.weights_file(saved)
    assert sorted(path.name for path in saved.iterdir()) == ["run.json", weights.name, "weights.safetensors"]
    assert (saved / "weights.safetensors").samefile(weights)
    with safe_open(weights, framework="numpy") as file:
        assert set(file.keys()) == resnet18_names()
        assert file.get_tensor("fc.weight").shape == (10, 256)
        assert file.get_tensor("conv1.weight").shape == (32, 3, 7, 7)
        assert file.get_tensor("layer2.0.downsample.0.weight").shape == (64, 32, 1, 1)
        assert file.metadata()["format"] == "pt"


@pytest.mark.slow("keras", "jax")  # the suite loads what it saved
def test_a_run_comes_back(
    run: Any, saved: Path, data: tuple[Dataset, Dataset], backend: str, monkeypatch: Any
) -> None:
    monkeypatch.delenv("HEADSTART_BACKEND", raising=False)
    loaded = hs.load(saved)  # by the backend that trained it
    assert loaded.backend == backend
    assert np.array_equal(loaded.predict(data[1]), run.predict(data[1]))
    assert loaded.history.as_list() == run.history.as_list()
    assert isinstance(loaded.history, History)
    assert (loaded.mode, loaded.cut, loaded.seconds) == (run.mode, run.cut, run.seconds)
    assert loaded.settings == run.settings
    assert loaded.extraction == run.extraction
    assert loaded.model.preprocess == run.model.preprocess
    assert loaded.model.classes == run.model.classes
    with pytest.raises(UnknownNameError, match="'tf'"):
        hs.load(saved, backend="tf")
    monkeypatch.setenv("HEADSTART_BACKEND", "tf")
    with pytest.raises(UnknownNameError, match=r"'tf' \(from HEADSTART_BACKEND\)"):
        hs.load(saved)


@ONCE
def test_a_run_with_hidden_layers_and_named_classes_comes_back(
    fit: Fit, data: tuple[Dataset, Dataset], backend: str, tmp_path: Path
) -> None:
    model = hs.model("lenet", classes=data[0].classes, head=[20, 10])
    run = fit(model, mode="staged")
    with safe_open(hs.weights_file(run.save(tmp_path / "run")), framework="numpy") as file:
        assert {name for name in file.keys() if name.startswith("fc3")} == {  # noqa: SIM118
            f"fc3.{i}.{part}" for i in (0, 2, 4) for part in ("weight", "bias")
        }
    loaded = hs.load(tmp_path / "run", backend=backend)
    assert np.array_equal(loaded.predict(data[1]), run.predict(data[1]))
    assert loaded.head_history.as_list() == run.head_history.as_list()
    assert loaded.model.head == (20, 10)
    assert loaded.model.named_classes
    # What was saved is a model's weights, too.
    again = hs.model("resnet18_half", classes=10)
    with pytest.raises(WeightsError, match="does not fit"):
        hs.model(again.name, weights=hs.weights_file(tmp_path / "run"))


def test_saved_weights_are_a_models_weights(run: Any, saved: Path, backend: str) -> None:
    model = hs.model("resnet18_half", weights=hs.weights_file(saved))
    assert model.classes == run.model.classes
    assert model.preprocess == run.model.preprocess
    assert params_digest(model.params) == params_digest(run.model.params)


def test_saving_again_replaces(run: Any, copied: Path, backend: str) -> None:
    (copied / "notes.txt").write_text("mine")
    other = replace(run, mode="frozen")
    other.save(copied)
    assert hs.load(copied, backend=backend).mode == "frozen"
    assert sorted(path.name for path in copied.iterdir()) == [
        "notes.txt",
        "run.json",
        hs.weights_file(copied).name,
        "weights.safetensors",
    ]


def test_saving_where_a_file_is(run: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(hs.HeadstartError, match="file"):
        run.save(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    about = json.loads((folder / "run.json").read_text())
    change(about)
    (folder / "run.json").write_text(json.dumps(about))


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda f: (f / "run.json").unlink(), "no run is saved there"),
        (lambda f: (f / "run.json").write_text('{"format": 1, "mod'), "run.json: cannot be read"),
        (lambda f: (f / "run.json").write_bytes(b"\xff\xfe\x00"), "run.json: cannot be read"),
        (lambda f: (f / "run.json").write_text("[1, 2]"), "run.json: not a saved run"),
        (lambda f: (f / "run.json").write_text("null"), "run.json: not a saved run"),
        (lambda f: (f / "run.json").write_text("{}"), "run.json: not a saved run"),
        (lambda f: edit(f, lambda a: a.update(format=99)), "format 99"),
        (lambda f: edit(f, lambda a: a["model"].pop("preprocess")), "run.json: not a saved run"),
        (lambda f: edit(f, lambda a: a["history"][0].pop("loss")), "run.json: not a saved run"),
        (lambda f: edit(f, lambda a: a["model"]["preprocess"].update(size=-1)), "run.json"),
        (lambda f: edit(f, lambda a: a["model"].update(name="resnet9")), "run.json"),
        (lambda f: edit(f, lambda a: a["model"].update(name="lenet")), "weights-"),
        (lambda f: edit(f, lambda a: a["model"].update(classes=["a", "b"])), "weights-"),
        (lambda f: hs.weights_file(f).unlink(), "weights-"),
        (lambda f: hs.weights_file(f).write_bytes(b""), "weights-"),
        (
            lambda f: hs.weights_file(f).write_bytes(hs.weights_file(f).read_bytes()[:-1000]),
            "weights-",
        ),
    ],
    ids=[
        "no-run", "half-json", "no-text", "list", "null", "empty", "format", "no-preprocess", "no-loss",
        "bad-size", "unknown-model", "other-model", "other-classes", "no-weights", "empty-weights", "half-weights",
    ],
)  # fmt: skip
def test_a_damaged_run_is_named(copied: Path, backend: str, damage: Callable[[Path], Any], text: str) -> None:
    damage(copied)
    with pytest.raises(WeightsError) as caught:
        hs.load(copied, backend=backend)
    assert str(copied) in str(caught.value)
    assert text in str(caught.value)
    assert os.listdir(copied)  # noqa: PTH208 - nothing was tidied away


@ONCE
def test_a_batch_norm_of_one_value_a_channel_is_refused(backend: str) -> None:
    """torch's own raises; Keras's and JAX's give the bias whatever comes, and learn a variance of 0."""
    pair = hs.data.arrays(np.arange(2, dtype=np.uint8).repeat(32 * 32 * 3).reshape(2, 32, 32, 3), [0, 1])
    models = {size: hs.model("resnet18_half", classes=2, size=size) for size in (32, 64)}
    ends: dict[str, Any] = {"cut": "layer4.0", "batch_norm": "train", "batch_size": 1}
    for settings, name in (({"mode": "scratch", "batch_size": 1}, "layer4.0.bn1"), (ends, "layer4.1.bn1")):
        with pytest.raises(SettingError, match=f"batches of 1, of which the batch norm '{name}' has one value"):
            job_of(models[32], pair, None, Settings(backend=backend, **settings))
    for size, changed in ((64, {}), (32, {"batch_norm": "frozen"}), (32, {"batch_size": 2}), (32, {"cut": None})):
        job_of(models[size], pair, None, Settings(backend=backend, **{**ends, **changed}))


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no run is saved there"):
        hs.load(tmp_path / "nowhere")


# --- does it learn?


@pytest.mark.slow("keras", "jax")  # the suite's modes learn, too
def test_lenet_learns_the_digits(fit: Fit, lenet: Model) -> None:
    train, val = hs.data.digits().split(0.8, seed=0)
    run = fit(lenet, train, val, mode="scratch", epochs=3, batch_size=32)
    assert run.history[-1].val_accuracy > 0.8
    assert run.history[0].loss > run.history[-1].loss
    assert run.settings["batch_norm"] == "frozen", "it has none"


@pytest.mark.slow("keras", "jax")  # parity has each step of each the same
def test_the_head_is_as_good_as_scikit_learns(fit: Fit, backend: str, cache: Path) -> None:
    """Both are softmax regressions on the same features; a head that is much worse is trained wrongly."""
    train, val = hs.data.digits().subset(np.arange(900)).split(0.7, seed=0)
    model = small_model()
    run = fit(model, train, val, batch_size=64, epochs=None)
    settings: dict[str, Any] = {"backend": backend, "device": "cpu", "cache": cache}
    rows = [hs.extract(model, part, **settings) for part in (train, val)]
    assert [part.stats.extracted for part in rows] == [0, 0]
    scaler = StandardScaler().fit(rows[0].numpy().astype(np.float64))
    x, y = (scaler.transform(part.numpy().astype(np.float64)) for part in rows)
    reference = LogisticRegression(C=0.1, max_iter=2000).fit(x, rows[0].labels)
    score = reference.score(y, rows[1].labels)
    assert score > 0.85
    assert run.history.best.val_accuracy == pytest.approx(score, abs=0.04)


def test_no_images_have_no_logits(run: Any) -> None:
    for nothing in ([], np.zeros((0, 9, 9, 3), np.uint8), np.zeros((0, 32, 32, 3), np.float32)):
        assert run.predict(nothing).shape == (0, len(run.model.classes))


@pytest.mark.parametrize("mode", ["cached", "frozen"])
def test_a_trunk_whose_weights_are_no_numbers_is_refused(mode: str, backend: str, tmp_path: Path) -> None:
    """Its features would be finite: a rectifier makes 0 of NaN, in every backend."""
    model = hs.model("resnet18_half", "tinyimagenet", 2, size=32)
    broken = model.params["layer2.0.conv1.weight"].copy()
    broken[3, 1, 0, 0] = np.nan
    model = replace(model, params={**model.params, "layer2.0.conv1.weight": broken})
    images = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), np.uint8)
    train, val = hs.data.arrays(images, np.arange(16) % 2).split(0.5)
    with pytest.raises(WeightsError, match=r"layer2\.0\.conv1\.weight of node .* holds NaN"):
        hs.fit(model, train, val, mode=mode, epochs=1, batch_size=4, backend=backend, device="cpu", cache=tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))
