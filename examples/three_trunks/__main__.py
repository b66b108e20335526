"""Which pretrained trunk gives the better features, and are they better than a small network of one's own?

Inception v3, VGG16 and ResNet-50, trained on ImageNet, are bottlenecks: their features of CIFAR-10 are
computed once and a linear classifier is trained on each. The base case is a LeNet with dropout, trained from
scratch on the images as they are, 32 pixels wide.

Published: the exercise, and no figures.

What comes out: the features' accuracies beside LeNet's, and where the seconds go: a trunk costs its
extraction, once, and next to nothing an epoch; LeNet costs the same in every epoch. The report's chart is
interactive: a click on a line's name hides it.

The small form has one trunk: an EfficientNet-Lite0 trained on ImageNet where `headstart[weights]` is installed,
else, and on the digits, the network of the package. It stands in three times, fed with images enlarged to 32
pixels and more, as the three trunks are fed with 299, 224 and 224; and a fourth time with random weights, to see
what of it is the pretraining.

    python -m examples.three_trunks                                  # three trunks, all of CIFAR-10: with a GPU
    python -m examples.three_trunks --samples 500                    # 5,000 training images
    python -m examples.three_trunks --small --data cifar10           # or a folder that holds a folder a class
    python -m examples.three_trunks --small                          # the same without network: digits
"""

from __future__ import annotations

from collections.abc import Sequence

import headstart as hs
from examples.common import PHOTOGRAPHS, SHIPPED, finish, options, part, small_trunk, start, with_trunk

SIZES = {PHOTOGRAPHS: (32, 96, 224), SHIPPED: (32, 64, 128)}
"""of the small forms, in pixels"""


def main(argv: Sequence[str] | None = None) -> hs.Comparison:
    """Train a linear classifier on each trunk, and a LeNet; returns them as a comparison."""
    args = with_trunk(options(__doc__, "three_trunks")).parse_args(argv)
    seed, where = args.seed, {"backend": args.backend, "device": args.device}

    if args.small:
        source = args.data or "digits"
        name, weights = small_trunk(args, source)
        data = part(hs.data.open_data(source), args.samples or 250, seed=seed)
        train, val = data.split(0.8, seed=seed, by="position")
        print(f"scaled down: one trunk, {name} ({weights}), three times; {data}")
        trunks = {
            f"{name}, {size} px": hs.model(name, weights=weights, classes=data.classes, size=size)
            for size in SIZES[name]
        }
        middle = SIZES[name][1]
        trunks[f"random weights, {middle} px"] = hs.model(name, classes=data.classes, size=middle)
    else:
        if args.data in (None, "cifar10"):
            train, val = (hs.data.cifar10(split=split) for split in ("train", "test"))
        else:
            train, val = hs.data.open_data(args.data).split(0.8, seed=seed, by="position")
        train, val = (part(data, args.samples, seed=seed) for data in (train, val))
        trunks = {
            name: hs.model(name, weights="imagenet", classes=train.classes)
            for name in ("inception_v3", "vgg16", "resnet50")
        }

    training = {"epochs": args.epochs or 10, "batch_size": 64, "seed": seed}
    runs = {}
    for label, model in trunks.items():
        print(f"{label} ...", flush=True)
        # Without cut= the classifier is the head; VGG16's is three layers, of which the last is replaced. The
        # features of random weights can be too small for float16.
        dtype = "float16" if model.weights else "float32"
        runs[label] = hs.fit(model, train, val, mode="cached", dtype=dtype, **training, **where)
    print("lenet ...", flush=True)
    lenet = hs.model("lenet", classes=train.classes)
    runs["lenet from scratch"] = hs.fit(lenet, train, val, mode="scratch", lr=0.001, **training, **where)

    comparison = hs.comparison(runs, title="Three trunks as bottlenecks, and a LeNet from scratch")
    finish(comparison, args.out)
    return comparison


if __name__ == "__main__":
    start(main)
