"""Vision transformers (Dosovitskiy et al. 2020, arXiv:2010.11929): torchvision's, and timm's with those of DINOv2
(Oquab et al. 2023, arXiv:2304.07193) and CLIP's image towers (Radford et al. 2021, arXiv:2103.00020).

A block's output node carries the block's name (`blocks.3`, `encoder.layers.encoder_layer_3`), the final norm its
own (`norm`, `encoder.ln`), and the classifier takes `token`, the class token after it. Positions belong to images
of one size; those of a file for another are resampled (`headstart.models.positions`).

The libraries name the layers in their own ways but compute the same, so plain networks read the files of either.

CLIP: OpenAI's weights were trained with the approximate `quick_gelu`, and give OpenAI's features with that only.
So they are the weights "clip" of the networks with `quickgelu` in their names. The "clip" of the other CLIP
networks was trained on LAION-2B with the exact `gelu`. The `head` in these files maps into the space shared with
texts; it is no classifier.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from headstart.common.errors import SettingError
from headstart.data.preprocess import Preprocess
from headstart.graph import Builder, Graph, Shape
from headstart.models.architecture import Architecture, Hub, Pickled, imagenet
from headstart.models.classifiers import Head, classifier
from headstart.models.layouts import Layout, by_rules


@dataclass(frozen=True)
class ViT:
    """What differs between vision transformers."""

    scale: str
    """key of `SCALES`"""
    patch: int
    """side of a patch in pixels"""
    library: str = "timm"
    """whose names the nodes have"""
    epsilon: float = 1e-6
    """of the layer norms"""
    pre_norm: bool = False
    """a norm before the first block, and then no bias in the patch embedding"""
    activation: str = "gelu"
    layer_scale: float | None = None
    """what the factors at the end of a branch start from; None: there are none"""


# width, blocks, attention heads
SCALES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12), "large": (1024, 24, 16)}
PLAIN = {
    **{f"vit_{s[0]}_{p}": ViT(s, p, "torchvision") for s in ("base", "large") for p in (16, 32)},
    **{f"vit_{s}_patch16_224": ViT(s, 16) for s in SCALES},
    "vit_base_patch32_224": ViT("base", 32),
}
DINOV2 = {f"vit_{s}_patch14_dinov2": ViT(s, 14, layer_scale=1e-5) for s in ("small", "base", "large")}
CLIP = {
    f"vit_{s}_patch{p}_clip_{variant}224": ViT(s, p, epsilon=1e-5, pre_norm=True, activation=activation)
    for variant, activation in (("", "gelu"), ("quickgelu_", "quick_gelu"))
    for s, p in (("base", 16), ("base", 32), ("large", 14))
}
VITS = PLAIN | DINOV2 | CLIP

# What each library calls the nodes; * stands for a block and its number. Only timm's networks have a norm before
# the first block, and scales.
LIBRARIES = ("torchvision", "timm")
BLOCKS = ("encoder.layers.encoder_layer_", "blocks.")
NODES = {
    "patches": ("conv_proj", "patch_embed.proj"),
    "tokens": ("tokens", "patch_embed"),
    "class_token": ("class_token", "cls_token"),
    "position": ("encoder.pos_embedding", "pos_embed"),
    "norm_pre": ("encoder.ln_pre", "norm_pre"),
    "norm1": ("*.ln_1", "*.norm1"),
    "qkv": ("*.self_attention.in_proj", "*.attn.qkv"),
    "attention": ("*.self_attention.attention", "*.attn.attention"),
    "proj": ("*.self_attention.out_proj", "*.attn.proj"),
    "scale1": ("*.ls1", "*.ls1"),
    "add": ("*.add", "*.add"),
    "norm2": ("*.ln_2", "*.norm2"),
    "fc1": ("*.mlp.0", "*.mlp.fc1"),
    "act": ("*.mlp.1", "*.mlp.act"),
    "fc2": ("*.mlp.3", "*.mlp.fc2"),
    "scale2": ("*.ls2", "*.ls2"),
    "block": ("*", "*"),
    "norm": ("encoder.ln", "norm"),
    "head": ("heads.head", "head"),
}
# Parameters that are not published as <node>.<suffix> in the op table's shape: what follows the node's name in
# place of the suffix, and how many sides of 1 come before the shape.
UNLIKE = {
    "torchvision": {"class_token": ("", 2), "position": ("", 1), "qkv": (r"_\g<suffix>", 0)},
    "timm": {"class_token": ("", 2), "position": ("", 1), "scale1": (".gamma", 0), "scale2": (".gamma", 0)},
}


def vit(name: str, classes: int, head: Head, size: int) -> Graph:
    """The graph of `VITS[name]`, for images of `size` pixels, with a classifier of `classes` outputs.

    Raises SettingError where patches do not fill the images.
    """
    config = VITS[name]
    if size < config.patch or size % config.patch:
        near = max(config.patch, size - size % config.patch)
        raise SettingError(
            f"{name} cuts images into patches of {config.patch} x {config.patch} pixels, so size must be a "
            f"multiple of {config.patch}, such as {near} or {near + config.patch}; received {size}"
        )
    width, depth, _ = SCALES[config.scale]
    names = _names(config.library)
    b = Builder()
    x = b.conv(names["patches"], "input", 3, width, config.patch, stride=config.patch, bias=not config.pre_norm)
    x = b.add(names["tokens"], "tokens", x)
    x = b.add(names["class_token"], "class_token", x, channels=width)
    x = b.add(names["position"], "position", x, tokens=(size // config.patch) ** 2 + 1, channels=width)
    if config.pre_norm:
        x = b.add(names["norm_pre"], "layer_norm", x, channels=width, epsilon=config.epsilon)
    for i in range(depth):
        x = _block(b, config, _names(config.library, str(i)), x)
    x = b.add(names["norm"], "layer_norm", x, channels=width, epsilon=config.epsilon)
    x = b.add("token", "first_token", x)
    return b.graph(classifier(b, names["head"], x, width, classes, head))


def _block(b: Builder, config: ViT, names: Mapping[str, str], x: str) -> str:
    width, _, attention_heads = SCALES[config.scale]
    y = b.add(names["norm1"], "layer_norm", x, channels=width, epsilon=config.epsilon)
    y = b.linear(names["qkv"], y, width, 3 * width)
    y = b.add(names["attention"], "attention", y, heads=attention_heads)
    y = b.linear(names["proj"], y, width, width)
    x = b.add(names["add"], "add", _scaled(b, config, names["scale1"], y), x)
    y = b.add(names["norm2"], "layer_norm", x, channels=width, epsilon=config.epsilon)
    y = b.linear(names["fc1"], y, width, 4 * width)
    y = b.add(names["act"], config.activation, y)
    y = b.linear(names["fc2"], y, 4 * width, width)
    return b.add(names["block"], "add", _scaled(b, config, names["scale2"], y), x)


def _scaled(b: Builder, config: ViT, name: str, y: str) -> str:
    if config.layer_scale is None:
        return y
    return b.add(name, "scale", y, channels=SCALES[config.scale][0], initial=config.layer_scale)


def _names(library: str, block: str = "*") -> dict[str, str]:
    """What `library` calls the nodes, those of a block by its number."""
    place = LIBRARIES.index(library)
    return {role: both[place].replace("*", f"{BLOCKS[place]}{block}") for role, both in NODES.items()}


def _layout(library: str, ours: str) -> Layout:
    """How `library` publishes the parameters of a graph whose nodes have the names of `ours`."""
    theirs = _names(library, r"\g<block>")
    rules = []
    for role, name in _names(ours).items():
        node = re.escape(name).replace(r"\*", r"(?P<block>\d+)")
        suffix, ones = UNLIKE[library].get(role, (r".\g<suffix>", 0))
        # a classifier with hidden layers numbers them
        rules.append((rf"{node}\.(?P<suffix>(\d+\.)?\w+)", theirs[role] + suffix, _after(ones)))
    return by_rules(library, *rules)


def _after(ones: int) -> Callable[[Shape], Shape]:
    return lambda shape: (1,) * ones + shape


# What published weights were evaluated with. timm states the crop's share: the shorter side is floor(224 / share).
AUGREG = imagenet(224, 248, "bicubic", half=True)
DINO_248, DINOV2_518 = imagenet(224, 248, "bicubic"), imagenet(518, 518, "bicubic")
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
CLIP_224, CLIP_235, CLIP_248 = (Preprocess(224, side, "bicubic", CLIP_MEAN, CLIP_STD) for side in (224, 235, 248))
CLIP_HALF = imagenet(224, 224, "bicubic", half=True)

# architecture: (digits of the file's name, shorter side before the crop)
TORCHVISION = {
    "vit_b_16": ("c867db91", 256),
    "vit_b_32": ("d86f8d99", 256),
    "vit_l_16": ("852ce7e3", 242),
    "vit_l_32": ("c7638314", 256),
}
DINO = ("vit_small_patch16_224", "vit_base_patch16_224")
# architecture: preprocessing of what was trained on LAION-2B (Schuhmann et al. 2022, arXiv:2210.08402), and of
# what was fine-tuned on ImageNet after it
LAION = {
    "vit_base_patch16_clip_224": (CLIP_224, CLIP_235),
    "vit_base_patch32_clip_224": (CLIP_248, CLIP_248),
    "vit_large_patch14_clip_224": (CLIP_HALF, CLIP_HALF),
}
# architecture: (its repository, preprocessing)
OPENAI = {
    "vit_base_patch16_clip_quickgelu_224": ("vit_base_patch16_clip_224.openai", CLIP_248),
    "vit_base_patch32_clip_quickgelu_224": ("vit_base_patch32_clip_224.openai", CLIP_248),
    "vit_large_patch14_clip_quickgelu_224": ("vit_large_patch14_clip_224.openai", CLIP_224),
}


def _weights(name: str) -> dict[str, Hub | Pickled]:
    """Name -> published weights of an architecture, the usual ones first."""

    def timm(tag: str, preprocess: Preprocess, classes: str | None = None) -> Hub:
        return Hub(f"timm/{tag}", preprocess, classes=classes)

    if name in TORCHVISION:
        digits, side = TORCHVISION[name]
        url = f"https://download.pytorch.org/models/{name}-{digits}.pth"
        return {"imagenet": Pickled(url, digits, imagenet(224, side))}
    if name in DINOV2:
        return {"dinov2": timm(f"{name}.lvd142m", DINOV2_518)}
    if name in OPENAI:
        entry = timm(*OPENAI[name])
        return {"clip": entry, "clip:openai": entry}
    if name in LAION:
        usual, fine_tuned = LAION[name]
        entry = timm(f"{name}.laion2b", usual)
        tuned = timm(f"{name}.laion2b_ft_in12k_in1k", fine_tuned, "imagenet")
        return {"clip": entry, "clip:laion2b": entry, "imagenet": tuned}
    # Steiner et al. 2021, arXiv:2106.10270; and without labels, Caron et al. 2021, arXiv:2104.14294
    found: dict[str, Hub | Pickled] = {"imagenet": timm(f"{name}.augreg_in21k_ft_in1k", AUGREG, "imagenet")}
    return found | ({"imagenet:dino": timm(f"{name}.dino", DINO_248)} if name in DINO else {})


def _architecture(name: str) -> Architecture:
    ours, weights = VITS[name].library, _weights(name)
    # only plain networks exist in both libraries; the one that the names are from comes first
    libraries = sorted(LIBRARIES, key=lambda library: library != ours) if name in PLAIN else (ours,)
    return Architecture(
        name,
        vit,
        _names(ours)["head"],
        next(iter(weights.values())).preprocess,
        weights,
        layouts=tuple(_layout(library, ours) for library in libraries),
    )


ARCHITECTURES = tuple(_architecture(name) for name in VITS)
