"""Where weights come from: a safetensors file with torchvision's names, in this package or the user's.

safetensors holds tensors only; no pickle is read here.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from headstart.data.preprocess import Preprocess
from headstart.errors import SettingError, UnknownNameError, WeightsError
from headstart.models.architecture import Architecture, Published, Shipped
from headstart.models.layouts import unwrapped


@dataclass(frozen=True)
class WeightFile:
    """A weight file's content."""

    source: str
    params: dict[str, np.ndarray]
    """float32, by the names in the file"""
    preprocess: Preprocess | None
    """the preprocessing it was trained with, where the file says so"""
    classes: tuple[str, ...] | None


def load_weights(arch: Architecture, weights: str | Path) -> WeightFile:
    """What `weights` means: one of the architecture's published names, or the path of a file."""
    if not isinstance(weights, str | os.PathLike):
        raise SettingError(f"weights={weights!r}; expected None, a published name or the path of a file")
    if (entry := arch.weights.get(str(weights))) is not None:
        return _published(entry)
    path = Path(weights).expanduser()
    if path.is_file():
        return read_weights(path)
    if path.suffix or len(path.parts) > 1:
        raise WeightsError(f"{path}: no such weight file; expected a .safetensors file with {arch.name}'s names")
    raise UnknownNameError("weights", str(weights), arch.weights, f" for {arch.name}")


def _published(entry: Published) -> WeightFile:
    assert isinstance(entry, Shipped)
    return read_weights(Path(str(resources.files("headstart.models") / entry.file)))


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
            unwrapped(params),
            Preprocess.from_dict(preprocess) if preprocess is not None else None,
            tuple(map(str, classes)) if classes is not None else None,
        )
    except (ValueError, TypeError, SettingError) as error:
        raise WeightsError(f"{path}: its metadata cannot be read ({error})") from error
