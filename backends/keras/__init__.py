"""The Keras 3 backend, on whichever engine KERAS_BACKEND names; epochs are compiled whole on TensorFlow."""

from headstart.contract.description import FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP, Description

DESCRIPTION = Description(
    module="headstart.backends.keras.backend",
    modules=("keras",),
    distributions=("keras", "tensorflow"),
    install="pip install 'headstart[keras]'",
    # which of them an engine has, it says: TensorFlow the first two
    devices=("cpu", "cuda", "mps", "xpu", "tpu"),
    abilities=frozenset({FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP}),
    exports={"tf": ("tensorflow",)},
    wraps="a functional keras.Model",
    # on these engines its models are their modules, too
    asked_before=("torch", "jax"),
    quiet={"TF_CPP_MIN_LOG_LEVEL": "3"},  # XLA's, too
    order=2,
)
