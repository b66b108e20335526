"""Features for torch's own programs: tensors, and a data set that reads rows when they are asked for."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from headstart.backends.torch.arrays import from_numpy
from headstart.contract.protocol import Rows


def tensor(array: np.ndarray) -> torch.Tensor:
    """The same memory as a tensor."""
    return from_numpy(array)


class FeatureDataset(Dataset[tuple[torch.Tensor, int | torch.Tensor]]):
    """`(features, label)` by position; of several labels or targets a sample a float32 tensor. Holds ids and
    labels, no features; workers of a DataLoader read for themselves, a batch at a time."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int | torch.Tensor]:
        return self.__getitems__([operator.index(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int | torch.Tensor]]:
        """What a DataLoader asks for a batch with."""
        features, labels = self.rows.read(indices)
        each = labels.tolist() if labels.ndim == 1 else tensor(np.ascontiguousarray(labels)).unbind()
        return list(zip(tensor(features).unbind(), each, strict=True))


def dataset(rows: Rows) -> FeatureDataset:
    return FeatureDataset(rows)
