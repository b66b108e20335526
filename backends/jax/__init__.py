"""The JAX backend: flax NNX modules, optax, and epochs under one `lax.scan`."""

from headstart.contract.description import FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP, Description

DESCRIPTION = Description(
    module="headstart.backends.jax.backend",
    modules=("jax", "flax", "optax"),
    distributions=("jax", "flax", "optax"),
    install="pip install 'headstart[jax]'",
    devices=("cpu", "cuda", "tpu", "xpu", "mps"),
    abilities=frozenset({FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP}),
    exports={"jax": ()},
    wraps="a flax.nnx.Module, or two JAX functions (trunk, head) with params=(trunk_params, head_params)",
    quiet={"TF_CPP_MIN_LOG_LEVEL": "3"},  # XLA's, too
    order=3,
)
