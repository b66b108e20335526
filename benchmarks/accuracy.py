"""What storing features costs in accuracy, and what augmented views bring: two tables, in Markdown.

    python benchmarks/accuracy.py --data flower_photos --backend torch

Every figure is the mean validation accuracy over the last quarter of the epochs and over the seeds, with the
standard error of the seeds' mean. Splits differ by seed, and are the same in every row.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

import headstart as hs
from headstart.models import ARCHITECTURES, Model


def mean_accuracy(model: Model, data: Any, seeds: int, epochs: int, **settings: Any) -> tuple[float, float]:
    """Percent, and its standard error."""
    found = []
    for seed in range(seeds):
        train, val = data.split(0.8, seed=seed, by="position")
        run = hs.fit(model, train, val, epochs=epochs, seed=seed, schedule="cosine", **settings)
        found.append(np.mean([record.val_accuracy for record in run.history[-(epochs // 4) :]]))
    return 100 * float(np.mean(found)), 100 * float(np.std(found, ddof=1) / np.sqrt(seeds))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="flowers")
    parser.add_argument("--backend")
    parser.add_argument("--model", default="resnet18_half")
    parser.add_argument("--cuts", default="avgpool,layer4.0")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=5)
    given = parser.parse_args()
    data = hs.data.open_data(given.data)
    weights = next(iter(ARCHITECTURES[given.model].weights))
    model = hs.model(given.model, weights=weights, classes=data.classes)
    cuts = given.cuts.split(",")
    common = {"seeds": given.seeds, "epochs": given.epochs, "backend": given.backend}

    def line(name: str, **settings: Any) -> None:
        cells = [mean_accuracy(model, data, cut=cut, **common, **settings) for cut in cuts]
        print(
            f"| {name} | " + " | ".join(f"{mean:.1f} ± {error:.1f} %" for mean, error in cells) + " |", flush=True
        )

    print(f"{len(data)} images, {given.model} ({weights}), {given.epochs} epochs, {given.seeds} seeds\n")
    print("| stored as | " + " | ".join(cuts) + " |\n" + "|---" * (1 + len(cuts)) + "|")
    for dtype in ("float32", "float16", "bfloat16"):
        line(dtype, mode="cached", dtype=dtype)
    print("\n| views | " + " | ".join(cuts) + " |\n" + "|---" * (1 + len(cuts)) + "|")
    line("none: not augmented", mode="cached")
    for views in (1, 2, 4, 8):
        line(f"{views}, cached", mode="cached", augment="flip,crop", views=views)
    line("uncached: drawn anew each epoch", mode="frozen", augment="flip,crop")


if __name__ == "__main__":
    main()
