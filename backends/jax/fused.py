"""A frozen graph on a CPU: a convolution, its bias, the addition behind it and the activation behind that in one
call of the oneDNN that jaxlib carries; a linear layer of tokens or maps, which is a convolution of 1x1, likewise.

XLA does not use a processor's bfloat16 units for its own convolutions and products, nor has it a form of
convolutions that is fast for few channels or small maps. jaxlib is built with oneDNN, and its CPU runtime executes
the custom call that XLA's pass for oneDNN emits; that pass is compiled out. So the call is written here as the
pass would write it.

JAX does not promise to keep it, and a call that is written wrongly ends the process. So a trial on numbers
decides, which with a version of jaxlib that nobody has tried runs in a process of its own; where it fails, layers
compute as in `emit`.

Invariant: what comes out is what `emit.Network` computes, within rounding.
"""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib.metadata import version
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from headstart.backends.doors.jax_programs import unkept
from headstart.backends.jax.arrays import HALVES
from headstart.backends.jax.cpu_forms import max_pool_of_maps
from headstart.backends.jax.emit import FUNCTIONS, Layer, Linear, Network
from headstart.common.log import LOG
from headstart.common.machine import cpu_flags
from headstart.contract.devices import CPU
from headstart.contract.recipe import FLOAT16, Place
from headstart.graph import Graph, Node
from headstart.graph.fuse import Step, allowed, fused_steps, run_steps

TARGET = "__onednn$convolution"
TRIED = ("0.10.", "0.11.", "0.12.")
"""versions of jaxlib, by how they begin, in which the call ends no process"""
TRIAL_SECONDS = 120
"""that a process may take for the trial"""
ACTIVATIONS = {"relu": "RELU", "relu6": "RELU6", "gelu": "GELU_ERF"}
BEHIND = {"conv": ("relu", "relu6"), "linear": ("gelu",)}
"""which of them can be part of a call"""
UNPADDED = ((0, 0), (0, 0))
ROWS = 4
"""images whose maps are pooled together: about as many as stay in the cache"""


def steps(graph: Graph, outputs: Sequence[str]) -> tuple[Step, ...]:
    """The calls that compute `outputs`, in order."""
    return fused_steps(graph, outputs, BEHIND, BEHIND["conv"])


def only_pooled(graph: Graph, step: Step, outputs: Sequence[str]) -> bool:
    """Whether nothing but max pools takes what a step computes; those are faster in float32."""
    users = graph.users(step.output)
    return step.output not in {*outputs, graph.output} and all(user.op == "max_pool" for user in users)


class Convolution(nnx.Module):
    """A frozen convolution by oneDNN. The parameters are cast here, once."""

    def __init__(self, kernel: jax.Array, bias: nnx.Param | None, step: Step, dtype: Any, wide: bool) -> None:
        """`kernel`: `(h, w, c / groups, c')`. `wide`: whether the output stays float32 in any precision."""
        a = step.node.attrs
        self.kernel = nnx.Param(kernel.astype(dtype))
        self.bias = None if bias is None else nnx.Param(bias[...].astype(dtype))
        # a linear layer has none of these
        self.stride, self.padding = a.get("stride", (1, 1)), a.get("padding", UNPADDED)
        self.groups = a.get("groups", 1)
        self.activation = None if step.activation is None else ACTIVATIONS[step.activation]
        self.dtype, self.wide = dtype, wide

    def __call__(self, x: jax.Array, other: jax.Array | None = None) -> jax.Array:
        """`(n, h, w, c)` and, to be added, `(n, h', w', c')`"""
        # Without units for it, bfloat16 is a matter of rounding, and the arithmetic is float32's.
        inner = self.dtype if bfloat16_units() else jnp.float32
        given, after = [x, self.kernel[...]], []
        for more, name in ((self.bias, "BIAS"), (other, "BINARY_ADD")):
            if more is not None:
                given.append(more[...])
                after.append(name)
        if self.activation is not None:
            after.append(self.activation)
        given = [array.astype(self.dtype).astype(inner) for array in given]
        wide = jnp.float32 if self.wide else inner
        y = convolution(given, self.stride, self.padding, self.groups, after, wide)
        return y if self.wide else y.astype(self.dtype)


class Product(Convolution):
    """A frozen linear layer of tokens or maps, as the convolution of 1x1 that it is. Of rows, as a classifier's
    are, the product is XLA's, which does not lay out the weight anew for it."""

    def __init__(self, layer: Linear, step: Step, dtype: Any) -> None:
        super().__init__(layer.weight[...].T[None, None], layer.bias, step, dtype, False)
        self.behind = None if step.activation is None else FUNCTIONS[step.activation]({})

    def __call__(self, x: jax.Array, other: jax.Array | None = None) -> jax.Array:
        """`(n, c)`, `(n, t, c)` or `(n, h, w, c)`"""
        if x.ndim > 2:
            maps = x.reshape(len(x), -1, 1, x.shape[-1])
            return super().__call__(maps).reshape(*x.shape[:-1], -1)
        y = x.astype(self.dtype) @ self.kernel[0, 0]
        y = y if self.bias is None else y + self.bias[...]
        return y if self.behind is None else self.behind(y)


def convolution(
    operands: Sequence[jax.Array],
    stride: Sequence[int],
    padding: Sequence[Sequence[int]],
    groups: int,
    after: Sequence[str],
    dtype: Any,
) -> jax.Array:
    """`given`: `(n, h, w, c)`, the kernel `(h, w, c / groups, c')`, and what `after` takes, in its order: a bias
    `(c',)`, maps to be added."""
    x, kernel = operands[:2]
    size = [
        (n + sum(pads) - k) // step + 1
        for n, pads, k, step in zip(x.shape[1:3], padding, kernel.shape[:2], stride, strict=True)
    ]
    maps = {"dims": "4", "data": {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}}
    filters = {"input_feature_dim": "2", "output_feature_dim": "3", "spatial_dims": ["0", "1"]}
    config = {
        "dims": "4",
        "input": maps,
        "kernel": {"dims": "4", "filter": filters},
        "output": maps,
        "window": {
            "size": [str(k) for k in kernel.shape[:2]],
            "pad_left": [str(before) for before, _ in padding],
            "pad_right": [str(behind) for _, behind in padding],
            "strides": [str(step) for step in stride],
            "window_dilations": ["1", "1"],
        },
        "fusions": {"ops": list(after)},
        "feature_groups": str(groups),
    }
    result = jax.ShapeDtypeStruct((len(x), *size, kernel.shape[3]), dtype)
    call = jax.ffi.ffi_call(
        TARGET,
        result,
        custom_call_api_version=2,
        legacy_backend_config=json.dumps({"outer_dimension_partitions": [], "onednn_conv_config": config}),
    )
    y: jax.Array = call(*operands)
    return y


def max_pool(a: Mapping[str, Any]) -> Layer:
    """As `emit` has it, but a few images at a time, in float32, and by comparing shifted maps: XLA is slow at
    windows, and at anything in bfloat16."""
    return partial(a_few_at_a_time, max_pool_of_maps(a))


def a_few_at_a_time(pool: Layer, x: jax.Array) -> jax.Array:
    rows = math.gcd(len(x), ROWS)
    y = jax.lax.map(pool, x.astype(jnp.float32).reshape(len(x) // rows, rows, *x.shape[1:]))
    return y.reshape(len(x), *y.shape[2:]).astype(x.dtype)


def attention(a: Mapping[str, Any]) -> Layer:
    """As `emit` has it, but in float32 with each head's tokens side by side: XLA has no products of bfloat16, and
    takes half as long again where heads lie between them."""

    def attend(x: jax.Array) -> jax.Array:
        n, tokens, channels = x.shape
        width = channels // (3 * a["heads"])
        parts = x.astype(jnp.float32).reshape(n, tokens, 3, a["heads"], width)
        query, key, value = parts.transpose(2, 0, 3, 1, 4)
        shares = jnp.einsum("nhqc,nhkc->nhqk", query * width**-0.5, key)
        shares = jnp.exp(shares - shares.max(-1, keepdims=True))
        y = jnp.einsum("nhqk,nhkc->nhqc", shares, value) / shares.sum(-1, keepdims=True)
        return y.transpose(0, 2, 1, 3).reshape(n, tokens, -1).astype(x.dtype)

    return attend


ON_CPU: Mapping[str, Callable[[Mapping[str, Any]], Layer]] = {
    **FUNCTIONS,
    "max_pool": max_pool,
    "attention": attention,
}
"""layers without state: attributes -> function"""


class FusedNetwork(nnx.Module):
    """Runs the graph of a network up to its outputs, of whose layers it takes those that it does not replace."""

    def __init__(self, network: Network, precision: str) -> None:
        self.graph, self.outputs = network.graph, network.outputs
        dtype = HALVES.get(precision, jnp.float32)
        self.steps = steps(self.graph, self.outputs)
        self.layers = nnx.Dict({})
        for step in self.steps:
            name = step.node.name
            if name in network.layers:
                layer = network.layers[name]
                if step.node.op == "conv":
                    wide = only_pooled(self.graph, step, self.outputs)
                    layer = Convolution(layer.kernel[...], layer.bias, step, dtype, wide)
                elif step.node.op == "linear":
                    layer = Product(layer, step, dtype)
                self.layers[name] = layer

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        calls = ((step, self._call(step.node)) for step in self.steps)
        return run_steps(calls, {self.graph.input: x}, self.outputs)

    def _call(self, node: Node) -> Any:
        return self.layers[node.name] if node.name in self.layers else ON_CPU[node.op](node.attrs)


def fused(network: Network, place: Place) -> FusedNetwork | None:
    """The network's faster form at this place; None where there is none."""
    if (
        not allowed()
        or place.kind != CPU
        or place.arithmetic == FLOAT16
        or not any(node.op == "conv" for node in network.graph.nodes)
        or not available()
    ):
        return None
    return FusedNetwork(network, place.arithmetic)


@cache
def bfloat16_units() -> bool:
    """Whether the processor multiplies in bfloat16 and oneDNN may use that; else it can refuse, which ends the
    process."""
    if not {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}.isdisjoint(os.environ):
        return False
    return not cpu_flags().isdisjoint({"avx512_bf16", "amx_bf16"})


@cache
def available() -> bool:
    """Whether jaxlib executes the call, and it computes what it should."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return False
    return computes() if version("jaxlib").startswith(TRIED) else computes_elsewhere()


def computes_elsewhere() -> bool:
    """The trial in a process of its own."""
    code = f"import sys; from {__name__} import computes; sys.exit(0 if computes() else 3)"
    nowhere = subprocess.DEVNULL
    try:
        # -P: a folder called jax in the working directory must not be taken for the framework
        ended = subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={**os.environ, "JAX_PLATFORMS": "cpu"},
            stdin=nowhere,
            stdout=nowhere,
            stderr=nowhere,
            timeout=TRIAL_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        LOG.debug("jax: no trial of oneDNN's convolutions: %s", error)
        return False
    LOG.debug("jax: the trial of oneDNN's convolutions ended with exit code %d", ended.returncode)
    return ended.returncode == 0


# shape of the maps, of the kernel, stride, padding, groups, and what follows
TRIALS: Sequence[tuple[Any, ...]] = (
    ((2, 5, 7, 16), (3, 3, 8, 32), (2, 1), ((1, 1), (1, 0)), 2, ["BIAS", "BINARY_ADD", "RELU"]),
    ((1, 6, 6, 8), (5, 3, 1, 8), (1, 1), ((2, 2), (1, 1)), 8, ["BIAS", "RELU6"]),
    ((3, 1, 1, 8), (1, 1, 8, 4), (1, 1), UNPADDED, 1, ["BINARY_ADD"]),
    ((2, 4, 4, 3), (4, 4, 3, 8), (4, 4), UNPADDED, 1, []),
    ((2, 7, 1, 16), (1, 1, 16, 12), (1, 1), UNPADDED, 1, ["BIAS", "GELU_ERF"]),
)


def computes() -> bool:
    """Whether calls in the forms that are used give what XLA's own convolutions give, on this processor."""
    dtypes: list[tuple[Any, Any]] = [(jnp.float32, jnp.float32)]
    if bfloat16_units():
        dtypes += [(jnp.bfloat16, jnp.bfloat16), (jnp.bfloat16, jnp.float32)]
    try:
        # The first device may be a GPU, which has no such call.
        with unkept(), jax.default_device(jax.devices("cpu")[0]):
            differences = jax.jit(lambda: [_difference(trial, *pair) for trial in TRIALS for pair in dtypes])()
            limits = [1e-3 if inner == jnp.float32 else 0.2 for _ in TRIALS for inner, _ in dtypes]
            return all(float(d) < limit for d, limit in zip(differences, limits, strict=True))
    except (RuntimeError, TypeError, ValueError):  # JAX's own errors are RuntimeErrors
        return False


def _difference(trial: tuple[Any, ...], inner: Any, outer: Any) -> jax.Array:
    """The largest difference between a call and the layers that it stands for."""
    shape, kernel, stride, padding, groups, after = trial
    rng = np.random.default_rng(0)
    operands = [jnp.asarray(rng.random(size, np.float32) - 0.3) for size in (shape, kernel)]
    expected = jax.lax.conv_general_dilated(
        *operands, stride, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )
    for name in after:
        if name in ("BIAS", "BINARY_ADD"):
            size = expected.shape[3:] if name == "BIAS" else expected.shape
            operands.append(jnp.asarray(rng.random(size, np.float32) - 0.3))
            expected = expected + operands[-1]
        elif name == "GELU_ERF":
            expected = jax.nn.gelu(expected, approximate=False)
        else:
            expected = jnp.clip(expected, 0, 6 if name == "RELU6" else None)
    # Behind a barrier, since constants are computed while this is compiled.
    operands = [jax.lax.optimization_barrier(array.astype(inner)) for array in operands]
    found = convolution(operands, stride, padding, groups, after, outer)
    return jnp.abs(found.astype(jnp.float32) - expected).max()
