"""Other ways to a linear head than the default, beside scikit-learn's tuned logistic regression: means, and the
split in which each falls furthest below it. What it gave is in docs/defaults.md.

    python benchmarks/linear_heads.py --data flowers=flower_photos --trunks resnet18_half:tinyimagenet
    python benchmarks/linear_heads.py --data flowers=flower_photos --backend jax --default

Linear heads average exactly: the mean of their weights gives the mean of their logits, and is one linear layer
again.

*Same* trains on four fifths, and chooses and scores on the last, as `fit(model, train, val)` does; the regression
has the same four fifths. *Untouched* trains on three fifths, chooses on one, and scores on the last. The
regression is also held to itself: with its folds shuffled, and with a tighter tolerance. `--default` has the
default alone, the *same* way, with each split's accuracy: what one backend gives beside another.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from test_defaults import TRUNKS, Case, cases, thirds

import headstart as hs

SEEDS = 4
"""heads whose mean is tried"""
REPEATS = 3
"""of the default by itself, with other seeds each"""
FALL = 1.0
"""points: the furthest that a split may be below the regression"""


@dataclass(frozen=True)
class Head:
    """A linear layer on features as they are."""

    weight: np.ndarray
    """`(k, d)`"""
    bias: np.ndarray
    """`(k,)`"""

    @classmethod
    def of(cls, run: hs.Run) -> Head:
        graph, params = run.model.graph, run.model.params
        return cls(params[f"{graph.output}.weight"], params[f"{graph.output}.bias"])

    @classmethod
    def mean(cls, *heads: Head) -> Head:
        return cls(np.mean([head.weight for head in heads], 0), np.mean([head.bias for head in heads], 0))

    def logits(self, features: hs.FeatureSet) -> np.ndarray:
        return np.asarray(features.numpy().astype(np.float64) @ self.weight.T + self.bias)

    def accuracy(self, features: hs.FeatureSet) -> float:
        return 100 * float((self.logits(features).argmax(1) == features.labels).mean())

    def loss(self, features: hs.FeatureSet) -> float:
        logits = self.logits(features)
        logits -= logits.max(1, keepdims=True)
        own = logits[np.arange(len(logits)), features.labels]
        return float((np.log(np.exp(logits).sum(1)) - own).mean())


def heads(case: Case, train: hs.FeatureSet, val: hs.FeatureSet, seed: int, backend: str) -> dict[str, Head]:
    def fitted(**options: Any) -> Head:
        return Head.of(hs.fit(case.model, train, val, backend=backend, **options))

    stepped = [fitted(seed=seed + 100 * number) for number in range(SEEDS)]
    default, solved, several = stepped[0], fitted(seed=seed, solver="logistic"), Head.mean(*stepped)
    return {
        "default": default,
        f"mean of {SEEDS} seeds": several,
        '`solver="logistic"`': solved,
        "default or solved, the lower `val_loss`": min(default, solved, key=lambda head: head.loss(val)),
        "mean of default and solved": Head.mean(default, solved),
        f"mean of solved and the mean of {SEEDS} seeds": Head.mean(several, solved),
    }


def regressions(train: hs.FeatureSet, test: hs.FeatureSet) -> Iterator[tuple[str, float]]:
    """The accuracies of the one that all are held to, of one with other folds, and of one of another tolerance."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    shuffled = StratifiedKFold(5, shuffle=True, random_state=0)
    variants: Mapping[str, Mapping[str, Any]] = {
        REFERENCE: {"cv": 5},
        "the same, folds shuffled": {"cv": shuffled},
        "the same, `tol=1e-6`": {"cv": 5, "tol": 1e-6},
    }
    for name, options in variants.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of options that are left as they are by default
            tuned = LogisticRegressionCV(Cs=10, max_iter=1000, **options)
            tuned.fit(train.numpy().astype(np.float32), train.labels)
        yield name, 100 * float(tuned.score(test.numpy().astype(np.float32), test.labels))


REFERENCE = "`LogisticRegressionCV`"


def measured(case: Case, splits: int, backend: str) -> dict[str, dict[str, list[float]]]:
    """Protocol -> name -> the accuracy of each split."""
    found: dict[str, dict[str, list[float]]] = {"same": {}, "untouched": {}}
    for seed in range(splits):
        rest, last = case.features.split(0.8, seed=seed)
        for protocol, parts in {"same": (rest, last, last), "untouched": thirds(case.features, seed)}.items():
            train, val, test = parts
            figures = dict(regressions(train, test))
            figures |= {name: head.accuracy(test) for name, head in heads(case, train, val, seed, backend).items()}
            for name, figure in figures.items():
                found[protocol].setdefault(name, []).append(figure)
    return found


def lines(case: Case, splits: int, backend: str) -> Iterator[str]:
    """A table in Markdown."""
    found = measured(case, splits, backend)
    yield f"{case.name}, {case.trunk.replace(':', ' ')}, {splits} splits; {backend}\n"
    yield "| | " + " | ".join(f"{protocol}: mean | worst split | below by more" for protocol in found) + " |"
    yield "|---" * (1 + 3 * len(found)) + "|"
    for name in found["same"]:
        cells = []
        for figures in found.values():
            apart = np.subtract(figures[name], figures[REFERENCE])
            fallen = int((apart < -FALL - 1e-9).sum())
            cells += [f"{np.mean(figures[name]):.1f}", f"{apart.min():+.1f}", str(fallen)]
        yield f"| {name} | " + " | ".join(cells) + " |"


def defaults(case: Case, splits: int, backend: str) -> Iterator[str]:
    """Rows of a table in Markdown: of the orders and masks of several seeds, mean and splits."""
    for first in range(0, 100 * REPEATS, 100):
        parts = [case.features.split(0.8, seed=seed) for seed in range(splits)]
        runs = [hs.fit(case.model, *both, backend=backend, seed=first + i) for i, both in enumerate(parts)]
        values = [100 * run.evaluate(val).accuracy for run, (_, val) in zip(runs, parts, strict=True)]
        each = " ".join(f"{value:.1f}" for value in values)
        yield f"| {case.name}, {case.trunk} | {backend} | seeds from {first} | {np.mean(values):.2f} | {each} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--trunks", default=",".join(TRUNKS), help="(default: %(default)s)")
    parser.add_argument("--splits", type=int, default=10)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--default", action="store_true", help="the default alone, of several seeds")
    asked = parser.parse_args()
    rows = defaults if asked.default else lines
    warnings.simplefilter("ignore")
    folders = {name: Path(path) for name, _, path in (of.partition("=") for of in asked.data)}
    for case in cases(folders, asked.trunks.split(","), asked.backend):
        for line in rows(case, asked.splits, asked.backend):
            print(line, flush=True)


if __name__ == "__main__":
    main()
