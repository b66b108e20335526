"""Verification: do two images show the same class, which need not be one that was trained on?

A small projection of a frozen trunk's features is trained on pairs of images of some classes, so that what
belongs together comes to lie close and what does not a margin apart: the contrastive loss of Hadsell, Chopra
and LeCun ("Dimensionality reduction by learning an invariant mapping", CVPR 2006). Both halves of the Siamese
network have the same trunk, so its features are computed once, and a pair is two rows of them. The projection
is then tried on other images of the same classes and on classes that it has never seen, beside the plain cosine
of the features. Which classes these are is drawn anew for each seed.

Out come the area under the ROC curve, the accuracy at the threshold that is best on the training pairs, and
verification.html: ROC curves and histograms of distances.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch._dynamo  # torch's first optimiser imports it, which ends the process if TensorFlow came first
from sklearn.metrics import roc_auc_score, roc_curve
from torch import nn
from torch.nn.functional import normalize

import headstart as hs
from examples.common import (
    PHOTOGRAPHS,
    SHIPPED,
    beyond,
    options,
    part,
    percent,
    print_table,
    small_trunk,
    start,
    with_trunk,
    write_page,
)

FULL = {"model": "resnet50", "weights": "imagenet", "data": "cifar10", "samples": 500, "size": None}
SMALL = {"data": "digits", "samples": 150}
SIZES = {PHOTOGRAPHS: 224, SHIPPED: 64}
"""of the small forms, in pixels"""
TRAINING, SEEN, UNSEEN = "training pairs", "seen classes, other images", "unseen classes"
COSINE, TRAINED = "cosine of the features", "trained projection"
DIMENSIONS, MARGIN, BATCH, PAIRS = 32, 1.0, 128, 4000

Pairs = tuple[np.ndarray, np.ndarray, np.ndarray]  # rows, rows, whether they are of one class
Embed = Callable[[torch.Tensor], torch.Tensor]


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Returns `{"auc": {kind of pairs: {way: [one a seed]}}, "accuracy": the same}`."""
    parser = with_trunk(options(__doc__, "verification"))
    parser.add_argument("--seeds", type=int, default=5, help="draws of the seen classes (default: %(default)s)")
    args = parser.parse_args(argv)
    form: dict[str, Any] = SMALL if args.small else FULL
    if args.small:
        name, weights = small_trunk(args, args.data or form["data"])
        form = form | {"model": name, "weights": weights, "size": SIZES[name]}
    data = part(hs.data.open_data(args.data or form["data"]), args.samples or form["samples"], seed=args.seed)
    model = hs.model(form["model"], weights=form["weights"], classes=data.classes, size=form["size"])
    print(f"{data.name}: {len(data)} images, {len(data.classes)} classes; {model.name} ({model.weights})")
    if args.small:
        print(f"scaled down: that trunk at {form['size']} px instead of ResNet-50 at 224, fewer images")

    cut = model.default_cut
    features = hs.extract(model, data, cuts=[cut], backend=args.backend or "torch", device=args.device)
    print(f"{features.stats.extracted} images through the trunk, {features.stats.reused} from the cache")
    rows = features.torch(cut).float()
    found: dict[str, Any] = {key: {kind: {} for kind in (TRAINING, SEEN, UNSEEN)} for key in ("auc", "accuracy")}
    charts: list[Any] = []
    for seed in range(args.seed, args.seed + args.seeds):
        one = trial(rows, features.labels, len(data.classes), args.epochs or 60, seed)
        for way, (distances, same, threshold) in one.items():
            for kind in distances:
                scores = {
                    "auc": roc_auc_score(same[kind], -distances[kind]),
                    "accuracy": np.mean((distances[kind] < threshold) == same[kind]),
                }
                for key, score in scores.items():
                    found[key][kind].setdefault(way, []).append(float(score))
        charts = charts or drawn(one)
    table = [["pairs of", "", "AUC", "accuracy"]]
    for kind in (TRAINING, SEEN, UNSEEN):
        table += [
            [kind, way, percent(found["auc"][kind][way]), percent(found["accuracy"][kind][way])] for way in one
        ]
    print_table(table)
    for kind in (SEEN, UNSEEN):
        trained, cosine = found["auc"][kind][TRAINED], found["auc"][kind][COSINE]
        verdict = (
            "better" if beyond(trained, cosine) else "worse" if beyond(cosine, trained) else "no clear difference"
        )
        print(f"{kind}: the trained projection against the cosine: {verdict}")
    print(f"wrote {write_page(args.out / 'verification.html', 'Verification', *charts)}")
    return found


def trial(rows: torch.Tensor, labels: np.ndarray, classes: int, epochs: int, seed: int) -> dict[str, Any]:
    """Of each way the distances of pairs by kind, whether they are the same class, and the best threshold on the
    training pairs."""
    draw = np.random.default_rng(seed)
    places = divided(labels, classes, draw)
    pairs = {kind: pairs_of(labels[at], PAIRS, draw) for kind, at in places.items()}
    same = {kind: pairs[kind][2] for kind in pairs}
    projection = train(rows[places[TRAINING]], labels[places[TRAINING]], epochs, seed)
    result = {}
    # Of rows of length 1 the Euclidean distance orders pairs as the cosine does.
    for way, embed in ((COSINE, normalize), (TRAINED, projection)):
        distances = {kind: distance(embed(rows[at]), pairs[kind]).detach().numpy() for kind, at in places.items()}
        result[way] = (distances, same, best_threshold(distances[TRAINING], same[TRAINING]))
    return result


def divided(labels: np.ndarray, classes: int, draw: np.random.Generator) -> dict[str, np.ndarray]:
    """The rows by what becomes of them: six classes of ten are seen, four images of five of them trained on."""
    seen = np.isin(labels, draw.permutation(classes)[: round(0.6 * classes)])
    training = seen & (draw.random(len(labels)) < 0.8)
    kinds = {TRAINING: training, SEEN: seen & ~training, UNSEEN: ~seen}
    return {kind: np.flatnonzero(mask) for kind, mask in kinds.items()}


def pairs_of(labels: np.ndarray, count: int, draw: np.random.Generator) -> Pairs:
    """About as many pairs of one class as of two; none of an image with itself where its class has others."""
    first = draw.integers(len(labels), size=count)
    same = draw.random(count) < 0.5
    second = np.empty(count, np.int64)
    for label in np.unique(labels):
        own, others = np.flatnonzero(labels == label), np.flatnonzero(labels != label)
        together, apart = (np.flatnonzero((labels[first] == label) & kind) for kind in (same, ~same))
        further = draw.integers(1, max(2, len(own)), size=len(together))  # places in the class, and round again
        second[together] = own[(np.searchsorted(own, first[together]) + further) % len(own)]
        second[apart] = draw.choice(others, len(apart))
    return first, second, same


def distance(embedded: torch.Tensor, pairs: Pairs) -> torch.Tensor:
    """Euclidean, of each pair of rows."""
    first, second, _ = pairs
    return (embedded[first] - embedded[second]).square().sum(1).add(1e-12).sqrt()  # sqrt has no slope at 0


def contrastive(distances: torch.Tensor, same: torch.Tensor, margin: float = MARGIN) -> torch.Tensor:
    """Pairs of one class are drawn together, others pushed apart until they are `margin` away."""
    return torch.where(same, distances, (margin - distances).clamp(min=0)).square().mean()


def train(rows: torch.Tensor, labels: np.ndarray, epochs: int, seed: int) -> Embed:
    """The projection: a linear layer on rows of length 1."""
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    layer = nn.Linear(rows.shape[1], DIMENSIONS)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=0.001)
    for _ in range(epochs * max(1, len(rows) // BATCH)):
        pairs = pairs_of(labels, BATCH, draw)
        loss = contrastive(distance(layer(normalize(rows)), pairs), torch.tensor(pairs[2]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lambda more: layer(normalize(more))


def best_threshold(distances: np.ndarray, same: np.ndarray) -> float:
    """Calling what is nearer the same class is right most often with this one."""
    wrong, right, thresholds = roc_curve(same, -distances)
    best = np.argmax(right * same.sum() + (1 - wrong) * (~same).sum())
    return float(np.nextafter(-thresholds[best], np.inf))  # the pair at the threshold counts as near


def drawn(found: Mapping[str, Any]) -> list[Any]:
    """ROC curves, and the histogram of distances of each way, for the unseen classes."""
    from bokeh.plotting import figure

    look = {"height": 320, "sizing_mode": "stretch_width", "tools": "save"}
    roc = figure(
        title=f"ROC, {UNSEEN} (dashed: {SEEN})",
        x_axis_label="called the same, wrongly",
        y_axis_label="rightly",
        **look,
    )
    charts = [roc]
    for (way, (distances, same, threshold)), colour in zip(found.items(), ("grey", "navy"), strict=True):
        for kind, dash in ((UNSEEN, "solid"), (SEEN, "dashed")):
            wrong, right, _ = roc_curve(same[kind], -distances[kind])
            roc.line(wrong, right, legend_label=way, color=colour, line_dash=dash, line_width=2)
        chart = figure(title=f"{way}: distances, {UNSEEN}", **look)
        edges = np.histogram_bin_edges(distances[UNSEEN], 50)
        for label, mask, fill in (
            ("same class", same[UNSEEN], "seagreen"),
            ("two classes", ~same[UNSEEN], "firebrick"),
        ):
            counts, _ = np.histogram(distances[UNSEEN][mask], edges)
            chart.quad(
                top=counts, bottom=0, left=edges[:-1], right=edges[1:], color=fill, alpha=0.5, legend_label=label
            )
        chart.line([threshold] * 2, [0, counts.max()], color="black", line_dash="dashed", legend_label="threshold")
        charts.append(chart)
    roc.legend.location = "bottom_right"
    return charts


if __name__ == "__main__":
    start(main)
