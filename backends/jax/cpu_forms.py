"""Forms of a network's parts that are faster on a CPU than XLA's own, forward and backward.

Invariant: what comes out, and its gradients, are those of XLA's own form, within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from headstart.graph.ops import window_padding

Pads = tuple[tuple[int, int], ...]
LEAST = 14 * 14
"""places of a map from which on `_of_windows` is faster without groups: two to four times"""


class Window(NamedTuple):
    """How a kernel goes over maps."""

    stride: tuple[int, ...]
    padding: Pads
    groups: int


def pointwise(x: jax.Array, kernel: jax.Array, how: Window) -> jax.Array:
    """A 1x1 convolution, `(n, h, w, c)` and `(1, 1, c, c')`, as the matrix product it is: XLA's convolutions are
    slow on a CPU."""
    down, right = how.stride
    return of_rows(x[:, ::down, ::right], kernel[0, 0], 0)


def depthwise(x: jax.Array, kernel: jax.Array, how: Window) -> jax.Array:
    """A convolution that has a filter a channel, `(n, h, w, c)` and `(high, wide, 1, c)`, as the sum of as many
    shifted and weighted maps as a filter has weights, which XLA makes one loop of. Its own form of them takes a
    CPU three to fourteen times as long, forward and backward."""
    # what is added up is float32, as in any convolution
    filters = kernel.astype(jnp.float32)
    maps = shifted_maps(_padded(x, how.padding).astype(jnp.float32), kernel.shape[:2], how.stride)
    return sum(map(weighted, maps, filters.reshape(-1, kernel.shape[3]))).astype(x.dtype)


def _padded(x: jax.Array, padding: Pads) -> jax.Array:
    return jnp.pad(x, [(0, 0), *padding, (0, 0)])


def shifted_maps(x: jax.Array, kernel: Sequence[int], stride: Sequence[int]) -> list[jax.Array]:
    """`(n, h, w, c)` of padded maps, for each place in a window, row by row, what all windows have there."""
    (high, wide), (down, across) = kernel, stride
    h, w = ((size - k) // step for size, k, step in zip(x.shape[1:3], kernel, stride, strict=True))
    return [
        x[:, i : i + h * down + 1 : down, j : j + w * across + 1 : across]
        for i in range(high)
        for j in range(wide)
    ]


def shifted_back(
    maps: Sequence[jax.Array], kernel: Sequence[int], stride: Sequence[int], size: Sequence[int]
) -> jax.Array:
    """`(n, *size, c)`: each of `maps`, which are as `shifted_maps` gives them, added where it would be taken from.
    By rows and columns of one remainder at a time, since with gaps between its rows a map is written slowly."""
    (high, wide), (down, across) = kernel, stride
    n, h, w, c = maps[0].shape
    rows, columns = (-(-length // step) for length, step in zip(size, stride, strict=True))

    def places(row: int, column: int) -> jax.Array:
        """Those of this remainder."""
        total = jnp.zeros((n, rows, columns, c), maps[0].dtype)
        for i in range(row, high, down):
            for j in range(column, wide, across):
                above, left = i // down, j // across
                around = [(0, 0), (above, rows - h - above), (left, columns - w - left), (0, 0)]
                total += jnp.pad(maps[i * wide + j], around)
        return total

    parts = [jnp.stack([places(row, column) for column in range(across)], 3) for row in range(down)]
    return jnp.stack(parts, 2).reshape(n, rows * down, columns * across, c)[:, : size[0], : size[1]]


def _by_xla(x: jax.Array, kernel: jax.Array, how: Window) -> jax.Array:
    """`(n, h', w', c')` of `x` `(n, h, w, c)` and a kernel `(high, wide, c / groups, c')`"""
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        how.stride,
        how.padding,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=how.groups,
    )


def _is_smaller(maps: jax.Array, kernel: jax.Array) -> bool:
    """Than the kernel, in height or width. Over such maps XLA does not multiply matrices: it takes a CPU 15 to 30
    times as long."""
    return any(size < k for size, k in zip(maps.shape[1:3], kernel.shape[:2], strict=True))


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolved(x: jax.Array, kernel: jax.Array, how: Window) -> jax.Array:
    """As `_by_xla`, whose form is taken where it is fast: neither over maps smaller than the kernel, nor for the
    weights' gradient of large maps, or of groups."""
    if how.groups > 1 or not _is_smaller(x, kernel):
        return _by_xla(x, kernel, how)
    maps = shifted_maps(_padded(x, how.padding), kernel.shape[:2], how.stride)
    return of_rows(jnp.concatenate(maps, -1), kernel.reshape(-1, kernel.shape[3]), 0)


def _convolved_backward(
    how: Window, saved: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = saved
    if how.groups == 1 and _is_smaller(gradient, kernel):
        of_x = _of_places(x.shape, kernel, how, gradient)
    else:
        (of_x,) = jax.linear_transpose(lambda x: _by_xla(x, kernel, how), x)(gradient)
    if how.groups > 1 or math.prod(gradient.shape[1:3]) >= LEAST:
        return of_x, _of_windows(x, kernel.shape, how, gradient).astype(kernel.dtype)
    (of_kernel,) = jax.linear_transpose(lambda kernel: _by_xla(x, kernel, how), kernel)(gradient)
    return of_x, of_kernel


convolved.defvjp(lambda x, kernel, how: (convolved(x, kernel, how), (x, kernel)), _convolved_backward)


def _of_places(shape: tuple[int, ...], kernel: jax.Array, how: Window, gradient: jax.Array) -> jax.Array:
    """The gradient of maps of this shape: what each place gives to all of its window, added up."""
    (above, below), (left, right) = how.padding
    h, w = shape[1:3]
    windows = of_rows(gradient, kernel.reshape(-1, kernel.shape[3]), 1)
    maps = jnp.split(windows, math.prod(kernel.shape[:2]), -1)
    total = shifted_back(maps, kernel.shape[:2], how.stride, (above + h + below, left + w + right))
    return total[:, above : above + h, left : left + w]


def _of_windows(x: jax.Array, shape: tuple[int, ...], how: Window, gradient: jax.Array) -> jax.Array:
    """The gradient of a kernel of this shape: all windows of one image beside each other, times the gradients of
    its places, image by image so that they stay in the cache. That way round, and not the other, XLA multiplies as
    many rows at a time as it is fast at. With groups its own form takes 20 to 400 times as long."""
    high, wide, c, outputs = shape

    def of_groups(maps: jax.Array) -> jax.Array:
        return maps.reshape(-1, how.groups, maps.shape[-1] // how.groups).astype(jnp.float32)

    def add(total: jax.Array, image: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        maps, places = image[0], of_groups(image[1])
        windows = jnp.concatenate([*map(of_groups, shifted_maps(maps[None], (high, wide), how.stride))], -1)
        if how.groups == 1:  # as a batch of one product XLA takes up to twice as long
            return total + (places[:, 0].T @ windows[:, 0])[None], None
        return total + jnp.einsum("rgo,rgk->gok", places, windows), None

    nothing = jnp.zeros((how.groups, outputs // how.groups, high * wide * c), jnp.float32)
    total, _ = jax.lax.scan(add, nothing, (_padded(x, how.padding), gradient))
    return jnp.moveaxis(total.reshape(outputs, high, wide, c), 0, -1)


class CpuConv(nnx.Conv):
    """A convolution in one of these forms."""

    form: Callable[[jax.Array, jax.Array, Window], jax.Array]

    def __call__(self, inputs: jax.Array) -> jax.Array:
        dtype = self.dtype or inputs.dtype
        how = Window(tuple(self.strides), tuple(map(tuple, self.padding)), self.feature_group_count)
        y = self.form(inputs.astype(dtype), self.kernel[...].astype(dtype), how)
        return y if self.bias is None else y + self.bias[...].astype(dtype)


class PointwiseConv(CpuConv):
    form = staticmethod(pointwise)


class DepthwiseConv(CpuConv):
    form = staticmethod(depthwise)


class WindowedConv(CpuConv):
    form = staticmethod(convolved)


def form_of(size: Sequence[int], channels: int, outputs: int, how: Window) -> type[CpuConv]:
    """The fastest, for kernels of this size over maps of so many channels."""
    if how.groups == channels == outputs > 1:
        return DepthwiseConv
    is_product = tuple(size) == (1, 1) and not any(map(any, how.padding)) and how.groups == 1
    return PointwiseConv if is_product else WindowedConv


@jax.custom_vjp
def weighted(maps: jax.Array, weights: jax.Array) -> jax.Array:
    """`maps` `(n, h, w, c)` times `weights` `(c,)`. For these weights' gradient, a sum over all but the channels,
    XLA's own form takes a CPU three to ten times as long as the one below."""
    return maps * weights


def _weighted_backward(saved: tuple[jax.Array, jax.Array], gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    maps, weights = saved
    n, c = len(maps), maps.shape[-1]
    some = min(n, 8)  # few enough to compile in no time, and it leaves an eighth to the product below
    few = n // some

    def product(images: slice) -> jax.Array:
        return (maps[images] * gradient[images]).reshape(-1, c)

    def total(rows: Any) -> jax.Array:
        return jnp.ones(len(rows), rows.dtype) @ rows

    of_weights = total(sum(product(slice(i * few, (i + 1) * few)) for i in range(some)))
    if n % some:
        of_weights += total(product(slice(some * few, None)))
    return gradient * weights, of_weights


weighted.defvjp(lambda maps, weights: (maps * weights, (maps, weights)), _weighted_backward)


def of_rows(x: jax.Array, matrix: jax.Array, axis: int) -> jax.Array:
    """`(..., d)`: `x` `(..., c)` times a matrix whose `axis` is c, `(c, d)` or `(d, c)`. Of more axes XLA makes a
    transposed copy for the weight's gradient on a CPU, which takes three times as long as the rest."""
    rows = x.reshape(-1, x.shape[-1])
    return jax.lax.dot_general(rows, matrix, (((1,), (axis,)), ((), ()))).reshape(*x.shape[:-1], -1)


def max_pool_of_maps(a: Mapping[str, Any]) -> Callable[[jax.Array], jax.Array]:
    return max_pool_of(tuple(a["kernel"]), tuple(a["stride"]), window_padding(a))


def max_pool_of(
    kernel: tuple[int, ...], stride: tuple[int, ...], padding: Pads
) -> Callable[[jax.Array], jax.Array]:
    """By comparing shifted maps: XLA's own form takes a CPU five to thirteen times as long, there and back."""

    def pool(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, [(0, 0), *padding, (0, 0)], constant_values=-jnp.inf)
        return largest(x, kernel, stride, x.shape[1:3])

    return pool


@partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def largest(x: jax.Array, kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]) -> jax.Array:
    """Of each window of padded maps `(n, *size, c)`; of equal values the first, row by row, has the gradient."""
    return jax.tree.reduce(jnp.maximum, shifted_maps(x, kernel, stride))


def _largest(
    x: jax.Array, kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """With the place of each in its window."""
    best, *others = shifted_maps(x, kernel, stride)
    place = jnp.zeros(best.shape, jnp.uint16)
    for number, maps in enumerate(others, 1):
        more = (maps > best) | jnp.isnan(maps)
        best, place = jnp.where(more, maps, best), jnp.where(more, jnp.uint16(number), place)
    return best, place


def _largest_backward(
    kernel: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...], place: jax.Array, gradient: jax.Array
) -> tuple[jax.Array]:
    maps = [jnp.where(place == number, gradient, 0) for number in range(math.prod(kernel))]
    return (shifted_back(maps, kernel, stride, size),)


largest.defvjp(_largest, _largest_backward)
