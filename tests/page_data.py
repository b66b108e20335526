"""The files that pages speak of, made of scikit-learn's two photographs: `flower_photos` (a folder a class),
`photos` (in parts), single pictures, tables of labels and tars."""

from __future__ import annotations

import csv
import io
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

KINDS = ("daisy", "dandelion", "roses", "sunflowers", "tulips")
PARTS = {"train": 8, "val": 3, "test": 3}
EACH = 10
"""pictures a class in flower_photos"""
SIDE = 96


@cache
def photograph(name: str) -> Image.Image:
    from sklearn.datasets import load_sample_image

    return Image.fromarray(load_sample_image(name))


def picture(kind: int, rng: np.random.Generator) -> bytes:
    """A JPEG: a part of a photograph, somewhere near the part that its kind is."""
    whole = photograph(("flower.jpg", "china.jpg")[kind % 2])
    left, top = 100 + 170 * (kind // 2) + rng.integers(-60, 60), 160 + rng.integers(-60, 60)
    out = io.BytesIO()
    whole.crop((left, top, left + SIDE, top + SIDE)).save(out, "JPEG")
    return out.getvalue()


def folder(path: Path, each: int, rng: np.random.Generator) -> Iterator[Path]:
    """A folder a class; the files that are made."""
    for number, kind in enumerate(KINDS):
        (path / kind).mkdir(parents=True)
        for i in range(each):
            file = path / kind / f"{kind}{i:02}.jpg"
            file.write_bytes(picture(number, rng))
            yield file


def table(path: Path, header: list[str], rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def make(root: Path) -> None:
    """All of it, below `root`; the same in every run."""
    rng = np.random.default_rng(0)
    flowers = [file.relative_to(root) for file in folder(root / "flower_photos", EACH, rng)]
    for part, each in PARTS.items():
        list(folder(root / "photos" / part, each, rng))
    list(folder(root / "elsewhere", 2, rng))
    (root / "new").mkdir()
    for i in range(3):
        (root / "new" / f"{i}.jpg").write_bytes(picture(i, rng))
    (root / "rose.jpg").write_bytes(picture(2, rng))
    (root / "tulip.jpg").write_bytes(picture(4, rng))
    names = [file.as_posix() for file in flowers]
    parts = ["val" if i % 5 == 0 else "train" for i in range(len(names))]
    rows = [
        [n, Path(n).parent.name, f"p{i // 2}", part, i % 3]
        for i, (n, part) in enumerate(zip(names, parts, strict=True))
    ]
    table(root / "labels.csv", ["file", "kind", "patient", "part", "fold"], rows)
    colours = ["yellow;white", "yellow", "red;green", "yellow;green", "red"]
    table(root / "tags.csv", ["file", "tags"], [[n, colours[i // EACH]] for i, n in enumerate(names)])
    table(
        root / "heights.csv", ["file", "height"], [[n, f"{10.5 + 7 * (i // EACH)}"] for i, n in enumerate(names)]
    )
    for number in range(2):
        with tarfile.open(root / f"shards-00{number}.tar", "w") as tar:
            for i in range(4):
                add(tar, f"{i}.jpg", picture(i % 2, rng))
                add(tar, f"{i}.cls", str(i % 2).encode())


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
