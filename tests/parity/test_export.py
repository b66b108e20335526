"""A run leaves as the same file from each of the three backends, what verification says of it included."""

from __future__ import annotations

from pathlib import Path

import pytest
from exporting import small_model, validation

import headstart as hs

BACKENDS = ("torch", "keras", "jax")


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_same_bytes(half: bool, tmp_path: Path) -> None:
    asked = {"half": half, "device": "cpu"}
    files = [
        hs.export(small_model(), tmp_path / f"{name}.onnx", validation(), backend=name, **asked).path
        for name in BACKENDS
    ]
    first, *others = (file.read_bytes() for file in files)
    assert b"same_answers" in first and others == [first, first]
