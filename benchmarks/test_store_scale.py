"""What the store costs, beside a plain file of the same bytes: a pair a group. Stores of a million and of ten
million rows, opened by a process that has seen nothing of them. And what an extraction costs beside its trunk.

HEADSTART_BENCH_FULL=1: the ten million, and extraction at a cut whose rows are large, of which nothing was asked.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from faults.campaigns import campaign, scaled, scaled_ids
from sizes import sized
from table import table

from headstart.contract import registry

COLUMNS = 2048  # float16, 4 KiB a row: a ResNet-50's features
ROWS = (1 << 30) // (2 * COLUMNS)
BLOCK = 4096  # rows that are written at once


@pytest.fixture(scope="module")
def rows() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((BLOCK, COLUMNS), np.float32).astype(np.float16)


# what is done -> the median seconds of a plain file
plain_files: dict[str, float] = {}


def measure(benchmark: Any, kind: str, group: str, action: Callable[[], Any], nbytes: int) -> Any:
    """Time one of a pair; the store, which comes second, beside the plain file."""
    benchmark.group = group
    result = benchmark.pedantic(action, rounds=sized(3, 5), warmup_rounds=1)
    if benchmark.stats is not None:
        benchmark.extra_info["megabytes_per_second"] = nbytes / benchmark.stats.stats.min / 1e6
        median = benchmark.stats.stats.median
        if kind == "plain file":
            plain_files[group] = median
        else:
            peers = plain_files.get(group)
            peer = "" if peers is None else "a plain file of the same bytes"
            table.record("the feature store", group, median, peer=peer, peers=peers, cost=True)
    return result


@pytest.mark.parametrize("kind", ["plain file", "store"])
def test_writing(benchmark: Any, tmp_path: Path, rows: np.ndarray[Any, Any], kind: str) -> None:
    """A quarter of a GiB, synced."""
    blocks = ROWS // BLOCK // 4
    ids = [scaled_ids(i * BLOCK, (i + 1) * BLOCK) for i in range(blocks)]
    places = iter(range(100))

    def plain() -> int:
        with (tmp_path / str(next(places))).open("wb", 0) as file:
            for _ in range(blocks):
                file.write(rows.data)
            os.fsync(file.fileno())
        return blocks * BLOCK

    def store() -> int:
        with scaled(tmp_path / str(next(places))).writer((COLUMNS,), "float16", {}) as out:
            for block in ids:
                out.add(block, rows)
        return out.rows_written

    action = plain if kind == "plain file" else store
    assert measure(benchmark, kind, "writing 256 MiB", action, blocks * rows.nbytes) == blocks * BLOCK


@pytest.fixture(scope="module")
def gibibyte(tmp_path_factory: pytest.TempPathFactory, rows: np.ndarray[Any, Any]) -> Path:
    """A store and a plain file of the same 1 GiB."""
    root = tmp_path_factory.mktemp("gibibyte")
    with scaled(root).writer((COLUMNS,), "float16", {}) as out, (root / "plain").open("wb") as file:
        for start in range(0, ROWS, BLOCK):
            out.add(scaled_ids(start, start + BLOCK), rows)
            file.write(rows.data)
    return root


@pytest.mark.parametrize("kind", ["plain file", "store"])
@pytest.mark.parametrize("share", [1.0, 0.2], ids=["all in order", "a fifth at random"])
def test_reading(benchmark: Any, gibibyte: Path, rows: np.ndarray[Any, Any], kind: str, share: float) -> None:
    """From the page cache: what the store adds is the index and the checksums."""
    order = np.arange(ROWS) if share == 1 else np.random.default_rng(0).permutation(ROWS)[: int(share * ROWS)]
    every = scaled_ids(0, ROWS)
    ids = [every[i] for i in order]
    folder = scaled(gibibyte)
    assert folder.missing(ids) == []

    def plain() -> np.ndarray[Any, Any]:
        out = np.empty((len(order), COLUMNS), np.float16)
        with (gibibyte / "plain").open("rb", 0) as file:
            if share == 1:
                file.readinto(out.reshape(-1).data)  # type: ignore[arg-type]
            else:
                for place, row in enumerate(order.tolist()):
                    os.preadv(file.fileno(), [out[place].data], row * out[place].nbytes)
        return out

    action = plain if kind == "plain file" else lambda: folder.read(ids)
    read = measure(benchmark, kind, f"reading {share:.0%} of 1 GiB", action, len(order) * 2 * COLUMNS)
    assert np.array_equal(read[-7:], rows[order[-7:] % BLOCK])


SCALES = {"1 million": (1_000_000, 256), **sized({}, {"10 million": (10_000_000, 8)})}


@pytest.mark.parametrize(("count", "columns"), SCALES.values(), ids=SCALES)
def test_opening(benchmark: Any, tmp_path: Path, count: int, columns: int) -> None:
    """The benchmark's seconds include starting Python; `seconds` in the figures is the opening alone."""
    written = campaign("fill_with_rows", tmp_path, rows=count, columns=columns)
    benchmark.group = "opening stores"
    openings: list[dict[str, float]] = []

    def opening() -> None:
        openings.append(campaign("open_scaled", tmp_path, rows=count))

    benchmark.pedantic(opening, rounds=3, warmup_rounds=1)
    opened = {name: float(np.median([opening[name] for opening in openings[-3:]])) for name in ("seconds", "peak")}
    what, target = f"opening {count:,} rows in a new process", "opening a million rows"
    table.record("the feature store", what, opened["seconds"], target=target, scale=count / 1e6)
    table.record("the feature store", f"{what}: memory at the peak", opened["peak"], unit="bytes")
    benchmark.extra_info.update(opened, rows=count, rows_written_per_second=count / written["seconds"])
    assert opened["seconds"] < count * 1e-6


@pytest.mark.parametrize("cut", sized(["avgpool", "layer4"], ["avgpool", "layer4", "layer1"]))
def test_extraction(benchmark: Any, tmp_path: Path, cut: str) -> None:
    """A resnet18 over JPEG files made for it; `own_share` is what is neither decoding nor the trunk: hashing, ids,
    checksums, casting, writing. The benchmark's seconds include making the files and starting the framework."""
    benchmark.group = "extraction"
    backend = os.environ.get("HEADSTART_BACKEND") or registry.installed()[0]
    settings = {"images": 128, "cut": cut, "backend": backend}
    found = benchmark.pedantic(lambda: campaign("measure_overhead", tmp_path, **settings), rounds=1, iterations=1)
    share = found["own"] / found["seconds"]
    table.record(
        "the feature store",
        f"what extraction adds to decoding and trunk, resnet18 at {cut}",
        found["own"],
        backend=backend,
        peer="the whole extraction",
        peers=found["seconds"],
        target=None if cut == "layer1" else "overhead of extraction",
        cost=True,
        facts={"versions": registry.versions(backend)},
    )
    benchmark.extra_info.update(found, backend=backend, own_share=share)
    assert cut == "layer1" or share < 0.05  # there a row is 400 kB, and the disk decides
