"""The Keras 3 backend, on whichever engine KERAS_BACKEND names; epochs are compiled whole on TensorFlow."""

from headstart.contract.description import EXPORT, FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP, Description
from headstart.contract.programs import NORMALISED, PART, WRAPPED, FileFormat

DESCRIPTION = Description(
    module="headstart.backends.keras.backend",
    modules=("keras",),
    distributions=("keras", "tensorflow"),
    install="pip install 'headstart[keras]'",
    # which of them an engine has, it says: TensorFlow the first two
    devices=("cpu", "cuda", "mps", "xpu", "tpu"),
    abilities=frozenset({EXPORT, FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP}),
    exports={"tf": ("tensorflow",)},
    formats=(
        FileFormat(
            "keras",
            (".keras",),
            "keras.saving.load_model: Keras on TensorFlow, JAX or PyTorch",
            "headstart.backends.keras.keras_file",
            frozenset({PART, NORMALISED, WRAPPED}),
        ),
        FileFormat(
            "savedmodel",
            (".savedmodel",),
            "TensorFlow Serving, TensorFlow.js, whoever has TensorFlow in any language; a folder",
            "headstart.backends.keras.saved_model",
            frozenset({PART, NORMALISED, WRAPPED}),
            marker="saved_model.pb",
            modules=("tensorflow",),
        ),
        FileFormat(
            "tflite",
            (".tflite",),
            "LiteRT on phones, browsers and microprocessors, by its own ops alone",
            "headstart.backends.keras.tflite",
            frozenset({PART, NORMALISED, WRAPPED}),
            modules=("tensorflow",),
        ),
    ),
    # on whose engine Keras writes it
    onnx=("torch", "onnxscript"),
    onnx_install="pip install 'headstart[onnx,torch]'",
    wraps="a functional keras.Model",
    # on these engines its models are their modules, too
    asked_before=("torch", "jax"),
    quiet={"TF_CPP_MIN_LOG_LEVEL": "3"},  # XLA's, too
    order=2,
)
