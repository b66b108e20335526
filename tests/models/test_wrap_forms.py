"""Torch modules as libraries have them: axes in another order, several outputs, wrappers around them, cuts where
only a fresh head can be had. What is cached is compared with what a hook sees in the module itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key, sentences

import headstart as hs
from headstart.common.errors import CutError, SettingError
from headstart.data import Dataset
from headstart.models.several import entry_in
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


@pytest.fixture(scope="module")
def forms(backend: str) -> Any:
    import own_forms

    return own_forms


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    return hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)


def made(forms: Any, kind: str, *arguments: Any) -> Any:
    import torch

    torch.manual_seed(0)
    return getattr(forms, kind)(*arguments).eval()


def hooked(module: Any, name: str, *batch: Any, **named: Any) -> np.ndarray:
    """What a submodule gives, by a hook."""
    import torch

    found: list[Any] = []
    handle = module.get_submodule(name).register_forward_hook(lambda _m, _i, output: found.append(output))
    with torch.no_grad():
        module(*batch, **named)
    handle.remove()
    return found[0].numpy()


@pytest.mark.parametrize("traceable", [True, False])
@pytest.mark.parametrize("cut", ["blocks.0", "blocks"])
def test_channels_may_come_last(
    forms: Any, own: Any, data: Any, tmp_path: Path, cut: str, traceable: bool
) -> None:
    module = made(forms, "Last", traceable)
    expected = hooked(module, cut, own.nchw(X))
    model = hs.wrap(module, cut, **FRESH)
    found = hs.forward(model, X, ["trunk", "pool"])
    assert found["trunk"].shape == (5, 4, 4, 12)
    assert relative_error(found["trunk"], expected) < 1e-5
    assert relative_error(found["pool"], expected.mean((1, 2))) < 1e-5
    head = own.mlp(12, 4)

    class Head(type(head)):
        def forward(self, x: Any) -> Any:
            return super().forward(x.mean((1, 2)))

    head.__class__ = Head
    behind = hs.wrap(module, cut, preprocess=P, head=head, name="behind")
    theirs = head(own.torch.from_numpy(expected)).detach().numpy()
    assert relative_error(hs.forward(behind, X)["logits"], theirs) < 1e-5, "a module's own head gets its own order"
    if traceable:
        whole = hs.wrap(module, cut, preprocess=P)
        outputs = hs.forward(whole, X, ["trunk", "logits"])
        assert relative_error(outputs["trunk"], expected) < 1e-5
        assert relative_error(outputs["logits"], own.logits(module, X)) < 1e-5
        assert key(whole).digest == key(model).digest
        runs = [fit(whole, data, tmp_path, mode=mode) for mode in ("frozen", "cached")]
        np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    first = hs.wrap(module, "stem", **FRESH)
    given = hooked(module, "stem", own.nchw(X))
    assert relative_error(hs.forward(first, X, "pool")["pool"], given.mean((2, 3))) < 1e-5


def test_tokens_are_mixed_and_stay_tokens(forms: Any, own: Any) -> None:
    module = made(forms, "Mixer")
    found = hs.forward(hs.wrap(module, "end", **FRESH), X, "pool")["pool"]
    assert relative_error(found, hooked(module, "end", own.nchw(X)).mean(1)) < 1e-5


@pytest.mark.parametrize("cut", ["conv", "norm"])
def test_series_with_the_channels_first(forms: Any, own: Any, cut: str) -> None:
    module = made(forms, "Series")
    x = np.random.default_rng(0).standard_normal((5, 2, 64)).astype(np.float32)
    expected = hooked(module, cut, own.torch.from_numpy(x))
    found = hs.forward(hs.wrap(module, cut, head="linear", classes=3, example=x), x, ["trunk", "pool"])
    assert relative_error(found["trunk"], expected.transpose(0, 2, 1)) < 1e-5
    assert relative_error(found["pool"], expected.mean(2)) < 1e-5
    kept = hs.wrap(module, cut, example=x)
    assert hs.forward(kept, x, "trunk")["trunk"].shape == expected.shape, "with the rest of it, as it is"


def test_unknown_axes_are_asked_for(forms: Any) -> None:
    module = made(forms, "Silent")
    with pytest.raises(SettingError, match=r"\(3, 16, 16\).*'act'.*pass layout='nchw' or layout='nhwc'"):
        hs.wrap(module, "act", **FRESH)
    pools = {
        layout: hs.forward(hs.wrap(module, "act", layout=layout, **FRESH), X, "pool")["pool"]
        for layout in ("nchw", "nhwc")
    }
    assert relative_error(pools["nchw"], np.tanh(X).mean((1, 2))) < 1e-5
    assert relative_error(pools["nhwc"], np.tanh(X).transpose(0, 3, 1, 2).mean((1, 2))) < 1e-5
    assert hs.wrap(module, "act", preprocess=P).weights.endswith("act"), "the rest does not ask"
    with pytest.raises(
        SettingError, match=r"layout='ncl' has 3 axes, and the trunk gives \(2, 3, 16, 16\) at 'act'"
    ):
        hs.wrap(module, "act", layout="ncl", **FRESH)
    with pytest.raises(SettingError, match="layout='chw'; expected one of nchw, nhwc, nlc, tokens, ncl"):
        hs.wrap(module, "act", layout="chw", **FRESH)


def test_which_tokens_a_padding_mask_means_is_not_guessed(own: Any) -> None:
    """In torch's own layers it is true for padding, in other libraries for tokens."""
    nn = own.torch.nn

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(20, 8)
            self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

        def forward(self, ids: Any, key_padding_mask: Any) -> Any:
            return self.layer(self.embed(ids), src_key_padding_mask=key_padding_mask)

    batch = sentences()
    given = {"ids": batch["ids"], "key_padding_mask": ~batch["mask"]}
    with pytest.raises(SettingError, match="and 'key_padding_mask' says that some are padding"):
        hs.wrap(Encoder().eval(), head="linear", classes=2, example=given)


def test_padded_tokens_do_not_count(own: Any, tmp_path: Path) -> None:
    module, batch = own.text(), sentences(24)
    tensors = {name: own.torch.from_numpy(array) for name, array in batch.items()}
    tokens = hooked(module, "encoder", **tensors)
    expected = (tokens * batch["mask"][..., None]).sum(1) / batch["mask"].sum(1)[:, None]
    model = hs.wrap(module, "encoder", head="linear", classes=2, example=batch)
    assert relative_error(hs.forward(model, batch, "trunk")["trunk"], expected) < 1e-5
    told = hs.wrap(module, "encoder", layout="tokens", head="linear", classes=2, example=batch)
    assert relative_error(hs.forward(told, batch, "trunk")["trunk"], expected) < 1e-5


def test_a_fresh_classifier_comes_in_the_place_of_the_old_one(forms: Any, own: Any) -> None:
    import torch

    module = own.small()
    model = hs.wrap(module, **FRESH)
    seen: list[Any] = []
    handle = module.fc.register_forward_pre_hook(lambda _m, args: seen.append(args[0].detach().numpy()))
    own.logits(module, X)
    handle.remove()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], seen[0]) < 1e-5
    assert "trunk.fc.weight" not in model.params
    for untraced in (made(own, "Branching"), made(forms, "Last", False)):
        fresh = hs.wrap(untraced, **FRESH)
        rest = hs.wrap(untraced, preprocess=P)
        assert fresh.weights == rest.weights == "its own, cut before fc"
        assert relative_error(hs.forward(rest, X)["logits"], own.logits(untraced, X)) < 1e-5
        assert {name for name in rest.params if name.startswith("head.")} == {"head.fc.weight", "head.fc.bias"}
        assert key(fresh).digest == key(rest).digest
    projected = own.small()
    projected.proj, projected.fc = projected.fc, torch.nn.Identity()
    headless = hs.wrap(projected, **FRESH)
    assert headless.weights == "its own, cut at its end"
    assert relative_error(hs.forward(headless, X, "trunk")["trunk"], own.logits(projected, X)) < 1e-5
    end = hs.wrap(module, "fc", **FRESH)
    assert relative_error(hs.forward(end, X, "trunk")["trunk"], own.logits(module, X)) < 1e-5, "if it is asked for"


def test_features_are_what_the_classifier_takes(forms: Any, own: Any) -> None:
    """However its weights come about, whatever holds its logits, and whatever is made of them at the end."""
    import torch

    from headstart.models.endings import ENDINGS

    cases = [("Ended",), ("Cosine",), ("Tied",), ("Records", forms.Given), ("Records", forms.Named)]
    cases += [("Ending", kind) for kind in ("cast", "softmax", "log_softmax")]
    for kind, *arguments in cases:
        module = made(forms, kind, *arguments)
        with torch.no_grad():
            features, given = module.features(own.nchw(X)), module(own.nchw(X))
        if kind == "Cosine":
            features = torch.nn.functional.normalize(features)
        fresh = hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"]
        assert relative_error(fresh, features.numpy()) < 1e-5, (kind, arguments)
        logits = hs.forward(hs.wrap(module, preprocess=P), X)["logits"]
        logits = ENDINGS.get(getattr(module, "kind", ""), ENDINGS[""])(logits)
        assert relative_error(logits, getattr(given, "logits", given).numpy()) < 1e-5, (kind, arguments)
    module = made(forms, "Autocast")
    assert hs.wrap(module, **FRESH).weights == "its own, cut before fc"
    with pytest.raises(CutError, match="cannot trace Autocast"):
        hs.wrap(module, preprocess=P)
    module = made(forms, "Twice")
    with pytest.raises(CutError, match=r"no place before its last layer.*cut='its end'"):
        hs.wrap(module, preprocess=P)
    both = torch.cat([module.features(x) for x in (own.nchw(X), own.nchw(X).flip(-1))], 1).detach().numpy()
    assert relative_error(hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"], both) < 1e-5
    assert hs.wrap(module, "its end", **FRESH).weights == "its own, cut at its end"


CLASSIFIERS = (
    "product", "cosines", "einsum", "angles", "distances", "squares", "temperature", "joined", "averaged",
    "module",
)  # fmt: skip


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_a_classifier_that_is_no_linear_layer(forms: Any, own: Any, kind: str) -> None:
    import torch

    module = made(forms, "Compared", kind)
    with torch.no_grad():
        features, given = module.features(own.nchw(X)).numpy(), module(own.nchw(X)).numpy()
    model = hs.wrap(module, **FRESH)
    assert relative_error(hs.forward(model, X, model.default_cut)[model.default_cut], features) < 1e-5
    rest = hs.wrap(module, preprocess=P)
    assert relative_error(hs.forward(rest, X)["logits"], given) < 1e-5
    assert key(rest).digest == key(model).digest


def test_the_end_of_an_encoder_is_no_classifier(forms: Any, own: Any) -> None:
    for kind in ("normed", "projected", "pooled"):
        for traced in (True, False):
            assert hs.wrap(made(forms, "Compared", kind, traced), **FRESH).weights == "its own, cut at its end"
    normed = hs.wrap(made(forms, "Compared", "normed"), preprocess=P)  # of which the norm alone is no head
    assert "head.fc.weight" in normed.params and "head.norm.weight" in normed.params


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        *((kind, "fc") for kind in ("temperature", "joined", "averaged", "doubled", "thresholds")),
        ("module", "directions"),
    ],
)
def test_a_classifier_of_what_cannot_be_traced(forms: Any, own: Any, kind: str, path: str) -> None:
    import torch

    module = made(forms, "Compared", kind, False)
    with torch.no_grad():
        features = module.features(own.nchw(X)).numpy()
    model = hs.wrap(module, **FRESH)
    assert model.weights == f"its own, cut before {path}"
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], features) < 1e-5
    if kind == "module":  # which alone makes all of the end
        logits = hs.forward(hs.wrap(module, preprocess=P), X)["logits"]
        assert relative_error(logits, own.logits(module, X)) < 1e-5
    else:
        with pytest.raises(CutError, match="does not end in a linear layer"):
            hs.wrap(module, preprocess=P)


def test_of_zeros_and_ones_it_is_not_told_what_made_them(forms: Any, own: Any) -> None:
    """A sigmoid and thresholds behind one give the same where a sigmoid is 0 or 1."""
    plain, spread = (made(forms, "Saturated", how) for how in (False, True))
    assert set(own.logits(plain, X).ravel()) == set(own.logits(spread, X).ravel()) == {0.0, 1.0}
    rest = hs.wrap(plain, preprocess=P)
    assert (
        relative_error(hs.forward(rest, X)["logits"], plain.fc(plain.features(own.nchw(X))).detach().numpy())
        < 1e-5
    )
    assert hs.wrap(spread, **FRESH).weights == hs.wrap(plain, **FRESH).weights == "its own, cut before fc"
    with pytest.raises(CutError, match="does not end in a linear layer"):
        hs.wrap(spread, preprocess=P)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["shares", "dict", "tasks", "features", "apart"])
def test_a_classifier_that_gives_several_arrays(forms: Any, own: Any, kind: str, traced: bool) -> None:
    import torch

    module = made(forms, "Several", kind, traced)
    if kind == "features" or (kind == "apart" and not traced):  # of which nobody knows what is to be had
        with pytest.raises(CutError, match="which of them are the features"):
            hs.wrap(module, **FRESH)
        return
    model = hs.wrap(module, **FRESH)
    with torch.no_grad():
        features = module.features(own.nchw(X)).numpy()
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], features) < 1e-5
    again = hs.wrap(module, model.module_cut, **FRESH)
    assert key(again).digest == key(model).digest


def test_a_classifier_inside_of_what_cannot_be_traced(forms: Any, own: Any) -> None:
    import torch

    inner = made(forms, "Last", False)
    module = torch.nn.Sequential(torch.nn.Tanh(), inner).eval()
    fresh, rest = hs.wrap(module, **FRESH), hs.wrap(module, preprocess=P)
    assert fresh.module_cut == rest.module_cut == "before 1.fc"
    assert relative_error(hs.forward(rest, X)["logits"], own.logits(module, X)) < 1e-5
    assert key(hs.wrap(module, "before 1.fc", **FRESH)).digest == key(fresh).digest


def test_where_images_went_is_said(forms: Any) -> None:
    with pytest.raises(SettingError, match=r"first argument of forward\(\*, pixels, scale\): wrap the submodule"):
        hs.wrap(made(forms, "Keyword"), **FRESH)


@pytest.mark.parametrize("embedded", ["image_embeds", "text_embeds", "audio_embeds", "video_embeds"])
def test_a_projections_output_goes_before_its_tokens(embedded: str) -> None:
    import torch

    from headstart.backends.torch.ending import shapes_of

    tokens = torch.zeros(2, 5, 4)  # (n, t, c)
    outputs = {"last_hidden_state": tokens, embedded: torch.zeros(2, 3)}
    assert entry_in(shapes_of(outputs), "", 2, "CLIP", "dict") == (embedded,)
    outputs["pooler_output"] = torch.zeros(2, 4)
    assert entry_in(shapes_of(outputs), "", 2, "CLIP", "dict") == ("pooler_output",)


def test_one_of_several_outputs(forms: Any, own: Any, data: Any, tmp_path: Path) -> None:
    import torch

    with torch.no_grad():
        outputs = {
            (p, f): (m := made(forms, "Encoder", p, f), m(own.nchw(X)))
            for p in (True, False)
            for f in (True, False)
        }
    module, found = outputs[True, True]
    model = hs.wrap(module, **FRESH)
    assert model.weights == "its own, cut at pooler_output"
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], found.pooler_output.numpy()) < 1e-5
    assert np.isfinite(fit(model, data, tmp_path, epochs=1).history["loss"]).all()
    module, found = outputs[False, True]
    model = hs.wrap(module, **FRESH)
    for made_again in (model, hs.wrap(module, model.module_cut, **FRESH)):
        first = hs.forward(made_again, X, "trunk")["trunk"]
        assert relative_error(first, found.last_hidden_state[:, 0].numpy()) < 1e-5
    module, found = outputs[False, False]
    mean = hs.forward(hs.wrap(module, **FRESH), X, "pool")["pool"]
    assert relative_error(mean, found.last_hidden_state.mean(1).numpy()) < 1e-5
    for cut, value in (("last_hidden_state", found[0]), ("hidden_states.0", found[1][0])):
        tokens = hs.wrap(module, cut, **FRESH)
        assert relative_error(hs.forward(tokens, X, "trunk")["trunk"], value.numpy()) < 1e-5
    with pytest.raises(CutError, match="pooler_output"):
        hs.wrap(module, "pooler_output", **FRESH)
    whole = made(forms, "Classifier")
    with torch.no_grad():
        logits = whole(own.nchw(X))["logits"].numpy()
    rest = hs.wrap(whole, preprocess=P)
    assert relative_error(hs.forward(rest, X)["logits"], logits) < 1e-5
    assert hs.wrap(whole, **FRESH).weights == "its own, cut before classifier"
    inside = hs.forward(hs.wrap(whole, "encoder.pooler_output", **FRESH), X, "trunk")["trunk"]
    assert relative_error(inside, hooked(whole, "drop", own.nchw(X))) < 1e-5
    assert hs.wrap(whole, "logits", **FRESH).weights == "its own, cut at logits"
    with pytest.raises(
        CutError, match=r"'encoder' gives a Output .*'hidden_states.3'|no 'hidden_states.3' is in it"
    ):
        hs.wrap(whole, "encoder.hidden_states.3", **FRESH)


def test_a_fresh_head_inside_a_branch(forms: Any, own: Any) -> None:
    module = made(forms, "Pyramid")
    for cut in ("side", "one", "two", "top"):
        found = hs.forward(hs.wrap(module, cut, **FRESH), X, "trunk")["trunk"]
        given = hooked(module, cut if cut != "top" else "two", own.nchw(X))
        expected = np.maximum(given, 0) if cut == "top" else given
        assert relative_error(found, expected.transpose(0, 2, 3, 1)) < 1e-5
    with pytest.raises(
        CutError, match=r"gives a dict and not one tensor.*choose with cut=: 'side' \(4, 8, 8\), 'top'"
    ):
        hs.wrap(module, **FRESH)
    inside = made(own, "Small")
    found = hs.forward(hs.wrap(inside, "block.conv", **FRESH), X, "trunk")["trunk"]
    assert relative_error(found, hooked(inside, "block.conv", own.nchw(X)).transpose(0, 2, 3, 1)) < 1e-5
    with pytest.raises(CutError, match=r"'block\.conv' is inside a branch"):
        hs.wrap(inside, "block.conv", preprocess=P)


def test_a_cut_inside_of_what_cannot_be_traced(forms: Any, own: Any, data: Any, tmp_path: Path) -> None:
    module = made(forms, "Inner")
    model = hs.wrap(module, "encoder.layers.0", **FRESH)
    expected = hooked(module, "encoder.layers.0", own.nchw(X))
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert not any("layers.1" in name for name in model.params)
    assert np.isfinite(fit(model, data, tmp_path, mode="full", epochs=1).history["loss"]).all()
    with pytest.raises(CutError, match=r"cannot trace what 'encoder.layers.0' is in.*pass head='linear'"):
        hs.wrap(module, "encoder.layers.0", preprocess=P)


def test_what_is_around_a_module_is_taken_off(own: Any) -> None:
    import torch
    from torch import nn
    from torch.optim.swa_utils import AveragedModel

    module = own.small()
    plain = hs.wrap(module, "block", preprocess=P)
    expected = own.logits(module, X)
    around = {
        "compiled": torch.compile(module, backend="eager"),
        "parallel": nn.DataParallel(module),
        "averaged": AveragedModel(module),
        "both": nn.DataParallel(torch.compile(module, backend="eager")),
    }
    names = {
        "compiled": "_orig_mod.block",
        "parallel": "module.block",
        "averaged": "block",
        "both": "module.block",
    }
    for kind, wrapper in around.items():
        for cut in ("block", names[kind]):
            model = hs.wrap(wrapper, cut, preprocess=P)
            assert key(model).digest == key(plain).digest, kind
            assert relative_error(hs.forward(model, X)["logits"], expected) < 1e-5
            assert model.params.keys() == plain.params.keys()


@pytest.mark.parametrize("kind", ["half", "bfloat16", "double"])
def test_other_precisions_become_float32_and_it_is_said(own: Any, kind: str) -> None:
    module = getattr(own.small(), kind)()
    with pytest.warns(UserWarning, match=r"Small is in (b?float16|float64); its copy is taken as float32"):
        model = hs.wrap(module, "block", preprocess=P)
    assert all(value.dtype != np.float64 for value in model.params.values())
    rounded = own.logits(module.float(), X)
    assert relative_error(hs.forward(model, X)["logits"], rounded) < 1e-5


def test_what_cannot_be_wrapped_says_what_to_do(own: Any) -> None:
    import torch
    from torch import nn

    with warnings.catch_warnings(action="ignore"):  # TorchScript is on its way out
        scripted = torch.jit.trace(own.small(), own.nchw(X))
    lazy = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    with torch.device("meta"):
        meta = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(784, 3))
    for module, advice in (
        (scripted, r"TorchScript.*wrap the torch\.nn\.Module that it was scripted or traced from"),
        (lazy, r"parameter '0\.weight' of Sequential is lazy.*run the module once"),
        (meta, r"parameter '0\.weight' of Sequential is on the meta device.*to_empty"),
        (torch.export.export(own.small(), (own.nchw(X),)), r"ExportedProgram.*wrap the torch\.nn\.Module"),
    ):
        for settings in (FRESH, {"preprocess": P}):
            with pytest.raises(SettingError, match=advice) as caught:
                hs.wrap(module, **settings)
            assert "preprocess=" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, and networks have it
def test_quantized_numbers_are_kept_as_the_floats_that_they_mean(forms: Any) -> None:
    import torch

    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch computes nothing quantized")
    module = made(forms, "Quantized")
    with torch.no_grad():
        x = torch.from_numpy(np.ascontiguousarray(X.transpose(0, 3, 1, 2)))
        expected = module.first(module.into(x)).dequantize().numpy().transpose(0, 2, 3, 1)
    assert np.ptp(expected) > 0
    model = hs.wrap(module, "first", **FRESH)
    np.testing.assert_array_equal(hs.forward(model, X, ["trunk"])["trunk"], expected)
    with pytest.raises(CutError, match=r"'first' gives quantized numbers, stored as floats.*head='linear'"):
        hs.wrap(module, "first", preprocess=P)
    assert hs.wrap(module, "out", preprocess=P).params.keys() >= {"head.fc.weight", "head.fc.bias"}
