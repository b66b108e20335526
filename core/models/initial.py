"""Initial weights, made here and not in a backend, so that all three start from the same numbers.

Invariant: a parameter's values depend on the seed, its name and its node alone, never on the other nodes, so a
head starts the same whatever trunk it sits on.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import xxhash

from headstart.graph import OPS, Graph, Node, Shape

NORMAL_STD = 0.02


def initial_params(graph: Graph, seed: int, names: Collection[str] | None = None) -> dict[str, np.ndarray]:
    """Fresh float32 parameters for `graph`, or for those called `names`, which are the same as among all.

    Convolutions: normal with variance 2 / fan-out (He et al. 2015, arXiv:1502.01852), as torchvision's
    residual networks. Linear layers and biases: uniform in +-1 / sqrt(fan-in), torch's default. Norms: the
    identity. Class tokens and positions: normal with deviation 0.02 (Dosovitskiy et al. 2020,
    arXiv:2010.11929). Layer scales: the constant that their node states. A convolution or linear layer whose node
    says `initial` has its weight drawn that way: "uniform", as a linear layer, for a convolution that classifies.
    """
    made = {
        f"{node.name}.{suffix}": _draw(node, suffix, shape, seed)
        for node in graph.nodes
        for suffix, shape in OPS[node.op].params(node.attrs).items()
        if node.op != "native" and (names is None or f"{node.name}.{suffix}" in names)
    }
    for node in graph.nodes:  # a module's own parameters are drawn as its framework does it, all at once
        if node.op == "native" and (names is None or not node.param_shapes().keys().isdisjoint(names)):
            own = node.attrs["part"].initial(seed)
            made |= {f"{node.name}.{key}": value for key, value in own.items()}
    return made


def _draw(node: Node, suffix: str, shape: Shape, seed: int) -> np.ndarray:
    op = OPS[node.op]
    rng = np.random.default_rng([seed, xxhash.xxh3_64_intdigest(f"{node.name}.{suffix}".encode())])
    kind = op.initial[suffix]
    if suffix == "weight" and isinstance(node.attrs.get("initial"), str):
        kind = node.attrs["initial"]
    match kind:
        case "he":
            fan_out = shape[0] * math.prod(shape[2:])
            return rng.standard_normal(shape, np.float32) * np.float32(math.sqrt(2 / fan_out))
        case "uniform":
            fan_in = math.prod(op.params(node.attrs)["weight"][1:])
            return rng.uniform(-1, 1, shape).astype(np.float32) / np.float32(math.sqrt(fan_in))
        case "normal":
            return rng.standard_normal(shape, np.float32) * np.float32(NORMAL_STD)
        case "constant":
            return np.full(shape, node.attrs["initial"], np.float32)
        case _:
            return np.full(shape, {"ones": 1.0, "zeros": 0.0}[kind], np.float32)
