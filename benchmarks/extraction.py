"""Extraction of a batch, here and as the framework's users write it, in a process of its own: `extraction.py
BACKEND` reads a request a line and answers a line, both JSON.

{"do": "precisions"}              what it is timed in: see `children.precisions_of`
{"do": "prepare", "model": MODEL, "batch": N}   a network, in place of the one before
                                  "wrapped": as somebody's own module, which hs.wrap takes;
                                  "unused": S: with such a share of each convolution's filters decayed to 1e-39
{"do": "run", "which": NAME}      features of 32 images of 224 pixels, or of "batch": N if a network was prepared
                                  so: a precision is ours,
                                  "peer" is eager float32 under no_grad, `predict`, or a jitted float32 NNX module
{"do": "sample", "which": NAME}   the features of the first image, of the last such run
{"do": "cosine", "which": NAME}   the least cosine of a sample's features with the peer's, of the last runs of both
{"do": "products", "which": NAME} seconds that the network's multiply-adds take as products of matrices of 2,048
                                  squared in that precision, by the framework: a product is timed once
{"do": "facts"}                   threads, versions, and what batch the peer is fed
"""

from __future__ import annotations

import sys
import time
from typing import Any

import numpy as np
from children import facts_of, precisions_of, serve

import headstart as hs
from headstart.contract import registry
from headstart.features.inference import pixel_trunk

BATCH, SIZE = 32, 224
SIDE = 2048
PRODUCED = 5
"""products that are timed"""


def decayed(model: hs.Model, share: float) -> hs.Model:
    """With numbers of 1e-39 for weights in such a share of each convolution's filters."""
    params = dict(model.params)
    for name, value in params.items():
        if value.ndim == 4:
            factors = np.ones((len(value), 1, 1, 1))
            factors[: max(1, round(share * len(value)))] = 1e-39 / np.abs(value).mean()
            params[name] = (value * factors).astype(np.float32)
    return model.with_params(params)


class Setting:
    def __init__(self, backend: str) -> None:
        self.backend = registry.load(backend)
        self.product_seconds: dict[str, float] = {}

    def precisions(self) -> list[str]:
        return precisions_of(self.backend)

    def prepare(self, model: str, batch: int = BATCH, unused: float = 0.0, wrapped: bool = False) -> None:
        made = hs.model(model, classes=10, size=SIZE)
        if wrapped:
            native = self.backend.native(made.graph, made.params)
            if self.backend.name == "jax":
                as_users_write_them(native)
            made = hs.wrap(native, preprocess=made.preprocess, classes=made.classes)
        self.network(decayed(made, unused) if unused else made, batch)

    def network(self, model: hs.Model, batch: int = BATCH) -> None:
        self.batch, self.cut = batch, model.default_cut
        self.macs = batch * sum(model.graph.upto(self.cut).macs(model.input_shape).values())
        self.images = np.random.default_rng(0).integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
        self.trunks = {
            precision: pixel_trunk(model, [self.cut], self.backend, self.backend.place("auto", precision))
            for precision in self.precisions()
        }
        native = self.backend.native(model.graph.upto(self.cut), model.params)
        scale, shift = model.preprocess.affine()
        ready = self.images * scale + shift
        self.peer = {"torch": torch_peer, "keras": keras_peer, "jax": jax_peer}[self.backend.name](native, ready)
        self.features: dict[str, np.ndarray] = {}

    def run(self, which: str) -> list[int]:
        if which == "peer":
            features = np.asarray(self.peer())
        else:
            features = self.backend.numpy(self.trunks[which].run(self.images)[self.cut])
        self.features[which] = features
        return list(features.shape)

    def sample(self, which: str) -> list[float]:
        of_first: list[float] = self.features[which][0].tolist()
        return of_first

    def cosine(self, which: str) -> float:
        a, b = self.features[which], self.features["peer"]
        return float(((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min())

    def products(self, which: str) -> float:
        if which not in self.product_seconds:
            self.product_seconds[which] = self._a_product(which)
        return self.product_seconds[which] * self.macs / SIDE**3

    def _a_product(self, which: str) -> float:
        a, b = np.random.default_rng(0).standard_normal((2, SIDE, SIDE), np.float32)
        multiply = PRODUCTS[self.backend.name](a, b, self.backend.place("auto", which).arithmetic)
        seconds = []
        for _ in range(2 + PRODUCED):
            start = time.perf_counter()
            multiply()
            seconds.append(time.perf_counter() - start)
        return float(np.median(seconds[2:]))

    def facts(self) -> dict[str, Any]:
        return facts_of(self.backend, batch=[self.batch, SIZE, SIZE, 3])


def torch_peer(native: Any, ready: np.ndarray) -> Any:
    import torch

    x = torch.from_numpy(np.ascontiguousarray(ready.transpose(0, 3, 1, 2)))
    native = native.to(memory_format=torch.contiguous_format)

    def run() -> np.ndarray:
        with torch.no_grad():
            return native(x).numpy()

    return run


def keras_peer(native: Any, ready: np.ndarray) -> Any:
    return lambda: native.predict(ready, batch_size=len(ready), verbose=0)


def jax_peer(native: Any, ready: np.ndarray) -> Any:
    import jax.numpy as jnp
    from flax import nnx

    as_users_write_them(native)
    x, jitted = jnp.asarray(ready), nnx.jit(lambda module, images: module(images))
    return lambda: np.asarray(jitted(native, x))


def as_users_write_them(native: Any) -> None:
    """Make every convolution an `nnx.Conv`: 1x1 ones that the network computes as products are that class with
    another `__call__`, so they take its own back."""
    from flax import nnx

    for _, layer in nnx.iter_modules(native):
        if isinstance(layer, nnx.Conv):
            layer.__class__ = nnx.Conv


def torch_product(a: np.ndarray, b: np.ndarray, precision: str) -> Any:
    """The faster of the two libraries that torch has for it."""
    import torch

    from headstart.backends.torch.products import onednn, prefers_onednn

    device = "cuda" if torch.cuda.is_available() else "cpu"
    x, y = (torch.from_numpy(matrix).to(device, getattr(torch, precision)) for matrix in (a, b))
    if device == "cpu" and prefers_onednn():
        return lambda: onednn(x, y)
    return lambda: (x @ y)[0, 0].item()


def keras_product(a: np.ndarray, b: np.ndarray, precision: str) -> Any:
    import tensorflow as tf

    x, y = (tf.cast(matrix, precision) for matrix in (a, b))
    return lambda: float(tf.matmul(x, y)[0, 0])


def jax_product(a: np.ndarray, b: np.ndarray, precision: str) -> Any:
    import jax
    import jax.numpy as jnp

    x, y = (jnp.asarray(matrix, precision) for matrix in (a, b))
    multiply = jax.jit(jnp.matmul)
    return lambda: multiply(x, y).block_until_ready()


PRODUCTS = {"torch": torch_product, "keras": keras_product, "jax": jax_product}


if __name__ == "__main__":
    serve(lambda: Setting(*sys.argv[1:]))
