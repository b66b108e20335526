"""The key of a trunk: what its features depend on, and nothing else.

Two runs share features exactly when their keys are equal, so the key holds everything that changes a feature
(graph, weights by content, preprocessing, views, precision, stored dtype, format) and nothing that does not
(backend, device, paths, names). Invariant: the digest is a function of `spec` alone, the same on every
machine; the label only helps people to read a listing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from headstart.common.errors import SettingError, UnknownNameError

FORMAT_VERSION = 1

DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype("<f4"),
    "float16": np.dtype("<f2"),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "uint8": np.dtype("u1"),
}


@dataclass(frozen=True)
class TrunkKey:
    """Address of one trunk's features."""

    digest: str
    """32 hex digits: blake3 of the spec's canonical JSON. The name of the folder."""
    spec: dict[str, Any]
    """All that the features depend on, as plain JSON values."""
    label: dict[str, Any]
    """Hints for people (model, cut ...), not part of the digest."""


def trunk_key(
    *,
    graph: Sequence[Any],
    weights_digest: str,
    preprocess: Mapping[str, Any],
    precision: str,
    dtype: str,
    views: Mapping[str, Any] | None = None,
    label: Mapping[str, Any],
) -> TrunkKey:
    """The key of a trunk: its canonical nodes, its weights' digest (`params_digest`), how images are
    prepared, the augmented views if any, the precision it computes in, and the dtype of the stored features.

    Raises UnknownNameError for a dtype that cannot be stored, SettingError for what JSON cannot hold.
    """
    stored_dtype(dtype)
    spec = {
        "format": FORMAT_VERSION,
        "graph": list(graph),
        "weights": weights_digest,
        "preprocess": dict(preprocess),
        "views": None if views is None else dict(views),
        "precision": precision,
        "dtype": dtype,
    }
    # Through JSON and back: tuples become lists here as they will in trunk.json, and nothing stays shared.
    plain = json.loads(canonical_json(spec))
    return TrunkKey(spec_digest(plain), plain, json.loads(canonical_json(dict(label))))


def stored_dtype(name: str) -> np.dtype[Any]:
    """The numpy dtype of a stored dtype's name; UnknownNameError for any other name."""
    if name not in DTYPES:
        raise UnknownNameError("feature dtype", name, DTYPES)
    return DTYPES[name]


def canonical_json(value: Any) -> str:
    """One text for one value: sorted keys, no spaces, ASCII. SettingError for what JSON cannot hold."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise SettingError(
            f"only strings, finite numbers, booleans, lists and dictionaries can be stored as JSON: {error}"
        ) from error


def spec_digest(spec: Mapping[str, Any]) -> str:
    """32 hex digits of blake3 of the spec's canonical JSON."""
    return blake3(canonical_json(spec).encode("ascii")).hexdigest(length=16)


def params_digest(params: Mapping[str, NDArray[Any]]) -> str:
    """32 hex digits of blake3 over the parameters' sorted names, dtypes, shapes and bytes.

    The order of the mapping, memory layout and byte order do not matter; every bit of every value does.
    """
    digest = blake3()
    for name in sorted(params):
        array = np.asarray(params[name])
        if array.dtype.hasobject:
            raise SettingError(f"parameter {name!r} is an array of Python objects; expected numbers")
        shape = list(array.shape)  # taken first: ascontiguousarray turns a scalar into one dimension
        array = np.ascontiguousarray(array)
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        # A JSON line before each array, shape included, so that no two sets of parameters run together alike.
        digest.update(canonical_json([name, array.dtype.name, shape]).encode("ascii") + b"\n")
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest(length=16)


def explain(spec: Mapping[str, Any], other_specs: Iterable[Mapping[str, Any]]) -> str | None:
    """How the nearest of the other specs differs: "preprocess.size: 224 != 256", this one's value first.

    Nearest is the one with the fewest differing fields. None where there is no other, or one is equal.
    """
    nearest = min((differences(spec, other) for other in other_specs), key=len, default=[])
    return ", ".join(nearest) or None


def differences(mine: Mapping[str, Any], other: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each field in which two specs differ: "preprocess.size: 224 != 256", `mine` first; of a graph the attribute
    of a node, or where it ends, if that is all."""
    differing: list[str] = []
    for field in sorted(mine.keys() | other.keys()):
        a, b = mine.get(field), other.get(field)
        name = prefix + field
        if _same(a, b):
            continue
        if name == "graph":
            differing += _graph_differences(a, b)
        elif name == "weights":
            differing.append(f"weights: {str(a)[:8]} != {str(b)[:8]}")
        elif isinstance(a, Mapping) and isinstance(b, Mapping):
            differing += differences(a, b, f"{name}.")
        else:
            differing.append(f"{name}: {_short(a)} != {_short(b)}")
    return differing


def _graph_differences(a: Any, b: Any) -> list[str]:
    if not isinstance(a, list) or not isinstance(b, list):
        return [f"graph: {_short(a)} != {_short(b)}"]
    if len(a) != len(b):
        if a and b and _is_node(a[-1]) and _is_node(b[-1]) and all(map(_same, a, b)):
            return [f"graph: ends at {a[-1][0]} != {b[-1][0]}"]
        return [f"graph: {len(a)} nodes != {len(b)} nodes"]
    places = [i for i, (x, y) in enumerate(zip(a, b, strict=True)) if not _same(x, y)]
    mine, other = a[places[0]], b[places[0]]
    if _is_node(mine) and _is_node(other) and mine[:3] == other[:3]:
        found = differences(mine[3], other[3], f"graph.{mine[0]}.")
    else:
        found = [f"graph: node {places[0]}: {_short(mine)} != {_short(other)}"]
    return found if len(places) == 1 else [*found, f"{len(places) - 1} more nodes"]


def _same(a: Any, b: Any) -> bool:
    """As a key has it: 1, 1.0 and true are three values."""
    return canonical_json(a) == canonical_json(b)


def _is_node(value: Any) -> bool:
    """`[name, op, inputs, attributes]`, see `Graph.spec`."""
    return isinstance(value, list) and len(value) == 4 and isinstance(value[3], Mapping)


def _short(value: Any) -> str:
    text = "none" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 80 else text[:77] + "..."
