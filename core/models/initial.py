"""Initial weights, made here and not in a backend, so that all three start from the same numbers.

Invariant: a parameter's values depend on the seed, its name and its shape alone, never on the other
parameters, so a head starts the same whatever trunk it sits on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import xxhash

from headstart.graph import Shape


def initial_params(
    shapes: Mapping[str, Shape], seed: int, names: Collection[str] | None = None
) -> dict[str, np.ndarray]:
    """Fresh float32 parameters for `shapes` (name -> shape, as `Graph.param_shapes` gives them), or for those
    called `names`, which are the same as among all.

    Convolutions: normal with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852), as torchvision's
    residual networks. Linear layers and biases: uniform in +-1 / sqrt(fan-in), torch's default. Batch norms:
    the identity.
    """
    return {
        name: _initial(name, shape, shapes, seed)
        for name, shape in shapes.items()
        if names is None or name in names
    }


def _initial(name: str, shape: Shape, shapes: Mapping[str, Shape], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(name.encode())])
    stem, _, kind = name.rpartition(".")
    if f"{stem}.running_mean" in shapes:  # a batch norm
        return np.full(shape, 1.0 if kind in ("weight", "running_var") else 0.0, np.float32)
    if len(shape) == 4:
        fan_out = shape[0] * shape[2] * shape[3]
        return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))
    fan_in = math.prod(shapes[f"{stem}.weight"][1:])
    return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(math.sqrt(fan_in))
