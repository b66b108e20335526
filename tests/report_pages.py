"""What tests of reports are made of: runs of every task, hostile texts, gaps; and a page taken apart."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping
from functools import cache
from html.parser import HTMLParser
from typing import Any

import numpy as np
from PIL import Image

from headstart.report import pictures

NAN = float("nan")
SPACE = "\N{NO-BREAK SPACE}"
HOSTILE = (
    "</script><script>hacked=1</script><img src=x onerror=hacked=1> \"q' & $$x^2$$ {{ 7*7 }} @row \x00\u202e\ud800"
)


def record(epoch: int, seconds: float, loss: float = 0.5, **changes: Any) -> dict[str, Any]:
    return {
        "epoch": epoch,
        "loss": loss,
        "accuracy": 0.8,
        "val_loss": loss + 0.1,
        "val_accuracy": 0.75,
        "seconds": {"data": seconds / 4, "trunk": 0.0, "head": seconds * 3 / 4, "total": seconds},
        "learning_rate": 0.001,
        "step_losses": [loss, loss],
        "auxiliary_losses": [],
        **changes,
    }


def row(backend: str, mode: str, accuracy: float | None = 0.9, epochs: int = 3, **changes: Any) -> dict[str, Any]:
    seconds = 0.01 if mode == "cached" else 2.0
    staged, stored = mode == "staged", mode in ("cached", "staged")
    return {
        "label": f"{backend} {mode}",
        "backend": backend,
        "mode": mode,
        "cut": "avgpool" if stored or mode == "frozen" else None,
        "val_accuracy": accuracy,
        "val_loss": 0.3,
        "best_epoch": min(2, epochs) or None,
        "history": [record(i + 1, seconds, 1 / (i + 1)) for i in range(epochs)],
        "head_best_epoch": 1 if staged else None,
        "head_history": [record(i + 1, 0.01, 2.0) for i in range(2)] if staged else [],
        "seconds_per_epoch": {"data": seconds / 4, "trunk": 0.0, "head": seconds * 3 / 4, "total": seconds},
        "extraction_seconds": 3.0 if stored else 0.0,
        "extracted": 80 if stored else 0,
        "reused": 0,
        "features_made_by": [],
        "total_seconds": 9.0,
        "settings": {
            "seed": 0,
            "batch_size": 16,
            "optimizer": {"all": {"name": "adamw"}},
            "monitor": "val_loss",
            "stages": {"head": {"max_epochs": 100}, "all": {"max_epochs": epochs}},
        },
        "speedup_over_frozen": 2.0 / seconds,
        "pays_off_after_epochs": 2 if mode == "cached" else None,
        "parameters": {"trained": 2570, "all": 2_806_250},
        "validation": {
            "samples": 20,
            "confusion": [[0, 0, 9], [0, 1, 1], [1, 1, 8], [1, 2, 2]],
            "worst": [
                {"id": f"{i:032x}", "index": i, "label": 1, "predicted": 2, "probability": 0.9, "loss": 2.3}
                for i in range(2)
            ],
        },
        "scores": {
            "task": "single",
            "samples": 20,
            "values": {"accuracy": 0.85, "macro_f1": 0.5},
            "undefined": {},
            "intervals": {"accuracy": [0.65, 0.95]},
            "per_class": [
                {"class": "rose", "samples": 10, "precision": 1.0, "recall": 0.9, "f1": 0.947, "auc": 0.75},
                {"class": "tulip", "samples": 10, "recall": 0.0, "undefined": {"precision": "never"}},
            ],
        },
        "against_best": {"best": "torch full", "difference": -0.05, "interval": [-0.2, 0.1], "noise": True},
        "kernels": None,
        **changes,
    }


def of_task(made: dict[str, Any], score: str, values: list[float], **changes: Any) -> dict[str, Any]:
    """A row whose headline score is `score`, with these values on the validation data, an epoch each."""
    task, shares = ("multi", True) if score == "micro_f1" else ("regression", False)
    without: dict[str, Any] = {} if shares else {"accuracy": None, "val_accuracy": None}
    history = [record(i + 1, 1.0, val_score=value, score=score, **without) for i, value in enumerate(values)]
    rows = [
        {"class": "red", "samples": 12, "precision": 0.5, "recall": 0.25, "f1": 1 / 3, "auc": 0.75},
        {"class": "blue", "samples": 8, "recall": 0.0, "undefined": {"precision": "no label was predicted"}},
    ]
    if not shares:
        rows = [{"class": "year", "samples": 20, "mae": 12.5, "rmse": 20.25, "r2": -0.5}]
    misses = [
        {"id": f"{i:032x}", "index": i, "label": label, "predicted": predicted, "error": 1.25}
        for i, (label, predicted) in enumerate([("'red' and 'blue'", "nothing"), ("'red'", "'blue'")])
    ]
    return {
        **made,
        "score": score,
        "val_score": values[-1],
        "val_accuracy": 0.75 if shares else None,
        "history": history,
        "validation": {"samples": 20, "confusion": [], "worst": [], "misses": misses},
        "scores": {
            "task": task,
            "samples": 20,
            "values": {score: values[-1]},
            "undefined": {},
            "intervals": {score: [0.5, 0.625] if shares else [10.0, 1234.5]},
            "per_class": rows,
        },
        **changes,
    }


def of_labels() -> dict[str, Any]:
    against = {"best": "torch cached", "difference": -0.125, "interval": [-0.3, 0.1], "noise": True}
    rows = [
        of_task(row("torch", "full"), "micro_f1", [0.25, 0.5], against_best=against),
        of_task(row("torch", "cached"), "micro_f1", [0.75, 0.625], against_best=None),
    ]
    data = {"name": "things", "train": 80, "val": 20, "classes": ["red", "blue"], "task": "multi", "skipped": []}
    return content(rows, data=data)


def of_numbers() -> dict[str, Any]:
    against = {"best": "torch cached", "difference": 8.5, "interval": [-0.2, 17.0], "noise": True}
    rows = [
        of_task(row("torch", "full"), "mae", [50.0, 21.0], against_best=against),
        of_task(row("torch", "cached"), "mae", [40.0, 12.5], against_best=None),
    ]
    data = {"name": "things", "train": 80, "val": 20, "classes": ["year"], "task": "regression", "skipped": []}
    return content(rows, data=data)


def content(rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    made = rows if rows is not None else [row("torch", mode, 0.9 - i / 100) for i, mode in enumerate(MODES)]
    return {
        "headstart": "0.1.0",
        "created": "2026-01-02T03:04:05+0000",
        "command": ["/opt/venv/bin/headstart", "compare", "--data", "my photos"],
        "machine": {"cpu": "Some CPU", "cores": 2, "memory_bytes": 8 << 30, "system": "Linux", "python": "3.11.7"},
        "versions": {"torch": {"torch": "2.15.0"}},
        "data": {"name": "things", "train": 80, "val": 20, "classes": ["ant", "bee", "cat"], "skipped": []},
        "model": {"name": "lenet", "weights": None, "parameters": 61706, "preprocess": {"size": 32}},
        "settings": {"epochs": 3},
        "rows": made,
        "errors": {},
        "pictures": {f"{0:032x}": pixel()},
        **changes,
    }


MODES = ("scratch", "full", "frozen", "cached", "staged")


def pixel() -> str:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 30, 60)).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def advice_row(trunk: str, what: str, score: float, seconds: float, **more: Any) -> dict[str, Any]:
    return {
        "trunk": trunk,
        "what": what,
        "cut": "layer3" if what == "cut" else None,
        "score": score,
        "interval": [score - 0.03, score + 0.03],
        "seconds": seconds,
        "bytes": 1000 if what in ("linear", "cut", "staged") else 0,
        "within_budget": True,
        "pareto": False,
        **more,
    }


def advice(name: str = "things", score: str = "accuracy") -> dict[str, Any]:
    """What a page of advice is made of."""
    rows = [
        advice_row("a", "staged", 0.9, 60, pareto=True),
        advice_row("a", "full", 0.88, 600, within_budget=False),
        advice_row("a", "cut", 0.85, 20, pareto=True),
        advice_row("b", "linear", 0.8, 0.1, pareto=True),
        advice_row("b", "scratch", 0.5, 900),
    ]
    cut = {
        "cut": "layer3",
        "score": 0.8,
        "interval": [0.7, 0.9],
        "seen": 1.0,
        "knn": 0.7,
        "logme": -0.2,
        "spread": 0.1,
    }
    cut |= {"curve": [[10, 0.6], [20, 0.7], [40, 0.8]], "silhouette": None}
    familiar = {"classes": 1000, "confidence": 0.31, "entropy": 0.6}
    points = [
        {
            "x": k / 30,
            "y": (k * 7 % 30) / 30,
            "class": k % 10,
            "label": f"{name} {k % 10}",
            "picture": pixel() if k else None,
        }
        for k in range(30)
    ]
    return {
        "data": {"name": name},
        "score": score,
        "trunks": [
            {"trunk": "a", "cuts": [cut], "familiarity": familiar},
            {"trunk": "b", "cuts": [cut], "familiarity": None},
        ],
        "rows": rows,
        "best": rows[0],
        "sentence": f"train the classifier of {name}",
        "command": f"headstart fit --data '{name}'",
        "map": {
            "method": "PCA",
            "share": 0.2,
            "classes": [f"{name} {k}" for k in range(10)],
            "task": "single",
            "points": points,
        },
    }


@cache
def full_size() -> dict[str, Any]:
    """Three backends, five modes, thirty classes, fifty epochs, no two pictures alike but the kernels before."""
    rng = np.random.default_rng(0)
    rows, found = [], {}
    classes = 30
    before = rng.normal(size=(64, 3, 7, 7))
    for backend in ("torch", "keras", "jax"):
        for mode in MODES:
            made = row(backend, mode, epochs=50)
            for one in made["history"]:
                one["step_losses"] = rng.random(500).tolist()
            worst = []
            for i in range(12):
                noise = Image.fromarray(rng.integers(0, 256, (16, 14, 3), np.uint8)).resize((98, 112))
                id = f"{backend} {mode} {i}"
                found[id] = pictures._thumbnail(noise)
                worst.append({"id": id, "index": i, "label": 3, "predicted": 4, "probability": 0.9, "loss": 3.0})
            every = [[t, p, 1 + t] for t in range(classes) for p in range(classes)]
            made["validation"] = {"samples": 1000, "confusion": every, "worst": worst}
            made["kernels"] = pictures.kernels("conv1.weight", before, rng.normal(size=before.shape))
            rows.append(made)
    names = [f"class {i}" for i in range(classes)]
    data = {"name": "many", "train": 9000, "val": 1000, "classes": names, "skipped": [["a.jpg", "is empty"]]}
    return content(rows, data=data, pictures=found)


class Parsed(HTMLParser):
    """The elements of a page, its texts, and what is in its scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self._open = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        {"script": self.scripts, "style": self.styles}.get(self._open, self.texts).append(data)


def everywhere(value: Any, text: str) -> Any:
    """`value` with every text in it replaced, but for keys, backends, modes and pictures."""
    if isinstance(value, str):
        return value if value in MODES or value.startswith("data:image") else text
    if isinstance(value, Mapping):
        return {key: everywhere(entry, text) for key, entry in value.items()}
    if isinstance(value, list):
        return [everywhere(entry, text) for entry in value]
    return value


def hostile() -> dict[str, Any]:
    given = everywhere(content(errors={"torch": {"type": "crash", "message": "gone"}}, title="a title"), HOSTILE)
    given["rows"][0]["kernels"] = {**pictures.kernels("c", *np.ones((2, 1, 1, 3, 3))), "node": HOSTILE}
    given["rows"][1]["kernels"] = {
        **given["rows"][0]["kernels"],
        "before": "javascript:hacked=1",
        "after": HOSTILE,
    }
    given["errors"][HOSTILE] = given["errors"].pop("torch")
    given["settings"][HOSTILE] = {HOSTILE: HOSTILE}
    given["pictures"] = {HOSTILE: 'data:image/png;base64,AAAA" onerror="hacked=1'}
    given["data"]["skipped"] = [[HOSTILE, HOSTILE]]
    return given


GAPS: dict[str, Callable[[], dict[str, Any]]] = {
    "one-run": lambda: content([row("jax", "full")]),
    "one-epoch": lambda: content([row("jax", "full", epochs=1), row("jax", "cached", epochs=1)]),
    "no-validation": lambda: content(
        [
            row(
                "jax",
                "full",
                None,
                val_loss=None,
                validation=None,
                history=[record(i + 1, 1.0, val_loss=None, val_accuracy=None) for i in range(epochs)],
                label=f"of {epochs}",
            )
            for epochs in (1, 3)
        ]
    ),
    "diverged": lambda: content(
        [
            row(
                "jax",
                "full",
                NAN,
                history=[record(i + 1, 1.0, loss) for i, loss in enumerate((1e9, math.inf, NAN))],
            ),
            row("jax", "frozen"),
        ]
    ),
    "nothing-known": lambda: content(
        [
            row(
                "jax",
                "cached",
                None,
                **dict.fromkeys(
                    ("speedup_over_frozen", "pays_off_after_epochs", "parameters", "validation", "cut")
                ),
            )
        ],
        data={"name": "x"},
        model={"name": "y"},
        machine={},
        versions={},
        settings={},
        command=[],
        pictures={},
    ),
    "all-failed": lambda: content([], errors={"torch": {"type": "crash", "message": "its last words:\ngone"}}),
    "many-classes": lambda: content(
        data={"name": "x", "train": 9, "val": 9, "classes": [f"c{i}" for i in range(99)]}
    ),
    "no-epochs": lambda: content([row("jax", "full", history=[])]),
    "labels": of_labels,
    "numbers": of_numbers,
    "diverged-numbers": lambda: content(
        [of_task(row("jax", "full"), "mae", [1.0, NAN], diverged=True, scores=None, against_best=None)]
    ),
}
