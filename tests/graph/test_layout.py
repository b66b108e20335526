"""Channels last and back."""

from __future__ import annotations

import numpy as np
import pytest

from headstart.graph.layout import ROWS, from_channels_last, to_channels_last

pytestmark = pytest.mark.neutral


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (ROWS, 7), (ROWS + 1, 2 * ROWS + 3), (3 * ROWS, 1), (0, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float16", ">f4"])
def test_a_matrix_is_transposed_whatever_its_size(shape: tuple[int, int], dtype: str) -> None:
    matrix = np.arange(shape[0] * shape[1]).reshape(shape).astype(dtype)
    for transposed in (to_channels_last(matrix), from_channels_last(matrix), to_channels_last(matrix[:, ::-1])):
        assert transposed.shape == shape[::-1]
        assert transposed.dtype == matrix.dtype
        assert transposed.flags.c_contiguous
        assert not np.shares_memory(transposed, matrix)
    assert (
        to_channels_last(matrix).tolist() == [list(column) for column in zip(*matrix.tolist(), strict=True)]
        or 0 in shape
    )
    assert np.array_equal(from_channels_last(to_channels_last(matrix)), matrix)


def test_filters_and_vectors() -> None:
    filters = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    last = to_channels_last(filters)
    assert last.shape == (4, 5, 3, 2)
    assert last[3, 1, 2, 0] == filters[0, 2, 3, 1]
    assert np.array_equal(from_channels_last(last), filters)
    assert to_channels_last(filters[0, 0, 0]).tolist() == [0, 1, 2, 3, 4]
