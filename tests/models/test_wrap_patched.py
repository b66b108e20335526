"""What a torch module's owner gets from calling it is what is kept, whatever was put on it from outside; where
that cannot be, it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key, sentences

import headstart as hs
from headstart.common.errors import FeatureDriftError, FrozenWarning, HeadstartError, SettingError
from headstart.data import Dataset
from headstart.features import company
from headstart.testing import relative_error
from headstart.training.metrics import softmax

pytestmark = pytest.mark.of("torch")
PATCHES = [
    "method",
    "over_itself",
    "partly",
    "any_arguments",
    "before_all",
    "before_block",
    "behind_block",
    "with_keywords",
    "leaf",
    "block",
    "inside",
    "normed",
    "pruned",
    "by_call",
]


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


@pytest.fixture(scope="module")
def patched(own: Any) -> Any:
    import own_patched

    return own_patched


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(64)).split(0.75, seed=0)


def trunk(model: Any) -> np.ndarray:
    return hs.forward(model, X, "trunk", device="cpu")["trunk"]


def test_every_patch_is_tried(patched: Any) -> None:
    assert [patch.__name__ for patch in patched.PATCHES] == PATCHES


@pytest.mark.parametrize("name", PATCHES)
def test_what_the_owner_computes_is_kept(own: Any, patched: Any, name: str) -> None:
    import torch

    plain, net = own.small(), own.small()
    getattr(patched, name)(net)
    before = own.state(net)
    features, logits = own.features(net, X), own.logits(net, X)
    fresh, rest = hs.wrap(net, own.CUT, P, 3, "linear"), hs.wrap(net, own.CUT, P)
    assert all(
        np.array_equal(a, b) for a, b in zip(before, own.state(net), strict=True) if isinstance(a, np.ndarray)
    )
    assert relative_error(trunk(fresh), features) < 1e-5
    assert relative_error(trunk(rest), features) < 1e-5
    assert relative_error(hs.predict(rest, X), logits) < 1e-5
    assert key(fresh).digest != key(hs.wrap(plain, own.CUT, P, 3, "linear")).digest
    with torch.no_grad():  # what is done to the module afterwards does not reach the copy
        for parameter in net.parameters():
            parameter.zero_()
    assert np.array_equal(trunk(fresh), trunk(rest)) and relative_error(trunk(fresh), features) < 1e-5


def test_a_trunk_that_cannot_be_traced_keeps_its_patches(own: Any, patched: Any) -> None:
    import torch

    for patch in (patched.before_all, patched.behind_block, patched.method):
        net = own.small()
        net.__class__ = patched.Swayed
        patch(net)
        assert relative_error(trunk(hs.wrap(net, "block", P, 3, "linear")), own.features(net, X)) < 1e-5
    net = own.small()
    net.register_forward_hook(patched.doubled)
    assert relative_error(trunk(hs.wrap(net, None, P, head=own.mlp(10, 3))), own.logits(net, X)) < 1e-5
    assert torch.is_grad_enabled()


def test_a_class_changed_as_the_program_runs(own: Any, patched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    def features(net: Any) -> Any:
        return hs.wrap(net, None, P, 3, "linear")

    plain = key(features(own.small())).digest
    monkeypatch.setattr(own.Small, "forward", lambda self, x: self.fc(self.conv(self.stem(x)).mean((2, 3))))
    assert key(features(own.small())).digest != plain
    monkeypatch.undo()
    fold = own.Leaf()
    before = key(hs.wrap(fold, None, P, 3, "linear")).digest
    monkeypatch.setattr(own.Fold, "forward", lambda self, x: x * 3 if x.sum() < 1e9 else x)
    assert key(hs.wrap(fold, None, P, 3, "linear")).digest != before
    monkeypatch.undo()
    relu = torch.nn.ReLU.forward
    monkeypatch.setattr(torch.nn.ReLU, "forward", lambda self, x: relu(self, x - 0.1))
    assert key(hs.wrap(fold, None, P, 3, "linear")).digest != before


def test_parameters_that_only_a_function_holds_are_not_left_untrained(own: Any, patched: Any) -> None:
    net = own.small()
    patched.inside(net)
    with pytest.raises(SettingError, match="none of the module's own"):
        hs.wrap(net, "bn", P)


def test_a_copy_that_computes_something_else_is_refused(own: Any) -> None:
    class Odd(own.Small):  # type: ignore[misc, name-defined]
        def __deepcopy__(self, memo: Any) -> Any:
            return own.small(seed=1)

    with pytest.raises(SettingError, match=r"at the cut 'block.add' they differ by"):
        hs.wrap(Odd().eval(), "block", P)

    class Later(own.Small):  # type: ignore[misc, name-defined]
        def __deepcopy__(self, memo: Any) -> Any:
            copy = own.small()
            copy.load_state_dict(self.state_dict())
            copy.fc.bias.data += 1
            return copy

    net = Later().eval()
    net.load_state_dict(own.small().state_dict())
    with pytest.raises(SettingError, match=r"at its end they differ by"):
        hs.wrap(net, "block", P)


# ---- what stands at the end


def test_what_makes_probabilities_is_taken_off(own: Any, patched: Any, data: Any, tmp_path: Path) -> None:
    import torch
    import torch.nn.functional as F
    from torch import nn

    ends = [
        nn.Softmax(1), nn.LogSoftmax(-1), nn.Sigmoid(), lambda x: F.softmax(x, dim=1), lambda x: x.softmax(-1),
        lambda x: torch.log_softmax(x, 1), torch.sigmoid, lambda x: x[:, :, None].softmax(1).squeeze(2),
    ]  # fmt: skip
    expected = own.logits(own.small().eval(), X)
    for end in ends:
        net = patched.Ends(end).eval()
        net.net.load_state_dict(own.small().state_dict())
        model = hs.wrap(net, "net.block", P)
        assert relative_error(hs.predict(model, X), expected) < 1e-5
    run = fit(model, data, tmp_path, mode="cached", epochs=1)
    assert np.allclose(run.probabilities(X), softmax(run.predict(X)))
    head = nn.Sequential(own.mlp(8, 10), nn.Softmax(1)).eval()
    joined = hs.wrap(nn.Sequential(own.small().stem, nn.AdaptiveAvgPool2d(1), nn.Flatten()), None, P, head=head)
    assert not np.allclose(hs.predict(joined, X).sum(1), 1, atol=0.01)


def test_probabilities_that_cannot_be_told_from_the_graph_are_refused(own: Any, patched: Any) -> None:
    import torch

    for end in (lambda x: x.exp() / x.exp().sum(1, keepdim=True), lambda x: torch.log_softmax(x, 1).exp()):
        with pytest.raises(SettingError, match="gives probabilities"):
            hs.wrap(patched.Ends(end).eval(), "net.block", P)


# ---- company


@pytest.mark.parametrize("late", [False, True])
def test_a_single_sample_keeps_its_axis(own: Any, patched: Any, data: Any, tmp_path: Path, late: bool) -> None:
    own.seeded(0)
    net = patched.Squeezing(late).eval()
    model = hs.wrap(net, preprocess=P, cut="conv")
    assert hs.predict(model, X[:1]).shape == (1, 3)
    assert relative_error(hs.predict(model, X[:1])[0], own.logits(net, X)[0]) < 1e-5
    digits = hs.data.arrays(np.full((6, 16, 16, 3), 7, np.uint8) * np.arange(6, dtype=np.uint8)[:, None, None,
    None],
                            np.arange(6) % 3)  # fmt: skip
    run = hs.fit(hs.wrap(net, preprocess=P), digits, epochs=1, batch_size=1, cache=tmp_path, device="cpu")
    assert run.probabilities(digits.subset([3])).shape == (1, 3)
    assert hs.extract(model, digits.subset([2]), cache=tmp_path / "one", device="cpu").numpy("trunk").shape[0] == 1


def test_features_that_depend_on_the_batch_are_not_kept(own: Any, patched: Any, tmp_path: Path) -> None:
    """`wrap` cannot see it: only real samples are that bright."""
    pixels = np.random.default_rng(0).integers(0, 60, (12, 16, 16, 3)).astype(np.uint8)
    pixels[::2, 4, 4] = 255
    data = hs.data.arrays(pixels, np.arange(12) % 2)
    preprocess = hs.Preprocess(16, 16, mean=(0, 0, 0), std=(0.01, 0.01, 0.01))
    net = patched.Swayed().eval()
    model = hs.wrap(net, "block", preprocess, 2, "linear")
    with pytest.raises(SettingError, match="depends on what else is in its batch"):
        hs.extract(model, data, cache=tmp_path, batch_size=3, device="cpu")
    assert not list(tmp_path.rglob("*.safetensors"))
    fine = hs.wrap(own.small(), "block", preprocess, 2, "linear")
    assert len(hs.extract(fine, data, cache=tmp_path, batch_size=3, device="cpu")) == 12
    head = hs.wrap(own.small(), "block", preprocess, 2, patched.SwayedHead().eval())
    for other, modes in ((model, ("frozen", "full")), (head, ("frozen", "cached", "full"))):
        for mode in modes:
            with pytest.raises(SettingError, match="depends on what else is in its batch"):
                fit(other, (data, None), tmp_path, mode=mode)
    fit(fine, (data.subset(range(8)), data.subset(range(8, 12))), tmp_path, mode="frozen", epochs=1, batch_size=3)


def test_a_head_that_depends_on_the_batch_is_refused(own: Any) -> None:
    class Contrast(type(own.mlp(1, 1))):  # type: ignore[misc]
        def forward(self, x: Any) -> Any:
            x = super().forward(x.mean((2, 3)))
            return x - x.mean(0)

    head = own.mlp(8, 2)
    head.__class__ = Contrast
    with pytest.raises(SettingError, match=r"the head is not deterministic .* beside another sample"):
        hs.wrap(own.small(), "block", P, 2, head, name="contrast")


def test_rows_that_the_module_does_not_give_are_not_served(
    own: Any, data: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a key may not hold: another shape, or other values, under the same key."""
    from headstart.features import drift, trunk_keys

    settings: dict[str, Any] = {"cuts": ["trunk"], "cache": tmp_path, "device": "cpu", "dtype": "float32"}
    hs.extract(hs.wrap(own.small(), "block", P, 10, "linear"), data[0], **settings)
    same = trunk_keys.key_of(
        hs.wrap(own.small(), "block", P, 10, "linear"), "trunk", precision="float32", dtype="float32"
    )
    monkeypatch.setattr(trunk_keys, "key_of", lambda *_, **__: same)
    for cut, text in (("conv", "rows have the shape"), ("bn", "differ by")):
        with pytest.raises(FeatureDriftError, match=text):
            hs.extract(hs.wrap(own.small(), cut, P, 10, "linear"), data[0], **settings)
    model = hs.wrap(own.small(), "block", P, 10, "linear")
    calls: list[str] = []
    compare = drift._drift
    monkeypatch.setattr(drift, "_drift", lambda *args: calls.append("once") or compare(*args))
    for _ in range(3):
        hs.extract(model, data[0], **settings)
    assert calls == ["once"]  # in a process
    assert company.GROUP > company.APART


# ---- frozen by the owner, moved by itself


def test_what_the_owner_froze_stays(own: Any, data: Any, tmp_path: Path) -> None:
    net = own.small()
    net.conv.requires_grad_(False)
    net.bn.weight.requires_grad_(False)
    model = hs.wrap(net, "block", P, init=own.init)
    for mode in ("cached", "frozen", "full", "staged", "scratch"):
        run = fit(model, data, tmp_path, mode=mode, epochs=1, optimizer=hs.AdamW(lr=0.01, weight_decay=0.1))
        moved = {n for n, v in run.model.params.items() if not np.array_equal(v, model.params[n])}
        stays = {"head.conv.weight", "head.conv.bias", "trunk.bn.weight"}
        assert "head.fc.weight" in moved
        assert (stays <= moved) if mode == "scratch" else not stays & moved
        expected = {
            "cached": 130,
            "frozen": 130,
            "full": 130 + 224 + 8 + 584 + 16,
            "staged": 130 + 224 + 8 + 584 + 16,
        }
        assert run.trained == expected.get(mode, 130 + 224 + 16 + 584 + 16 + 876)
    swept = hs.sweep(model, *data, grid={"lr": [0.01]}, epochs=1, device="cpu", cache=tmp_path)
    assert swept.best.trained == 130
    assert not net.conv.weight.requires_grad and net.fc.weight.requires_grad


def test_statistics_in_the_head_stay_unless_they_are_to_follow(
    own: Any, patched: Any, data: Any, tmp_path: Path
) -> None:
    from torch import nn

    own.seeded(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2), patched.Within(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    model = hs.wrap(net.eval(), "0", P)
    kept = [name for name in model.params if "running" in name]
    assert len(kept) == 4
    for batch_norm, moves in (("frozen", 0), ("train", 3)):
        run = fit(model, data, tmp_path, mode="cached", epochs=1, batch_norm=batch_norm)
        moved = sum(not np.array_equal(run.model.params[name], model.params[name]) for name in kept)
        assert moved == moves, batch_norm


def test_who_fails_is_named(own: Any) -> None:
    """Preprocessing is blamed for nothing that it has not done."""

    class Uncopied(own.Small):  # type: ignore[misc, name-defined]
        def __deepcopy__(self, memo: Any) -> Any:
            raise RuntimeError("not me")

    with pytest.raises(SettingError, match=r"its copy.*does not: RuntimeError: not me") as caught:
        hs.wrap(Uncopied().eval(), "block", P)
    assert "preprocess" not in str(caught.value)
    with pytest.raises(
        SettingError, match=r"and its copy does not: RuntimeError: not me"
    ):  # where no cut was named
        hs.wrap(Uncopied().eval(), preprocess=P)
    with pytest.raises(SettingError, match=r"could not be run on two samples.*preprocess= or example="):
        hs.wrap(own.mlp(7, 3), head="linear", classes=2, preprocess=P)


def test_a_cut_between_modules_is_compared_at_the_end(own: Any) -> None:
    class Later(own.Small):  # type: ignore[misc, name-defined]
        def __deepcopy__(self, memo: Any) -> Any:
            copy = own.small()
            copy.conv.bias.data += 1
            return copy

    net = Later().eval()
    net.load_state_dict(own.small().state_dict())
    with pytest.raises(SettingError, match="behind the cut, at its end, they differ"):
        hs.wrap(net, "relu", P, 3, "linear")


def test_of_a_data_set_real_samples_are_compared(own: Any) -> None:
    """The copy differs on bright images only, and made-up ones are not that bright."""

    class Dazzled(own.Small):  # type: ignore[misc, name-defined]
        limit = 40.0

        def forward(self, x: Any) -> Any:
            bright = x.amax((1, 2, 3), keepdim=True) > self.limit
            return super().forward(x / (1 + 9 * bright))

        def __deepcopy__(self, memo: Any) -> Any:
            copy = Dazzled().eval()
            copy.load_state_dict(self.state_dict())
            copy.limit = 1e9
            return copy

    pixels = np.random.default_rng(0).integers(0, 255, (6, 16, 16, 3)).astype(np.uint8)
    preprocess = hs.Preprocess(16, 16, mean=(0, 0, 0), std=(0.01, 0.01, 0.01))
    net = Dazzled().eval()
    for arguments in ({"head": "linear", "classes": 2}, {}):
        hs.wrap(net, "block", preprocess, **arguments)
        with pytest.raises(SettingError, match="not what the module computes: at the cut 'block"):
            hs.wrap(net, "block", preprocess, example=hs.data.arrays(pixels, np.arange(6) % 2), **arguments)
    rows = preprocess.normalise(pixels)
    with pytest.raises(SettingError, match="not what the module computes"):
        hs.wrap(net, "block", example=hs.data.arrays(np.concatenate([rows[:2] / 100, rows]), np.arange(8) % 2))
    fine = hs.wrap(own.small(), "block", preprocess, example=hs.data.arrays(pixels, np.arange(6) % 2))
    assert len(fine.classes) == 10


def test_nothing_left_to_train_is_said(own: Any, data: Any, tmp_path: Path) -> None:
    net = own.small().requires_grad_(False)
    with pytest.raises(SettingError, match="frozen in the wrapped module"):
        fit(hs.wrap(net, "block", P), data, tmp_path, mode="cached")
    with pytest.warns(FrozenWarning, match="mode 'full' trains everything"):
        fit(hs.wrap(net, "block", P, 10, "linear"), data, tmp_path, mode="full", epochs=1)


def test_a_module_that_counts_may_do_so(own: Any, patched: Any, data: Any, tmp_path: Path) -> None:
    own.seeded(0)
    net = patched.Counting().eval()
    before = own.state(net)
    model = hs.wrap(net, "block", P, 10, "linear")
    assert net.calls == 0 and int(net.batches) == 0 and len(before) == len(own.state(net))
    run = fit(model, data, tmp_path, mode="frozen", epochs=1)
    assert int(run.model.params["trunk.batches"]) == 0
    limited = patched.Limited().eval()
    weight = limited.embed.weight.detach().clone()
    batch = sentences()["ids"]
    texts = hs.data.arrays({"ids": batch}, np.arange(len(batch)) % 2).split(0.75, seed=0)
    model = hs.wrap(limited, "mean", head="linear", classes=2, example={"ids": batch})
    fit(model, texts, tmp_path, mode="frozen", epochs=1)
    assert bool((limited.embed.weight == weight).all())
    with pytest.raises(HeadstartError, match=r"'stem.weight'.*as it runs"):
        hs.wrap(patched.Drifting().eval(), "block", P, 10, "linear")
