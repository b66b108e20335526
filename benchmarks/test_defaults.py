"""How a head on features is trained where nobody says, held to a tuned logistic regression, and to the defaults
with one thing changed at a time. What it gave is in docs/defaults.md.

    python benchmarks/test_defaults.py --data flowers=flower_photos --data ants=ants_bees --out defaults.md
    python benchmarks/test_defaults.py --data flowers=flower_photos --trunks efficientnet_lite0:imagenet --quick

A data set is a folder with a folder for each class; the digits that come with scikit-learn are always there. A
part of three fifths is trained on, one of a fifth tells the best epoch, and the accuracies are those on the last
fifth, which no training has seen. scikit-learn's `LogisticRegressionCV` has the same three fifths, and chooses its
penalty in them. Figures are percent, mean of the splits and its standard error. Under pytest they are of the
digits and shipped weights in two splits, with HEADSTART_BENCH_FULL=1 of random weights as well, in five.
"""

from __future__ import annotations

import argparse
import inspect
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sizes import sized

import headstart as hs

TRUNKS = ("efficientnet_lite0:imagenet", "resnet18_half:tinyimagenet", "resnet18_half:random")
DEFAULT: Mapping[str, Any] = {}
EXPERIMENTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "The defaults": {"default": DEFAULT},
    "Features": {"as they are": {"standardize": False}},
    "Learning rate": {str(lr): {"lr": lr} for lr in (0.0003, 0.001, 0.01, 0.03)},
    "Schedule": {"constant": {"schedule": "constant"}, "no warm-up": {"warmup": 0.0}},
    "Weight decay": {
        str(decay): {"optimizer": hs.AdamW(lr=0.003, weight_decay=decay)} for decay in (0.0, 0.1, 1.0)
    },
    "Length": {
        f"{epochs} epochs, the last is kept": {"epochs": epochs, "monitor": None} for epochs in (5, 20, 300)
    },
}
QUICK = ("The defaults", "Features")
LEAST = -1.0
"""points: the defaults' mean is to be at most so far below the tuned regression's"""
MOST = 5000
"""samples of a data set, the first by a digest"""


@dataclass(frozen=True)
class Case:
    """A data set's features at a trunk's end."""

    name: str
    trunk: str
    model: hs.Model
    features: hs.FeatureSet


@dataclass(frozen=True)
class Figure:
    """Accuracies of several splits, percent."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.values))

    def __str__(self) -> str:
        error = np.std(self.values, ddof=1) / len(self.values) ** 0.5 if len(self.values) > 1 else float("nan")
        return f"{self.mean:.1f} ± {error:.1f}"


def digits() -> hs.Dataset:
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.repeat((loaded.images * 255 / 16).astype(np.uint8)[..., None], 3, 3)
    return hs.data.arrays(images.repeat(4, 1).repeat(4, 2), loaded.target)


def cases(folders: Mapping[str, Path], trunks: Sequence[str], backend: str) -> Iterator[Case]:
    sets = {name: hs.data.folder(path) for name, path in folders.items()}
    for name, data in {"digits": digits(), **sets}.items():
        if len(data) > MOST:
            data, _ = data.split(MOST / len(data), seed=0)
        for trunk in trunks:
            architecture, _, weights = trunk.partition(":")
            try:
                model = hs.model(architecture, None if weights == "random" else weights, classes=data.classes)
            except hs.HeadstartError as error:
                print(f"{trunk} is left out: {error}")
                continue
            yield Case(name, trunk, model, hs.extract(model, data, backend=backend))


def thirds(features: hs.FeatureSet, seed: int) -> tuple[hs.FeatureSet, hs.FeatureSet, hs.FeatureSet]:
    """To train on, to choose by, to test on."""
    rest, test = features.split(0.8, seed=seed)
    train, val = rest.split(0.75, seed=seed)
    return train, val, test


def trained(case: Case, options: Mapping[str, Any], splits: int, backend: str) -> Figure:
    values = []
    for seed in range(splits):
        train, val, test = thirds(case.features, seed)
        run = hs.fit(case.model, train, val, backend=backend, seed=seed, **options)
        values.append(100 * run.evaluate(test).accuracy)
    return Figure(tuple(values))


def regression(case: Case, splits: int) -> Figure:
    """scikit-learn's, on the features as they are. With one thread: of so few rows the threads of its products
    wait for each other, and it took ten times as long with two."""
    from sklearn.linear_model import LogisticRegressionCV
    from threadpoolctl import threadpool_limits

    values = []
    for seed in range(splits):
        train, _, test = thirds(case.features, seed)
        with threadpool_limits(1, "blas"), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of options that are left as they are by default
            tuned = LogisticRegressionCV(Cs=10, cv=5, max_iter=1000).fit(
                train.numpy().astype(np.float32), train.labels
            )
        values.append(100 * tuned.score(test.numpy().astype(np.float32), test.labels))
    return Figure(tuple(values))


def report(of: Sequence[Case], splits: int, backend: str, experiments: Sequence[str], out: Path | None) -> None:
    """A table in Markdown, printed and in `out` row by row: it takes long, and what breaks it off leaves the rows
    that there are."""
    heads = [f"{case.name}, {case.trunk.replace(':', ' ')}" for case in of]
    lines = [f"{splits} splits; {backend}", "", "| | " + " | ".join(heads) + " |", "|---" * (len(of) + 1) + "|"]

    def row(name: str, figures: Sequence[Figure]) -> None:
        lines.append(f"| {name} | " + " | ".join(map(str, figures)) + " |")
        print(lines[-1], flush=True)
        if out is not None:
            out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    row("`LogisticRegressionCV`", [regression(case, splits) for case in of])
    for experiment in experiments:
        for name, options in EXPERIMENTS[experiment].items():
            title = name if options is DEFAULT else f"{experiment.lower()}: {name}"
            row(title, [trained(case, options, splits, backend) for case in of])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", action="append", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--trunks", default=",".join(TRUNKS), help="(default: %(default)s)")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--backend", default="torch")
    parser.add_argument("--quick", action="store_true", help="only the defaults, and features as they are")
    parser.add_argument("--out", type=Path, help="write the table there as well")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    # an option that there is no longer is found now, and not after minutes
    known = inspect.signature(hs.fit).parameters
    assert all(options.keys() <= known.keys() for named in EXPERIMENTS.values() for options in named.values())
    folders = {name: Path(path) for name, _, path in (of.partition("=") for of in asked.data)}
    of = list(cases(folders, asked.trunks.split(","), asked.backend))
    report(of, asked.splits, asked.backend, QUICK if asked.quick else list(EXPERIMENTS), asked.out)


def test_the_defaults_are_as_good_as_a_tuned_regression() -> None:
    splits = sized(2, 5)
    for case in cases({}, sized(TRUNKS[1:2], TRUNKS[1:]), "torch"):
        default, tuned = trained(case, DEFAULT, splits, "torch"), regression(case, splits)
        print(f"\n{case.name}, {case.trunk}: default {default}, LogisticRegressionCV {tuned}")
        assert default.mean >= tuned.mean + LEAST


if __name__ == "__main__":
    main()
