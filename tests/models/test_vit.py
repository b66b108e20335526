"""Vision transformers: sizes that patches fill, positions brought to another size, the names that published files
use, and which file fits which model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import headstart as hs
from headstart.common.errors import CutError, GraphError, SettingError, WeightsError
from headstart.models import Model, architecture
from headstart.models.architecture import Hub
from headstart.models.layouts import published
from headstart.models.positions import resample, resizable

pytestmark = pytest.mark.neutral

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write the parameters of a model as the layout `library` publishes them, with some entries changed or (None)
    left out; the file's path."""

    def saved(model: Model, library: str, **changed: np.ndarray | None) -> Path:
        layout = next(row for row in architecture(model.name).layouts if row.name == library)
        entries: dict[str, Any] = published(model.graph, model.params, layout) | {
            name.replace("__", "."): value for name, value in changed.items()
        }
        path = tmp_path / f"{model.name}-{library}.safetensors"
        save_file({name: value for name, value in entries.items() if value is not None}, path)
        return path

    return saved


def by_role(model: Model) -> list[np.ndarray]:
    """The parameters in the order of the nodes, which is the same whatever the names."""
    return [model.params[name] for name in model.graph.param_shapes()]


# --- sizes


@pytest.mark.parametrize(
    ("name", "size", "near"),
    [
        ("vit_b_16", 100, "such as 96 or 112"),
        ("vit_tiny_patch16_224", 8, "such as 16 or 32"),
        ("vit_b_32", 48, "such as 32 or 64"),
        ("vit_small_patch14_dinov2", 256, "such as 252 or 266"),
    ],
)
def test_a_size_that_patches_do_not_fill(name: str, size: int, near: str) -> None:
    with pytest.raises(SettingError, match=f"{name} .* size must be a multiple of .*{near}; received {size}"):
        hs.model(name, classes=3, size=size)


@pytest.mark.parametrize(
    ("name", "size", "tokens"),
    [
        ("vit_b_16", None, 197),
        ("vit_l_32", None, 50),
        ("vit_small_patch14_dinov2", None, 1370),
        ("vit_small_patch14_dinov2", 224, 257),
        ("vit_small_patch14_dinov2", 14, 2),
        ("vit_large_patch14_clip_224", None, 257),
        ("vit_tiny_patch16_224", 384, 577),
    ],
)
def test_a_place_for_each_patch_and_the_class_token(name: str, size: int | None, tokens: int) -> None:
    graph = architecture(name).graph(3, size=size)
    (node,) = (node for node in graph.nodes if node.op == "position")
    assert graph.param_shapes()[f"{node.name}.weight"][0] == tokens
    side = size or architecture(name).preprocess.size
    assert graph.shapes((side, side, 3))[node.name][0] == tokens


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(GraphError, match="positions are made for images of one size"):
        architecture("vit_b_16").graph(3).shapes((384, 384, 3))


# --- cuts


@pytest.mark.parametrize(
    ("name", "module", "node"),
    [
        ("vit_b_16", "encoder.layers", "encoder.layers.encoder_layer_11"),
        ("vit_b_16", "encoder.layers.encoder_layer_3", "encoder.layers.encoder_layer_3"),
        ("vit_b_16", "encoder.ln", "encoder.ln"),
        ("vit_b_16", "conv_proj", "conv_proj"),
        ("vit_small_patch16_224", "blocks", "blocks.11"),
        ("vit_small_patch16_224", "blocks.3", "blocks.3"),
        ("vit_small_patch16_224", "norm", "norm"),
        ("vit_small_patch16_224", "patch_embed", "patch_embed"),
        ("vit_base_patch16_clip_224", "norm_pre", "norm_pre"),
        ("vit_small_patch14_dinov2", "blocks.10.add", "blocks.10.add"),
    ],
)
def test_cuts_have_the_names_of_the_originals_modules(name: str, module: str, node: str) -> None:
    assert architecture(name).graph(3).check_cut(module) == node


@pytest.mark.parametrize("inside", ["blocks.3.attn.qkv", "blocks.3.attn", "blocks.3.ls1", "blocks.3.norm1"])
def test_a_cut_inside_a_block_names_the_nearest(inside: str) -> None:
    with pytest.raises(CutError, match=r"'blocks\.2' and 'blocks\.3\.add'"):
        architecture("vit_small_patch14_dinov2").graph(3).check_cut(inside)


@pytest.mark.parametrize("head", ["linear", [8, 0.5]])
def test_the_classifier_takes_the_token(head: str | Sequence[float]) -> None:
    model = hs.model("vit_tiny_patch16_224", classes=3, head=head, size=32)
    assert model.default_cut == "token"
    assert model.graph.shapes(model.input_shape)["token"] == (192,)
    assert model.graph.shapes(model.input_shape)[model.graph.output] == (3,)


# --- fresh parameters


def test_initial_tokens_and_scales() -> None:
    params = hs.model("vit_small_patch14_dinov2", classes=3, size=224).params
    for name in ("cls_token.weight", "pos_embed.weight"):
        assert params[name].std() == pytest.approx(0.02, rel=0.1)
        assert abs(params[name].mean()) < 0.004
    for i in (0, 11):
        assert (params[f"blocks.{i}.ls1.weight"] == np.float32(1e-5)).all()
        assert (params[f"blocks.{i}.ls2.weight"] == np.float32(1e-5)).all()


def test_a_parameter_does_not_depend_on_the_size() -> None:
    one, other = (hs.model("vit_tiny_patch16_224", classes=3, size=size).params for size in (32, 64))
    differing = {name for name in one if not np.array_equal(one[name], other[name])}
    assert differing == {"pos_embed.weight"}


# --- positions


def by_pillow(positions: np.ndarray, old: int, new: int) -> np.ndarray:
    """`(1 + new * new, c)`: the grid resized channel by channel as an image, the first row kept."""
    resized = [
        np.asarray(Image.fromarray(channel.reshape(old, old)).resize((new, new), Image.Resampling.BICUBIC)).ravel()
        for channel in positions[1:].T
    ]
    return np.concatenate([positions[:1], np.stack(resized, axis=1)])


@pytest.mark.parametrize(("old", "new"), [(37, 16), (16, 8), (14, 24), (16, 27), (14, 7), (2, 3), (5, 1), (1, 4)])
def test_positions_are_resized_as_pillow_resizes_images(old: int, new: int) -> None:
    positions = np.random.default_rng(old).normal(size=(old * old + 1, 5)).astype(np.float32)
    wanted = by_pillow(positions, old, new)
    for shape in (positions.shape, (1, *positions.shape)):
        got = resample(positions.reshape(shape), wanted.shape)
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)
        assert np.array_equal(got[0], positions[0])


def test_a_grid_without_a_token_before_it() -> None:
    grid = np.random.default_rng(0).normal(size=(36, 3)).astype(np.float32)
    before = np.concatenate([np.zeros((1, 3), np.float32), grid])
    assert np.array_equal(resample(grid, (16, 3)), resample(before, (17, 3))[1:])


def test_equal_positions_stay_and_the_same_size_changes_nothing() -> None:
    rng = np.random.default_rng(1)
    everywhere = np.broadcast_to(rng.normal(size=4), (197, 4))
    np.testing.assert_allclose(resample(everywhere, (577, 4)), everywhere[:1].repeat(577, 0), rtol=1e-6)
    positions = rng.normal(size=(1, 50, 4)).astype(np.float32)
    assert np.array_equal(resample(positions, (50, 4)), positions[0])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 197, 8), (257, 4)),  # channels
        ((1, 196, 8), (257, 8)),  # no token before one of the grids
        ((1, 198, 8), (257, 8)),  # two tokens
        ((1, 200, 8), (197, 8)),  # no square
        ((1, 1, 8), (197, 8)),  # no grid
        ((8,), (197, 8)),
        ((), (197, 8)),
        ((1, 0, 8), (197, 8)),
    ],
)
def test_positions_that_cannot_be_resized(old: tuple[int, ...], new: tuple[int, int]) -> None:
    assert not resizable(old, new)
    with pytest.raises(WeightsError, match="cannot be resized"):
        resample(np.zeros(old, np.float32), new)


def test_a_file_for_another_size(save: Save) -> None:
    large = hs.model("vit_tiny_patch16_224", classes=4, size=96)
    small = hs.model("vit_tiny_patch16_224", weights=save(large, "timm"), size=48)
    assert not small.fresh
    for name, value in large.params.items():
        wanted = by_pillow(value, 6, 3) if name == "pos_embed.weight" else value
        np.testing.assert_allclose(small.params[name], wanted, rtol=0, atol=1e-5)


# --- names and files


@pytest.mark.parametrize(
    ("name", "library", "wanted"),
    [
        (
            "vit_b_16",
            "torchvision",
            {
                "class_token": (1, 1, 768),
                "conv_proj.weight": (768, 3, 16, 16),
                "encoder.pos_embedding": (1, 197, 768),
                "encoder.layers.encoder_layer_11.self_attention.in_proj_weight": (2304, 768),
                "encoder.layers.encoder_layer_11.self_attention.in_proj_bias": (2304,),
                "encoder.layers.encoder_layer_0.self_attention.out_proj.weight": (768, 768),
                "encoder.layers.encoder_layer_0.ln_2.bias": (768,),
                "encoder.layers.encoder_layer_0.mlp.3.weight": (768, 3072),
                "encoder.ln.weight": (768,),
                "heads.head.weight": (9, 768),
            },
        ),
        (
            "vit_b_16",
            "timm",
            {
                "cls_token": (1, 1, 768),
                "pos_embed": (1, 197, 768),
                "patch_embed.proj.weight": (768, 3, 16, 16),
                "blocks.11.attn.qkv.weight": (2304, 768),
                "blocks.11.attn.qkv.bias": (2304,),
                "blocks.0.mlp.fc2.weight": (768, 3072),
                "norm.weight": (768,),
                "head.weight": (9, 768),
            },
        ),
        (
            "vit_base_patch16_224",
            "torchvision",
            {"class_token": (1, 1, 768), "encoder.layers.encoder_layer_7.self_attention.in_proj_bias": (2304,)},
        ),
        ("vit_large_patch14_dinov2", "timm", {"blocks.23.ls1.gamma": (1024,), "blocks.0.ls2.gamma": (1024,)}),
        (
            "vit_base_patch32_clip_224",
            "timm",
            {"norm_pre.bias": (768,), "patch_embed.proj.weight": (768, 3, 32, 32)},
        ),
    ],
)
def test_published_names(name: str, library: str, wanted: Mapping[str, tuple[int, ...]]) -> None:
    layout = next(row for row in architecture(name).layouts if row.name == library)
    names = dict(layout.names(architecture(name).graph(9)).values())
    assert {key: names.get(key) for key in wanted} == wanted


def test_plain_networks_have_the_names_of_both_libraries() -> None:
    def libraries(name: str) -> list[str]:
        return [layout.name for layout in architecture(name).layouts]

    assert libraries("vit_b_16") == ["torchvision", "timm"]
    assert libraries("vit_base_patch16_224") == ["timm", "torchvision"]
    assert libraries("vit_small_patch14_dinov2") == libraries("vit_base_patch16_clip_224") == ["timm"]


@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_both_libraries_files_are_read(save: Save, library: str) -> None:
    model = hs.model("vit_tiny_patch16_224", classes=4, size=32, seed=3)
    again = hs.model("vit_tiny_patch16_224", weights=save(model, library), size=32)
    assert len(again.classes) == 4
    assert not again.fresh
    assert all(np.array_equal(a, b) for a, b in zip(by_role(model), by_role(again), strict=True))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("vit_b_16", "vit_base_patch16_224"),
        ("vit_b_32", "vit_base_patch32_224"),
        ("vit_l_16", "vit_large_patch16_224"),
    ],
)
def test_a_file_serves_the_other_librarys_row(one: str, other: str) -> None:
    """The nodes stand in the same order and are published by the same names."""
    published_by = [
        {layout.name: list(layout.names(architecture(name).graph(4)).values()) for layout in row}
        for name, row in ((name, architecture(name).layouts) for name in (one, other))
    ]
    assert published_by[0] == published_by[1]


@pytest.mark.parametrize(
    ("written", "read", "texts"),
    [
        (
            "vit_small_patch16_224",
            "vit_tiny_patch16_224",
            ["of another shape: ", "pos_embed (1, 5, 384) instead of (1, 5, 192)", "cls_token (1, 1, 384)"],
        ),
        ("vit_small_patch16_224", "vit_small_patch14_dinov2", ["missing: blocks.0.ls1.gamma", "(384, 3, 16, 16)"]),
        ("vit_small_patch14_dinov2", "vit_small_patch16_224", ["left over: ", "blocks.0.ls1.gamma"]),
    ],
)
def test_another_vision_transformers_file(save: Save, written: str, read: str, texts: list[str]) -> None:
    def two_patches_wide(name: str) -> int:
        return 28 if "patch14" in name else 32

    path = save(hs.model(written, classes=3, size=two_patches_wide(written)), "timm")
    with pytest.raises(WeightsError, match="does not fit the model") as caught:
        hs.model(read, weights=path, classes=3, size=two_patches_wide(read))
    assert path.name in str(caught.value)
    for text in texts:
        assert text in str(caught.value)


def test_positions_of_no_square_are_listed_with_the_rest(save: Save) -> None:
    model = hs.model("vit_tiny_patch16_224", classes=3, size=32)
    path = save(model, "timm", pos_embed=np.zeros((1, 7, 192), np.float32), norm__weight=None)
    with pytest.raises(WeightsError, match=r"missing: norm\.weight; of another shape: pos_embed \(1, 7, 192\)"):
        hs.model("vit_tiny_patch16_224", weights=path, size=32)


@pytest.mark.parametrize("head", ["linear", [8]])
@pytest.mark.parametrize("theirs", [None, 512], ids=["no-head", "a-projection"])
def test_new_classes_on_a_file_without_a_classifier(
    save: Save, head: str | Sequence[float], theirs: int | None
) -> None:
    """DINOv2's files end with the last norm, and those of CLIP's image towers with a projection of 512 outputs."""
    model = hs.model("vit_tiny_patch16_224", classes=3, size=32)
    entries = {
        "head__weight": None if theirs is None else np.zeros((theirs, 192), np.float32),
        "head__bias": None if theirs is None else np.zeros(theirs, np.float32),
    }
    path = save(model, "timm", **entries)
    again = hs.model("vit_tiny_patch16_224", weights=path, classes=5, head=head, size=32)
    assert again.fresh == {name for name in again.params if name.startswith("head.")}
    assert all(
        np.array_equal(again.params[name], model.params[name]) for name in again.params.keys() - again.fresh
    )


def test_a_file_without_a_classifier_needs_classes(save: Save) -> None:
    model = hs.model("vit_tiny_patch16_224", classes=3, size=32)
    with pytest.raises(SettingError, match="has no classifier; pass classes="):
        hs.model("vit_tiny_patch16_224", weights=save(model, "timm", head__weight=None, head__bias=None), size=32)


# --- where weights are


@pytest.mark.parametrize(
    ("name", "weights", "repo", "classes"),
    [
        ("vit_small_patch16_224", "imagenet", "timm/vit_small_patch16_224.augreg_in21k_ft_in1k", "imagenet"),
        ("vit_small_patch16_224", "imagenet:dino", "timm/vit_small_patch16_224.dino", None),
        ("vit_small_patch14_dinov2", "dinov2", "timm/vit_small_patch14_dinov2.lvd142m", None),
        # OpenAI's were trained with quick_gelu, LAION's with gelu
        ("vit_base_patch16_clip_quickgelu_224", "clip", "timm/vit_base_patch16_clip_224.openai", None),
        ("vit_base_patch16_clip_224", "clip", "timm/vit_base_patch16_clip_224.laion2b", None),
    ],
)
def test_published_weights(name: str, weights: str, repo: str, classes: str | None) -> None:
    entry = architecture(name).weights[weights]
    assert isinstance(entry, Hub)
    assert (entry.repo, entry.classes, entry.layout) == (repo, classes, "timm")
    activations = {node.op for node in architecture(name).graph(3).nodes if "gelu" in node.op}
    assert activations == {"quick_gelu" if repo.endswith(".openai") else "gelu"}
