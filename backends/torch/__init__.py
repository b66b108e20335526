"""The PyTorch backend."""

from headstart.contract.description import HEADS, MEMORY, PROFILE, WRAP, Description

DESCRIPTION = Description(
    module="headstart.backends.torch.backend",
    modules=("torch",),
    distributions=("torch",),
    install="pip install 'headstart[torch]'",
    devices=("cpu", "cuda"),
    abilities=frozenset({HEADS, MEMORY, PROFILE, WRAP}),
    exports={"torch": ()},
    wraps="a torch.nn.Module",
    order=1,
)
