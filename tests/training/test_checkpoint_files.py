"""A stage's file holds what was written, or is refused in one error: cut short, or with any bit another one."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headstart.common.errors import CheckpointError
from headstart.training.checkpoints.files import Content, read_stage, write_stage

pytestmark = pytest.mark.neutral

RECORD = {
    "epoch": 1, "loss": math.nan, "accuracy": 0.1 + 0.2, "val_loss": math.inf, "val_accuracy": None,
    "val_score": None, "score": "accuracy", "learning_rate": 0.25, "step_losses": [0.5, math.nan],
    "auxiliary_losses": [], "seconds": {"data": 0.0, "trunk": 0.0, "head": 0.25, "total": 0.25},
}  # fmt: skip
ABOUT: dict[str, Any] = {
    "terms": "ab",
    "stage": "head",
    "recipe": "ef",
    "order": "cd",
    "records": [RECORD],
    "over": False,
}
ARRAYS = {
    "steps": np.array(3.0, np.float32),
    "half": np.arange(6).reshape(2, 3).astype(ml_dtypes.bfloat16),
    "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
    "empty": np.zeros((0, 4)),
    "random": np.arange(5, dtype=np.uint8),
    "flags": np.array([True, False]),
    "count": np.array(2**40),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_stage(tmp_path / "state-head.safetensors", Content(ABOUT, ARRAYS))
    return tmp_path / "state-head.safetensors"


def test_all_of_it_comes_back(path: Path) -> None:
    content = read_stage(path)
    assert content is not None
    assert repr({name: content.about[name] for name in ABOUT}) == repr(ABOUT)
    assert content.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert content.arrays[name].dtype == array.dtype, name
        np.testing.assert_array_equal(content.arrays[name], array, err_msg=name)


def test_no_file_is_no_error(tmp_path: Path) -> None:
    assert read_stage(tmp_path / "state-head.safetensors") is None


def test_a_file_that_is_cut_short_is_refused(path: Path) -> None:
    whole = path.read_bytes()
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"state-head\.safetensors: cannot be gone on from"):
            read_stage(path)


def test_every_bit_counts(path: Path) -> None:
    whole, chance = path.read_bytes(), random.Random(0)
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            read_stage(path)
