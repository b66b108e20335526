"""How much of a pretrained network should be trained?

The rule of Stanford's course CS231n (its notes on transfer learning; after Yosinski et al. 2014,
arXiv:1411.1792) goes by two questions: how much data there is, and how near it is to what the network was
trained on. Little and near: a linear classifier on the last features. Little and far: one on earlier features.
Much and near: fine-tune the whole network. Much and far: train all of it, from its weights or from scratch.

Here each of the four quadrants is tried in five ways: `linear` (a linear head on cached features), `earlier`
(cached further forward, and all behind it trained), `full`, `staged` (linear, then full) and `scratch`. Out
come the table of accuracies over several draws of the data, who wins, or that nobody does beyond the noise,
how_much.html with the table as a chart, and for each quadrant the report of the first draw's runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

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

FULL = {"model": "resnet50", "weights": "imagenet", "size": None, "earlier": "layer3", "samples": 1000}
SMALL = {
    PHOTOGRAPHS: {"size": 96, "earlier": "blocks.4", "samples": 80},
    SHIPPED: {"size": 64, "earlier": "layer3", "samples": 80},
}
"""by trunk; earlier: before the last stage that makes maps smaller"""
FEWER = 10  # a small set has a tenth of a large one's images
WAYS: Mapping[str, Mapping[str, Any]] = {
    "linear": {"mode": "cached"},
    "earlier": {"mode": "cached", "cut": ...},
    "full": {"mode": "full"},
    "staged": {"mode": "staged"},
    "scratch": {"mode": "scratch"},
}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns `{"accuracies": {quadrant: {way: [one a seed]}}, "winners": {quadrant: who}, "comparisons":
    {quadrant: of the first seed's runs}}`."""
    parser = with_trunk(options(__doc__, "how_much"))
    parser.add_argument(
        "--far", default="digits", help="the data far from photographs, as --data (default: digits)"
    )
    parser.add_argument("--size", type=int, help="side of the images in pixels")
    parser.add_argument("--seeds", type=int, default=3, help="draws of the data (default: %(default)s)")
    args = parser.parse_args(argv)
    form: dict[str, Any] = FULL
    if args.small:
        # Without --data the near images are pieces of 64 px, for which the smaller network is enough.
        name, weights = small_trunk(args, args.data or "digits")
        form = SMALL[name] | {"model": name, "weights": weights}
    samples, epochs, side = args.samples or form["samples"], args.epochs or 5, args.size or form["size"]
    if args.data is None and args.small:
        near = photographs(samples)
    else:
        near = hs.data.open_data(args.data or "cifar10")
    if args.small:
        print(f"scaled down: {form['model']} at {side} px, not ResNet-50 at 224; {samples} images a class")
        if args.data is None:
            print("near data: pieces of scikit-learn's two photographs, since no --data is given")

    found: dict[str, dict[str, list[float]]] = {}
    comparisons: dict[str, hs.Comparison] = {}
    for name, data in (("near", near), ("far", hs.data.open_data(args.far))):
        model = hs.model(form["model"], weights=form["weights"], classes=data.classes, size=side)
        for size, each, times in (("small", max(2, samples // FEWER), 3), ("large", samples, 1)):
            quadrant = f"{size}, {name}"
            found[quadrant] = {way: [] for way in WAYS}
            first: dict[str, Any] = {}
            for seed in range(args.seed, args.seed + args.seeds):
                train, test = data.split(0.7, seed, by="position")
                train, test = part(train, each, seed=seed), part(test, 30, seed=seed)
                for way, settings in WAYS.items():
                    run = hs.fit(
                        model,
                        train,
                        test if seed == args.seed else None,  # every epoch only where there is a report of it
                        mode=settings["mode"],
                        cut=form["earlier"] if "cut" in settings else None,
                        epochs=epochs * times,  # a small set would else end after a few steps
                        batch_size=32,
                        seed=seed,
                        backend=args.backend,
                        device=args.device,
                    )
                    found[quadrant][way].append(run.evaluate(test, device=args.device).accuracy)
                    if seed == args.seed:
                        first[way] = run
            comparisons[quadrant] = hs.comparison(first, title=f"How much to train: {quadrant}")
            written = comparisons[quadrant].report(args.out / f"{size}-{name}.html")
            print(
                f"{quadrant}: {data.name}, {len(train)} images, {epochs * times} epochs; wrote {written}\n"
                + "; ".join(f"{way} {percent(values)}" for way, values in found[quadrant].items()),
                flush=True,
            )

    winners = {quadrant: winner(ways) for quadrant, ways in found.items()}
    rows = [[quadrant, *map(percent, ways.values()), winners[quadrant]] for quadrant, ways in found.items()]
    print_table([["", *WAYS, "who wins"], *rows])
    chart = dots("Accuracy by quadrant (lines: two standard errors)", found)
    print(f"wrote {write_page(args.out / 'how_much.html', 'How much to train?', chart)}")
    return {"accuracies": found, "winners": winners, "comparisons": comparisons}


def winner(ways: Mapping[str, Sequence[float]]) -> str:
    """The best way, or "tie: ..." of it and all that are not below it by more than the noise."""
    best = max(ways, key=lambda way: float(np.mean(ways[way])))
    level = [way for way in ways if way == best or not beyond(ways[best], ways[way])]
    return best if level == [best] else f"tie: {', '.join(level)}"


def photographs(each: int) -> hs.data.Dataset:
    """What is here without a download: pieces of scikit-learn's two photographs, of which eight quarters are the
    classes, `2 * each` pieces of each."""
    from sklearn.datasets import load_sample_images

    draw, side = np.random.default_rng(0), 64
    pieces, labels = [], []
    for i, image in enumerate(load_sample_images().images):
        high, wide = image.shape[0] // 2, image.shape[1] // 2
        for quarter in range(4):
            top, left = quarter // 2 * high, quarter % 2 * wide
            for _ in range(2 * each):
                y, x = top + draw.integers(high - side), left + draw.integers(wide - side)
                pieces.append(image[y : y + side, x : x + side])
                labels.append(4 * i + quarter)
    return hs.data.arrays(np.stack(pieces), np.array(labels))


if __name__ == "__main__":
    start(main)
