"""Eigendecompositions of symmetric matrices, each in one thread of BLAS, several of them side by side.

LAPACK's reduction to a tridiagonal matrix is thousands of small products, and OpenBLAS, which NumPy and SciPy
bring, wakes its threads for each: on a machine that others use too they wait for each other most of the time.
Measured at 2,048 x 2,048 on two busy cores: 10.5 s of CPU and 55 s by the clock in two threads, 1.5 s and 10 s in
one; which of LAPACK's drivers it is does not matter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from headstart.common.machine import cpus

Floats = NDArray[np.float64]
SMALL = 256
"""rows and columns; less is done before threads have met"""


def decomposed(matrix: Floats) -> tuple[Floats, Floats]:
    """The eigenvalues `(d,)`, rising, and the eigenvectors, the columns of `(d, d)`."""
    return next(each_decomposed([matrix]))


def each_decomposed(matrices: Iterable[Floats]) -> Iterator[tuple[Floats, Floats]]:
    """Of each, in order. No more of them are made than there are CPUs to decompose them."""
    rest = iter(matrices)
    while some := list(islice(rest, cpus())):
        if len(some[0]) <= SMALL:
            yield from map(np.linalg.eigh, some)
            continue
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(len(some), "headstart-eigen") as pool:
            made = list(pool.map(np.linalg.eigh, some))
        yield from made
