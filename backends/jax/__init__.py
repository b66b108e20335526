"""The JAX backend: flax NNX modules, optax, and epochs under one `lax.scan`."""

from headstart.contract.description import EXPORT, FACTS, HEADS, MEMORY, PROFILE, RANK, STATE, WRAP, Description
from headstart.contract.programs import NORMALISED, PART, WRAPPED, FileFormat

DESCRIPTION = Description(
    module="headstart.backends.jax.backend",
    modules=("jax", "flax", "optax"),
    distributions=("jax", "flax", "optax"),
    install="pip install 'headstart[jax]'",
    devices=("cpu", "cuda", "tpu", "xpu", "mps"),
    abilities=frozenset({EXPORT, FACTS, HEADS, MEMORY, PROFILE, RANK, STATE, WRAP}),
    exports={"jax": ()},
    formats=(
        FileFormat(
            "stablehlo",
            (".stablehlo",),
            "jax.export.deserialize: JAX on CPUs, NVIDIA's GPUs and TPUs",
            "headstart.backends.jax.stablehlo",
            frozenset({PART, NORMALISED, WRAPPED}),
            modules=("flatbuffers",),
            environment={"JAX_PLATFORMS": "cpu"},  # it opens every device that it may, before it is asked for one
        ),
    ),
    wraps="a flax.nnx.Module, a flax.linen.Module with params=, or two JAX functions (trunk, head) with "
    "params=(trunk_params, head_params)",
    quiet={"TF_CPP_MIN_LOG_LEVEL": "3"},  # XLA's, too
    in_one_heap=True,
    order=3,
)
