"""Features for TensorFlow's own programs, whichever engine Keras runs on: tensors, and a `tf.data.Dataset` that
reads while it is iterated."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import tensorflow as tf

from headstart.common.memory import ALIGNMENT
from headstart.contract.protocol import Rows


def tensor(array: np.ndarray) -> tf.Tensor:
    """The same memory as a tensor on the CPU."""
    # TensorFlow takes unaligned memory, too, and aborts the process at the first slice of it.
    if array.size and array.ctypes.data % ALIGNMENT:
        raise ValueError(f"the array does not begin at a multiple of {ALIGNMENT} bytes")
    brain = array.dtype == ml_dtypes.bfloat16
    with tf.device("CPU:0"):  # with a GPU, the cast of bits would copy the tensor there
        if not array.size:
            return tf.zeros(array.shape, tf.as_dtype(array.dtype))
        # numpy's DLPack knows no bfloat16
        shared = tf.experimental.dlpack.from_dlpack((array.view(np.uint16) if brain else array).__dlpack__())
        return tf.bitcast(shared, tf.bfloat16) if brain else shared


def dataset(
    rows: Rows, batch_size: int | None = None, shuffle: bool = False, seed: int = 0, drop_remainder: bool = False
) -> tf.data.Dataset:
    """A piece of rows at a time goes from the store to TensorFlow; without a batch size they are taken apart
    there."""
    if batch_size is None:
        size, count, first = rows.piece, len(rows), None
    else:
        size = batch_size
        count = len(rows) // size if drop_remainder else -(-len(rows) // size)
        first = size if drop_remainder else None
    labels = tf.TensorSpec((first, *rows.labels.shape[1:]), tf.as_dtype(rows.labels.dtype))
    signature = (tf.TensorSpec((first, *rows.shape), tf.as_dtype(rows.dtype)), labels)

    def pieces() -> Any:  # called for every pass over the data set
        return rows.batches(size, shuffle, seed, drop_remainder and batch_size is not None)

    data = tf.data.Dataset.from_generator(pieces, output_signature=signature)
    if batch_size is None:
        data = data.unbatch()
    return data.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)
