"""Features that float16 rounds to zero are told of; zeros of rectifiers and small tails are not."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from headstart.common.errors import FeatureUnderflowError, UnderflowWarning
from headstart.store.writer import ShardWriter

pytestmark = pytest.mark.neutral
RNG = np.random.default_rng(0)
FEATURES = RNG.standard_normal((20, 3, 50)).astype(np.float32)


def write(folder: Path, rows: np.ndarray, dtype: str = "float16") -> int:
    with ShardWriter(folder, "0" * 32, rows.shape[1:], dtype, {}, lambda: folder.mkdir(exist_ok=True)) as writer:
        for start in range(0, len(rows), 5):
            writer.add([f"{k:032x}" for k in range(start, start + 5)], rows[start : start + 5])
    return writer.rows_written


@pytest.mark.parametrize(
    "rows",
    [
        FEATURES * 1e-9,
        -np.abs(FEATURES) * 1e-9,  # which become negative zeros
        FEATURES * 1e-7,  # a few digits are left
        FEATURES * np.where(np.arange(50) < 30, 1e-9, 1).astype(np.float32),
        np.maximum(FEATURES, 0) * 1e-9,
    ],
)
def test_features_too_small_are_refused(rows: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(FeatureUnderflowError, match='dtype="float32"'):
        write(tmp_path / "low", rows)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert write(tmp_path / "high", rows, "float32") == write(tmp_path / "wide", rows, "bfloat16") == 20


def test_features_with_few_digits_are_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UnderflowWarning, match="all features are below 6e-05"):
        write(tmp_path, FEATURES * 5e-6)


def test_some_channels_lost_are_a_warning(tmp_path: Path) -> None:
    with pytest.warns(UnderflowWarning, match="5 of 50 channels"):
        write(tmp_path, FEATURES * np.where(np.arange(50) < 5, 1e-9, 1).astype(np.float32))


@pytest.mark.parametrize(
    "rows",
    [
        np.maximum(FEATURES, 0),
        np.maximum(FEATURES, 0) * (np.arange(50) > 40),  # channels that are never on
        np.where(RNG.random(FEATURES.shape) < 0.7, 1e-9, FEATURES).astype(np.float32),  # small tails
        np.concatenate([FEATURES[:10] * 1e-12, FEATURES[10:]]),  # black images
        np.zeros_like(FEATURES),
        FEATURES * 1e-3,
    ],
)
def test_what_loses_nothing_is_not_told_of(rows: np.ndarray, tmp_path: Path) -> None:
    with warnings.catch_warnings(action="error"):
        assert write(tmp_path, np.asarray(rows, np.float32)) == 20


def test_batches_that_come_as_they_are_stored_count_as_well(tmp_path: Path) -> None:
    """As a device hands them over, which keeps those in float32 of which something would be lost."""
    few = FEATURES * np.where(np.arange(50) < 5, 1e-9, 1).astype(np.float32)
    with (
        ShardWriter(tmp_path, "0" * 32, few.shape[1:], "float16", {}, lambda: None) as writer,
        warnings.catch_warnings(action="error"),
    ):
        writer.add([f"{k:032x}" for k in range(5)], few[:5])
        writer.add([f"{k:032x}" for k in range(5, 10)], FEATURES[5:10].astype(np.float16))
    tiny = (FEATURES * 5e-6).astype(np.float16)
    with pytest.warns(UnderflowWarning, match="all features are below 6e-05"):
        write(tmp_path / "tiny", tiny)
