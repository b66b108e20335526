"""Published models as users bring them: torchvision's, timm's and Keras's own, cut in two by `hs.wrap`, compute
what they compute whole; and the three frameworks' modules live side by side in one process."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from flax import nnx
from own import key
from PIL import Image
from sparing import Trunks
from torch import nn
from torchvision import models as tv
from transformers import ViTConfig, ViTModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import headstart as hs
from headstart.common.errors import BackendError, CutError
from headstart.contract import registry
from headstart.data import Dataset, Preprocess
from headstart.store.keys import params_digest
from headstart.testing import relative_error


def efficientnet(**settings: Any) -> nn.Module:
    """timm's, with two blocks in a stage at most."""
    module = timm.create_model("efficientnet_b0", **settings)
    for i, stage in enumerate(module.blocks):
        module.blocks[i] = stage[:2]
    return module


# name, how it is made, side, cut, the submodule (or layer) whose output the cut is
TORCH: list[tuple[str, Callable[[], nn.Module], int, str | None, str | None]] = [
    ("tv-resnet18", tv.resnet18, 32, "layer3", "layer3"),
    ("tv-densenet", lambda: tv.DenseNet(32, (2, 2, 2, 2)), 32, "features.transition2", "features.transition2"),
    ("tv-vit", lambda: tv.VisionTransformer(32, 16, 8, 3, 96, 384), 32, "encoder.layers.encoder_layer_5", None),
    ("tv-inception_v3", lambda: tv.inception_v3(init_weights=False), 75, "Mixed_6e", "Mixed_6e"),
    ("tv-googlenet", lambda: tv.googlenet(init_weights=False), 64, "inception4a", "inception4a"),
    ("tv-swin", lambda: tv.SwinTransformer([4, 4], 48, [2] * 4, [3, 6, 12, 24], [7, 7]), 64, None, None),
    ("timm-resnet18", lambda: timm.create_model("resnet18"), 32, "layer4.0", "layer4.0"),
    (
        "timm-vit_tiny",
        lambda: timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4),
        32,
        "blocks.1",
        "blocks.1",
    ),
    ("timm-efficientnet", efficientnet, 32, "blocks.4", "blocks.4"),
    (
        "timm-convnext_atto",
        lambda: timm.create_model("convnext_atto", depths=(1, 1, 2, 1)),
        32,
        "stages.2",
        "stages.2",
    ),
]
# name, cut, a layer inside a branch; those with one are trained too, and are cut near their end, with a block to
# come: Keras traces a step in Python, op by op, which for two thirds of such a network took 20 seconds
KERAS: list[tuple[str, str, str | None]] = [
    ("ResNetV2", "conv5_block1_out", "conv4_block2_1_conv"),
    ("MobileNetV2", "block_14_add", "block_5_expand"),
    ("EfficientNet", "block4a_project_bn", None),
    ("DenseNet", "pool3_pool", None),
]
LONG = ("ResNetV2", "MobileNetV2", "tv-inception_v3", "tv-googlenet", "timm-resnet18", "timm-efficientnet")
"""others are built alike: with residual blocks, with branches, with depthwise convolutions"""


def keras_application(name: str, **settings: Any) -> Any:
    """By its function in keras.applications; stages that repeat a block up to 24 times repeat it twice at most."""
    import keras
    from keras.src.applications import densenet, efficientnet, resnet

    if name == "DenseNet":
        return densenet.DenseNet([2, 2, 2, 2], **settings)
    if name == "EfficientNet":
        return efficientnet.EfficientNet(0.5, 0.25, 224, **settings)  # half of its width, a quarter of its depth
    if name == "ResNetV2":

        def stages(x: Any) -> Any:
            for i, (filters, stride) in enumerate([(64, 2), (128, 2), (256, 2), (512, 1)], 2):
                x = resnet.stack_residual_blocks_v2(x, filters, 2, stride1=stride, name=f"conv{i}")
            return x

        return resnet.ResNet(stages, preact=True, use_bias=True, **settings)
    return getattr(keras.applications, name)(**settings)


@pytest.fixture(scope="module")
def data() -> tuple[Dataset, Dataset]:
    digits = hs.data.digits().subset(np.arange(48))
    images = [np.asarray(digits[i].image) for i in range(len(digits))]
    return hs.data.arrays(images, digits.labels).split(0.75, seed=0)  # without names, as a module's 1,000 outputs


def fit(model: Any, data: tuple[Dataset, Dataset], cache: Path, **settings: Any) -> Any:
    settings = {"epochs": 2, "batch_size": 12, "dtype": "float32", "device": "cpu", "cache": cache, **settings}
    return hs.fit(model, *data, **settings)


def images(size: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, size, size, 3)).astype(np.float32)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """With statistics that are not neutral."""
    torch.manual_seed(0)
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.uniform_(-0.1, 0.1)
            part.running_var.uniform_(0.5, 1.5)
        elif isinstance(part, nn.Linear) and not part.weight.any():  # how some classifiers begin
            nn.init.normal_(part.weight)
    return module


@pytest.mark.parametrize(
    ("make", "size", "cut", "submodule"),
    [pytest.param(*r[1:], id=r[0], marks=[pytest.mark.slow] if r[0] in LONG else []) for r in TORCH],
)
def test_a_torch_model_cut_in_two(
    make: Callable[[], nn.Module],
    size: int,
    cut: str | None,
    submodule: str | None,
    data: tuple[Dataset, Dataset],
    tmp_path: Path,
) -> None:
    module = made(make)
    before = copy.deepcopy(module.state_dict())
    found: list[torch.Tensor] = []
    handle = (
        module.get_submodule(submodule).register_forward_hook(lambda *call: found.append(call[2]))
        if submodule
        else None
    )
    x = images(size)
    with torch.no_grad():
        logits = module(torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()).numpy()
    if handle is not None:
        handle.remove()
    model = hs.wrap(module, cut, preprocess=Preprocess(size, size))
    outputs = hs.forward(model, x, ["trunk", "logits"])
    assert relative_error(outputs["logits"], logits) < 1e-4
    if found:
        expected = found[0].permute(0, 2, 3, 1) if found[0].ndim == 4 else found[0]
        assert relative_error(outputs["trunk"], expected.numpy()) < 1e-4
    if size == 32:  # the others take long
        runs = [fit(model, data, tmp_path, mode=mode) for mode in ("frozen", "cached")]
        for a, b in zip(runs[0].history, runs[1].history, strict=True):
            np.testing.assert_allclose(a.step_losses, b.step_losses, rtol=1e-3)
        trunk = {name: value for name, value in model.params.items() if name.startswith("trunk.")}
        after = {name: runs[1].model.params[name] for name in trunk}
        assert params_digest(after) == params_digest(trunk)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_in_training_a_torch_model_is_what_it_is_in_training(
    data: tuple[Dataset, Dataset], tmp_path: Path
) -> None:
    """Stochastic depth and dropout draw, and statistics follow the batches where that is asked for."""
    few = [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]
    for make in (
        lambda: efficientnet(drop_path_rate=0.5, drop_rate=0.5),
        lambda: tv.MobileNetV2(inverted_residual_setting=few),
    ):
        model = hs.wrap(made(make), preprocess=Preprocess(32, 32))
        run = fit(model, data, tmp_path, mode="full", batch_norm="train", epochs=1)
        moved = {name for name in model.params if not np.array_equal(run.model.params[name], model.params[name])}
        assert moved == model.params.keys()


def settled(net: Any, x: np.ndarray) -> None:
    """Give the batch norms the statistics of `x`. With a new network's, the activations of a deep one fade to
    nothing, and so does whatever goes wrong with them."""
    import keras

    norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    net(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


@pytest.mark.parametrize(
    ("name", "cut", "inside"),
    [pytest.param(*row, id=row[0], marks=[pytest.mark.slow] if row[0] in LONG else []) for row in KERAS],
)
def test_a_keras_application_cut_in_two(
    name: str,
    cut: str,
    inside: str | None,
    data: tuple[Dataset, Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import keras

    keras.utils.set_random_seed(0)
    size = 48 if inside is not None else 32  # so that maps behind a late cut have neighbours
    settings = {"input_shape": (size, size, 3), "weights": None, "classes": 10, "classifier_activation": None}
    net = keras_application(name, **settings)
    # EfficientNet divides by 255 itself: statistics of so little would blow rounding up
    settled(net, images(size, 8) * (10 if name == "EfficientNet" else 1))
    before = [np.array(weight.numpy()) for weight in net.weights]
    nodes = [len(layer._inbound_nodes) for layer in net.layers]
    x = images(size)
    part = keras.Model(net.input, net.get_layer(cut).output)
    scaling = (keras.layers.Rescaling, keras.layers.Normalization)
    takes_pixels = any(isinstance(layer, scaling) for layer in net.layers)
    unscaled = Preprocess(size, size, mean=(0, 0, 0), std=(1, 1, 1), scale=1)
    prepared = unscaled if takes_pixels else Preprocess(size, size)
    model = hs.wrap(net, cut, preprocess=prepared)
    outputs = hs.forward(model, x, ["trunk", "logits"])
    assert relative_error(outputs["trunk"], np.array(part(x, training=False).numpy())) < 1e-4
    expected = net(x, training=False).numpy()
    assert relative_error(outputs["logits"], expected) < 1e-4
    assert relative_error(expected[:1], expected[1:2]) > 1e-2, "images that are told apart, or nothing is compared"
    if inside is not None:
        keras_backend = registry.load("keras")
        monkeypatch.setattr(keras_backend, "trunk", Trunks(keras_backend, "trunk").trunk)
        runs = [fit(model, data, tmp_path, mode=mode, epochs=1) for mode in ("frozen", "cached")]
        np.testing.assert_allclose(*(run.history[0].step_losses for run in runs), rtol=1e-3)
        with pytest.raises(CutError, match=f"'{inside}' is inside a branch"):
            hs.wrap(net, inside, preprocess=prepared)
    assert all(np.array_equal(weight.numpy(), old) for weight, old in zip(net.weights, before, strict=True))
    assert [len(layer._inbound_nodes) for layer in net.layers] == nodes


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_timms_own_settings(crop_mode: str) -> None:
    module = timm.create_model(
        "test_resnet.r160_in1k", pretrained=False, pretrained_cfg_overlay={"crop_mode": crop_mode}
    )
    model = hs.wrap(module)
    assert (model.preprocess.size, model.preprocess.resize) == (160, 168)
    assert model.preprocess.squash == (crop_mode == "squash")
    settings = timm.data.resolve_model_data_config(module)
    transform = timm.data.create_transform(**settings, is_training=False)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8))
    ours = model.preprocess.normalise(model.preprocess.apply(picture)[None])[0]
    np.testing.assert_allclose(ours, transform(picture).permute(1, 2, 0).numpy(), atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_features_that_torchvision_extracts(training: bool) -> None:
    """They have a graph for each mode, which their own `train` takes."""
    from torchvision.models.feature_extraction import create_feature_extractor

    torch.manual_seed(0)
    net = create_feature_extractor(tv.DenseNet(32, (2, 2, 2, 2), drop_rate=0.2), {"flatten": "rows"})
    net.train(training)
    before = net.code
    model = hs.wrap(net, preprocess=Preprocess(32, 32), head="linear", classes=2)
    assert (net.training, net.code) == (training, before)
    x = np.random.default_rng(0).standard_normal((3, 32, 32, 3)).astype(np.float32)
    with torch.no_grad():
        expected = net.eval()(torch.from_numpy(x).permute(0, 3, 1, 2))["rows"].numpy()
    assert relative_error(hs.forward(model, x, "trunk")["trunk"], expected) < 1e-5


def test_each_module_finds_its_own_framework() -> None:
    import keras

    modules = {
        "torch": nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)),
        "keras": keras.Sequential([keras.Input((5,)), keras.layers.Dense(4, "relu"), keras.layers.Dense(3)]),
        "jax": nnx.Sequential(nnx.Linear(5, 4, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
    }
    x = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    for backend, module in modules.items():
        model = hs.wrap(module, example=x)
        assert model.home == backend
        assert hs.predict(model, x).shape == (6, 3)
        for other in modules.keys() - {backend}:
            with pytest.raises(
                BackendError, match=f"lives in {backend} only, and backend '{other}' was asked for"
            ):
                hs.predict(model, x, backend=other)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenetv3_small_100", "regnety_002"])
def test_timms_networks_by_fewer_calls(name: str) -> None:
    """Of more images than `wrap` looks at, from which on convolutions and what is behind them are one call."""
    network = timm.create_model(name, num_classes=3).eval()
    model = hs.wrap(
        network, preprocess=Preprocess(64, 64, "bilinear", (0.5,) * 3, (0.5,) * 3), classes=["a", "b", "c"]
    )
    pixels = np.random.default_rng(0).integers(0, 256, (9, 64, 64, 3), np.uint8)
    x = model.preprocess.normalise(pixels)
    features = hs.forward(model, x, model.default_cut, backend="torch")[model.default_cut]
    with torch.no_grad():
        maps = network.forward_features(torch.from_numpy(x).permute(0, 3, 1, 2))
        expected = network.forward_head(maps, pre_logits=True).numpy()
    assert relative_error(features, expected) < 1e-5


def test_what_a_library_calls_by_a_registry_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    net = ViTModel(ViTConfig(image_size=16, patch_size=8, attn_implementation="sdpa", **sizes)).eval()
    x = np.random.default_rng(0).standard_normal((2, 16, 16, 3)).astype("f")
    original = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def features() -> tuple[str, np.ndarray]:
        model = hs.wrap(net, preprocess=hs.Preprocess(16, 16), head="linear", classes=2)
        return key(model).digest, hs.forward(model, x, "trunk")["trunk"]

    def scaled(*given: Any, **settings: Any) -> Any:
        values, weights = original(*given, **settings)
        return values * 2, weights

    digest, before = features()
    with monkeypatch.context() as now:
        now.setitem(ALL_ATTENTION_FUNCTIONS, "sdpa", scaled)
        other, after = features()
    assert relative_error(before, after) > 1e-4
    assert digest != other
    assert features()[0] == digest
