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


class FeatureDataset(Dataset[tuple[torch.Tensor, int]]):
    """`(features, label)` by position. Holds ids and labels, no features; workers of a DataLoader read for
    themselves, a batch at a time."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.__getitems__([operator.index(index)])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[torch.Tensor, int]]:
        """What a DataLoader asks for a batch with."""
        features, labels = self.rows.read(indices)
        return list(zip(tensor(features).unbind(), labels.tolist(), strict=True))


def dataset(rows: Rows) -> FeatureDataset:
    return FeatureDataset(rows)
