"""JPEGs decoded by NVIDIA GPUs, with nvImageCodec (extra `gpu-jpegs`): by the cards' own JPEG engines where they
have such, by their multiprocessors elsewhere.

A picture's pixels come back to the host, where they are resized as all others are. What it does not decode, as
damaged and lossless JPEGs, is libjpeg's to decode or to refuse.
"""

from __future__ import annotations

import io
from functools import cache
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import SettingError
from headstart.common.machine import has_module

DEVICE = -1
"""by nvImageCodec's numbers: the GPU that CUDA takes by itself, the first of `CUDA_VISIBLE_DEVICES`"""
KINDS = ("HW_GPU_ONLY", "GPU_ONLY", "HYBRID_CPU_GPU")
"""of nvImageCodec's decoders. Its own libjpeg is none of them, which would decode in a GPU's name"""
INSTALL = "pip install 'headstart[gpu-jpegs]' for CUDA 13, or 'nvidia-nvimgcodec-cu12[nvjpeg]' for CUDA 12"

_idle: list[Any] = []
"""decoders that no thread uses now"""


def pixels_of(encoded: bytes) -> np.ndarray | None:
    """The pixels of a JPEG as it lies, uint8 `(h, w, 3)`, R, G, B; None of one that nvImageCodec leaves.
    SettingError where no GPU can decode. From any thread."""
    if (reason := _lacking()) is not None:
        raise SettingError(
            f'decode is "gpu", and {reason}; or leave decode="gpu" (--decode gpu) out. A run that was trained '
            "with it predicts here from pictures in memory: arrays, or Pillow's images"
        )
    return _decoded(encoded)


def _decoded(encoded: bytes) -> np.ndarray | None:
    from nvidia import nvimgcodec

    # Upright it is made by the rule of all formats.
    params = nvimgcodec.DecodeParams(apply_exif_orientation=False, color_spec=nvimgcodec.ColorSpec.SRGB)
    try:
        decoder = _idle.pop()
    except IndexError:
        decoder = _decoder()
    try:
        image = decoder.decode(nvimgcodec.CodeStream(encoded), params=params)
    finally:
        _idle.append(decoder)
    return None if image is None else np.asarray(image.cpu())


def _decoder() -> Any:
    from nvidia import nvimgcodec

    backends = [nvimgcodec.Backend(getattr(nvimgcodec.BackendKind, kind)) for kind in KINDS]
    return nvimgcodec.Decoder(device_id=DEVICE, max_num_cpu_threads=1, backends=backends)


@cache
def _lacking() -> str | None:
    """What is missing, and how to mend it; None where nothing is."""
    if not has_module("nvidia.nvimgcodec"):
        return f"nvImageCodec is not installed: {INSTALL}"
    small = io.BytesIO()
    Image.new("RGB", (16, 16)).save(small, "JPEG")
    try:
        decoded = _decoded(small.getvalue())
    except Exception as error:  # whatever CUDA, or its driver, says
        return f"nvImageCodec finds no GPU here ({str(error).partition(' at /')[0]})"
    return None if decoded is not None else f"nvImageCodec decodes no JPEG here: {INSTALL}, with their nvJPEG"
