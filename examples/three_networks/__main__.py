"""How much of a pretrained network should be trained: nothing of it, all of it, or its last layer only?

Inception v3 learns CIFAR-10, enlarged to 299 pixels, with Adam and batches of 8, three times: from random
weights; from ImageNet's, training everything; from ImageNet's, training the last layer only. Where everything
is trained, its auxiliary classifier is trained with it, and its loss is recorded.

Published, after five epochs (the exercise this repeats): 81 %, 94 % and 74 %.

What comes out: curves of loss and accuracy on shared axes, and the kernels of the first two convolutions
before, after, and their difference. Where the trunk is frozen the difference is exactly zero.

The small form trains an EfficientNet-Lite0 trained on ImageNet where `headstart[weights]` is installed, else, and
on the digits, the network of the package; both at 96 pixels. An Inception v3 from scratch, on a few images, shows
the auxiliary losses.

    python -m examples.three_networks                                  # Inception v3, all of CIFAR-10: with a GPU
    python -m examples.three_networks --samples 100                    # 1,000 training images
    python -m examples.three_networks --small --data cifar10           # or a folder that holds a folder a class
    python -m examples.three_networks --small                          # the same without network: digits
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import headstart as hs
from examples.common import finish, options, part, small_trunk, start, with_trunk

# The head alone, on features, bears a larger rate than a network of pretrained weights.
RATES = {"scratch": 0.001, "full": 0.0003, "cached": 0.003}
LABELS = {"scratch": "from scratch", "full": "all weights", "cached": "last layer only"}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Train the three; returns "comparison", "auxiliary" (losses, a tuple an epoch) and "changes": label ->
    convolution -> the largest change of a weight."""
    args = with_trunk(options(__doc__, "three_networks")).parse_args(argv)
    seed, where = args.seed, {"backend": args.backend, "device": args.device, "seed": args.seed}

    if args.small:
        source, size = args.data or "digits", 96
        name, weights = small_trunk(args, source)
        data = part(hs.data.open_data(source), args.samples or 250, seed=seed)
        train, val = data.split(0.8, seed=seed, by="position")
        print(f"scaled down: {name} ({weights}, {size} px) instead of Inception v3 (ImageNet, 299 px); {data}")
    else:
        name, weights, size = "inception_v3", "imagenet", None
        if args.data in (None, "cifar10"):
            train, val = (hs.data.cifar10(split=split) for split in ("train", "test"))
        else:
            train, val = hs.data.open_data(args.data).split(0.8, seed=seed, by="position")
        train, val = (part(data, args.samples, seed=seed) for data in (train, val))
    model = hs.model(name, weights=weights, classes=train.classes, size=size)

    training = {"epochs": args.epochs or 5, "batch_size": 8, **where}
    runs = {}
    for mode, label in LABELS.items():
        print(f"{label} ...", flush=True)
        adam = hs.AdamW(lr=RATES[mode], weight_decay=0)  # without decay AdamW is Adam
        # "cached" trains what "frozen" would, and runs the trunk once. Without cut= the head is the last layer.
        runs[label] = hs.fit(model, train, val, mode=mode, optimizer=adam, **training)

    comparison = hs.comparison(runs, title=f"{name}: from scratch, all weights, last layer only")
    finish(comparison, args.out)
    changes = kernels(runs, args.out / "kernels.html")
    print(f"kernels: {args.out / 'kernels.html'}; the largest change of a weight in the first two convolutions:")
    for label, change in changes.items():
        print(f"{label:16}" + "   ".join(f"{node} {value:.3g}" for node, value in change.items()))

    if args.small:
        few = part(train, (args.samples or 250) // 20, train.classes[:4], seed)
        print(f"\nInception v3 from scratch at 299 px, on {len(few)} images, for its auxiliary classifier ...")
        inception = hs.model("inception_v3", classes=few.classes)
        scratch = hs.fit(inception, few, mode="scratch", **training | {"epochs": min(3, training["epochs"])})
    else:
        scratch = runs[LABELS["scratch"]]
    auxiliary = [record["auxiliary_losses"] for record in scratch.history]
    for record in scratch.history:
        (loss,) = record["auxiliary_losses"]
        print(f"epoch {record.epoch}: loss {record.loss:.3f}, of the auxiliary classifier {loss:.3f}")
    print("\npublished after five epochs: 81 % from scratch, 94 % all weights, 74 % last layer only")
    return {"comparison": comparison, "auxiliary": auxiliary, "changes": changes}


def kernels(runs: Mapping[str, Any], path: Path) -> dict[str, dict[str, float]]:
    """Draw the kernels of each run's first two convolutions before, after, and their difference, into one page.
    Returns label -> convolution -> the largest change of a weight."""
    changes: dict[str, dict[str, float]] = {}
    rows = []
    for label, run in runs.items():
        changes[label] = {}
        for name, before in run.before.items():  # as training began
            sheet = hs.report.pictures.kernels(name.removesuffix(".weight"), before, run.model.params[name])
            changes[label][sheet["node"]] = sheet["max_difference"]
            images = "".join(f'<td><img src="{sheet[column]}"></td>' for column in COLUMNS)
            rows.append(
                f"<tr><th>{label}<br>{sheet['node']}<br>{sheet['shown']} of {sheet['of']}</th>{images}</tr>"
            )
    titles = "".join(f"<th>{column}</th>" for column in ("", *COLUMNS))
    path.write_text(f"{PAGE}<table><tr>{titles}</tr>{''.join(rows)}</table>\n", encoding="utf-8")
    return changes


COLUMNS = ("before", "after", "difference")
PAGE = """<!doctype html><meta charset="utf-8"><title>Kernels</title>
<style>body { font-family: sans-serif } img { width: 16em; image-rendering: pixelated; margin: 0.3em }</style>
"""

if __name__ == "__main__":
    start(main)
