"""The PyTorch backend."""

from headstart.contract.description import FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP, Description

DESCRIPTION = Description(
    module="headstart.backends.torch.backend",
    modules=("torch",),
    distributions=("torch",),
    install="pip install 'headstart[torch]'",
    devices=("cpu", "cuda", "mps", "xpu"),
    abilities=frozenset({FACTS, HEADS, MEMORY, PROFILE, STATE, WRAP}),
    exports={"torch": ()},
    wraps="a torch.nn.Module",
    order=1,
)
