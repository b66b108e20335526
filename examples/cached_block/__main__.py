"""What does the cache buy where a whole block is trained, and not only a linear layer?

Of a ResNet-50 that was trained on ImageNet, the final identity block and a new classifier are trained to tell
five kinds of flowers apart. Everything before them, `cut="layer4.1"`, is frozen: its output is computed once,
in batches of 32, and the block is then trained on it, in batches of 64. Beside it the same training without a
cache, in which the trunk runs in every epoch.

Published (the exercise this repeats; no machine is named): 45 s an epoch without the cache, 8 s with it, 25 s
to fill it, and about 90 % after two to three epochs.

What comes out: the same losses, step by step, in a fraction of the time. How small a fraction can be said
beforehand: by the multiplications, the trunk is most of an epoch, and with the cache it falls away.

    python -m examples.cached_block                               # ResNet-50, published weights, 3,670 flowers
    python -m examples.cached_block --small --data flower_photos  # EfficientNet-Lite0, if its weights are here
    python -m examples.cached_block --small                       # without network: digits, resnet18_half
    python -m examples.cached_block --weights none                # ResNet-50's seconds without its weights
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from tempfile import TemporaryDirectory

import numpy as np

import headstart as hs
from examples.common import PHOTOGRAPHS, SHIPPED, finish, options, part, small_trunk, start, with_trunk
from headstart.common.text import counted

CUTS = {PHOTOGRAPHS: "blocks.5.3", SHIPPED: "layer4.0"}
"""of the small forms: before the last block"""


def main(argv: Sequence[str] | None = None) -> hs.Comparison:
    """Train the block with and without the cache; returns both as a comparison."""
    parser = with_trunk(options(__doc__, "cached_block"))
    parser.add_argument(
        "--weights", default="imagenet", help="of ResNet-50; none: random, good for the seconds only"
    )
    args = parser.parse_args(argv)
    seed, where = args.seed, {"backend": args.backend, "device": args.device}

    if args.small:
        source = args.data or "digits"
        name, weights = small_trunk(args, source)
        cut = CUTS[name]
        data = part(hs.data.open_data(source), args.samples or 160, seed=seed)
        print(f"scaled down: {name} ({weights}) instead of ResNet-50 (ImageNet, 224 px); {data}")
    else:
        name, weights, cut = "resnet50", None if args.weights == "none" else args.weights, "layer4.1"
        data = part(hs.data.open_data(args.data or "flowers"), args.samples, seed=seed)
        if weights is None:
            print("random weights: the seconds are what they would be, the accuracy says nothing")
    model = hs.model(name, weights=weights, classes=data.classes)

    # Both train the block with the same batches, seed and learning rate, which are fit's defaults.
    training = {"cut": cut, "epochs": args.epochs or 3, "batch_size": 64, "seed": seed}
    train, val = data.split(0.8, seed=seed, by="position")
    uncached = hs.fit(model, train, val, mode="frozen", **training, **where)

    # A cache of its own, empty at first, so that filling it is timed whatever was extracted before.
    with TemporaryDirectory() as cache:
        features = hs.extract(model, data, cuts=[cut], batch_size=32, cache=cache, **where)
        train_features, val_features = features.split(0.8, seed=seed, by="position")  # the samples of data.split
        cached = hs.fit(model, train_features, val_features, mode="cached", **training, **where)
    # fit was given features and counts no extraction; here it belongs to the account.
    cached = replace(cached, extraction=features.stats, seconds=cached.seconds + features.stats.seconds, val=val)

    comparison = hs.comparison(
        {"uncached": uncached, "cached": cached}, title=f"The final block of {name}, with and without a cache"
    )
    finish(comparison, args.out)
    fast = comparison.rows[1]
    slow_epoch, fast_epoch = (row["seconds_per_epoch"]["total"] for row in comparison.rows)
    times = fast["speedup_over_frozen"]
    print(f"an epoch: {slow_epoch:.3g} s uncached, {fast_epoch:.3g} s cached, {times:.1f} times as fast;")
    after = fast["pays_off_after_epochs"]
    paid = "which does not pay" if after is None else f"paid after {counted(after, 'epoch')}"
    print(f"{fast['extraction_seconds']:.3g} s to fill the cache, {paid}")
    print("published: 45 s uncached, 8 s cached, 5.6 times as fast; 25 s to fill the cache")
    if model.weights is not None:  # what follows from random weights is chaotic, with a cache and without
        losses, others = (np.concatenate(run.history["step_losses"]) for run in (uncached, cached))
        apart = float(np.abs(others / losses - 1).max())
        print(f"the losses of a step differ by {apart:.1e} at most: features are kept in half precision")
    return comparison


if __name__ == "__main__":
    start(main)
