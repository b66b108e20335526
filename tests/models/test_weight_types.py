"""Weights of other number types: computed with, or refused in a line that says what they are."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save

import headstart as hs
from headstart.common.errors import WeightsError

pytestmark = pytest.mark.neutral


def written(path: Path, dtype: str, code: str) -> Path:
    """Lenet's weights; safetensors' code for the type is put into the header, since numpy lacks some."""
    params = hs.model("lenet", classes=3).params
    arrays = {name: np.asarray(value).astype(dtype) for name, value in params.items()}
    data = save({name: array.view(f"u{array.itemsize}") for name, array in arrays.items()})
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    for name, entry in header.items():
        if name != "__metadata__":
            entry["dtype"] = code
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    return path


@pytest.mark.parametrize(("dtype", "code"), [("bfloat16", "BF16"), ("float16", "F16"), ("float64", "F64")])
def test_floats(tmp_path: Path, dtype: str, code: str) -> None:
    assert ml_dtypes
    model = hs.model("lenet", weights=written(tmp_path / "w.safetensors", dtype, code))
    for name, value in hs.model("lenet", classes=3).params.items():
        np.testing.assert_array_equal(model.params[name], value.astype(dtype).astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "code"),
    [("uint8", "F8_E4M3"), ("uint8", "F8_E5M2"), ("int8", "I8"), ("int64", "I64"), ("uint8", "BOOL")],
)
def test_others_are_refused(tmp_path: Path, dtype: str, code: str) -> None:
    path = written(tmp_path / "w.safetensors", dtype, code)
    with pytest.raises(WeightsError, match=r"w\.safetensors: .* is stored as .* save the weights as float32"):
        hs.model("lenet", weights=path)
