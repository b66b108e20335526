"""What a trace of a torch module does not hold, and what a copy could hide: it counts, or it is refused."""

from __future__ import annotations

import contextlib
import copy
import random
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.contract.losses import Softmax
from headstart.contract.recipe import Place
from headstart.data import Dataset
from headstart.data.loader import Batch
from headstart.features.company import check_company
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


@pytest.fixture(scope="module")
def traps(backend: str) -> Any:
    import own_traps

    return own_traps


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)


def made(own: Any, kind: Any, *arguments: Any) -> Any:
    own.seeded(0)
    return kind(*arguments).eval()


def given(own: Any, net: Any, name: str) -> np.ndarray:
    """What a submodule gives, as it is then."""
    import torch

    values: list[Any] = []
    handle = net.get_submodule(name).register_forward_hook(lambda _m, _i, value: values.append(value.clone()))
    with torch.no_grad():
        net(own.nchw(X))
    handle.remove()
    return values[0].float().permute(0, 2, 3, 1).numpy()


# ---- writes in place


@pytest.mark.parametrize("kind", ["WritesInput", "WritesFeatures", "DropsInPlace"])
def test_what_is_written_in_place_counts_and_stays_inside(
    own: Any, traps: Any, kind: str, data: Any, tmp_path: Path
) -> None:
    net = made(own, getattr(traps, kind))
    before = X.copy()
    model = hs.wrap(net, "stem", P)
    features = hs.forward(model, X, "trunk")["trunk"]
    assert relative_error(features, given(own, net, "stem")) < 1e-5
    for _ in range(2):
        assert relative_error(hs.predict(model, X), own.logits(net, X.copy())) < 1e-5
    np.testing.assert_array_equal(X, before)
    runs = [fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    assert runs[0].history[-1].val_loss == pytest.approx(runs[1].history[-1].val_loss, rel=1e-3)


def test_vectors_of_the_callers_are_not_written_to(own: Any) -> None:
    from torch import nn

    class Doubling(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = own.mlp(4, 3)

        def forward(self, x: Any) -> Any:
            return self.layers(x.mul_(2))

    rows = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    before = rows.copy()
    for head in ("rest", Doubling().eval()):
        model = hs.wrap(Doubling().eval() if head == "rest" else own.mlp(4, 4), None, head=head, example=rows)
        first = hs.predict(model, rows)
        np.testing.assert_array_equal(hs.predict(model, rows), first)
        np.testing.assert_array_equal(rows, before)


# ---- what is not in a graph


def test_what_runs_without_gradients_is_not_trained(own: Any, traps: Any, data: Any, tmp_path: Path) -> None:
    model = hs.wrap(made(own, traps.WithoutGradients), "act", P)
    run = fit(model, data, tmp_path, mode="full", epochs=1, optimizer=hs.AdamW(lr=0.01, weight_decay=0.1))
    moved = {name for name, value in run.model.params.items() if not np.array_equal(value, model.params[name])}
    assert moved == {f"head.head.{name}.{what}" for name in ("conv", "fc") for what in ("weight", "bias")}


def test_hooks_on_gradients_are_told_of(own: Any) -> None:
    for name in ("conv.weight", "block"):
        net = own.small()
        if name == "block":
            net.block.register_full_backward_hook(lambda *_: None)
        else:
            net.conv.weight.register_hook(lambda gradient: gradient * 0)
        with pytest.warns(UserWarning, match=f"'{name}' has a hook on its gradients"):
            hs.wrap(net, "block", P)


def test_layers_that_are_skipped_at_random_are_drawn_anew(own: Any, traps: Any) -> None:
    from headstart.contract import registry
    from headstart.contract.recipe import Recipe

    chosen = registry.load("torch")
    state = random.getstate()
    for chance in (random.random, traps.by_torch):
        net = made(own, traps.Skips, chance)
        model = hs.wrap(net, "stem", P)
        assert relative_error(hs.predict(model, X), own.logits(net, X)) < 1e-5
        trainer = chosen.trainer(
            model.graph,
            model.params,
            Recipe(hs.SGD(momentum=0.0), Softmax(), False, 0),
            chosen.place("cpu", "float32"),
        )
        losses = {round(float(trainer.step(X, np.arange(5), 1e-12)[0][0]), 3) for _ in range(12)}
        assert len(losses) == 2
    random.setstate(state)
    hs.wrap(net, "stem", P)
    assert random.getstate() == state, "the caller's random numbers are drawn by nobody else"
    with pytest.warns(UserWarning, match="in training SkipsItself does at 'stem' what torch.fx cannot follow"):
        hs.wrap(made(own, traps.SkipsItself), "stem", P)


def stepped(model: Any, rate: float) -> tuple[Any, float]:
    """A trainer after one step in training, statistics too, and the loss."""
    from headstart.contract import registry
    from headstart.contract.recipe import Recipe

    chosen = registry.load("torch")
    recipe = Recipe(hs.SGD(momentum=0.0), Softmax(), True, 0)
    trainer = chosen.trainer(model.graph, model.params, recipe, chosen.place("cpu", "float32"))
    return trainer, float(trainer.step(X, np.arange(5), rate)[0][0])


def test_statistics_of_the_users_own_follow_in_training(own: Any, traps: Any) -> None:
    import torch

    net = made(own, traps.Averaged)
    trainer, _ = stepped(hs.wrap(net, None, P), 1e-12)
    with torch.no_grad():
        net.train()(own.nchw(X))
    for name in ("running_mean", "running_var"):
        kept = trainer.params()[f"trunk.act.{name}"]
        np.testing.assert_allclose(kept, getattr(net.act, name), rtol=1e-5, atol=1e-6)


def test_a_cut_is_at_its_place_in_training_too(own: Any, traps: Any) -> None:
    import torch

    net = made(own, traps.MeansMore)
    model = hs.wrap(net, None, P, 10, "linear")
    _, loss = stepped(model, 1e-12)
    taken: list[Any] = []
    net.head.fc.register_forward_pre_hook(lambda _m, args: taken.append(args[0]))
    with torch.no_grad():
        net.train()(own.nchw(X))
    weight, bias = (torch.from_numpy(model.params[f"head.{name}"]) for name in ("weight", "bias"))
    logits = taken[0] @ weight.reshape(10, -1).T + bias
    assert abs(loss - float(torch.nn.functional.cross_entropy(logits, torch.arange(5)))) < 1e-5
    with pytest.warns(
        UserWarning, match="in training SeveralInTraining does at 'head.mean' what.*than one tensor"
    ):
        hs.wrap(made(own, traps.SeveralInTraining), None, P)


@pytest.mark.filterwarnings("ignore:in training")
def test_a_constant_that_is_drawn_is_refused(own: Any, traps: Any) -> None:
    with pytest.raises(SettingError, match="at the cut 'stem' they differ"):
        hs.wrap(made(own, traps.Constant), "stem", P)


def test_precisions_within_a_module_are_kept(own: Any, traps: Any, data: Any, tmp_path: Path) -> None:
    """To the bit where the module itself is run: on the CPU."""
    net = made(own, traps.Casts)
    model = hs.wrap(net, None, P)
    assert np.array_equal(hs.predict(model, X, device="cpu"), own.logits(net, X))
    net = made(own, traps.Half)
    for cut in ("stem", "head.conv"):
        model = hs.wrap(net, cut, P)
        trunk = hs.forward(model, X, "trunk", device="cpu")["trunk"]
        assert relative_error(trunk, given(own, net, cut)) < 1e-6
        assert np.array_equal(hs.predict(model, X, device="cpu"), own.logits(net, X))
    run = fit(hs.wrap(net, "stem", P, 10, "linear"), data, tmp_path, mode="full", epochs=1)
    assert np.isfinite(run.history["loss"]).all()


# ---- what could hide


def test_noise_beside_large_numbers_is_seen(own: Any, traps: Any) -> None:
    with pytest.raises(SettingError, match="not deterministic"):
        hs.wrap(made(own, traps.Beside), None, P, 3, "linear")


def test_modules_of_coarser_numbers_may_round_more() -> None:
    rows = np.random.default_rng(0).normal(size=(4, 6))
    batch = Batch(np.zeros((4, 2, 2, 3), np.float32), np.zeros(4), list("abcd"), np.arange(4))

    def run(images: Any) -> dict[str, np.ndarray]:
        return {"trunk": rows if len(images) == 4 else np.repeat(rows[:1] * 1.001, 2, 0)}

    rows[:] = rows[:1]
    for rounding in (2.0**-8, 2.0**-23):
        part = types.SimpleNamespace(op="native", attrs={"part": types.SimpleNamespace(rounding=rounding)})
        graph: Any = types.SimpleNamespace(nodes=[part])
        with pytest.raises(SettingError) if rounding < 1e-4 else contextlib.nullcontext():
            check_company(batch, run, Place("cpu", "float32"), graph=graph)


def test_codes_are_no_features(own: Any, traps: Any) -> None:
    with pytest.raises(CutError, match=r"gives torch.int64 .* expected floating-point numbers"):
        hs.wrap(made(own, traps.Codes), "codes", P, 3, "linear")


def test_what_is_bounded_is_no_logits(own: Any, traps: Any) -> None:
    import torch
    import torch.nn.functional as F
    from own_patched import Ends

    for end in (lambda x: torch.sigmoid(x).clamp(1e-4, 0.9999), F.hardsigmoid, lambda x: torch.tanh(x) / 2 + 0.5):
        with pytest.raises(SettingError, match=r"within \[0, 1\] whatever its features"):
            hs.wrap(Ends(end).eval(), "net.block", P)
    with pytest.raises(SettingError, match="not finite, which name no class"):
        hs.wrap(Ends(lambda x: x.masked_fill(torch.arange(10) > 7, -torch.inf)).eval(), "net.block", P)
    net = own.small()
    with torch.no_grad():
        net.fc.weight.zero_(), net.fc.bias.zero_()
    assert hs.wrap(net, "block", P).classes  # a classifier that begins at zero


def test_a_temperature_is_no_classifier(own: Any, traps: Any) -> None:
    import torch
    from own_patched import Ends

    net = made(own, traps.Scaled)
    for settings in ({}, {"head": "linear", "classes": 3}):
        model = hs.wrap(net, None, P, **settings)
        assert model.weights == "its own, cut at head.mean"
    bounded = Ends(lambda x: torch.sigmoid(x).clamp(1e-4, 0.9999)).eval()
    assert hs.wrap(bounded, None, P, 3, "linear").graph.shapes((16, 16, 3))["trunk"] == (12,)
    assert relative_error(hs.predict(hs.wrap(net, None, P), X), own.logits(net, X)) < 1e-5


# ---- what a module keeps


def test_what_a_module_keeps_of_a_run(own: Any, traps: Any, data: Any, tmp_path: Path) -> None:
    import torch

    net = made(own, traps.Keeps)
    for settings in ({}, {"head": "linear", "classes": 10}):
        run = fit(hs.wrap(net, None, P, **settings), data, tmp_path, mode="full", epochs=1)
        assert copy.deepcopy(hs.load(run.save(tmp_path / "run"), model=run.model).native) is not None
    assert not hasattr(net, "last") and not net.all
    net = made(own, traps.Caches)
    model = hs.wrap(net, "stem", P)
    assert all(type(value) is torch.Tensor for value in traps.SHARED.values())
    assert relative_error(hs.predict(model, X), own.logits(net, X)) < 1e-5


# ---- settings that a key must hold


def test_what_was_changed_since_is_not_stored_under_the_old_key(
    own: Any, traps: Any, data: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def extracted(model: Any) -> Any:
        return hs.extract(model, data[0], cuts=["trunk"], cache=tmp_path, device="cpu")

    model = hs.wrap(made(own, traps.Set), "block", P, 3, "linear")
    plain = extracted(model).numpy("trunk")
    for holder, name, what in ((traps, "FACTOR", "FACTOR was 1.0"), (traps.Set, "factor", "Set.factor was 2.0")):
        with monkeypatch.context() as patch:
            patch.setattr(holder, name, 5.0)
            with pytest.raises(SettingError, match=f"{what} when Set was wrapped, and is 5.0 now.*hs.wrap again"):
                extracted(model)
            other = extracted(hs.wrap(made(own, traps.Set), "block", P, 3, "linear"))
            assert not np.array_equal(other.numpy("trunk"), plain)
        np.testing.assert_array_equal(extracted(model).numpy("trunk"), plain)
    counting = hs.wrap(made(own, traps.Numbered), "block", P, 3, "linear")
    for _ in range(2):
        extracted(counting)  # it counts its runs, which is its own matter


def test_settings_of_classes_and_of_layers_are_in_the_key(
    own: Any, traps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def digest(net: Any, cut: str = "block") -> str:
        return key(hs.wrap(net, cut, P, 3, "linear")).digest

    plain = digest(made(own, traps.Set))
    assert digest(made(own, traps.Set)) == plain
    monkeypatch.setattr(traps.Set, "factor", 3.0)
    assert digest(made(own, traps.Set)) != plain
    monkeypatch.undo()

    def patched(factor: float, hooked: bool) -> Any:
        net = own.small()
        net.stem._factor = factor
        if hooked:
            net.stem.register_forward_hook(traps.scaled)
        else:
            net.stem.forward = types.MethodType(traps.scaled_forward, net.stem)
        return net

    for hooked in (False, True):
        digests = [digest(patched(factor, hooked)) for factor in (1.5, 1.5, 2.0)]
        assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("tied", [False, True])
def test_which_of_its_layers_a_module_has_twice_is_in_the_key(own: Any, traps: Any, tied: bool) -> None:
    """Of its names for one weight, the key's weights have one."""
    import torch

    def digest(again: int) -> str:
        own.seeded(0)
        layers = [torch.nn.Conv2d(3, 3, 1) for _ in range(3)]
        if tied:
            layers[2].weight, layers[2].bias = layers[again].weight, layers[again].bias
        else:
            layers[2] = layers[again]
        return key(hs.wrap(traps.Repeats(layers).eval(), "its end", P, 2, "linear")).digest

    assert digest(0) == digest(0) != digest(1)


def test_a_module_outside_that_learned_is_not_what_it_was(own: Any, traps: Any, data: Any, tmp_path: Path) -> None:
    import torch

    def extracted(model: Any) -> Any:
        return hs.extract(model, data[0], cuts=["trunk"], cache=tmp_path, device="cpu")

    model = hs.wrap(made(own, traps.UsesOutside), "block", P, 3, "linear")
    extracted(model)
    with torch.no_grad():
        traps.OUTSIDE.weight.mul_(1.001)
    with pytest.raises(SettingError, match=r"OUTSIDE was changed since UsesOutside was wrapped.*hs\.wrap again"):
        extracted(model)


def test_a_function_may_change_the_list_that_it_is_given(own: Any, traps: Any) -> None:
    import torch

    net = made(own, traps.Windowed)
    model = hs.wrap(net, preprocess=P, head="linear", classes=2)
    with torch.no_grad():
        expected = 2 * net.conv(own.nchw(X)).mean((2, 3)).numpy()
    assert model.module_cut == "windowed"
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
