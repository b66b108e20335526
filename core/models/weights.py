"""Where weights come from: a safetensors file with torchvision's names, in this package or the user's.

Invariant: what is loaded fits the graph exactly, name by name and shape by shape, or nothing is loaded.
safetensors holds tensors only; no pickle is read here.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from headstart.data.preprocess import Preprocess
from headstart.errors import SettingError, UnknownNameError, WeightsError
from headstart.graph import Shape
from headstart.models.zoo import Architecture

# Counters that torchvision's state dicts carry and inference does not use.
IGNORED = "num_batches_tracked"


@dataclass(frozen=True)
class WeightFile:
    """A weight file's content."""

    source: str
    params: dict[str, np.ndarray]
    """float32, torchvision's names and layout"""
    preprocess: Preprocess | None
    """the preprocessing it was trained with, where the file says so"""
    classes: tuple[str, ...] | None


def find_weights(arch: Architecture, weights: str | Path) -> Path:
    """The file meant by `weights`: one of the architecture's published names, or a path."""
    if not isinstance(weights, str | os.PathLike):
        raise SettingError(f"weights={weights!r}; expected None, a published name or the path of a file")
    if str(weights) in arch.weights:
        return Path(str(resources.files("headstart.models") / arch.weights[str(weights)]))
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise WeightsError(f"{path}: no such weight file; expected a .safetensors file with {arch.name}'s names")
    raise UnknownNameError("weights", str(weights), arch.weights, f" for {arch.name}")


def read_weights(path: Path) -> WeightFile:
    """Read a safetensors file; WeightsError where it is none or is cut short."""
    if path.suffix in (".pth", ".pt", ".bin", ".ckpt"):
        raise WeightsError(f"{path}: a pickle, which can run any code when it is read; convert it to .safetensors")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            params = {key: file.get_tensor(key).astype(np.float32) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, KeyError) as error:
        raise WeightsError(f"{path}: cannot be read as safetensors ({error}); is it complete?") from error
    try:
        preprocess = json.loads(metadata["preprocess"]) if "preprocess" in metadata else None
        classes = json.loads(metadata["classes"]) if "classes" in metadata else None
        if classes is not None and not (isinstance(classes, list) and len(set(map(str, classes))) == len(classes)):
            raise ValueError("classes is no list of distinct names")
        return WeightFile(
            str(path),
            {name: value for name, value in params.items() if not name.endswith(IGNORED)},
            Preprocess.from_dict(preprocess) if preprocess is not None else None,
            tuple(map(str, classes)) if classes is not None else None,
        )
    except (ValueError, TypeError, SettingError) as error:
        raise WeightsError(f"{path}: its metadata cannot be read ({error})") from error


def check_fit(source: str, params: Mapping[str, np.ndarray], shapes: Mapping[str, Shape]) -> None:
    """Raise WeightsError unless `params` has exactly the names and shapes of `shapes`; lists every kind of
    misfit."""
    missing = [name for name in shapes if name not in params]
    extra = [name for name in params if name not in shapes]
    differing = [
        f"{name} {tuple(params[name].shape)} instead of {tuple(shape)}"
        for name, shape in shapes.items()
        if name in params and tuple(params[name].shape) != tuple(shape)
    ]
    if not (missing or extra or differing):
        return
    parts = [
        f"{what}: {', '.join(names[:8])}" + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        for what, names in (("missing", missing), ("left over", extra), ("of another shape", differing))
        if names
    ]
    raise WeightsError(f"{source} does not fit the model; {'; '.join(parts)}")
