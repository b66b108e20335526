"""Vision transformers beside torchvision and timm in what `test_zoo` does not ask: multiply-adds as torch counts
them in the originals, positions brought to another size, and files of the one library in the other's networks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from known_answers import BY_NAME, KnownAnswer
from safetensors.torch import save_file
from shortened import DEPTH, HEADS, TIMM_BLOCKS, WIDTH
from sparing import without_values
from timm.layers import resample_abs_pos_embed
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import headstart as hs
from headstart.models import Model, architecture, vit
from headstart.models.layouts import published
from headstart.models.positions import resample
from headstart.models.vit import VITS
from headstart.testing import relative_error

TOLERANCE = 1e-4  # of the largest absolute value


def original(name: str, classes: int, size: int) -> nn.Module:
    """The reference library's network, in inference mode."""
    if VITS[name].library == "torchvision":
        return torchvision.models.get_model(name, weights=None, image_size=size, num_classes=classes).eval()
    return timm.create_model(name, pretrained=False, img_size=size, num_classes=classes).eval()


@pytest.fixture
def few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Our networks have few and narrow blocks, as those of `blank` have: how many is nothing to their names."""
    monkeypatch.setattr(vit, "SCALES", dict.fromkeys(vit.SCALES, (WIDTH, DEPTH, HEADS)))


def blank(name: str, classes: int | None, size: int) -> nn.Module:
    """The original with few blocks, whose parameters are yet to be given: libraries draw them with care, which
    takes longer than what is done with them here."""
    settings = {} if classes is None else {"num_classes": classes}
    with torch.device("meta"):
        if VITS[name].library == "torchvision":
            patch = VITS[name].patch
            network = torchvision.models.VisionTransformer(
                size, patch, DEPTH, HEADS, WIDTH, 4 * WIDTH, **settings
            ).eval()
        else:
            network = timm.create_model(name, pretrained=False, img_size=size, **TIMM_BLOCKS, **settings).eval()
    assert not list(network.buffers())
    return network.to_empty(device="cpu")


def randomised(network: nn.Module, seed: int) -> nn.Module:
    """With every parameter drawn anew, so that none of them is zero, or one."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.named_parameters():
            spread = 0.3 if value.squeeze().ndim == 1 or "pos" in name else value[0].numel() ** -0.5
            value.copy_(torch.randn(value.shape, generator=generator) * spread + ("norm" in name or "ln" in name))
    return network


def saved(network: nn.Module, path: Path, without: str | None = None) -> Path:
    state: Mapping[str, torch.Tensor] = network.state_dict()
    save_file({k: v for k, v in state.items() if without is None or not k.startswith(without)}, path)
    return path


def noise(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(2, size, size, 3)).astype(np.float32)


def outputs(network: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = network(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    return found


def ours(model: Model, images: np.ndarray, node: str = "logits") -> np.ndarray:
    return hs.forward(model, images, [node], backend="torch", device="cpu")[node]


# --- counts


@pytest.mark.parametrize("answer", [BY_NAME[name] for name in VITS], ids=lambda row: row.name)
def test_parameters_and_multiply_adds_are_the_originals(
    answer: KnownAnswer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last one. Fused attention is taken apart into its products, which the counter knows."""
    monkeypatch.setattr(torch.backends.mha, "get_fastpath_enabled", lambda: False)
    with without_values():
        network = original(answer.name, answer.classes, answer.size)
        images = torch.empty(1, 3, answer.size, answer.size)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        network(images)
    assert sum(p.numel() for p in network.parameters()) == answer.parameters
    graph = architecture(answer.name).graph(answer.classes, size=answer.size)
    macs = sum(graph.macs((answer.size, answer.size, 3)).values())
    assert 2 * macs == counter.get_total_flops()
    assert macs / 1e9 == pytest.approx(answer.multiply_adds, rel=0, abs=answer.tolerance)


# --- positions


@pytest.mark.parametrize(("old", "new"), [(518, 224), (224, 112), (224, 384)])
def test_positions_are_resized_as_timm_does(old: int, new: int) -> None:
    side, target = (size // (14 if old == 518 else 16) for size in (old, new))
    positions = torch.randn(1, side * side + 1, 24, generator=torch.Generator().manual_seed(old))
    wanted = resample_abs_pos_embed(positions, [target, target], num_prefix_tokens=1)[0].numpy()
    found = resample(positions.numpy(), (target * target + 1, 24))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize(
    ("name", "trained", "size"),
    [
        ("vit_small_patch14_dinov2", 518, 224),
        ("vit_small_patch14_dinov2", 224, 266),
        ("vit_tiny_patch16_224", 224, 112),
    ],
)
def test_a_file_of_another_size_is_read_as_timm_reads_it(
    tmp_path: Path, name: str, trained: int, size: int
) -> None:
    network = randomised(blank(name, 5, trained), 1)
    path = saved(network, tmp_path / "trained.safetensors")
    theirs = timm.create_model(
        name,
        pretrained=True,
        pretrained_cfg_overlay={"file": str(path), "num_classes": 5},
        img_size=size,
        num_classes=5,
        **TIMM_BLOCKS,
    ).eval()
    model = hs.model(name, weights=path, size=size)
    assert not model.fresh
    assert len(model.classes) == 5
    images = noise(size)
    wanted = outputs(theirs, images)
    assert relative_error(ours(model, images), wanted) < TOLERANCE
    with torch.inference_mode():
        features = theirs.forward_head(
            theirs.forward_features(torch.from_numpy(images).permute(0, 3, 1, 2)), pre_logits=True
        )
    assert relative_error(ours(model, images, "token"), features.numpy()) < TOLERANCE
    # another way of resizing would be seen
    side = theirs.patch_embed.grid_size
    theirs.pos_embed.data = resample_abs_pos_embed(
        network.pos_embed.data, side, interpolation="nearest", antialias=False
    )
    assert relative_error(outputs(theirs, images), wanted) > 10 * TOLERANCE


# --- files


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize(
    ("written", "read"),
    [("vit_b_32", "vit_base_patch32_224"), ("vit_base_patch32_224", "vit_b_32")],
)
def test_a_file_of_the_other_library(tmp_path: Path, written: str, read: str) -> None:
    """Its network computes the same in the other's names, and goes back to either."""
    network = randomised(blank(written, 5, 64), 2)
    model = hs.model(read, weights=saved(network, tmp_path / "weights.safetensors"), size=64)
    assert not model.fresh
    images = noise(64)
    wanted = outputs(network, images)
    assert relative_error(ours(model, images), wanted) < TOLERANCE

    for layout in architecture(read).layouts:
        name = next(name for name in (written, read) if VITS[name].library == layout.name)
        again = blank(name, 5, 64)
        state = published(model.graph, model.params, layout)
        again.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()}, strict=True)
        assert relative_error(outputs(again, images), wanted) < TOLERANCE


@pytest.mark.usefixtures("few_blocks")
@pytest.mark.parametrize("without", [None, "head."], ids=["with-projection", "without"])
def test_clips_image_tower_without_its_projection(tmp_path: Path, without: str | None) -> None:
    """The published files have 512 outputs that are no classes; what timm has before them is our `token`."""
    network = randomised(blank("vit_base_patch16_clip_quickgelu_224", None, 32), 3)
    assert outputs(network, noise(32)).shape == (2, 512)
    path = saved(network, tmp_path / "clip.safetensors", without)
    network.reset_classifier(0)
    wanted = outputs(network, noise(32))
    quick, exact = (
        ours(hs.model(name, weights=path, classes=7, size=32), noise(32), "token")
        for name in ("vit_base_patch16_clip_quickgelu_224", "vit_base_patch16_clip_224")
    )
    assert relative_error(quick, wanted) < TOLERANCE
    # which is why OpenAI's weights are offered on the one row only
    assert relative_error(exact, wanted) > 10 * TOLERANCE


def test_timm_says_that_openais_weights_are_quick_gelus() -> None:
    for name in ("vit_base_patch16_clip", "vit_base_patch32_clip", "vit_large_patch14_clip"):
        config = timm.get_pretrained_cfg(f"{name}_quickgelu_224.openai")
        entry = architecture(f"{name}_quickgelu_224").weights["clip"]
        assert config.hf_hub_id == entry.repo
        assert any("natively QuickGELU" in note for note in config.notes)
        laion = timm.get_pretrained_cfg(f"{name}_224.laion2b")
        assert laion.hf_hub_id == architecture(f"{name}_224").weights["clip"].repo
        assert not laion.notes
