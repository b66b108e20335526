"""LP-FT: does it pay to train the head first, in distribution and out of it?

Training everything from a fresh head sends large, random gradients into the pretrained trunk, and may distort
what it knew of images that are not in the training data. Kumar et al. ("Fine-tuning can distort pretrained
features and underperform out-of-distribution", ICLR 2022, arXiv:2202.10054) train the linear head first (LP)
and then everything (FT). That is mode `staged`, here beside `full` (FT alone) and `cached` (LP alone; `frozen`
is the same training).

In distribution is what a split holds out. Out of it are the same images, corrupted as in ImageNet-C (Hendrycks
and Dietterich 2019, arXiv:1903.12261), which no mode has trained on. Out come the table of accuracies with
their standard errors over seeds, each with its own split, whether the claim holds here, lp_ft.html with the
table as a chart, and runs.html, the report of the first seed's runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

import headstart as hs
from examples.common import (
    PHOTOGRAPHS,
    SHIPPED,
    beyond,
    dots,
    options,
    part,
    percent,
    print_table,
    small_trunk,
    start,
    with_trunk,
    write_page,
)
from headstart.training import metrics

FULL = {"model": "resnet50", "weights": "imagenet", "data": "cifar10", "samples": 1000, "size": None}
SMALL = {"data": "digits", "samples": 120}
SIZES = {PHOTOGRAPHS: 96, SHIPPED: 64}
"""of the small forms, in pixels"""
MODES = ("cached", "full", "staged")


def redrawn(action: Callable[[Image.Image], Image.Image]) -> Callable[[np.ndarray], np.ndarray]:
    """A change of Pillow images as one of uint8 `(n, h, w, 3)`."""
    return lambda images: np.stack([np.asarray(action(Image.fromarray(image))) for image in images])


def scaled(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """A change of float images in 0..1 as one of uint8 images."""
    return lambda images: (255 * change(images / 255).clip(0, 1)).round().astype(np.uint8)


def coarse(image: Image.Image) -> Image.Image:
    small = image.resize((image.width // 4, image.height // 4), Image.Resampling.BOX)
    return small.resize(image.size, Image.Resampling.NEAREST)


# name -> uint8 (n, h, w, 3) to the same; how strong they are was set before anything was measured
CORRUPTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "noise": scaled(lambda x: x + 0.15 * np.random.default_rng(0).standard_normal(x.shape)),
    "blur": redrawn(lambda image: image.filter(ImageFilter.GaussianBlur(image.width / 40))),
    "pixels": redrawn(coarse),
    "contrast": scaled(lambda x: 0.3 * x + 0.7 * x.mean((1, 2, 3), keepdims=True)),
    "dark": scaled(lambda x: 0.4 * x),
    "cast": scaled(lambda x: x * [1.0, 0.7, 0.4]),
    "inverted": lambda images: 255 - images,
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns `{"accuracies": {mode: {"in": [one a seed], "out": their means over the corruptions, "noise": ...}},
    "comparison": of the first seed's runs}`."""
    parser = with_trunk(options(__doc__, "lp_ft"))
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--seeds", type=int, default=5, help="splits (default: %(default)s)")
    args = parser.parse_args(argv)
    form: dict[str, Any] = SMALL if args.small else FULL
    if args.small:
        name, weights = small_trunk(args, args.data or form["data"])
        form = form | {"model": name, "weights": weights, "size": SIZES[name]}
    everything = hs.data.open_data(args.data or form["data"])
    samples, epochs, side = args.samples or form["samples"], args.epochs or 5, args.size or form["size"]
    model = hs.model(form["model"], weights=form["weights"], classes=everything.classes, size=side)
    print(f"{everything.name}: up to {samples} images a class, {epochs} epochs, {model.name} ({model.weights})")
    if args.small:
        print(f"scaled down: that trunk at {side} px instead of ResNet-50 at 224, fewer images")

    kinds = ("in", "out", *CORRUPTIONS)
    found: dict[str, dict[str, list[float]]] = {mode: {kind: [] for kind in kinds} for mode in MODES}
    first: dict[str, Any] = {}
    for seed in range(args.seed, args.seed + args.seeds):
        train, test = part(everything, samples, seed=seed).split(0.75, seed, by="position")
        images = np.stack([model.preprocess.apply(test.load(i)[0]) for i in range(len(test))])
        for mode in MODES:
            run = hs.fit(
                model, train, test, mode=mode, epochs=epochs, seed=seed, backend=args.backend, device=args.device
            )
            shares = {"in": accuracy(run, images, test.labels)}
            shares |= {kind: accuracy(run, CORRUPTIONS[kind](images), test.labels) for kind in CORRUPTIONS}
            shares["out"] = float(np.mean([shares[kind] for kind in CORRUPTIONS]))
            for kind in kinds:
                found[mode][kind].append(shares[kind])
            if seed == args.seed:
                first[mode] = run
            print(
                f"seed {seed}, {mode}: {shares['in']:.1%} in distribution, {shares['out']:.1%} out of it",
                flush=True,
            )

    print_table([["", *MODES], *([kind, *(percent(found[mode][kind]) for mode in MODES)] for kind in kinds)])
    for kind, name in (("in", "in distribution"), ("out", "out of it")):
        print(f"{name}: {verdict(found, kind)}")
    groups = {kind: {mode: found[mode][kind] for mode in MODES} for kind in kinds}
    chart = dots("Accuracy in distribution, out of it, and by corruption (lines: two standard errors)", groups)
    page = write_page(args.out / "lp_ft.html", "LP-FT", chart)
    comparison = hs.comparison(first, title="LP-FT: the first seed's runs")
    print(f"wrote {page} and {comparison.report(args.out / 'runs.html')}")
    return {"accuracies": found, "comparison": comparison}


def accuracy(run: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Of a trained run on images that are cut to size already."""
    return metrics.accuracy(run.predict(run.model.preprocess.normalise(images)), labels)


def verdict(found: Mapping[str, Mapping[str, Sequence[float]]], kind: str) -> str:
    """How `staged` does beside the two others, where it is beyond the noise."""
    words = []
    for other in ("full", "cached"):
        ours, theirs = found["staged"][kind], found[other][kind]
        word = "above" if beyond(ours, theirs) else "below" if beyond(theirs, ours) else "not to be told from"
        words.append(f"{word} {other}")
    return f"staged is {' and '.join(words)}"


if __name__ == "__main__":
    start(main)
