"""Your own model: `hs.wrap` cuts it where it says, leaves it alone, and what comes out works as a model of the zoo
does, in every mode; features of it are found again exactly when they are the same."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from own import P, X, key, sentences, wrapped
from safetensors import safe_open

import headstart as hs
from headstart.common.errors import BackendError, CutError, DataError, SettingError, WeightsError
from headstart.contract import registry
from headstart.data import Arrays, Dataset
from headstart.data.annotations import single
from headstart.models import Model
from headstart.store.keys import params_digest
from headstart.testing import relative_error
from headstart.training.compare_modes import compare_modes
from headstart.training.modes import MODES

Fit = Callable[..., Any]


@pytest.fixture(scope="module")
def own(backend: str) -> ModuleType:
    """Modules of the framework that this environment is for."""
    return import_module(f"own_{backend}")


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(120)).split(0.75, seed=0, by="position")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def fit(data: tuple[Dataset, Dataset], cache: Path) -> Fit:
    """`hs.fit`, small. No backend is named: a wrapped module has its own."""

    def call(model: Model, train: Dataset = data[0], val: Dataset | None = data[1], **settings: Any) -> Any:
        settings = {"epochs": 2, "batch_size": 24, "dtype": "float32", "device": "cpu", "cache": cache, **settings}
        return hs.fit(model, train, val, **settings)

    return call


RATE: dict[str, Any] = {"lr": 0.01, "schedule": "constant", "warmup": 0.0}
"""the same in each step, however many epochs there are"""


@pytest.fixture(scope="module")
def model(own: ModuleType) -> Model:
    """The small module, wrapped: what is trained and predicted with it leaves it as it is, which
    `test_every_mode_trains` sees."""
    return wrapped(own)


@pytest.fixture(scope="module")
def runs(model: Model, fit: Fit) -> dict[str, Any]:
    """One run of every mode."""
    return {mode: fit(model, mode=mode, epochs=3, **RATE) for mode in MODES}


# ---- what it computes


def test_the_cut_that_is_said_can_be_asked_for(own: ModuleType) -> None:
    """Whichever it is, and with whatever head."""
    net, rest = own.mlp(4, 3), {"example": np.zeros((2, 4), np.float32)}
    fresh = {"head": "linear", "classes": 3, **rest}
    for module, cut, settings in [(net, "its end", fresh), *own.cuts()]:
        model = hs.wrap(module, cut, **settings)
        again = hs.wrap(module, model.module_cut, **settings)
        assert again.weights == model.weights and str(model.weights).endswith(str(model.module_cut))
        assert key(again).digest == key(model).digest
        if cut == "its end":
            assert model.graph["trunk"].attrs["part"].output == (3,)
    for wrong in (3, ("a", "b")):
        with pytest.raises(CutError, match="expected a name"):
            hs.wrap(net, wrong, **rest)  # type: ignore[arg-type]
    with pytest.raises(CutError, match="its end"):
        hs.wrap(net, "its end", **rest)


def test_features_and_logits_are_the_modules_own(own: ModuleType) -> None:
    module = own.small()
    outputs = hs.forward(wrapped(own, module), X, ["trunk", "logits"])
    assert relative_error(outputs["trunk"], own.features(module, X)) < 1e-5
    assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5
    default = hs.wrap(module, preprocess=P)
    outputs = hs.forward(default, X, ["trunk", "logits"])
    assert outputs["trunk"].shape == (5, 12), "before the classifier and its dropout"
    assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5


def test_a_fresh_classifier_takes_pooled_features(own: ModuleType) -> None:
    module = own.small()
    for head, names in (("linear", {"head"}), ([6, 0.5], {"head.0", "head.1", "head.2", "head.3"})):
        model = wrapped(own, module, head=head, classes=["a", "b", "c"])
        outputs = hs.forward(model, X, ["trunk", "pool", "logits"])
        assert {node.name for node in model.graph.nodes} == {"input", "trunk", "pool", *names}
        assert relative_error(outputs["pool"], own.features(module, X).mean((1, 2))) < 1e-5
        assert outputs["logits"].shape == (5, 3)
        assert model.default_cut == "pool"
        assert model.fresh == {name for name in model.params if name.startswith("head.")}


def test_a_module_as_the_head(own: ModuleType, fit: Fit) -> None:
    module, head = own.small(), own.mlp(10, 4)
    model = hs.wrap(module, preprocess=P, head=head)
    expected = own.logits(module, X)
    assert model.classes == ("0", "1", "2", "3")
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    with pytest.raises(SettingError, match="gives 4 classes, and 10 were asked for"):
        hs.wrap(module, preprocess=P, head=head, classes=10)
    run = fit(hs.wrap(module, preprocess=P, head=own.mlp(10, 10)), mode="cached", epochs=6, lr=0.02)
    assert run.history[-1].loss < run.history[0].loss


def test_the_module_is_left_alone(own: ModuleType, fit: Fit) -> None:
    module = own.small()
    before = own.state(module)
    model = wrapped(own, module)
    for mode in ("cached", "full"):
        fit(model, mode=mode, epochs=1)
    wrapped(own, module, head="linear", classes=3)
    for one, other in zip(own.state(module), before, strict=True):
        np.testing.assert_equal(one, other)


# ---- modes


@pytest.mark.slow("keras", "jax")  # the suite trains a wrapped module
def test_every_mode_trains(runs: dict[str, Any], own: ModuleType, model: Model, backend: str) -> None:
    start = wrapped(own).params
    assert params_digest(model.params) == params_digest(start), "each mode began where the others did"
    for mode, run in runs.items():
        assert run.backend == backend
        assert np.isfinite(run.history["loss"]).all()
        assert min(run.history["loss"][1:]) < run.history[0].loss
        trunk = [name for name in start if name.startswith("trunk.")]
        moved = [name for name in trunk if not np.array_equal(run.model.params[name], start[name])]
        assert bool(moved) == (mode in ("full", "scratch", "staged"))
        assert all(run.model.params[name].dtype == start[name].dtype for name in start)
    assert (runs["frozen"].history[0].seconds.trunk > 0) and runs["cached"].cut == "trunk"


def check_the_same(frozen: hs.Run, cached: hs.Run) -> None:
    for a, b in zip(frozen.history, cached.history, strict=True):
        np.testing.assert_allclose(a.step_losses, b.step_losses, rtol=1e-3)
        assert a.val_loss == pytest.approx(b.val_loss, rel=1e-3)


def test_frozen_and_cached_agree_step_by_step(runs: dict[str, Any]) -> None:
    check_the_same(runs["frozen"], runs["cached"])


@pytest.mark.slow("keras", "jax")  # heads of several layers are core's, and the suite has what is dropped
def test_frozen_and_cached_agree_with_dropout(own: ModuleType, fit: Fit) -> None:
    model = wrapped(own, head=[8, 0.5], classes=10)
    check_the_same(fit(model, mode="frozen"), fit(model, mode="cached"))


def test_statistics_follow_the_batches_only_if_asked_to(model: Model, fit: Fit, runs: dict[str, Any]) -> None:
    asked = fit(model, mode="full", epochs=1, batch_norm="train")
    for run, follow in ((runs["full"], False), (asked, True), (runs["scratch"], True)):
        kept = model.graph.buffers()
        moved = {name for name in kept if not np.array_equal(run.model.params[name], model.params[name])}
        assert kept
        assert bool(moved) == follow, (run.mode, moved)
        assert run.settings["batch_norm"] == ("train" if follow else "frozen")


@pytest.mark.slow("keras", "jax")  # the suite has it
def test_the_same_seed_gives_the_same_history(model: Model, fit: Fit, runs: dict[str, Any]) -> None:
    first = runs["scratch"].history["step_losses"]
    assert fit(model, mode="scratch", epochs=1, **RATE).history["step_losses"] == first[:1]
    assert fit(model, mode="scratch", epochs=1, **RATE, seed=1).history["step_losses"] != first[:1]


def test_native_predicts_the_same(runs: dict[str, Any], backend: str, data: tuple[Dataset, Dataset]) -> None:
    images = np.stack([np.asarray(data[1].load(i)[0]) for i in range(6)])
    ready = P.normalise(np.stack([P.apply(data[1].load(i)[0]) for i in range(6)]))
    for mode in ("cached", "full"):
        run = runs[mode]
        logits = run.predict(images)
        assert relative_error(registry.load(backend).call(run.native, ready), logits) < 1e-4
        assert relative_error(hs.predict(run.model, ready), logits) < 1e-4


def test_a_saved_run_comes_back_with_its_module(
    runs: dict[str, Any], own: ModuleType, model: Model, data: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    run = runs["full"]
    folder = run.save(tmp_path / "run")
    loaded = hs.load(folder, model=wrapped(own, own.small(seed=5)))
    assert np.array_equal(loaded.predict(data[1]), run.predict(data[1]))
    assert params_digest(loaded.model.params) == params_digest(run.model.params)
    assert loaded.model.preprocess == P
    assert loaded.history.as_list() == run.history.as_list()
    with pytest.raises(WeightsError, match=r"whose code is not saved; in Python hs\.load\(path, model=hs\.wrap"):
        hs.load(folder)
    with pytest.raises(SettingError, match=r"hs\.wrap makes a model of a module"):
        hs.load(folder, model=own.small(seed=5))
    with pytest.raises(WeightsError, match="of another wrapped model"):
        hs.load(folder, model=wrapped(own, own.small(slope=0.2)))
    with pytest.raises(WeightsError, match="of another wrapped model"):
        hs.load(folder, model=wrapped(own, cut=own.EARLIER))
    path = hs.weights_file(folder)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="weights-"):
        hs.load(folder, model=model)


@pytest.mark.slow("keras", "jax")  # core compares
def test_comparing_modes(model: Model, data: tuple[Dataset, Dataset], backend: str, cache: Path) -> None:
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 24, "device": "cpu", "cache": cache}
    rows = compare_modes(model, *data, ["cached", "frozen"], **settings).rows
    assert [(row["backend"], row["mode"]) for row in rows] == [(backend, "cached"), (backend, "frozen")]
    assert [row["cut"] for row in rows] == [model.module_cut] * 2
    cuts = {folder.label["cut"] for folder in hs.cache.list(cache)}
    assert model.module_cut in cuts and "trunk" not in cuts
    assert [cut.cut for cut in hs.cache.explain(model, data[0], "trunk", cache=cache)] == [model.module_cut]
    assert rows[0]["speedup_over_frozen"] > 0
    assert rows[1]["speedup_over_frozen"] == 1


def test_parts_learn_at_rates_of_their_own(model: Model, fit: Fit) -> None:
    run = fit(model, mode="full", epochs=1, lr_scale={"trunk": 1e-12}, optimizer="sgd")
    weights = [n for n in model.params if n not in model.graph.buffers()]
    moved = {n for n in weights if not np.allclose(run.model.params[n], model.params[n], rtol=0, atol=1e-7)}
    assert moved
    assert all(n.startswith("head.") for n in moved)


# ---- keys


def test_a_key_holds_weights_structure_and_cut(own: ModuleType, model: Model) -> None:
    first = key(model)
    assert key(wrapped(own)).digest == first.digest, "the same module, made again"
    assert key(wrapped(own, head="linear", classes=7)).digest == first.digest, "the head is no part of it"
    assert key(wrapped(own, name="mine")).digest == first.digest
    changed = own.small()
    own.nudge(changed)
    digests = {
        "first": first.digest,
        "one bit of a weight": key(wrapped(own, changed)).digest,
        "structure": key(wrapped(own, own.small(slope=0.2))).digest,
        "cut": key(wrapped(own, cut=own.EARLIER)).digest,
        "preprocessing": key(wrapped(own, preprocess=replace(P, mean=(0.5, 0.5, 0.5)))).digest,
    }
    assert len(set(digests.values())) == len(digests), digests


@pytest.mark.slow("keras", "jax")  # test_before holds a wrapped module's key to one of long ago
def test_a_key_is_the_same_in_another_process(model: Model, backend: str) -> None:
    program = f"import own, own_{backend}; print(own.key(own.wrapped(own_{backend})).digest)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.stdout.split()[-1:] == [key(model).digest], done.stderr


def test_a_module_whose_code_cannot_be_seen_needs_a_name(own: ModuleType) -> None:
    settings = {"preprocess": P, "head": "linear", "classes": 3}
    with pytest.raises(SettingError, match=r"cannot be known: .*pass name="):
        hs.wrap(own.secret(), **settings)
    first, second = (key(hs.wrap(own.secret(), name=name, **settings)) for name in ("one", "two"))
    assert first.digest != second.digest
    part = first.spec["graph"][1][3]["part"]
    assert (part["unknown"], part["name"]) == (True, "one")
    assert key(hs.wrap(own.secret(), name="one", **settings)).digest == first.digest


def test_features_are_extracted_once(
    own: ModuleType, model: Model, data: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Also where the module is made, and wrapped, again."""
    first, second = (hs.extract(each, data[0], cache=tmp_path, dtype="float32") for each in (model, wrapped(own)))
    assert (first.stats.reused, second.stats.extracted) == (0, 0)
    x = P.normalise(np.stack([P.apply(data[0].load(i)[0]) for i in range(len(data[0]))]))
    assert relative_error(second.numpy(), own.features(own.small(), x)) < 1e-5


# ---- what is refused


def test_a_restless_trunk_is_refused(own: ModuleType) -> None:
    for module in own.restless():
        with pytest.raises(SettingError, match=r"not deterministic in inference mode: .* differ by"):
            hs.wrap(module, preprocess=P, head="linear", classes=3)


def test_cuts_that_cannot_be(own: ModuleType) -> None:
    with pytest.raises(CutError, match=f"'{re.escape(own.UNKNOWN)}' to cut at; the nearest are .*{own.CUT}"):
        wrapped(own, cut=own.UNKNOWN)
    with pytest.raises(CutError, match=re.escape(repr(own.INSIDE))):
        wrapped(own, cut=own.INSIDE)


def test_mistakes_are_named(
    own: ModuleType, model: Model, backend: str, data: tuple[Dataset, Dataset], fit: Fit
) -> None:
    module = own.small()
    other = next(name for name in registry.names() if name != backend)
    mistakes: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (
            lambda: hs.wrap(object(), preprocess=P),
            SettingError,
            "cannot wrap an object of object; expected a torch",
        ),
        (lambda: hs.wrap(type(module), preprocess=P), SettingError, "cannot wrap"),
        (
            lambda: hs.wrap("a/x.onnx"),
            SettingError,
            ". hs.OnnxModel('a/x.onnx') predicts with such a file. headstart tr",
        ),
        (lambda: hs.wrap(Path("x.safetensors")), SettingError, "hs.model(name, weights='x.safetensors')"),
        (lambda: hs.wrap("resnet50"), SettingError, "A name is no module: hs.model('resnet50', ...)"),
        (
            lambda: hs.wrap("run"),
            SettingError,
            "load it in the framework that wrote it; what headstart saved, hs.load(",
        ),
        (lambda: hs.wrap(model), SettingError, "This is a model already"),
        (lambda: wrapped(own, module, preprocess="imagenet"), SettingError, "expected an hs.Preprocess"),
        (
            lambda: wrapped(own, module, classes=7),
            SettingError,
            "gives 10 classes, and 7 were asked for; head='lin",
        ),
        (lambda: wrapped(own, module, head="linear"), SettingError, "needs classes="),
        (lambda: wrapped(own, module, head="liner", classes=3), SettingError, "'liner'"),
        (lambda: wrapped(own, module, head=[1.5], classes=3), SettingError, "[1.5]"),
        (lambda: wrapped(own, module, head=object(), classes=3), SettingError, f"is no module of {backend}"),
        (lambda: wrapped(own, module, name=""), SettingError, "name=''"),
        (
            lambda: hs.wrap(own.mlp(5, 3), example=np.zeros((4, 7))),
            SettingError,
            "could not be run on two samples",
        ),
        (
            lambda: hs.wrap(own.mlp(5, 3), example=np.zeros((4, 3, 8, 8))),
            SettingError,
            "Channels are the last axis of an example, whatever the framework; of (3, 8, 8) they seem the first",
        ),
        (lambda: fit(model, backend=other), BackendError, f"lives in {backend} only"),
        (lambda: hs.forward(model, X, backend=other), BackendError, f"backend {other!r} was asked"),
        (lambda: fit(model, cut="block"), CutError, "legal cuts are trunk"),
    ]
    for call, kind, text in mistakes:
        with pytest.raises(kind) as caught:
            call()
        assert text in str(caught.value)


def test_scratch_needs_a_way_to_draw(own: ModuleType, backend: str, fit: Fit, runs: dict[str, Any]) -> None:
    if backend == "jax":
        with pytest.raises(SettingError, match="pass init="):
            fit(wrapped(own, init=None), mode="scratch")
    else:  # of a module that says nothing of it all tests are, where its framework has a word for it
        run = runs["scratch"] if own.init is None else fit(wrapped(own, init=None), mode="scratch", epochs=1)
        assert np.isfinite(run.history["loss"]).all()


# ---- other inputs than images


@pytest.fixture(scope="module")
def texts() -> tuple[Dataset, Dataset]:
    batch = sentences()
    return hs.data.arrays(batch, (batch["ids"] == 7).any(1).astype(int)).split(0.75, seed=0)


@pytest.mark.slow("keras", "jax")  # here once, in torch
def test_a_text_encoder_is_cached(
    own: ModuleType, texts: tuple[Dataset, Dataset], fit: Fit, tmp_path: Path, backend: str
) -> None:
    """The example: a transformer on token ids and their mask, whose sentence vectors are computed once."""
    encoder = own.text()
    before = own.state(encoder)
    model = hs.wrap(encoder, own.TEXT_CUT, classes=["without", "with"], head="linear", example=texts[0])
    data = [replace_classes(part, model.classes) for part in texts]
    runs = {
        mode: fit(model, *data, mode=mode, epochs=3, cache=tmp_path, lr=0.01)
        for mode in ("frozen", "cached", "full")
    }
    for a, b in zip(runs["frozen"].history, runs["cached"].history, strict=True):
        np.testing.assert_allclose(a.step_losses, b.step_losses, rtol=1e-3)
    assert all(run.history[-1].loss < run.history[0].loss for run in runs.values())
    features = hs.extract(model, data[0], cache=tmp_path, dtype="float32")
    assert features.stats.extracted == 0
    batch = sentences()
    expected = own.text_features(encoder, batch)
    assert relative_error(hs.forward(model, batch, "trunk")["trunk"], expected) < 1e-4
    run = runs["full"]
    logits = run.predict(batch)
    assert logits.shape == (96, 2)
    assert relative_error(registry.load(backend).call(run.native, batch), logits) < 1e-4
    whole = replace_classes(hs.data.arrays(batch, np.zeros(96, int), ["without", "with"]), model.classes)
    assert relative_error(run.predict(whole), logits) < 1e-4
    loaded = hs.load(run.save(tmp_path / "run"), model=model)
    assert np.array_equal(loaded.predict(batch), logits)
    assert isinstance(loaded.model.preprocess, Arrays)
    for one, other in zip(own.state(encoder), before, strict=True):
        np.testing.assert_equal(one, other)


def replace_classes(data: Dataset, classes: tuple[str, ...]) -> Dataset:
    return Dataset(data._source, single(data.labels, classes), data.name, data._indices)


def test_ids_of_arrays_are_of_their_content() -> None:
    batch = sentences(6)
    ids = hs.data.arrays(batch, np.zeros(6, int)).ids
    assert len(set(ids)) == 6
    assert hs.data.arrays({name: batch[name] for name in ("mask", "ids")}, np.ones(6, int)).ids == ids
    others = [
        {**batch, "ids": batch["ids"].astype(np.int64)},
        {"ids": batch["ids"], "Mask": batch["mask"]},
        {**batch, "ids": batch["ids"] + 1},
        {"ids": batch["ids"].reshape(6, 3, 4), "mask": batch["mask"]},
    ]
    for other in others:
        assert not set(ids) & set(hs.data.arrays(other, np.zeros(6, int)).ids)
    subset = hs.data.arrays({name: array[3:] for name, array in batch.items()}, np.zeros(3, int))
    assert subset.ids == ids[3:]
    assert subset[0].image["ids"].tolist() == batch["ids"][3].tolist()


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ({}, "at least one"),
        ({"a": np.zeros((3, 2)), "b": np.zeros((4, 2))}, "differing numbers of samples"),
        ({"a": np.array(["x", "y", "z"])}, "expected numbers or booleans"),
        ({"a": np.zeros(())}, "shape ()"),
        (np.zeros(3), "expected (n, ...)"),
        ({"a": np.zeros((0, 2))}, "3 labels"),
    ],
)
def test_arrays_that_cannot_be_inputs(inputs: Any, text: str) -> None:
    with pytest.raises(DataError, match=re.escape(text)):
        hs.data.arrays(inputs, [0, 1, 1])


def test_one_array_of_any_shape(own: ModuleType, fit: Fit, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((80, 5)), rng.integers(0, 3, 80)  # float64, which arrives as float32
    x[np.arange(80), y] += 3
    train, val = hs.data.arrays(x, y).split(0.75, seed=0)
    model = hs.wrap(own.mlp(5, 4), head="linear", classes=3, example=train)
    assert model.preprocess == Arrays((("", (5,), "float32"),))
    modes = ("frozen", "cached", "full")
    runs = [fit(model, train, val, mode=mode, cache=tmp_path, epochs=8, lr=0.05) for mode in modes]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    assert runs[2].history[-1].val_accuracy > 0.6
    assert runs[2].predict(x).shape == (80, 3)
    assert runs[2].predict(x[:0].astype(np.float32)).shape == (0, 3)


def test_images_and_other_inputs_are_told_apart(
    own: ModuleType, model: Model, data: tuple[Dataset, Dataset], texts: tuple[Dataset, Dataset], fit: Fit
) -> None:
    images, text = model, hs.wrap(own.text(), own.TEXT_CUT, head="linear", classes=2, example=texts[0])
    floats = hs.data.arrays(np.zeros((4, 16, 16, 3), np.float32), [0, 1, 0, 1])
    wrong = {"mask": sentences()["mask"], "ids": sentences()["ids"][:, :5]}
    mistakes: list[tuple[Callable[[], Any], type[Exception], str]] = [
        (lambda: fit(images, floats, None), DataError, "(255 * images).round()"),
        (
            lambda: hs.extract(images, floats),
            DataError,
            "float32 (16, 16, 3) a sample, and the model takes images",
        ),
        (lambda: fit(images, *texts), DataError, "'ids': int32 (12,), 'mask': bool (12,)}"),
        (lambda: fit(text, *data), DataError, "yields images, and the model takes {'ids': int32 (12,)"),
        (lambda: hs.extract(text, data[0]), DataError, "yields images"),
        (lambda: fit(text, hs.data.arrays(wrong, [0, 1] * 48), None), DataError, "'ids': int32 (5,)"),
        (lambda: fit(text, *texts, mode="full", augment="flip"), SettingError, "crops and flips images"),
        (lambda: hs.predict(text, np.zeros((2, 16, 16, 3), np.uint8)), SettingError, "received uint8 (16, 16, 3)"),
        (lambda: hs.predict(text, ["a text"]), SettingError, "received list"),
        (lambda: hs.predict(text, {"ids": sentences()["ids"]}), SettingError, "the model takes {'ids'"),
        (lambda: hs.wrap(own.mlp(5, 3), example=data[0]), SettingError, "yields images; pass preprocess="),
    ]
    for call, kind, message in mistakes:
        with pytest.raises(kind) as caught:
            call()
        assert message in str(caught.value)


def test_what_a_module_takes_must_be_known(own: ModuleType, backend: str) -> None:
    if backend == "keras":
        assert hs.wrap(own.mlp(5, 3)).preprocess == Arrays((("", (5,), "float32"),))
        inputs = hs.wrap(own.text(), own.TEXT_CUT, head="linear", classes=2).preprocess
        assert inputs == Arrays((("ids", (12,), "int32"), ("mask", (12,), "bool")))
    else:
        with pytest.raises(SettingError, match=r"is not known: pass preprocess=.* else example="):
            hs.wrap(own.mlp(5, 3))


def test_saved_names_are_the_modules_own(
    own: ModuleType, runs: dict[str, Any], tmp_path: Path, backend: str
) -> None:
    folder = runs["full"].save(tmp_path / "run")
    with safe_open(hs.weights_file(folder), framework="numpy") as file:
        names = set(file.keys())
    if backend == "torch":
        assert names == set(own.small().state_dict())
    assert len(names) == len(runs["full"].model.params)
