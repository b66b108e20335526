"""These tests need all three frameworks and the reference libraries in one process: an environment of their own,
`tox -e parity`, in which a missing one is a failure. Anywhere else they are not collected."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest

NEEDED = ("torch", "torchvision", "timm", "keras", "tensorflow", "jax", "flax", "optax", "onnx", "onnxruntime")
missing = [name for name in NEEDED if find_spec(name) is None]
if missing and os.environ.get("HEADSTART_PARITY"):
    raise pytest.UsageError(f"the parity environment lacks {', '.join(missing)}")
collect_ignore_glob = ["test_*.py"] if missing else []


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Triton, which torchvision loads, crashes where it comes after TensorFlow, so it comes before any test. But a
    worker is bound to its core first (tests/conftest.py), since torch counts the cores when it is loaded."""
    if not missing:
        import torchvision  # noqa: F401
