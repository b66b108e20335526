"""What a fresh classifier reads in the place of a torch module's own: what these read, however many there are,
and of a network for segmentation what its map of classes is made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own import P, X, fit, key

import headstart as hs
from headstart.common.errors import CutError
from headstart.testing import relative_error

pytestmark = pytest.mark.of("torch")
FRESH: dict[str, Any] = {"preprocess": P, "head": "linear", "classes": 10}


@pytest.fixture(scope="module")
def own(backend: str) -> Any:
    import own_torch

    return own_torch


def made(own: Any, form: str, *arguments: Any) -> Any:
    import own_readers

    own.seeded(0)
    return getattr(own_readers, form)(*arguments).eval()


def features(own: Any, module: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        found: np.ndarray = module.features(own.nchw(X)).numpy()
    return found


READ = {
    "averaged": lambda x: [x[:, 0], x[:, 1]],
    "greatest": lambda x: [x[:, 0], x[:, 2:].mean(1)],
    "logits": lambda x: [x[:, 0], x[:, 1]],
    "added": lambda x: [x[:, 0], x[:, 1]],
    "beside": lambda x: [x[:, 0], x[:, 1]],
    "mixed": lambda x: [x[:, 0], x[:, 1]],
    "logs": lambda x: [x[:, 0], x[:, 1]],
    "larger": lambda x: [x[:, 0], x[:, 1]],
    "wide": lambda x: [x[:, 0], x[:, 1:3].reshape(len(x), -1)],
}


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", READ)
def test_classifiers_on_tokens_of_their_own(own: Any, kind: str, traced: bool) -> None:
    module = made(own, "Distilled", kind, traced)
    model = hs.wrap(module, **FRESH)
    other = "wide" if kind == "wide" else "head_dist"
    assert model.module_cut == f"before head, {other}"
    expected = np.concatenate(READ[kind](features(own, module)), 1)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert not [name for name in model.params if name.startswith(("trunk.head", "trunk.wide", "trunk.again"))]
    again = hs.wrap(module, model.module_cut, **FRESH)
    assert key(again).digest == key(model).digest


@pytest.mark.parametrize("traced", [True, False])
def test_what_several_read_is_trained(own: Any, tmp_path: Path, traced: bool) -> None:
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    module = made(own, "Distilled", "averaged", traced)
    model = hs.wrap(module, **FRESH)
    runs = [fit(model, data, tmp_path, mode=mode, epochs=1) for mode in ("frozen", "cached", "full")]
    np.testing.assert_allclose(runs[0].history["loss"], runs[1].history["loss"], rtol=1e-3)
    assert not np.array_equal(runs[2].model.params["trunk.tokens"], model.params["trunk.tokens"])


def test_one_classifier_on_several_tokens(own: Any) -> None:
    module = made(own, "Distilled", "shared")
    expected = features(own, module)[:, :2].reshape(len(X), -1)
    assert relative_error(hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"], expected) < 1e-5
    with pytest.raises(CutError, match=r"cannot be had 'before .*choose with cut="):
        hs.wrap(made(own, "Distilled", "shared", False), **FRESH)


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["chained", "refined"])
def test_what_refines_numbers_of_classes_reads_no_features(own: Any, kind: str, traced: bool) -> None:
    module = made(own, "Distilled", kind, traced)
    trunk = hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"]
    assert relative_error(trunk, features(own, module)[:, 0]) < 1e-5


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("names", [(), ("stem", "head"), ("stem", "fc"), ("fc", "fc2"), ("head", "down")])
def test_a_row_of_residual_blocks_ends_in_no_classifier(own: Any, names: tuple[str, ...], traced: bool) -> None:
    """However its layers are called; a classifier would stand behind something that was learned."""
    assert hs.wrap(made(own, "Row", traced, *names), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize(
    "kind", ["relu", "scaled", "module", "norm", "turned", "wide", "proj", "smooth", "smooth by hand"]
)
def test_what_probabilities_are_made_of_is_no_feature(own: Any, kind: str, traced: bool) -> None:
    """As in torchaudio's Wav2Letter, with a ReLU before its log-softmax."""
    module = made(own, "Active", kind, traced)
    x, expected = frames(own, module)
    model = hs.wrap(module, head="linear", classes=3, example=x)
    assert relative_error(hs.forward(model, x, "trunk")["trunk"], expected.transpose(0, 2, 1)) < 1e-5


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["gelu", "leaky", "turned back", "codes", "greatest"])
def test_what_was_active_last_is_a_feature(own: Any, kind: str, traced: bool) -> None:
    module = made(own, "Active", kind, traced)
    assert hs.wrap(module, head="linear", classes=3, example=frames(own, module)[0]).module_cut == "its end"


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["tokens", "summed", "soft", "masked"])
def test_a_classifier_of_each_token(own: Any, kind: str, traced: bool) -> None:
    module = made(own, "Distilled", kind, traced)
    pooled = hs.forward(hs.wrap(module, **FRESH), X, "pool")["pool"]
    assert relative_error(pooled, features(own, module).mean(1)) < 1e-5


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["pooled", "summed", "soft"])
def test_a_classifier_of_each_frame(own: Any, kind: str, traced: bool) -> None:
    """Whose numbers of all frames are added, or the greatest of them taken."""
    module = made(own, "Active", kind, traced)
    x, expected = frames(own, module)
    model = hs.wrap(module, head="linear", classes=3, example=x)
    assert relative_error(hs.forward(model, x, "trunk")["trunk"], expected.transpose(0, 2, 1)) < 1e-5


@pytest.mark.parametrize("traced", [True, False])
def test_what_is_joined_of_all_tokens_may_be_features(own: Any, traced: bool) -> None:
    assert hs.wrap(made(own, "Distilled", "hidden", traced), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("traced", [True, False])
def test_what_attention_pools_is_no_classes(own: Any, traced: bool) -> None:
    assert hs.wrap(made(own, "Distilled", "attended", traced), **FRESH).module_cut == "its end"


@pytest.mark.parametrize("kind", ["last", "mean"])
def test_of_logits_of_every_token_one_is_given(own: Any, tmp_path: Path, kind: str) -> None:
    """As GPT-2's classifier does it, with the last token that is no padding."""
    module = made(own, "Distilled", kind, False)
    model = hs.wrap(module, **FRESH)
    assert model.module_cut == "before head"
    tokens = features(own, module)
    expected = tokens[:, -1] if kind == "last" else tokens.mean(1)
    assert relative_error(hs.forward(model, X, "trunk")["trunk"], expected) < 1e-5
    assert key(hs.wrap(module, "before head", **FRESH)).digest == key(model).digest
    data = hs.data.digits().subset(np.arange(24)).split(0.75, seed=0)
    run = fit(model, data, tmp_path, mode="full", epochs=1)
    assert not np.array_equal(run.model.params["trunk.tokens"], model.params["trunk.tokens"])


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["plain", "resized", "shares", "called", "auxiliary"])
def test_maps_of_classes_are_no_features(own: Any, kind: str, traced: bool) -> None:
    module = made(own, "Dense", kind, traced)
    model = hs.wrap(module, **FRESH)
    assert (
        relative_error(hs.forward(model, X, "trunk")["trunk"], features(own, module).transpose(0, 2, 3, 1)) < 1e-5
    )
    assert key(hs.wrap(module, model.module_cut, **FRESH)).digest == key(model).digest


@pytest.mark.parametrize("traced", [True, False])
def test_maps_of_classes_of_several_layers(own: Any, traced: bool) -> None:
    import torch

    module = made(own, "Dense", "two", traced)
    with torch.no_grad():
        low = module.low(own.nchw(X)).mean((2, 3)).numpy()
    trunk = hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"]
    parts = {6: features(own, module).mean((2, 3)), 5: low}
    order = (6, 5)  # in which they run
    assert relative_error(trunk, np.concatenate([parts[width] for width in order], 1)) < 1e-5


@pytest.mark.parametrize("traced", [True, False])
@pytest.mark.parametrize("kind", ["projected", "active", "wider"])
def test_maps_of_features_stay_the_end(own: Any, kind: str, traced: bool) -> None:
    assert hs.wrap(made(own, "Dense", kind, traced), **FRESH).weights == "its own, cut at its end"


def frames(own: Any, module: Any) -> tuple[np.ndarray, np.ndarray]:
    import torch

    x = np.random.default_rng(0).standard_normal((5, 2, 64)).astype(np.float32)
    with torch.no_grad():
        return x, module.features(torch.from_numpy(x)).numpy()


def test_classes_of_each_frame_are_no_features(own: Any) -> None:
    module = made(own, "Frames", "frames")
    x, expected = frames(own, module)
    model = hs.wrap(module, head="linear", classes=3, example=x)
    assert relative_error(hs.forward(model, x, "trunk")["trunk"], expected.transpose(0, 2, 1)) < 1e-5


def test_the_rest_begins_where_there_is_a_row_for_each_sample(own: Any) -> None:
    import torch

    module = made(own, "Frames", "first")
    x, expected = frames(own, module)
    model = hs.wrap(module, example=x)
    found = hs.forward(model, x, ["trunk", "logits"])
    assert relative_error(found["trunk"], expected) < 1e-5
    with torch.no_grad():
        logits = module(torch.from_numpy(x)).numpy()
    assert relative_error(found["logits"], logits) < 1e-5


def test_a_dict_goes_in_whole_where_it_alone_is_wanted(own: Any) -> None:
    """As SentenceTransformer's forward(input, **kwargs) takes and gives it."""
    module = made(own, "Frames", "dict")
    x, expected = frames(own, module)
    batch = {"other": x[:, 0], "x": x}
    model = hs.wrap(module, head="linear", classes=3, example=batch)
    assert model.module_cut == "sentence_embedding"
    assert relative_error(hs.forward(model, batch, "trunk")["trunk"], expected.mean(2)) < 1e-5
    named = hs.wrap(module, "tokens", head="linear", classes=3, example={"x": x}, layout="ncl")
    assert relative_error(hs.forward(named, {"x": x}, "trunk")["trunk"], expected.transpose(0, 2, 1)) < 1e-5


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")  # deprecated, and networks have it
def test_a_quantized_classifier(own: Any) -> None:
    import torch

    if "fbgemm" not in torch.backends.quantized.supported_engines:
        pytest.skip("this torch computes nothing quantized")
    module = made(own, "Codes")
    with torch.no_grad():
        expected = module.features(own.nchw(X)).dequantize().numpy()
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(hs.forward(hs.wrap(module, **FRESH), X, "trunk")["trunk"], expected)
