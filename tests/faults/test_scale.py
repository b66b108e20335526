"""A million rows, and what opening them costs; what an extraction costs beside its trunk, in time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faults.campaigns import campaign

ROWS, COLUMNS = 1_000_000, 256
BASE_NBYTES = 256 << 20  # Python and numpy, one shard, the batches on their way
SAMPLE_NBYTES = 2 << 10  # ids as text, positions, the index


def test_a_million_rows_open_at_once(tmp_path: Path, figure: Any) -> None:
    with figure(f"rows of {COLUMNS} float16 written") as it:
        written = campaign("fill_with_rows", tmp_path, rows=ROWS, columns=COLUMNS)
        it.count = ROWS
        it.result = f"{written['nbytes'] / written['seconds'] / 1e6:.0f} MB/s, cast, checksummed and synced"
    with figure("rows opened by a fresh process") as it:
        opened = [campaign("open_scaled", tmp_path, rows=ROWS) for _ in range(3)]
        best = min(opened, key=lambda one: one["seconds"])
        it.count = ROWS
        it.result = f"{best['seconds']:.2f} s, {best['peak'] / 1e6:.0f} MB at the peak, Python and numpy included"
    assert best["seconds"] < 1
    assert best["peak"] < 200e6


@pytest.mark.parametrize("cut", ["avgpool", "layer4"])
def test_extraction_is_decoding_and_trunk(tmp_path: Path, figure: Any, cut: str) -> None:
    """The share of what is neither, of an extraction with a resnet18 at 224 pixels, from JPEG files."""
    with figure(f"images through a resnet18 to {cut}") as it:
        found = campaign("measure_overhead", tmp_path, images=256, cut=cut)
        it.count = found["images"]
        share = found["own"] / found["seconds"]
        it.result = (
            f"{share:.1%} of {found['seconds']:.1f} s for hashing, ids, checksums, casting, writing "
            f"{found['nbytes'] / 1e6:.1f} MB"
        )
    assert share < 0.05


def test_memory_does_not_grow_with_the_features(tmp_path: Path, figure: Any) -> None:
    peaks = {}
    for images in (2_000, 40_000):
        with figure("images of 49 kB extracted, without a framework") as it:
            found = campaign("measure_memory", tmp_path, images=images, side=128)
            it.count = images
            peaks[images] = found["peak"]
            it.result = f"{found['nbytes'] / 1e6:,.0f} MB stored, {found['peak'] / 1e6:.0f} MB at the peak"
        assert found["peak"] < BASE_NBYTES + images * SAMPLE_NBYTES
    assert peaks[40_000] - peaks[2_000] < 38_000 * SAMPLE_NBYTES
