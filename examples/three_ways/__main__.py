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
the classes; the other half are then the new ones, with few images. The full form takes ImageNet's weights,
and matches the data's classes with ImageNet's by name: of the five flowers it knows the daisy.

    python -m examples.three_ways                              # ImageNet's AlexNet and 3,670 flowers
    python -m examples.three_ways --small --data cifar10       # or a folder that holds a folder a class
    python -m examples.three_ways --small                      # the same without network: digits
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import headstart as hs
from examples.common import finish, options, part, start


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Use it in the three ways; returns "as_it_is" (samples, top1, top5) and "comparison", of the others."""
    parser = options(__doc__, "three_ways")
    args = parser.parse_args(argv)
    seed, where = args.seed, {"backend": args.backend, "device": args.device}
    training: dict[str, Any] = {"batch_size": 64, "seed": seed, **where}

    if args.small:
        each, epochs, width = args.samples or 1000, args.epochs or 10, 512
        data = hs.data.open_data(args.data or "digits")
        half = len(data.classes) // 2
        print(
            f"scaled down: AlexNet at 64 px, layers of {width}, trained here on {', '.join(data.classes[:half])}"
        )
        train, own = part(data, each, data.classes[:half], seed).split(0.8, seed=seed, by="position")
        fresh = hs.model("alexnet", classes=train.classes, head=[width, 0.5, width, 0.5], size=64)
        run = hs.fit(fresh, train, own, mode="scratch", epochs=epochs, lr=0.0005, **training)
        source = hs.weights_file(run.save(args.out / "pretrained"))
        pretrained = hs.load(args.out / "pretrained", backend=run.backend).model
        # The new classes have fewer images, and more of them are held out, for an accuracy worth a name.
        train, val = part(data, max(10, each // 5), data.classes[half:], seed).split(0.5, seed=seed, by="position")
    else:
        epochs, width = args.epochs or 10, 4096
        data = part(hs.data.open_data(args.data or "flowers"), args.samples, seed=seed)
        source = "imagenet"
        pretrained = hs.model("alexnet", weights=source)
        known = [name for name in data.classes if name in pretrained.classes]
        if not known:
            parser.error(
                f"none of {', '.join(data.classes)} is one of ImageNet's classes: headstart knows 'daisy'"
            )
        own = data.only(known)
        train, val = data.split(0.8, seed=seed, by="position")

    # 1. As it is. Its classes are numbered in another way than the data's: by name.
    numbers = np.array([pretrained.classes.index(name) for name in own.classes])[own.labels]
    ranked = np.argsort(-hs.predict(pretrained, own, **where), axis=1)
    hits = ranked[:, :5] == numbers[:, None]
    as_it_is = {"samples": len(own), "top1": float(hits[:, 0].mean()), "top5": float(hits.any(1).mean())}
    print(
        f"as it is, among its {len(pretrained.classes)} classes, on {len(own)} images of {', '.join(own.classes)}:"
    )
    within = f", {as_it_is['top5']:.1%} within the first five" if len(pretrained.classes) > 5 else ""
    print(f"{as_it_is['top1']:.1%} right{within}")

    # 2 and 3. A list of widths and dropout rates as head replaces all of AlexNet's fully connected layers.
    model = hs.model("alexnet", weights=source, classes=train.classes, head=[width, 0.5, width, 0.5])
    training |= {"epochs": epochs, "lr": 0.001}
    print(f"new classes: {', '.join(train.classes)}; {len(train)} training and {len(val)} validation images")
    runs = {
        "convolutions frozen": hs.fit(model, train, val, mode="cached", cut="flatten", **training),
        "fine-tuned from features.5": hs.fit(
            model, train, val, mode="cached", cut="features.5", lr_scale=0.1, **training
        ),
        "from scratch": hs.fit(model, train, val, mode="scratch", **training | {"lr": 0.0005}),
    }
    comparison = hs.comparison(runs, title="Three ways to use AlexNet")
    finish(comparison, args.out)
    return {"as_it_is": as_it_is, "comparison": comparison}


if __name__ == "__main__":
    start(main)
