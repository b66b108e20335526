"""Models as files of JAX's own, by `jax.export`.

Invariant: what is exported is the network as `emit` has it. What `fused` and `frozen` make of it for one device
calls libraries that JAX promises nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax import export

from headstart.backends.jax import stablehlo
from headstart.backends.jax.emit import Network
from headstart.common.errors import ExportError
from headstart.common.text import raised_text
from headstart.contract.programs import SIGMOID, SOFTMAX, Program

PLATFORMS = ("cpu", "cuda", "tpu")
"""what one file is for"""
FRAMES = "jax_traceback_in_locations_limit"
"""the setting that says how many callers of an operation are noted with it"""
MAKES: Mapping[str, Callable[[jax.Array], jax.Array]] = {
    "": lambda y: y,
    SOFTMAX: lambda y: jax.nn.softmax(y, -1),
    SIGMOID: jax.nn.sigmoid,
}


def write(program: Program, path: Path, texts: Mapping[str, str]) -> None:
    try:
        exported = exported_of(program)
        stablehlo.save(exported, str(path), texts)
    except OSError:
        raise
    except Exception as error:  # JAX's exporter raises of all kinds
        raise ExportError(
            f"jax.export cannot write this model ({raised_text(error)}); expected a module that computes any "
            "number of samples (x.shape[0], not len(x)) by JAX's own operations, with weights of less than 2 GB; "
            "or another format"
        ) from error


def exported_of(program: Program) -> export.Exported:
    """The program with its weights, for `n` samples: it takes its inputs by their names, and gives a dict."""
    network = Network(program.graph, program.params)
    network.eval()
    graphdef, state = nnx.split(network)

    def computed(**arrays: jax.Array) -> dict[str, jax.Array]:
        x = arrays if program.by_name else next(iter(arrays.values()))
        # Variables made here: NNX's own transforms (remat, scan) and norms of weights write to those that they are
        # given, which is refused where these were made outside of the program.
        here = jax.tree.map(lambda leaf: leaf, state)
        y = nnx.merge(graphdef, here)(x).astype(jnp.float32)
        return {name: MAKES[how](y) for name, how in program.outputs.items()}

    (n,) = export.symbolic_shape("n")
    inputs = {
        name: jax.ShapeDtypeStruct((n, *shape), jax.dtypes.canonicalize_dtype(dtype))
        for name, shape, dtype in program.inputs
    }
    # Else GPUs multiply float32 as TF32, and TPUs as bfloat16.
    with jax.default_matmul_precision("highest"), unlocated():
        return export.export(jax.jit(computed), platforms=PLATFORMS)(**inputs)


@contextmanager
def unlocated() -> Iterator[None]:
    """JAX notes with every operation the source files that it came from, by their paths on this machine, which are
    nobody's business where the file goes; and one model would give another file on another machine."""
    before = getattr(jax.config, FRAMES)
    jax.config.update(FRAMES, 0)
    try:
        yield
    finally:
        jax.config.update(FRAMES, before)
