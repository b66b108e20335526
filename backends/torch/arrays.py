"""numpy <-> torch.Tensor. Tensors that leave or enter the backend are `(n, h, w, c)`;
`permute` makes of them `(n, c, h, w)` in channels-last memory without a copy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from headstart.backends.doors.torch_devices import as_numpy, sent, tensor_of
from headstart.data.rows import each


def from_numpy(array: np.ndarray, device: str | torch.device = "cpu") -> torch.Tensor:
    return sent(tensor_of(array), device)


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor.numpy()


def exact_numpy(tensor: torch.Tensor) -> np.ndarray:
    """In the tensor's own dtype, whichever it is."""
    return as_numpy(tensor.detach().cpu())


def to_native(rows: Any, device: str | torch.device = "cpu") -> Any:
    """A batch as core has it (numpy, or on the device already) as torch's layers take it. Features in half
    precision become float32; whatever else is no number with a fraction stays. A dict's arrays are what they are,
    a single `(n, h, w, c)` is `(n, c, h, w)` here."""

    def tensor(array: Any) -> torch.Tensor:
        x = from_numpy(array, device) if isinstance(array, np.ndarray) else array
        return x.float() if x.is_floating_point() else x

    if isinstance(rows, dict):
        return {name: tensor(array) for name, array in rows.items()}
    x = tensor(rows)
    return x.permute(0, 3, 1, 2) if x.ndim == 4 else x


def batch_of(example: Any) -> Any:
    """An example as a module would get it from its user, who has his own: it may write to it."""
    return each(lambda tensor: tensor.clone(memory_format=torch.contiguous_format), to_native(example))


def from_native(x: torch.Tensor) -> torch.Tensor:
    """A layer's output as core has it."""
    return x.permute(0, 2, 3, 1) if x.ndim == 4 else x
