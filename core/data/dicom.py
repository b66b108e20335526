"""DICOM pictures as a viewer opens them, read by pydicom (extra `dicom`).

Grey: the file's rescaling (or its modality table), then the table or the window that it names for viewing, the
first where there are several; where it names none, the least value is black and the greatest white. MONOCHROME1 is
turned round, since there 0 is white. Colour is taken as it is. Of several frames the first is taken.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from headstart.common.errors import ImageError
from headstart.data.breaks import MARKER
from headstart.data.colours import deep_to_8
from headstart.data.limits import check_size
from headstart.data.remarks import FRAMES, RANGE, WINDOW

DEFLATED = "1.2.840.10008.1.2.1.99"
JPEG_SYNTAXES = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70))
NO_FRAME_HEADER = (0xC4, 0xC8, 0xCC)  # of the markers C0 to CF of JPEG
GREY = ("MONOCHROME1", "MONOCHROME2")


def open_dicom(encoded: bytes, source: str | Path) -> tuple[Image.Image, Sequence[str]]:
    """The first frame, RGB or grey, and what was done for it. ImageError where there is none, or where a decoder
    for its compression is missing."""
    from pydicom import dcmread
    from pydicom.pixels import pixel_array
    from pydicom.pixels.processing import apply_color_lut

    about = dcmread(io.BytesIO(_not_deflated(encoded, source)))
    rows, columns = about.get("Rows"), about.get("Columns")
    if not rows or not columns or not any(name in about for name in PIXELS):
        raise ImageError(source, "is a DICOM file that holds no picture (a report, a directory or a plan)")
    check_size(int(columns), int(rows), source)
    _check_frame(about, int(columns), int(rows), source)
    try:
        pixels = pixel_array(about, index=0)
    except (RuntimeError, NotImplementedError) as error:
        syntax = about.file_meta.TransferSyntaxUID
        raise ImageError(
            source,
            f"is a DICOM image in {getattr(syntax, 'name', syntax)}, which pydicom cannot decode by itself "
            "(pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg adds decoders)",
        ) from error
    remarks = [FRAMES] if int(about.get("NumberOfFrames") or 1) > 1 else []
    colours = about.get("PhotometricInterpretation", "")
    if colours == "PALETTE COLOR":
        top = (1 << int(about.RedPaletteColorLookupTableDescriptor[2])) - 1
        return Image.fromarray(deep_to_8(apply_color_lut(pixels, about), top)), remarks
    if pixels.ndim == 3:
        bits = int(about.get("BitsStored") or 8)
        return Image.fromarray(pixels if bits == 8 else deep_to_8(pixels, (1 << bits) - 1)), remarks
    if colours not in GREY:
        raise ImageError(source, f"is a DICOM image in {colours or 'unknown colours'}; expected grey, RGB or YBR")
    shares, how = _shown(pixels, _of_first_frame(about))
    if colours == "MONOCHROME1":
        shares = 1 - shares
    return Image.fromarray(np.rint(255 * shares).astype(np.uint8)), [*remarks, how]


PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


def _not_deflated(encoded: bytes, source: str | Path) -> bytes:
    """The file, if it is no bomb: pydicom unpacks a deflated one whole, whatever it grows to."""
    if DEFLATED.encode() in encoded[:4096]:
        raise ImageError(source, "is a deflated DICOM file; unpack it, e.g. with dcmtk: dcmconv +te FILE it.dcm")
    return encoded


def _check_frame(about: Any, columns: int, rows: int, source: str | Path) -> None:
    """ImageError where the JPEG inside has another size than the file says, and might be any size."""
    if str(about.file_meta.TransferSyntaxUID) not in JPEG_SYNTAXES:
        return
    from pydicom.encaps import get_frame

    frame = get_frame(about.PixelData, 0, number_of_frames=int(about.get("NumberOfFrames") or 1))
    size = _jpeg_size(frame)
    if size is not None and size != (columns, rows):
        raise ImageError(
            source, f"says that it is {columns} x {rows} pixels, and its JPEG is {size[0]} x {size[1]}"
        )


def _jpeg_size(frame: bytes) -> tuple[int, int] | None:
    """Width and height by a JPEG's frame header, whatever its kind; None where there is none."""
    place = 2
    while (marker := MARKER.search(frame, place)) is not None:
        kind, at = frame[marker.end() - 1], marker.end()
        if 0xC0 <= kind <= 0xCF and kind not in NO_FRAME_HEADER:
            return int.from_bytes(frame[at + 5 : at + 7], "big"), int.from_bytes(frame[at + 3 : at + 5], "big")
        place = at + int.from_bytes(frame[at : at + 2], "big")
    return None


def _of_first_frame(about: Any) -> Any:
    """The file's own data, with what files of many frames say of each or all of them: rescaling and window."""
    merged = about
    for name in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence"):
        for group in list(about.get(name) or [])[:1]:
            for part in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
                for item in list(group.get(part) or [])[:1]:
                    merged.update(item)
    return merged


def _shown(pixels: np.ndarray, about: Any) -> tuple[np.ndarray, str]:
    """`(h, w)` float64 from 0 (black) to 1 (white), and how that was made. See DICOM PS3.3 C.11.1 and C.11.2."""
    from pydicom.pixels.processing import apply_modality_lut, apply_voi

    values = apply_modality_lut(pixels, about)
    tables = about.get("VOILUTSequence")
    if tables and tables[0].get("LUTData") is not None:
        whole = np.rint(values).astype(np.int64)
        top = (1 << int(tables[0].LUTDescriptor[2])) - 1
        return np.clip(apply_voi(whole, about).astype(np.float64) / top, 0, 1), WINDOW
    center, width = _first(about.get("WindowCenter")), _first(about.get("WindowWidth"))
    values = values.astype(np.float64)
    if center is not None and width is not None:
        function = str(about.get("VOILUTFunction") or "LINEAR").upper()
        return _windowed(values, center, width, function), WINDOW
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values), RANGE


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    if width < (1 if function == "LINEAR" else np.finfo(float).tiny):
        raise ValueError(f"its window is {width:g} wide")
    if function == "SIGMOID":
        bright: np.ndarray = 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
        return bright
    if function == "LINEAR":  # of whole numbers: the window's ends belong to it
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _first(value: Any) -> float | None:
    """The first of several windows; None where there is none."""
    if value is None or value == "":
        return None
    return float(value if not hasattr(value, "__len__") or isinstance(value, str) else value[0])
