"""The PyTorch backend."""

from headstart.contract.description import EXPORT, FACTS, HEADS, MEMORY, PROFILE, RANK, STATE, WRAP, Description
from headstart.contract.programs import NORMALISED, PART, WRAPPED, FileFormat

DESCRIPTION = Description(
    module="headstart.backends.torch.backend",
    modules=("torch",),
    distributions=("torch",),
    install="pip install 'headstart[torch]'",
    devices=("cpu", "cuda", "mps", "xpu"),
    abilities=frozenset({EXPORT, FACTS, HEADS, MEMORY, PROFILE, RANK, STATE, WRAP}),
    exports={"torch": ()},
    formats=(
        FileFormat(
            "pt2",
            (".pt2",),
            "torch.export.load: PyTorch in Python and, compiled by AOTInductor, in C++; ExecuTorch",
            "headstart.backends.torch.pt2",
            frozenset({PART, NORMALISED, WRAPPED}),
            channels_first=True,
        ),
    ),
    onnx=("onnxscript",),
    wraps="a torch.nn.Module",
    order=1,
)
