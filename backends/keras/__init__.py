"""The Keras 3 backend, on whichever engine KERAS_BACKEND names; epochs are compiled whole on TensorFlow."""

from headstart.contract.description import HEADS, PROFILE, WRAP, Description

DESCRIPTION = Description(
    module="headstart.backends.keras.backend",
    modules=("keras",),
    distributions=("keras", "tensorflow"),
    install="pip install 'headstart[keras]'",
    devices=("cpu", "cuda"),
    # no MEMORY: Keras has no word for it
    abilities=frozenset({HEADS, PROFILE, WRAP}),
    exports={"tf": ("tensorflow",)},
    wraps="a functional keras.Model",
    # on these engines its models are their modules, too
    asked_before=("torch", "jax"),
    quiet={"TF_CPP_MIN_LOG_LEVEL": "3"},  # XLA's, too
    order=2,
)
