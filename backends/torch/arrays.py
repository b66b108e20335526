"""numpy <-> torch.Tensor, and the device. Tensors that leave or enter the backend are `(n, h, w, c)`;
`permute` makes of them `(n, c, h, w)` in channels-last memory without a copy."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import torch

from headstart.backend import Place, check_place
from headstart.errors import BackendError


def decide(device: str, precision: str) -> Place:
    check_place(device, precision)
    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise BackendError("device 'cuda' was asked for, and torch finds no CUDA device; use device='cpu'")
    return Place("cuda" if there and device != "cpu" else "cpu", precision)


def from_numpy(array: np.ndarray, device: str = "cpu") -> torch.Tensor:
    if not array.flags.writeable:
        array = array.copy()  # torch warns of read-only memory, which it could write to
    if array.dtype == ml_dtypes.bfloat16:
        # from_numpy refuses this dtype: https://github.com/pytorch/pytorch/issues/109873
        return torch.from_numpy(array.view(np.uint16)).view(torch.bfloat16).to(device)
    return torch.from_numpy(np.ascontiguousarray(array)).to(device)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()
