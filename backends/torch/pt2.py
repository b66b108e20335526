"""Opens `.pt2` files, which `torch.export` writes, with torch alone."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

TEXTS = "headstart.json"
"""the extra file that holds what a file says of itself"""
Run = Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]


def load(path: str) -> tuple[dict[str, str], Run]:
    program, texts = _loaded(path)
    module = program.module()

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            outputs = module(**{name: torch.from_numpy(np.array(array)) for name, array in arrays.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return texts, run


def note(path: str, texts: Mapping[str, str]) -> None:
    program, before = _loaded(path)
    save(program, path, before | dict(texts))


def save(program: torch.export.ExportedProgram, path: str, texts: Mapping[str, str]) -> None:
    """By way of memory: where a disk is full torch's own writer of files ends the process."""
    content = io.BytesIO()
    torch.export.save(program, content, extra_files={TEXTS: json.dumps(dict(texts))})
    Path(path).write_bytes(content.getbuffer())


def _loaded(path: str) -> tuple[torch.export.ExportedProgram, dict[str, str]]:
    extra = {TEXTS: ""}
    with warnings.catch_warnings():  # torch 2.11 warns of its own buffers
        warnings.simplefilter("ignore", UserWarning)
        program = torch.export.load(path, extra_files=extra)
    return program, json.loads(extra[TEXTS])
