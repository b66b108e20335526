"""One picture in a .npy file: uint8 as it is, uint16 as 16-bit PNGs are, floats from 0 to 1, and black and white.

Nothing is unpickled, and the header's shape is compared with the file's size before it is believed.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
from PIL import Image

from headstart.common.errors import ImageError
from headstart.data.breaks import HALF, MISSING
from headstart.data.colours import deep_to_8, floats_to_8, is_nearly_black
from headstart.data.limits import check_size
from headstart.data.remarks import BLACK


def open_npy(encoded: bytes, source: str | Path) -> tuple[Image.Image, list[str]]:
    """The picture, RGB, and what is to be remarked. Raises ImageError for arrays of other shapes and numbers."""
    stream = io.BytesIO(encoded)
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ImageError(source, f"is an array in version {version} of .npy; expected 1.0 or 2.0")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, is_fortran, dtype = read(stream)
    kinds = "uint8, uint16, bool, or floats from 0 to 1"
    if dtype.kind not in "buf" or (dtype.kind == "u" and dtype.itemsize > 2):
        raise ImageError(source, f"is an array of {dtype}; expected one picture of {kinds}")
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] not in (1, 3, 4)) or 0 in shape:
        many = "; of many, hs.data.arrays takes what it holds" if len(shape) == 4 else ""
        first = len(shape) == 3 and shape[0] in (1, 3, 4)
        mend = "; the channels come last: np.moveaxis(array, 0, -1)" if first else many
        raise ImageError(source, f"is an array {shape}; expected one picture, (h, w) or (h, w, 1 | 3 | 4){mend}")
    check_size(shape[1], shape[0], source)
    count, start = math.prod(shape), stream.tell()
    if start + count * dtype.itemsize > len(encoded):
        raise ImageError(source, HALF.format(MISSING))
    values = np.frombuffer(encoded, dtype, count, start).reshape(shape, order="F" if is_fortran else "C")
    pixels = values if values.ndim == 2 else values[..., 0] if shape[2] == 1 else values[..., :3]
    if dtype.kind == "f":
        pixels = floats_to_8(pixels.astype(np.float32), source)
    elif dtype.kind == "b":
        pixels = pixels.astype(np.uint8) * np.uint8(255)
    elif dtype.itemsize == 2:
        pixels = deep_to_8(pixels)
    image = Image.fromarray(np.ascontiguousarray(pixels)).convert("RGB")
    return image, [BLACK] if dtype.kind == "u" and dtype.itemsize == 2 and is_nearly_black(image) else []
