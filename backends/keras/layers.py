"""Layers of the op table that Keras has none for. Registered, so that a saved model can be read again wherever
`headstart.backends.keras` is imported."""

from __future__ import annotations

import inspect
import math
from functools import cache
from typing import Any

import keras
from keras import layers, ops

from headstart.backends.keras.arrays import DEVICES, ENGINE

registered = keras.saving.register_keras_serializable(package="headstart")


@registered
def quick_gelu(x: Any) -> Any:
    return x * ops.sigmoid(1.702 * x)


def silu(x: Any) -> Any:
    """The same numbers as TensorFlow's, of which the gradient is a function that it registers for ever whenever it
    is traced, and with it all that was traced."""
    return x * ops.sigmoid(x)


class Configured(layers.Layer):
    """A layer that can be made again from the keyword arguments it names in `SETTINGS`."""

    SETTINGS: tuple[str, ...] = ()

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in self.SETTINGS}}


@registered
class AveragePool(Configured):
    """An average with padding, which counts in it or not; rounding up adds padding that never does."""

    SETTINGS = ("kernel", "stride", "padding", "outside", "count_padding")

    def __init__(
        self, kernel: Any, stride: Any, padding: Any, outside: Any, count_padding: bool, **settings: Any
    ) -> None:
        super().__init__(**settings)
        self.kernel, self.stride = tuple(kernel), tuple(stride)
        self.padding, self.outside = tuple(map(tuple, padding)), tuple(map(tuple, outside))
        self.count_padding = count_padding

    def call(self, x: Any) -> Any:
        mask = ops.pad(
            ops.ones_like(x[:1, :, :, :1]),
            ((0, 0), *self.padding, (0, 0)),
            constant_values=float(self.count_padding),
        )
        more = [(o - c, p - d) for (o, p), (c, d) in zip(self.outside, self.padding, strict=True)]
        mask = ops.pad(mask, ((0, 0), *more, (0, 0)))
        x = ops.pad(x, ((0, 0), *self.outside, (0, 0)))
        return ops.average_pool(x, self.kernel, self.stride) / ops.average_pool(mask, self.kernel, self.stride)


@registered
class AdaptiveAveragePool(Configured):
    """To `size`, from maps of any size; window i of n reaches from floor(i * side / n) to
    ceil((i + 1) * side / n). Keras's own, since 3.13, needs to know the map's size when the model is built."""

    SETTINGS = ("size",)

    def __init__(self, size: Any, **settings: Any) -> None:
        super().__init__(**settings)
        self.size = tuple(size)

    def call(self, x: Any) -> Any:
        _, height, width, _ = ops.shape(x)
        down, across = (
            self._weights(*sides, x.dtype) for sides in ((height, self.size[0]), (width, self.size[1]))
        )
        return ops.einsum("jw,niwc->nijc", across, ops.einsum("ih,nhwc->niwc", down, x))

    def _weights(self, side: Any, size: int, dtype: Any) -> Any:
        place = ops.arange(side, dtype="int32")
        step = ops.arange(size, dtype="int32")[:, None]
        inside = ops.logical_and(place >= step * side // size, place < ((step + 1) * side + size - 1) // size)
        weights = ops.cast(inside, "float32")
        return ops.cast(weights / ops.sum(weights, 1, keepdims=True), dtype)


@registered
class RunningStatistics(layers.BatchNormalization):
    """Over the last axis; the running variance follows the unbiased one, as the op table has it, where Keras's own
    follows the biased one."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        if not training:
            return super().call(inputs, training=training, mask=mask)
        x = ops.cast(inputs, "float32")
        mean, variance = ops.moments(x, list(range(len(x.shape) - 1)))
        # of n values a channel, n / (n - 1); by all there are, which takes the fewest ops
        size = ops.cast(ops.size(x), "float32")
        unbiased = size / ops.maximum(size - x.shape[-1], 1)
        new = 1 - self.momentum
        self.moving_mean.assign(self.moving_mean * self.momentum + mean * new)
        self.moving_variance.assign(self.moving_variance * self.momentum + variance * (new * unbiased))
        scale, offset = (ops.cast(weight, x.dtype) for weight in (self.gamma, self.beta))
        outputs = ops.batch_normalization(x, mean, variance, -1, offset, scale, self.epsilon)
        return ops.cast(outputs, self.compute_dtype)


@registered
class FrozenStatistics(layers.BatchNormalization):
    """Keeps its statistics and trains its scale and offset. `trainable=False` would freeze those as well, and a
    `training=False` given when the model is built is overridden by the model's own call."""

    def call(self, inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
        return super().call(inputs, training=False, mask=mask)


STATISTICS = ("moving_mean", "moving_variance")


def keep_statistics(layer: layers.Layer) -> None:
    """Make a batch norm keep its statistics as `FrozenStatistics` does, whatever class of the user's it is of and
    wherever it stands. One of the user's own is told by what its statistics are called."""
    kind: Any = type(layer)
    own = all(isinstance(getattr(layer, name, None), keras.Variable) for name in STATISTICS)
    if not (own or issubclass(kind, layers.BatchNormalization)) or issubclass(kind, FrozenStatistics):
        return
    layer.__class__ = FrozenStatistics if kind is layers.BatchNormalization else _keeping(kind)


def values_of(layer: layers.Layer) -> int | None:
    """How many numbers of a channel one sample has in a batch norm of Keras's; None in other layers, and where it
    is not known."""
    if not isinstance(layer, layers.BatchNormalization):
        return None
    shape: tuple[int | None, ...] = (layer.get_build_config() or {}).get("input_shape") or (None, None)
    sides = [side for side in shape[1:] if side is not None]
    return None if len(sides) < len(shape) - 1 else math.prod(sides) // (shape[layer.axis] or 1)


@cache
def _keeping(kind: Any) -> Any:
    def call(self: Any, inputs: Any, *args: Any, **settings: Any) -> Any:
        named = inspect.signature(kind.call).parameters
        if "training" in named:
            given = inspect.signature(kind.call).bind_partial(self, inputs, *args, **settings)
            given.arguments["training"] = False
            return kind.call(*given.args, **given.kwargs)
        return kind.call(self, inputs, *args, **settings)

    return type(kind.__name__, (kind,), {"call": call, "__module__": kind.__module__})


@registered
class NoSoftmax(layers.Softmax):
    """In the place of a softmax that was taken off the end of a model."""

    def call(self, inputs: Any, mask: Any = None) -> Any:
        return inputs


@registered
class PlainConvolution(layers.Conv2D):
    """A convolution on the torch engine, where Keras's own copies the whole map twice on the way in."""

    def convolution_op(self, inputs: Any, kernel: Any) -> Any:
        if ops.is_tensor(inputs):
            padding = "same" if self.padding == "same" else 0
            kernel = ops.convert_to_tensor(kernel)
            return DEVICES.convolved(inputs, kernel, self.strides, padding, self.groups)
        return super().convolution_op(inputs, kernel)


@registered
class Scale(layers.Layer):
    """A factor for each channel."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight((shape[-1],), "ones", name="weight")

    def call(self, x: Any) -> Any:
        return x * self.weight


@registered
class ClassToken(layers.Layer):
    """A learned token before the others."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight((shape[-1],), "zeros", name="weight")

    def call(self, x: Any) -> Any:
        token = ops.broadcast_to(ops.cast(self.weight, x.dtype), (ops.shape(x)[0], 1, x.shape[2]))
        return ops.concatenate([token, x], 1)


@registered
class Position(Configured):
    """A learned vector added to each token."""

    SETTINGS = ("tokens",)

    def __init__(self, tokens: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.tokens = tokens  # of images of any size, the shape does not say it

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight((self.tokens, shape[-1]), "zeros", name="weight")

    def call(self, x: Any) -> Any:
        return x + self.weight

    def compute_output_shape(self, shape: Any) -> Any:
        # The JAX and torch engines would try `call` on a made-up number of tokens, as of images of any size.
        return shape


@registered
class Attention(Configured):
    """softmax(q k^T / sqrt(d)) v of queries, keys and values that lie side by side."""

    SETTINGS = ("heads",)

    def __init__(self, heads: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.heads = heads

    def call(self, x: Any) -> Any:
        tokens, channels = ops.shape(x)[1], x.shape[2]
        parts = ops.split(ops.reshape(x, (-1, tokens, 3 * self.heads, channels // (3 * self.heads))), 3, 2)
        if ENGINE != "jax" or DEVICES.is_accelerated():
            attended = ops.dot_product_attention(*parts)
        else:  # where there is a GPU, Keras takes its kernel; and a CPU does not sum float16's products in float32
            wide = [ops.cast(part, "float32") if x.dtype == "float16" else part for part in parts]
            attended = ops.cast(ops.dot_product_attention(*wide, flash_attention=False), x.dtype)
        return ops.reshape(attended, (-1, tokens, channels // 3))


@registered
class FirstToken(layers.Layer):
    def call(self, x: Any) -> Any:
        return x[:, 0]


@registered
class DropPath(Configured):
    """Stochastic depth (Huang et al. 2016, arXiv:1603.09382), a sample at a time."""

    SETTINGS = ("rate", "seed")

    def __init__(self, rate: float, seed: int = 0, **settings: Any) -> None:
        super().__init__(**settings)
        self.rate, self.seed = rate, seed
        self.generator = keras.random.SeedGenerator(seed)

    def call(self, x: Any, training: bool = False) -> Any:
        if not training:
            return x
        shape = (ops.shape(x)[0], *[1] * (len(x.shape) - 1))
        kept = keras.random.uniform(shape, seed=self.generator) >= self.rate
        return x * ops.cast(kept, x.dtype) / (1 - self.rate)
