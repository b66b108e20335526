"""What each mode comes to on many small data sets, tried one by one; see `test_advise`. A data set whose folder is
not there is left out. Every finished mode of every case is written to the file at once, and not run again.

A case is a data set of some size and a trunk. Each mode is trained with several rates, and tested on samples that
no training has seen. The rate is chosen on one half of these and scored on the other, and the other way round, so
that a mode with more rates has no advantage.
"""

from __future__ import annotations

import json
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import headstart as hs
from headstart.common.outputs import write_json
from headstart.training.sample_texts import bits_of, bits_text

BATCH = 32
STEPS, EPOCHS = 60, (3, 15)
"""of a training on images: about so many steps, within these numbers of epochs"""
HEAD_STEPS = 600
MODES = ("linear", "cut", "staged", "full", "scratch")
TRUNKS = {
    "half": ("resnet18_half", "tinyimagenet", "layer3.1"),
    "random": ("resnet18_half", None, "layer3.1"),
    "lite0": ("efficientnet_lite0", "imagenet", "blocks.4.2"),
}
"""name -> architecture, weights, and the cut behind which the mode "cut" trains"""
SCRATCH_RATES = {"resnet18_half": (0.002,), "efficientnet_lite0": (0.001,)}
"""one each: what is tuned here comes to little beside the steps that small data sets lack"""


@dataclass(frozen=True)
class Set:
    """A data set of which `samples` are trained on, and `tested` others are held out."""

    name: str
    samples: int
    tested: int
    pixels: int

    @property
    def key(self) -> str:
        return f"{self.name}-{self.samples}"


SETS = (
    Set("digits", 50, 1000, 32),
    Set("textures", 100, 600, 32),
    Set("cifar", 50, 1000, 48),
    Set("ants", 80, 300, 64),
    Set("flowers", 100, 500, 64),
    Set("digits", 500, 1000, 32),
    Set("cifar", 200, 1000, 48),
    Set("textures", 600, 600, 32),
    Set("flowers", 300, 500, 64),
    Set("cifar", 1000, 1000, 48),
    Set("cifar", 5000, 2000, 32),
)
"""the quickest first"""


# ---- data


def pictures(folder: Path, pixels: int, limit: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """uint8 `(n, pixels, pixels, 3)`, int64 `(n,)`: of every class's folder the first `limit`."""
    images, labels = [], []
    for k, of_class in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        files = sorted(path for path in of_class.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
        for path in files[:limit]:
            with Image.open(path) as image:
                images.append(np.asarray(squared(image.convert("RGB"), pixels)))
            labels.append(k)
    return np.stack(images), np.array(labels)


def squared(image: Image.Image, pixels: int) -> Image.Image:
    """The middle of an image, in so many pixels."""
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.resize((pixels, pixels), Image.Resampling.BICUBIC, (left, top, left + side, top + side))


def textures(count: int, pixels: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noise of eight kinds: waves in four directions, coarse or fine, each with directions and lengths that
    vary."""
    rng = np.random.default_rng(seed)
    fy, fx = np.meshgrid(np.fft.fftfreq(pixels), np.fft.fftfreq(pixels), indexing="ij")
    radius, angle = np.hypot(fx, fy), np.arctan2(fy, fx)
    labels = np.arange(count) % 8
    images = np.empty((count, pixels, pixels, 3), np.uint8)
    for i, label in enumerate(labels):
        centre = 0.12 + 0.1 * (label // 4) + rng.normal(0, 0.03)
        turn = np.pi * (label % 4) / 4 + rng.normal(0, 0.2)
        off = np.abs((angle - turn + np.pi / 2) % np.pi - np.pi / 2)
        band = np.exp(-(((radius - centre) / 0.04) ** 2) - (off / 0.25) ** 2)
        wave = np.real(np.fft.ifft2(np.fft.fft2(rng.normal(size=(pixels, pixels))) * band))
        grey = wave / wave.std() + rng.normal(0, 1.2, wave.shape)
        images[i] = np.clip(128 + 40 * grey, 0, 255).astype(np.uint8)[..., None]
    return images, labels


def everything(root: Path, name: str, pixels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Images, labels, and which of them may be trained on; None where the folder is not there."""
    if name == "digits":
        data = hs.data.digits()
        images = np.stack([np.asarray(squared(data.load(i)[0], pixels)) for i in range(len(data))])
        return images, data.labels, np.ones(len(data), bool)
    if name == "textures":
        images, labels = textures(1400, pixels)
        return images, labels, np.ones(len(labels), bool)
    if name == "cifar":
        if not (root / "cifar10").is_dir():
            return None
        sides = [
            pictures(root / "cifar10" / part, pixels, limit) for part, limit in (("train", 500), ("test", 200))
        ]
        images, labels = (np.concatenate(arrays) for arrays in zip(*sides, strict=True))
        return images, labels, np.arange(len(labels)) < len(sides[0][1])
    folders = {"flowers": [root / "flowers800"], "ants": [root / "ants_bees" / part for part in ("train", "val")]}
    if not all(folder.is_dir() for folder in folders[name]):
        return None
    sides = [pictures(folder, pixels) for folder in folders[name]]
    images, labels = (np.concatenate(arrays) for arrays in zip(*sides, strict=True))
    return images, labels, np.ones(len(labels), bool)


def data_of(root: Path, of: Set) -> tuple[Any, Any] | None:
    """(training data, held-out data), of every class about as many; None where the folder is not there."""
    if (read := everything(root, of.name, of.pixels)) is None:
        return None
    images, labels, usable = read
    rng = np.random.default_rng(7)
    order = rng.permutation(len(labels))
    rank = np.empty(len(labels), np.int64)  # of a sample among those of its class
    for k in range(labels.max() + 1):
        members = order[labels[order] == k]
        members = np.concatenate([members[usable[members]], members[~usable[members]]])
        rank[members] = np.arange(len(members))
    per_class = -(-of.samples // (int(labels.max()) + 1))
    train = np.flatnonzero((rank < per_class) & usable)
    rest = rng.permutation(np.flatnonzero((rank >= per_class) & (usable.all() | ~usable)))[: of.tested]
    names = [str(k) for k in range(labels.max() + 1)]
    return tuple(hs.data.arrays(images[at], labels[at], names) for at in (train, rest))  # type: ignore[return-value]


# ---- all modes, one by one


@dataclass(frozen=True)
class Trial:
    """One training: its rates in words, which of the held-out samples it got right, and its seconds."""

    setting: str
    right: np.ndarray
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "setting": self.setting,
            "right": bits_text(self.right),
            "accuracy": float(self.right.mean()),
            "seconds": round(self.seconds, 2),
        }


def trials(mode: str, trunk: str, of: Set, train: Any, held_out: Any, cache: Path) -> Iterator[Trial]:
    architecture, weights, cut = TRUNKS[trunk]
    model = hs.model(architecture, weights=weights, classes=train.classes, size=of.pixels)
    steps = -(-len(train) // BATCH)
    epochs = int(np.clip(-(-STEPS // steps), *EPOCHS))
    head_epochs = max(20, -(-HEAD_STEPS // steps))
    common = {"batch_size": BATCH, "backend": "torch", "cache": cache, "schedule": "cosine", "dtype": "float32"}
    settings: Mapping[str, list[dict[str, Any]]] = {
        "linear": [{"mode": "cached", "epochs": head_epochs, "lr": lr} for lr in (0.001, 0.003, 0.01, 0.03)],
        "cut": [{"mode": "cached", "cut": cut, "epochs": 2 * epochs, "lr": lr} for lr in (0.0003, 0.001)],
        "staged": [
            {"mode": "staged", "epochs": epochs, "head_epochs": head_epochs, "lr_scale": s} for s in (0.5, 2.0)
        ],
        "full": [{"mode": "full", "epochs": epochs, "lr": lr} for lr in (0.0003, 0.001)],
        "scratch": [{"mode": "scratch", "epochs": 2 * epochs, "lr": lr} for lr in SCRATCH_RATES[architecture]],
    }
    for options in settings[mode]:
        start = time.perf_counter()
        run = hs.fit(model, train, **options, **common)
        seconds = time.perf_counter() - start
        logits = run.predict(held_out)
        about = ", ".join(f"{name}={options[name]:g}" for name in ("lr", "lr_scale") if name in options)
        yield Trial(about, logits.argmax(1) == held_out.labels, seconds)
    if mode == "linear":
        yield solved(model, train, held_out, cache)


def solved(model: Any, train: Any, held_out: Any, cache: Path) -> Trial:
    """A logistic regression on standardised features, its penalty by cross-validation."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    start = time.perf_counter()
    x, other = (
        hs.extract(model, data, backend="torch", cache=cache, dtype="float32").numpy().reshape(len(data), -1)
        for data in (train, held_out)
    )
    folds = int(min(5, np.bincount(train.labels).min()))
    regression = LogisticRegressionCV(Cs=[1e-4, 1e-3, 1e-2, 1e-1, 1], cv=folds, max_iter=200)
    solver = make_pipeline(StandardScaler(), regression)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        solver.fit(x, train.labels)
    return Trial("logistic", solver.predict(other) == held_out.labels, time.perf_counter() - start)


def tuned(of_mode: Sequence[Mapping[str, Any]], samples: int) -> tuple[float, float]:
    """(accuracy, seconds) of a mode: the setting that does best on one half of the held-out samples, scored on the
    other, in the mean of both ways."""
    right = np.stack([bits_of(trial["right"], samples) for trial in of_mode])
    halves = right[:, ::2].mean(1), right[:, 1::2].mean(1)
    score = (halves[1][halves[0].argmax()] + halves[0][halves[1].argmax()]) / 2
    return float(score), float(np.mean([trial["seconds"] for trial in of_mode]))


# ---- the file of what is finished


class Outcomes:
    """What is known so far, by case: "<data set>-<samples> <trunk>"."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.cases: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.exists() else {}

    def add(self, case: str, what: str, value: Any) -> None:
        self.cases.setdefault(case, {})[what] = value
        write_json(self.path, self.cases)


def exhaust(
    root: Path,
    sets: Sequence[Set],
    outcomes: Outcomes,
    say: Callable[[str], None],
    trunks: Sequence[str] = tuple(TRUNKS),
) -> None:
    """All modes of all cases that are not finished yet, those from random weights last."""
    for modes in (MODES[:-1], MODES[-1:]):
        for of in sets:
            for trunk in trunks:
                exhaust_case(root, of, trunk, modes, outcomes, say)


def exhaust_case(
    root: Path, of: Set, trunk: str, modes: Sequence[str], outcomes: Outcomes, say: Callable[[str], None]
) -> None:
    case = f"{of.key} {trunk}"
    missing = [mode for mode in modes if mode not in outcomes.cases.get(case, {})]
    if not missing:
        return
    if (data := data_of(root, of)) is None:
        say(f"{case}: its folder is not in {root}")
        return
    train, held_out = data
    outcomes.add(case, "samples", {"train": len(train), "tested": len(held_out)})
    architecture = TRUNKS[trunk][0]
    same = [f"{of.key} {name}" for name, entry in TRUNKS.items() if entry[0] == architecture]
    with tempfile.TemporaryDirectory() as cache:
        for mode in missing:
            known = [outcomes.cases.get(name, {}).get(mode) for name in same]
            if mode == "scratch" and any(known):  # from no weights, so that of the other trunk
                outcomes.add(case, mode, next(filter(None, known)))
                continue
            done = [t.as_dict() for t in trials(mode, trunk, of, train, held_out, Path(cache))]
            outcomes.add(case, mode, done)
            score, seconds = tuned(done, len(held_out))
            rates = "  ".join(f"{t['setting']} {t['accuracy']:.3f}" for t in done)
            say(f"{case} {mode}: {score:.3f}, {seconds:.1f} s ({rates})")
