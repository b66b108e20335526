"""Convolutions on a CPU, forward and backward, on one core, in a process of its own: `cpu_forms.py jax` reads a
request a line and answers a line, both JSON.

{"do": "step", "which": NAME, "form": "ours" or "xla"}   a convolution of `SHAPES` and its gradients: seconds
                   of the processor, and the sum of what came out
{"do": "facts"}    threads, versions
"""

from __future__ import annotations

import sys
import time
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from children import facts_of, keep_to_one_core, serve

from headstart.contract import registry


class Shape(NamedTuple):
    """A convolution, as a layer of a network has it."""

    images: int
    side: int
    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    groups: int = 1


SHAPES = {
    "stem, 224 x 224 x 3 to 64, 7 x 7": Shape(4, 224, 3, 64, 7, stride=2),
    "56 x 56 x 64, 3 x 3": Shape(8, 56, 64, 64, 3),
    "14 x 14 x 256, 3 x 3": Shape(16, 14, 256, 256, 3),
    "14 x 14 x 256 in 32 groups, 3 x 3": Shape(4, 14, 256, 256, 3, groups=32),
    "2 x 2 x 256, 3 x 3": Shape(64, 2, 256, 256, 3),
}
"""those that have a form of their own, and those that have XLA's in part"""


class Setting:
    def __init__(self, name: str) -> None:
        self.backend = registry.load(name)

    @cache  # noqa: B019 - there is one setting a process
    def program(self, which: str, form: str) -> Any:
        import jax

        from headstart.backends.jax.cpu_forms import Window, _by_xla, convolved

        s = SHAPES[which]
        pad = (s.kernel - 1) // 2
        how = Window((s.stride, s.stride), ((pad, pad), (pad, pad)), s.groups)
        rng = np.random.default_rng(0)
        x = rng.standard_normal((s.images, s.side, s.side, s.inputs), np.float32)
        kernel = rng.standard_normal((s.kernel, s.kernel, s.inputs // s.groups, s.outputs), np.float32) / 10
        form_of = convolved if form == "ours" else _by_xla

        def loss(x: Any, kernel: Any) -> Any:
            return (form_of(x, kernel, how) ** 2).sum()

        gradients = jax.jit(jax.grad(loss, (0, 1)))
        arrays = jax.device_put((x, kernel))
        return lambda: jax.block_until_ready(gradients(*arrays))

    def step(self, which: str, form: str) -> tuple[float, float]:
        run = self.program(which, form)
        start = time.process_time()
        found = run()
        taken = time.process_time() - start
        return taken, float(sum(np.abs(np.asarray(gradient)).sum() for gradient in found))

    def facts(self) -> dict[str, Any]:
        return facts_of(self.backend, "cpu")


if __name__ == "__main__":
    keep_to_one_core()
    serve(lambda: Setting(*sys.argv[1:]))
