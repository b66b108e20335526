"""A frozen graph on anything but a CPU: parameters are cast to the arithmetic, and laid out as convolutions want
them once, where a layer that may be trained does both in every batch; and attention is cuDNN's where that can be.

Invariant: what comes out is what `emit.Network` computes, within rounding.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from headstart.backends.jax.arrays import HALVES
from headstart.backends.jax.emit import Layer, Linear, Network
from headstart.contract.recipe import Place
from headstart.graph import Node


class Convolution(nnx.Module):
    """With filters `(out, h, w, in / groups)`, as cuDNN has them."""

    def __init__(self, layer: nnx.Conv, attrs: Mapping[str, Any], dtype: Any) -> None:
        kernel, bias = layer.kernel[...], None if layer.bias is None else layer.bias[...]
        self.filters = nnx.Param(_cast(kernel.transpose(3, 0, 1, 2), dtype))
        self.bias = None if bias is None else nnx.Param(_cast(bias, dtype))
        self.stride, self.padding, self.groups = attrs["stride"], attrs["padding"], attrs["groups"]
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            _cast(x, self.dtype),
            self.filters[...],
            self.stride,
            self.padding,
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            feature_group_count=self.groups,
        )
        return y if self.bias is None else y + self.bias[...]

    @property
    def kernel(self) -> jax.Array:
        """`(h, w, in / groups, out)`, as an `nnx.Conv` has it."""
        return self.filters[...].transpose(1, 2, 3, 0)


def _cast(array: jax.Array, dtype: Any) -> jax.Array:
    return array if dtype is None else array.astype(dtype)


def _attention(a: Mapping[str, Any]) -> Layer:
    def attend(x: jax.Array) -> jax.Array:
        n, tokens, channels = x.shape
        qkv = x.reshape(n, tokens, 3, a["heads"], channels // (3 * a["heads"]))
        query, key, value = (qkv[:, :, part] for part in range(3))
        y = jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
        return y.reshape(n, tokens, channels // 3)

    return attend


class FrozenNetwork(Network):
    """A network, of whose layers it takes those that it does not replace."""

    def __init__(self, network: Network, place: Place, cudnn: bool) -> None:
        """`cudnn`: whether attention is cuDNN's."""
        self.graph, self.outputs, self.deterministic = network.graph, network.outputs, True
        self.cudnn, self.on_cpu = cudnn, network.on_cpu
        dtype = HALVES.get(place.arithmetic)
        self.layers = nnx.Dict({})
        for node in self.graph.nodes:
            if node.name in network.layers:
                self.layers[node.name] = _frozen(network.layers[node.name], node, dtype)

    def function(self, node: Node) -> Layer:
        if node.op == "attention" and self.cudnn:
            return _attention(node.attrs)
        return super().function(node)


def _frozen(layer: Any, node: Node, dtype: Any) -> Any:
    if node.op == "conv":
        return Convolution(layer, node.attrs, dtype)
    if node.op == "linear" and dtype is not None:
        bias = None if layer.bias is None else layer.bias[...]
        return Linear(layer.weight[...].astype(dtype), None if bias is None else bias.astype(dtype), dtype)
    return layer


def attends(network: Network, place: Place) -> bool:
    """Whether cuDNN's attention may be tried: it is there on CUDA devices, in half precision."""
    return (
        place.kind == "cuda"
        and place.precision in HALVES
        and any(node.op == "attention" for node in network.graph.nodes)
    )
