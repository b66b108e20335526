"""The samples' file of a saved feature set: ids and what is known of each sample, as tensors.

Invariant: what is read is checked against itself and the description before anybody uses it, since the folder may
come from a stranger; and a set of one class a sample, of which nothing else is known, is written as the first
versions wrote it, and read by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from headstart.data.annotations import DTYPES, PARTS, SINGLE, Annotations
from headstart.store.ids import ID_NBYTES, array_to_ids, ids_to_array

MAX_GROUP_NBYTES = 4096  # of one group's name as JSON, on average
OTHERS = {"groups": np.int32, "weights": np.float32, "parts": np.int8, "folds": np.int32}
"""tensors `[n]` that may be absent"""
NAMED = {"groups": "group_names", "folds": "fold_names"}
"""those that are places in a list of names -> the tensor of that, as JSON"""


def is_plain(annotations: Annotations) -> bool:
    """Whether the first versions can read it: one class a sample, and nothing else."""
    others = (annotations.groups, annotations.weights, annotations.parts, annotations.folds)
    return annotations.task == SINGLE and all(values is None for values in others)


def written(ids: Sequence[str], annotations: Annotations) -> bytes:
    """The file's bytes."""
    tensors = {"ids": ids_to_array(ids), "labels": np.ascontiguousarray(annotations.labels)}
    for name, called in NAMED.items():
        if (values := getattr(annotations, name)) is not None:
            names = sorted(set(values.tolist()))
            place = {text: k for k, text in enumerate(names)}
            tensors[name] = np.array([place[text] for text in values.tolist()], np.int32)
            tensors[called] = np.frombuffer(json.dumps(names).encode("ascii"), np.uint8)
    for name in ("weights", "parts"):
        if (values := getattr(annotations, name)) is not None:
            tensors[name] = np.ascontiguousarray(values)
    return save_tensors(tensors)


def most_nbytes(count: int, task: str, classes: int) -> int:
    """How large the file of so many samples may be."""
    of_label = np.dtype(DTYPES[task]).itemsize * (1 if task == SINGLE else classes)
    of_others = sum(np.dtype(dtype).itemsize for dtype in OTHERS.values())
    return count * (ID_NBYTES + of_label + of_others + MAX_GROUP_NBYTES) + 4096


def read(
    tensors: Mapping[str, np.ndarray], count: int, task: str, classes: Sequence[str], named: bool
) -> tuple[list[str], Annotations]:
    """Ids, and what is known of the samples. ValueError, with what is wrong, or KeyError where it cannot be."""
    ids, labels = tensors["ids"], tensors["labels"]
    shape = (count,) if task == SINGLE else (count, len(classes))
    if ids.dtype != np.uint8 or ids.shape != (count, ID_NBYTES):
        raise ValueError(f"ids are {ids.dtype} {ids.shape}")
    if labels.dtype != DTYPES[task] or labels.shape != shape:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}")
    others: dict[str, Any] = {}
    for name, dtype in OTHERS.items():
        if name in tensors:
            values = tensors[name]
            if values.dtype != dtype or values.shape != (count,):
                raise ValueError(f"{name} are {values.dtype} {values.shape}")
            others[name] = values
    for name in NAMED.keys() & others.keys():
        others[name] = _named(others[name], tensors, name)
    if "parts" in others and not (others["parts"].min() >= 0 and others["parts"].max() < len(PARTS)):
        raise ValueError("parts are none")
    if "weights" in others and not (np.isfinite(others["weights"]).all() and (others["weights"] >= 0).all()):
        raise ValueError("weights are none")
    return array_to_ids(ids), Annotations(labels, tuple(classes), task, named, **others)


def out_of_range(annotations: Annotations) -> str | None:
    """What is wrong with the labels' values; None where they can be what they are."""
    labels, classes = annotations.labels, annotations.classes
    if annotations.task == SINGLE and (labels.min() < 0 or labels.max() >= len(classes)):
        return f"labels reach from {labels.min()} to {labels.max()}, and there are {len(classes)} classes"
    if annotations.task != SINGLE and not np.isfinite(labels).all():
        return "labels are not all finite"
    if annotations.task == "multi" and labels.max(initial=0) > 1:
        return f"labels reach to {labels.max()}; expected 0 and 1"
    return None


def _named(codes: np.ndarray, tensors: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    called = NAMED[name]
    encoded = tensors[called]
    if encoded.dtype != np.uint8 or encoded.ndim != 1:
        raise ValueError(f"{called} are {encoded.dtype} {encoded.shape}")
    names = json.loads(encoded.tobytes().decode("ascii"))
    sound = isinstance(names, list) and all(isinstance(name, str) for name in names)
    if not sound or not (codes.min() >= 0 and codes.max() < len(names)):
        raise ValueError(f"{name} are none of {called}")
    return np.asarray(np.array(names, object)[codes])
