"""The names of ImageNet's classes are torchvision's, and stand where timm has the same WordNet entry."""

from __future__ import annotations

import timm.data
import torchvision

from headstart.models.classes import imagenet


def test_names_and_order_are_torchvisions() -> None:
    for weights in (torchvision.models.ResNet50_Weights.DEFAULT, torchvision.models.ViT_B_16_Weights.DEFAULT):
        assert list(imagenet()) == weights.meta["categories"]


def test_the_order_is_timms() -> None:
    """By the words that the two descriptions share: timm's are WordNet's own."""
    theirs = timm.data.ImageNetInfo("imagenet-1k")
    for index, name in enumerate(imagenet()):
        words = set(name.lower().replace("-", " ").split())
        described = theirs.index_to_description(index, detailed=True).lower()
        assert any(word.strip("'") in described for word in words), (index, name, described)
