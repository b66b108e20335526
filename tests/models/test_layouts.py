"""Published names and shapes: a layout serves both directions, a file fits exactly or is refused with a list of
what does not; and resized positions keep what resizing must keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

import headstart as hs
from headstart.common.errors import WeightsError
from headstart.graph import Builder, Graph
from headstart.models import architecture
from headstart.models.layouts import SAME, by_rules, fitted, published, unwrapped
from headstart.models.positions import resample
from headstart.testing import reference

pytestmark = pytest.mark.neutral

Params = dict[str, np.ndarray]


def small() -> Graph:
    """A convolution with batch norm, and two fully connected layers on its map of 2 x 2."""
    b = Builder()
    x = b.conv("features.0", "input", 3, 4, 3, stride=2)
    x = b.add("features.1", "batch_norm", x, channels=4)
    x = b.add("flatten", "flatten", x, features=16)
    x = b.linear("classifier.0", x, 16, 6)
    return b.graph(b.linear("classifier.1", x, 6, 5))


OTHER = by_rules(
    "other",
    (r"features\.(\d+)\.weight", r"stem.\1.w"),
    (r"features\.0\..*", "never, since the first rule that matches is taken"),
    (r"classifier\.0\.weight", "fc.weight", lambda shape: (shape[0], 4, 2, 2)),
    (r"classifier\.0", "never, since a rule is about the whole name"),
    (r"classifier\.0\.(bias)", r"fc.\1"),
    (r"classifier\.1\.(weight|bias)", r"head.\1"),
)


@pytest.fixture
def params() -> Params:
    return reference.random_params(small(), 0)


def equal(a: Params, b: Params) -> bool:
    return a.keys() == b.keys() and all(
        x.dtype == b[n].dtype == np.float32 and np.array_equal(x, b[n]) for n, x in a.items()
    )


def test_what_comes_back_the_other_way_round_is_not_saved(params: Params) -> None:
    """Reshaped it would load again, and classify anything."""
    params["classifier.0.weight"] = params["classifier.0.weight"].T
    with pytest.raises(
        WeightsError, match=r"of another shape: classifier\.0\.weight \(16, 6\) instead of \(6, 16\)"
    ):
        published(small(), params, OTHER)


def test_rules_rename_and_reshape() -> None:
    assert OTHER.names(small()) == {
        "features.0.weight": ("stem.0.w", (4, 3, 3, 3)),
        "features.1.weight": ("stem.1.w", (4,)),
        "features.1.bias": ("features.1.bias", (4,)),
        "features.1.running_mean": ("features.1.running_mean", (4,)),
        "features.1.running_var": ("features.1.running_var", (4,)),
        "classifier.0.weight": ("fc.weight", (6, 4, 2, 2)),
        "classifier.0.bias": ("fc.bias", (6,)),
        "classifier.1.weight": ("head.weight", (5, 6)),
        "classifier.1.bias": ("head.bias", (5,)),
    }


@pytest.mark.parametrize("layout", [SAME, OTHER], ids=lambda layout: layout.name)
def test_what_is_published_comes_back(params: Params, layout: object) -> None:
    file = published(small(), params, layout)
    assert {name: value.shape for name, value in file.items()} == dict(layout.names(small()).values())
    for layouts in ((SAME, OTHER), (OTHER, SAME)):
        assert equal(fitted("file", file, small(), layouts), params)


def test_a_layer_over_the_whole_map_is_the_convolution_it_is_published_as(params: Params) -> None:
    """Why no number moves: flattening is in (c, h, w) order, as a convolution's weights are."""
    kernel = published(small(), params, OTHER)["fc.weight"]
    assert kernel.shape == (6, 4, 2, 2)
    x = np.random.default_rng(0).normal(size=(2, 6, 5, 3))
    values = reference.run(small(), params, x)
    wanted = np.einsum("nhwc,ochw->no", values["features.1"], kernel) + params["classifier.0.bias"]
    assert np.abs(values["classifier.0"] - wanted).max() < 1e-12


@pytest.mark.parametrize(
    "prefixes", [["module."], ["_orig_mod."], ["module.", "_orig_mod."], ["model.", "module."]]
)
def test_prefixes_that_all_names_have_are_taken_off(params: Params, prefixes: list[str]) -> None:
    wrapped = {"".join(prefixes) + name: value for name, value in params.items()}
    assert equal(unwrapped(wrapped), params)
    assert equal(fitted("file", wrapped, small(), [SAME]), params)


def test_whoever_trained_it_inside_of_another_may_call_it_anything(params: Params) -> None:
    for prefix in ("backbone.", "student.net.", "features."):
        file = {prefix + name: value for name, value in published(small(), params, OTHER).items()}
        assert equal(fitted("file", file, small(), [SAME, OTHER]), params)
    trunk = {name: value for name, value in params.items() if name.startswith("features.")}
    head = params.keys() - trunk.keys()
    assert equal(fitted("file", trunk, small(), [SAME], skip=head), trunk), "the prefix is the layers' own"


def test_a_prefix_of_some_names_stays(params: Params) -> None:
    mixed = {f"module.{name}" if "features" in name else name: value for name, value in params.items()}
    assert equal(unwrapped(mixed), mixed)
    with pytest.raises(
        WeightsError, match=r"missing: features\.0\.weight.*left over: module\.features\.0\.weight"
    ):
        fitted("file", mixed, small(), [SAME])


def test_counters_are_dropped(params: Params) -> None:
    counters = {"module.features.1.num_batches_tracked": np.array(7)}
    assert equal(unwrapped(counters | {f"module.{name}": value for name, value in params.items()}), params)


def test_misfits_are_listed_in_the_files_names(params: Params) -> None:
    file = published(small(), params, OTHER)
    file["fc.weight"] = params["classifier.0.weight"]  # as many numbers, but not as this layout has them
    del file["head.bias"]
    file["head.scale"] = params["features.1.bias"]
    with pytest.raises(WeightsError) as caught:
        fitted("a file", file, small(), [SAME, OTHER])
    assert str(caught.value) == (
        "a file does not fit the model; missing: head.bias; left over: head.scale; "
        "of another shape: fc.weight (6, 16) instead of (6, 4, 2, 2)"
    )


def test_long_lists_are_cut_short() -> None:
    with pytest.raises(WeightsError, match=r"left over: x0, x1, x2, x3, x4, x5, x6, x7 and 3 more$"):
        fitted("file", {f"x{i}": np.zeros(1) for i in range(11)}, Builder().graph("input"), [SAME])


@pytest.mark.parametrize("layout", [SAME, OTHER], ids=lambda layout: layout.name)
def test_what_is_replaced_may_have_any_shape_or_be_missing(params: Params, layout: object) -> None:
    skip = ["classifier.1.weight", "classifier.1.bias"]
    rest = {name: value for name, value in params.items() if name not in skip}
    file = published(small(), params, layout)
    theirs = [layout.names(small())[name][0] for name in skip]
    for replacement in (np.zeros((1000, 6), np.float32), np.zeros((2, 2, 2), np.float32)):
        assert equal(fitted("file", file | {theirs[0]: replacement}, small(), [SAME, OTHER], skip), rest)
    fewer = {name: value for name, value in file.items() if name not in theirs}
    assert equal(fitted("file", fewer, small(), [SAME, OTHER], skip), rest)


def test_what_is_optional_is_taken_where_it_is_there(params: Params) -> None:
    optional = ["classifier.1.weight", "classifier.1.bias"]
    assert equal(fitted("file", params, small(), [SAME], optional=optional), params)
    fewer = {name: value for name, value in params.items() if name not in optional}
    assert equal(fitted("file", fewer, small(), [SAME], optional=optional), fewer)
    wrong = params | {"classifier.1.bias": np.zeros(9, np.float32)}
    with pytest.raises(WeightsError, match=r"another shape: classifier\.1\.bias \(9,\) instead of \(5,\)"):
        fitted("file", wrong, small(), [SAME], optional=optional)


def test_vgg_has_two_layouts() -> None:
    same, timm = architecture("vgg16").layouts
    graph = architecture("vgg16").graph(10)
    assert same.names(graph) == {name: (name, shape) for name, shape in graph.param_shapes().items()}
    changed = {ours: row for ours, row in timm.names(graph).items() if row != same.names(graph)[ours]}
    assert changed == {
        "classifier.0.weight": ("pre_logits.fc1.weight", (4096, 512, 7, 7)),
        "classifier.0.bias": ("pre_logits.fc1.bias", (4096,)),
        "classifier.3.weight": ("pre_logits.fc2.weight", (4096, 4096, 1, 1)),
        "classifier.3.bias": ("pre_logits.fc2.bias", (4096,)),
        "classifier.6.weight": ("head.fc.weight", (10, 4096)),
        "classifier.6.bias": ("head.fc.bias", (10,)),
    }


@pytest.mark.parametrize("layout", [0, 1], ids=["torchvision", "timm"])
@pytest.mark.parametrize("head", [(16,), (0.5, 4096, 0.5, 4096), (4096, 0.5, 4096, 0.5)])
def test_a_list_takes_the_place_of_all_that_a_file_has_there(head: tuple[int | float, ...], layout: int) -> None:
    """However many layers that are, and whatever the file calls them."""
    arch = architecture("vgg11")
    whole = arch.graph(1000)
    theirs = arch.layouts[layout].names(whole).values()
    file = {name: np.broadcast_to(np.float32(1), shape) for name, shape in theirs}
    graph = arch.graph(3, head)
    skip = [name for name in graph.param_shapes() if name.startswith("classifier.")]
    found = fitted("file", file, graph, arch.layouts, skip, spare=whole.param_shapes())
    assert found.keys() == {name for name in whole.param_shapes() if name.startswith("features.")}


# --- positions


def positions(tokens: int, channels: int = 3, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(tokens, channels)).astype(np.float32)


def with_positions(tokens: int) -> Graph:
    b = Builder()
    return b.graph(b.add("pos", "position", "input", tokens=tokens, channels=3))


@given(side=st.integers(1, 12), prefix=st.integers(0, 1))
def test_resizing_to_the_same_size_changes_nothing(side: int, prefix: int) -> None:
    given_rows = positions(side * side + prefix)
    assert np.array_equal(resample(given_rows, given_rows.shape), given_rows)


@given(old=st.integers(2, 16), new=st.integers(2, 16))
def test_resizing_keeps_constants_and_the_class_tokens_place(old: int, new: int) -> None:
    rows = np.full((old * old + 1, 3), (0.5, -2.0, 7.0), np.float32)
    rows[0] = (1, 2, 3)
    resized = resample(rows, (new * new + 1, 3))
    assert resized.dtype == np.float32
    assert np.array_equal(resized[0], rows[0])
    assert np.allclose(resized[1:], rows[1], rtol=1e-6)


@given(old=st.integers(2, 9), new=st.integers(2, 9))
def test_resizing_treats_rows_and_columns_alike(old: int, new: int) -> None:
    rows = positions(old * old)
    mirrored = rows.reshape(old, old, 3).transpose(1, 0, 2)[::-1, ::-1].reshape(old * old, 3)
    resized = resample(rows, (new * new, 3)).reshape(new, new, 3)
    assert np.allclose(
        resample(mirrored, (new * new, 3)).reshape(new, new, 3), resized.transpose(1, 0, 2)[::-1, ::-1], atol=1e-5
    )


def test_resizing_goes_up_and_down_smoothly() -> None:
    """A ramp stays one, away from the borders."""
    ramp = np.repeat(np.arange(8.0), 8)[:, None].astype(np.float32)
    up = resample(ramp, (256, 1)).reshape(16, 16)
    assert np.allclose(np.diff(up[4:12], axis=0), 0.5, atol=1e-5)
    assert np.allclose(up, up[:, :1], atol=1e-5)
    down = resample(up.reshape(256, 1), (64, 1)).reshape(8, 8)
    assert np.allclose(down[3:5], ramp.reshape(8, 8)[3:5], atol=1e-5)


@pytest.mark.parametrize(
    ("old", "new"), [((10, 3), (4, 3)), ((10, 3), (17, 4)), ((7, 3), (5, 3)), ((1, 3), (5, 3)), ((8, 3), (9, 3))]
)
def test_positions_that_cannot_be_resized(old: tuple[int, int], new: tuple[int, int]) -> None:
    rows = positions(*old)
    with pytest.raises(WeightsError, match="cannot be resized"):
        resample(rows, new)
    with pytest.raises(WeightsError, match=r"pos\.weight"):
        fitted("file", {"pos.weight": rows}, with_positions(new[0]) if new[1] == 3 else small(), [SAME])


@pytest.mark.parametrize("lead", [(), (1,)])
def test_positions_of_another_size_are_brought_to_the_models(lead: tuple[int, ...]) -> None:
    """Published ones have a leading side of 1."""
    rows = positions(10).reshape(*lead, 10, 3)
    layout = by_rules("timm", (r"pos\.weight", "pos_embed", lambda shape: (*lead, *shape)))
    for tokens in (10, 26):
        found = fitted("file", {"pos_embed": rows}, with_positions(tokens), [layout])
        assert equal(found, {"pos.weight": resample(rows, (tokens, 3))})


@pytest.mark.parametrize("head", ["linear", [7], [0.5, 4, 4, 4]])
def test_a_file_with_hidden_layers_takes_another_head(tmp_path: Path, head: Any) -> None:
    """What a run with a head of its own has saved is a trunk for another one."""
    saved = hs.model("lenet", classes=5, head=[20, 0.5, 10])
    save_file(dict(saved.params), tmp_path / "hidden.safetensors")
    model = hs.model("lenet", weights=tmp_path / "hidden.safetensors", classes=4, head=head)
    assert np.array_equal(model.params["fc2.weight"], saved.params["fc2.weight"])
    assert model.fresh
    assert all(name.startswith("fc3") for name in model.fresh)
