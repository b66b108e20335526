"""What torch modules are like: not to be traced, particular about memory, with state that is no parameter."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key, sentences

import headstart as hs
from headstart.common.errors import CutError, SettingError, WeightsError
from headstart.contract import registry
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Recipe
from headstart.data import Dataset, Preprocess
from headstart.features.inference import fed
from headstart.store.keys import params_digest
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0, by="position")


def made(own: Any, kind: str, *arguments: Any) -> Any:
    own.seeded(0)
    return getattr(own, kind)(*arguments).eval()


def hooked(module: Any, name: str, *arguments: Any, **named: Any) -> np.ndarray:
    """What a submodule gives, by a hook."""
    import torch

    found: list[Any] = []
    handle = module.get_submodule(name).register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        module(*arguments, **named)
    handle.remove()
    return found[0].numpy()


def test_a_module_that_cannot_be_traced_is_stopped(own: Any, data: Any, tmp_path: Path) -> None:
    module = made(own, "Branching")
    before = own.state(module)
    settings = {"preprocess": P, "head": "linear", "classes": 10}
    model = hs.wrap(module, "norm", **settings)
    found = hs.forward(model, X, ["trunk", "pool"])
    expected = hooked(module, "norm", own.nchw(X))
    assert found["trunk"].shape == (5, 16, 8)
    assert relative_error(found["trunk"], expected) < 1e-5
    assert relative_error(found["pool"], expected.mean(1)) < 1e-5
    kept = {name.removeprefix("trunk.").split(".")[0] for name in model.params if name.startswith("trunk.")}
    assert kept == {"stem", "attention", "norm"}
    assert "trunk.attention.out_proj.weight" in model.params, "used, though never called"
    runs = [fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached", "full")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    moved = [n for n in model.params if not np.array_equal(runs[2].model.params[n], model.params[n])]
    assert "trunk.attention.out_proj.weight" in moved
    whole = hs.wrap(module, "fc", preprocess=P, head=[5], classes=3)
    assert relative_error(hs.forward(whole, X, "trunk")["trunk"], own.logits(module, X)) < 1e-5
    for one, other in zip(own.state(module), before, strict=True):
        np.testing.assert_equal(one, other)
    digests = {key(hs.wrap(module, cut, **settings)).digest for cut in ("norm", "stem", "attention.out_proj")[:2]}
    assert len(digests) == 2
    with pytest.raises(CutError, match=r"torch\.fx cannot trace Branching.*head='linear', a list .* or a module"):
        hs.wrap(module, "norm", preprocess=P)
    with pytest.raises(CutError, match="'nrm' to cut at; the nearest are norm"):
        hs.wrap(module, "nrm", **settings)
    with pytest.raises(CutError, match="'spare' is not called when Branching runs; called are stem"):
        hs.wrap(module, "spare", **settings)
    with pytest.raises(CutError, match="gives a tuple and not one tensor"):
        hs.wrap(module, "attention", **settings)


def test_a_submodule_that_cannot_be_traced_stays_whole(own: Any, data: Any, tmp_path: Path) -> None:
    module = made(own, "Leaf")
    model = hs.wrap(module, "fold", preprocess=P)
    outputs = hs.forward(model, X, ["trunk", "logits"])
    assert relative_error(outputs["trunk"].transpose(0, 3, 1, 2), hooked(module, "fold", own.nchw(X))) < 1e-5
    assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5
    again = hs.wrap(module, "relu_1", preprocess=P, head="linear", classes=3)
    assert again.params.keys() >= {"trunk.last.weight"}, "the second call of a layer"
    assert np.isfinite(fit(model, data, tmp_path, mode="full").history["loss"]).all()


def test_what_is_around_a_submodule_that_cannot_be_traced_is_traced(own: Any) -> None:
    module = made(own, "Nested")
    for cut, here in ((None, "1.2"), ("0.0", "0.0"), ("0.1.0", "0.1.0"), ("0", "0.1.1")):
        rest = hs.wrap(module, cut, preprocess=P)
        assert rest.module_cut == here
        outputs = hs.forward(rest, X, ["trunk", "logits"])
        assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5
        fresh = hs.wrap(module, cut, preprocess=P, head="linear", classes=3)
        assert fresh.module_cut == here
        expected = hooked(module, here, own.nchw(X))
        for found in (outputs["trunk"], hs.forward(fresh, X, "trunk")["trunk"]):
            assert relative_error(found.transpose(0, 3, 1, 2) if found.ndim == 4 else found, expected) < 1e-5


def test_the_memory_layout_is_the_modules_own(own: Any, data: Any, tmp_path: Path) -> None:
    module = made(own, "View")
    for cut in ("conv", None):
        model = hs.wrap(module, cut, preprocess=P)
        assert relative_error(hs.forward(model, X)["logits"], own.logits(module, X)) < 1e-5
        for mode in ("frozen", "full"):
            fit(model, data, tmp_path, mode=mode, epochs=1)


def test_parameters_on_both_sides_are_refused(own: Any) -> None:
    with pytest.raises(CutError, match=r"parameter 'conv\.weight' is used on both sides of the cut 'relu'"):
        hs.wrap(made(own, "Tied"), "relu", preprocess=P)
    assert hs.wrap(made(own, "Tied"), preprocess=P).weights == "its own, cut at mean"


def test_state_that_is_no_parameter(own: Any, data: Any, tmp_path: Path) -> None:
    import ml_dtypes

    module = made(own, "Constants")
    model = hs.wrap(module, "tanh", preprocess=P)
    outputs = hs.forward(model, X)
    assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5
    assert model.params["trunk.scale"].dtype == ml_dtypes.bfloat16
    assert model.graph.buffers() == {"trunk.scale"}
    assert {name for name in model.params if name.startswith("trunk.")} == {
        "trunk.conv.weight", "trunk.conv.bias", "trunk.gain", "trunk.scale",
    }  # fmt: skip
    digests = [key(hs.wrap(made(own, "Constants", shift), "tanh", preprocess=P)).digest for shift in (1.0, 2.0)]
    assert digests[0] == key(model).digest != digests[1]
    run = fit(model, data, tmp_path, mode="full")
    assert np.array_equal(run.model.params["trunk.scale"], model.params["trunk.scale"])
    loaded = hs.load(run.save(tmp_path / "run"), model=model)
    assert params_digest(loaded.model.params) == params_digest(run.model.params)
    with pytest.raises(
        SettingError, match=r"Constants \(the module itself\) has no reset_parameters\(\); pass init="
    ):
        fit(model, data, tmp_path, mode="scratch")
    able = hs.wrap(module, "tanh", preprocess=P, init=lambda seed: own.Constants())
    losses = [
        fit(able, data, tmp_path, mode="scratch", seed=seed, epochs=1).history["step_losses"] for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_counters_keep_their_type(own: Any, data: Any, tmp_path: Path) -> None:
    model = hs.wrap(own.small(), "block", preprocess=P)
    run = fit(model, data, tmp_path, mode="full", batch_norm="train", monitor=None)  # the last epoch's
    steps = sum(map(len, run.history["step_losses"]))
    counts = {n: v for n, v in run.model.params.items() if n.endswith("num_batches_tracked")}
    assert set(counts) == {"trunk.bn.num_batches_tracked", "trunk.block.bn.num_batches_tracked"}
    assert all(value.dtype == np.int64 and value.shape == () and value == steps for value in counts.values())
    loaded = hs.load(run.save(tmp_path / "run"), model=model)
    assert all(loaded.model.params[name] == value for name, value in counts.items())


@pytest.mark.parametrize("cut", ["block", None])
def test_dropout_of_a_function_draws_in_training_only(own: Any, cut: str | None) -> None:
    model = hs.wrap(own.small(), cut, preprocess=P)
    chosen = registry.load("torch")
    recipe, place = Recipe(hs.SGD(momentum=0.0), Softmax(), False, 0), chosen.place("cpu", "float32")
    trainer = chosen.trainer(model.graph, model.params, recipe, place)
    labels = np.arange(5)
    losses = {float(trainer.step(X, labels, 1e-12)[0][0]) for _ in range(4)}
    assert len(losses) == 4
    assert relative_error(trainer.logits(X, 0, 5), own.logits(own.small(), X)) < 1e-5


def test_a_module_in_training_mode_stays_there(own: Any) -> None:
    module = own.small().train()
    model = hs.wrap(module, "block", preprocess=P)
    assert all(part.training for part in module.modules())
    assert relative_error(hs.forward(model, X)["logits"], own.logits(module.eval(), X)) < 1e-5


def test_a_dict_goes_in_by_name_or_as_it_is(own: Any, tmp_path: Path) -> None:
    import torch

    batch = {"ids": sentences()["ids"]}
    bag = made(own, "Bag", False)
    found = hs.forward(hs.wrap(bag, head="linear", classes=2, example=batch), batch, "trunk")["trunk"]
    expected = bag({"ids": torch.tensor(batch["ids"])}).detach().numpy()
    assert relative_error(found, expected) < 1e-6
    bag = made(own, "Bag", True)
    found = hs.forward(hs.wrap(bag, head="linear", classes=2, example=batch), batch, "trunk")["trunk"]
    pooled = [x for x in bag({"ids": torch.tensor(batch["ids"])}).values() if x.ndim == 2]
    assert relative_error(found, pooled[0].detach().numpy()) < 1e-6, "beside tokens"
    assert hs.wrap(made(own, "Bag", True), "norm", head="linear", classes=2, example=batch).params
    encoder = made(own, "Hugging")
    names = {"input_ids": sentences()["ids"], "attention_mask": sentences()["mask"]}
    model = hs.wrap(encoder, "fc", head="linear", classes=2, example=names)
    expected = hooked(encoder, "fc", **{name: torch.tensor(array) for name, array in names.items()})
    counted = names["attention_mask"][..., None]
    mean = (expected * counted).sum(1) / counted.sum(1)
    assert relative_error(hs.forward(model, names, "trunk")["trunk"], mean) < 1e-5
    with pytest.raises(SettingError, match="could not be run on two samples"):
        hs.wrap(encoder, "fc", head="linear", classes=2, example={"words": sentences()["ids"]})


def test_timms_settings_are_the_default(own: Any) -> None:
    module = own.small()
    module.pretrained_cfg = {
        "input_size": (3, 16, 16), "crop_pct": 0.8, "interpolation": "bicubic",
        "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6),
    }  # fmt: skip
    usual = Preprocess(16, 20, "bicubic", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert hs.wrap(module).preprocess == usual
    assert hs.wrap(module, preprocess=P).preprocess == P
    module.pretrained_cfg |= {"crop_pct": 1.15}  # timm pads what it has resized
    assert hs.wrap(module).preprocess == replace(usual, resize=13, pad=True)
    module.pretrained_cfg |= {"crop_pct": 0.8, "crop_mode": "squash"}
    assert hs.wrap(module).preprocess == replace(usual, squash=True)
    for change in ({"input_size": (1, 16, 16)}, {"input_size": (3, 16, 20)}, {"crop_mode": "border"}):
        module.pretrained_cfg |= change
        with pytest.raises(SettingError, match="pass preprocess="):
            hs.wrap(module)
        module.pretrained_cfg |= {"input_size": (3, 16, 16)}


def test_a_modules_own_names_of_its_classes(own: Any) -> None:
    from torch import nn

    module, names = own.small(), [f"kind {k}" for k in range(10)]
    module.config = SimpleNamespace(id2label={k: f"LABEL_{k}" for k in range(10)})
    assert not hs.wrap(module, preprocess=P).named_classes
    for kind in (str, int):  # as JSON has the numbers, and as transformers does
        module.config = SimpleNamespace(id2label={kind(k): names[k] for k in range(10)})
        model = hs.wrap(module, preprocess=P)
        assert model.named_classes and model.classes == tuple(names)
    assert hs.wrap(module, preprocess=P, classes=10).classes == tuple(map(str, range(10)))
    assert hs.wrap(module, "conv", P, head="linear", classes=10).classes == tuple(map(str, range(10)))
    fresh = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10))
    assert not hs.wrap(module, "conv", P, head=fresh).named_classes
    del module.config.id2label[3]
    assert not hs.wrap(module, preprocess=P).named_classes
    module.pretrained_cfg = {"label_names": names}
    assert hs.wrap(module, preprocess=P).classes == tuple(names)


def test_parametrized_weights(own: Any, data: Any, tmp_path: Path) -> None:
    import torch

    module = own.small()
    torch.nn.utils.parametrizations.weight_norm(module.stem)
    model = hs.wrap(module, "block", preprocess=P)
    assert relative_error(hs.forward(model, X)["logits"], own.logits(module, X)) < 1e-5
    assert any(name.startswith("trunk.stem.parametrizations") for name in model.params)
    assert np.isfinite(fit(model, data, tmp_path, mode="full").history["loss"]).all()


def test_the_native_module_can_be_copied(own: Any, data: Any, tmp_path: Path) -> None:
    import torch

    run = fit(hs.wrap(own.small(), "block", preprocess=P), data, tmp_path)
    copied = copy.deepcopy(run.native)
    with torch.no_grad():
        for value in copied.parameters():
            value.zero_()
    assert relative_error(registry.load("torch").call(run.native, X), run.predict(X)) < 1e-5
    assert {name.partition(".")[0] for name, _ in run.native.named_parameters()} == {"trunk", "head"}


def test_a_wrapped_trunk_runs_in_low_precision(own: Any) -> None:
    model = hs.wrap(own.small(), "block", preprocess=P)
    low = hs.forward(model, X, "trunk", precision="bfloat16")["trunk"]
    full = hs.forward(model, X, "trunk")["trunk"]
    assert low.dtype == np.float32
    assert 1e-5 < relative_error(low, full) < 0.05


def test_the_graph_is_fed_with_pixels(own: Any) -> None:
    model = hs.wrap(own.small(), "block", preprocess=P)
    graph = fed(model.graph, model)
    assert [node.op for node in graph.nodes] == ["input", "normalize", "native", "native"]
    assert graph.shapes((16, 16, 3))["trunk"] == (7, 7, 8)


def test_infinities_of_a_mask_are_no_broken_weights(own: Any, tmp_path: Path) -> None:
    """What a module keeps and does not train may be infinite; what it trains may not, nor anything be NaN."""
    rng = np.random.default_rng(0)
    train, val = hs.data.arrays(rng.normal(size=(24, 5, 3)).astype(np.float32), np.arange(24) % 2).split(0.7)
    module = made(own, "Masked")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "device": "cpu", "cache": tmp_path}

    def wrapped() -> Any:
        return hs.wrap(module, head="linear", classes=2, example=train)

    for debug_nans in (False, True):
        run = hs.fit(wrapped(), train, val, debug_nans=debug_nans, **settings)
        assert np.isfinite(run.history["loss"]).all()
    run = hs.fit(wrapped(), train, val, mode="full", debug_nans=True, **settings)
    assert np.isfinite(run.history["loss"]).all()
    model = wrapped()
    (name,) = (name for name in model.params if name.endswith("embed.weight"))
    for value in (np.inf, np.nan):
        broken = {**model.params, name: np.full_like(model.params[name], value)}
        with pytest.raises(WeightsError, match=r"embed\.weight"):
            hs.fit(replace(model, params=broken), train, val, **settings)


def test_numbers_are_computed_seven_times(own: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a network of an everyday size that is what wrapping takes: whatever else is asked is asked of a run on
    shapes alone, or of one of these."""
    import torch

    from headstart.backends.torch import shapes

    monkeypatch.setattr(shapes, "LONG", 0.0)
    convolve, rows = torch.nn.functional.conv2d, []

    def counted(x: Any, *arguments: Any, **named: Any) -> Any:
        if x.shape[1] == 3 and not x.is_meta:  # the first layer
            rows.append(len(x))
        return convolve(x, *arguments, **named)

    monkeypatch.setattr(torch.nn.functional, "conv2d", counted)
    hs.wrap(own.small(), None, P, classes=10)
    assert len(rows) <= 7 and sum(rows) <= 14, rows
    rows.clear()
    hs.wrap(own.small(), "block", P, 10, "linear")
    assert len(rows) <= 7 and sum(rows) <= 14, rows


@pytest.mark.parametrize("looks", [False, True])
def test_what_a_module_writes_to_is_seen(looks: bool) -> None:
    """On shapes alone, and where its code looks at numbers, in a run that has them."""
    import torch

    from headstart.backends.torch.writing import writes_in_training

    class Writing(torch.nn.Module):
        def __init__(self, writes: bool) -> None:
            super().__init__()
            self.scale, self.writes = torch.nn.Parameter(torch.ones(())), writes

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen = float(x.abs().max()) if looks else 1.0
            if self.training and seen > 0 and self.writes:
                x.mul_(2)
            return x * self.scale

    rows = np.ones((2, 3), np.float32)
    assert [writes_in_training(Writing(writes).eval(), rows) for writes in (True, False)] == [True, False]
    assert (rows == 1).all()


@pytest.mark.filterwarnings("ignore:.* its copy is taken as float32")
@pytest.mark.parametrize("kind", ["float64", "bfloat16"])
@pytest.mark.parametrize("cut", [None, "its end"])
def test_a_forward_that_makes_a_precision_itself_is_told(kind: str, cut: str | None) -> None:
    import torch

    class Precise(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.fc = torch.nn.Linear(5, 4), torch.nn.Linear(4, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.body(x.to(getattr(torch, kind))).relu())

    module = Precise().to(getattr(torch, kind)).eval()
    rows = np.ones((2, 5), np.float32)
    with pytest.raises(SettingError, match=f"Precise is in {kind}.* makes numbers {kind} itself.* Write x.to"):
        hs.wrap(module, cut, example=rows, head="linear", classes=2)
