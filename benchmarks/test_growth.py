"""What becomes of time and memory where there is more of everything: of pictures to extract, of rows to train on,
of classes, of heads side by side.

A cost is `fixed + each * n`. Linear means that `each`, measured between the two largest sizes, is at most a
tenth more than between the two before: what grows with the square of n has a slope that grows. Costs that grow
less than that are as welcome as they are usual, where what is fixed in each step is shared. A training holds
some 40 MB for a moment however few the rows are, beside which few rows do not show at the peak; so what one
more row takes is taken to be at least its own bytes. Seconds are the processor's. The table has the slopes;
docs/growth.md shows them. It has them of 10,000, 100,000 and 1,000,000 rows, and of classes on 20,000 rows,
which HEADSTART_BENCH_FULL=1 measures; half of both is measured without.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from children import BACKENDS, Child
from PIL import Image
from sizes import bar_of, sized
from table import TARGETS, table

from headstart.common.machine import available_memory

GROUP = "growth"
LINEAR, PEAK, RATE = "growth", "memory of a million rows", "rate of a million rows"
PHOTOGRAPHS = (100, 1_000, 10_000)
ROWS = sized((5_000, 50_000, 500_000), (10_000, 100_000, 1_000_000))
EPOCHS = dict(zip(ROWS, sized((20, 8, 3), (8, 8, 4)), strict=True))
CLASSES, OF_CLASSES = (100, 1_000, 10_000), sized(10_000, 20_000)
"""and how many rows there are of all classes together"""
FEW = 512
"""rows that are trained on first where the memory of a row is asked for"""
HEADS = (16, 64, 256)
GIGABYTE = 1e9
SLACK = 1.5
"""A slope is noise and all: beyond so many times of the one before a benchmark fails, and the table says what is
within a tenth."""


class Growth:
    """Asks processes of a backend, each once, and records what one more costs."""

    def __init__(self, backend: str, features: Path) -> None:
        """`features`: a folder of such as are written once for all backends."""
        self.backend, self.features = backend, features

    def ask(self, do: str, **request: Any) -> Any:
        child = Child(self.backend, "growth.py")
        try:
            return child.ask(do=do, **request)
        finally:
            child.close()

    def epochs(
        self, rows: int, columns: int, classes: int, batch: int, epochs: int, few: int = 0
    ) -> dict[str, Any]:
        """On features that another process writes, unless they are there. `few`: on so many of them before."""
        shape = {"rows": rows, "columns": columns, "classes": classes}
        cache = self.features / "-".join(map(str, shape.values()))
        if not cache.exists():
            self.ask("write", cache=str(cache), **shape)
        answer: dict[str, Any] = self.ask("epochs", cache=str(cache), batch=batch, epochs=epochs, few=few, **shape)
        return answer

    def check(
        self,
        what: str,
        sizes: Sequence[int],
        amounts: Sequence[float],
        unit: str,
        facts: Any,
        asked_of: str = "",
        least: float = 0.0,
    ) -> None:
        """Record what one more costs at the upper end beside what it costs below, and hold it to `SLACK`. `least`:
        what one more costs below at least."""
        before, last = (np.diff(amounts) / np.diff(sizes))[-2:].tolist()
        before = max(before, least)
        print(f"\n{self.backend}, {what}: {dict(zip(sizes, amounts, strict=True))}, {last / before:.2f}")
        assert before > 0 and last > 0
        table.record(
            GROUP,
            f"{what}, {sizes[-2]:,} to {sizes[-1]:,}: one more",
            last,
            unit=unit,
            backend=self.backend,
            peer=f"one more of {sizes[-3]:,} to {sizes[-2]:,}",
            peers=before,
            target=LINEAR,
            asked_of=asked_of,
            facts=facts,
        )
        assert last <= SLACK * before


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A few GB, not left behind."""
    root = tmp_path_factory.mktemp("features")
    yield root
    shutil.rmtree(root)


@pytest.fixture(params=BACKENDS)
def growth(request: pytest.FixtureRequest, features: Path) -> Growth:
    return Growth(request.param, features)


@pytest.fixture(scope="module")
def photograph_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Folders of so many small JPEG files, no two alike."""
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    folders = {count: root / str(count) for count in PHOTOGRAPHS}
    for folder in folders.values():
        for name in ("even", "odd"):
            (folder / name).mkdir(parents=True)
    for number in range(max(PHOTOGRAPHS)):
        name = Path("odd" if number % 2 else "even", f"{number}.jpg")
        file = folders[max(PHOTOGRAPHS)] / name
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64)).save(file)
        for count, folder in folders.items():
            if number < count < max(PHOTOGRAPHS):
                (folder / name).hardlink_to(file)
    return folders


def test_photographs(benchmark: Any, growth: Growth, photograph_folders: dict[int, Path], tmp_path: Path) -> None:
    """In one process, since no memory is asked for, whose first extraction is not counted."""
    benchmark.group = "growth: extraction"
    child, caches = Child(growth.backend, "growth.py"), iter(range(len(PHOTOGRAPHS) + 1))

    def extract(count: int) -> dict[str, Any]:
        where = {"photographs": str(photograph_folders[count]), "cache": str(tmp_path / str(next(caches)))}
        answer: dict[str, Any] = child.ask(do="extract", **where)
        return answer

    extract(PHOTOGRAPHS[0])
    answers = [extract(count) for count in PHOTOGRAPHS[:-1]]
    answers.append(benchmark.pedantic(extract, args=[PHOTOGRAPHS[-1]], rounds=1))
    child.close()
    assert [answer["rows"] for answer in answers] == [*PHOTOGRAPHS]
    seconds = [answer["seconds"] for answer in answers]
    growth.check("extraction, small JPEGs", PHOTOGRAPHS, seconds, "s", answers[-1])


def test_rows(benchmark: Any, growth: Growth) -> None:
    benchmark.group = "growth: rows"

    def epochs(rows: int) -> dict[str, Any]:
        return growth.epochs(rows, columns=512, classes=10, batch=256, epochs=EPOCHS[rows], few=FEW)

    answers = [epochs(rows) for rows in ROWS[:-1]]
    answers.append(benchmark.pedantic(epochs, args=[ROWS[-1]], rounds=1))
    assert all(answer["where"] == "device" for answer in answers)
    assert all(answer["losses"][-1] < 0.5 * answer["losses"][0] for answer in answers), "they have learned"
    what, held = "a cached epoch, rows of 512", [answer["peak"] - answer["base"] for answer in answers]
    asked_of = bar_of("100,000 to 1,000,000")
    growth.check(what, ROWS, [answer["seconds"] for answer in answers], "s", answers[-1], asked_of)
    own = answers[-1]["nbytes"] / ROWS[-1]
    growth.check(f"memory of {what}", ROWS, held, "bytes", answers[-1], asked_of, least=own)


def test_classes(benchmark: Any, growth: Growth) -> None:
    benchmark.group = "growth: classes"

    def epochs(classes: int) -> dict[str, Any]:
        return growth.epochs(OF_CLASSES, columns=512, classes=classes, batch=256, epochs=3)

    answers = [epochs(classes) for classes in CLASSES[:-1]]
    answers.append(benchmark.pedantic(epochs, args=[CLASSES[-1]], rounds=1))
    assert all(answer["losses"][-1] < answer["losses"][0] for answer in answers)
    what = f"a cached epoch of {OF_CLASSES:,} x 512, classes"
    held = [answer["peak"] - answer["base"] for answer in answers]
    asked_of = bar_of("20,000 x 512")
    growth.check(what, CLASSES, [answer["seconds"] for answer in answers], "s", answers[-1], asked_of)
    growth.check(f"memory of {what}", CLASSES, held, "bytes", answers[-1], asked_of)


def test_heads(benchmark: Any, growth: Growth) -> None:
    benchmark.group = "growth: heads"
    child = Child(growth.backend, "heads.py")
    seconds = []
    for count in HEADS:
        child.ask(do="prepare", columns=512, classes=5, batch=64, heads=count)
        seconds.append(min(child.ask(do="processor") for _ in range(5)))  # what else runs only adds to it
    benchmark.pedantic(child.ask, kwargs={"do": "epoch", "kind": "many"}, rounds=1)
    facts = child.ask(do="facts")
    child.close()
    growth.check("an epoch of 12,800 x 512, heads side by side", HEADS, seconds, "s", facts)


def test_a_million_rows(benchmark: Any, growth: Growth) -> None:
    """1,000,000 x 768 with batches of 4,096: what is held above the framework, and the share of numpy's rate."""
    if available_memory() < 8 * GIGABYTE:
        pytest.skip("not enough memory to hold the features")
    benchmark.group = "growth: a million rows"
    shape = {"columns": 768, "classes": 10, "batch": 4_096}
    found = benchmark.pedantic(growth.epochs, kwargs={"rows": 1_000_000, "epochs": 3, **shape}, rounds=1)
    products = growth.ask("products", steps=1_000_000 // 4_096, **shape)
    held, allowed = found["peak"] - found["base"], 1.3 * found["nbytes"] + GIGABYTE
    what = "1,000,000 x 768, a linear head, batches of 4,096"
    record = partial(table.record, GROUP, backend=growth.backend, facts=found)
    peer = "1.3x the features and 1 GB"
    record(f"{what}: memory", held, unit="bytes", peer=peer, peers=allowed, target=PEAK)
    record(f"{what}: an epoch", found["seconds"], peer="its products by numpy", peers=products, target=RATE)
    print(f"\n{growth.backend}: {held / 1e9:.2f} of {allowed / 1e9:.2f} GB", end="")
    print(f", {products / found['seconds']:.0%} of the rate of products")
    assert found["losses"][-1] < 0.3 * np.log(10)
    assert held <= TARGETS[PEAK].bound * allowed
