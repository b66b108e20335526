"""DICOM as a viewer shows it: beside pydicom's own windowing, and known answers of the standard's formulas."""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import headstart as hs
from headstart.common.errors import ImageError
from headstart.data import decode, formats
from headstart.data.decode import decoded
from headstart.data.remarks import FRAMES, RANGE, WINDOW

pydicom = pytest.importorskip("pydicom")
pytestmark = pytest.mark.neutral

CT = np.random.default_rng(0).integers(0, 4096, (10, 14)).astype(np.uint16)


def written(pixels: np.ndarray, bits: int = 12, **tags: Any) -> bytes:
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    about = FileDataset("x", {}, file_meta=meta, preamble=bytes(128))
    about.SOPClassUID, about.SOPInstanceUID = CTImageStorage, "1.2.3"
    frames = tags.get("NumberOfFrames")
    size = pixels.shape[1:3] if frames else pixels.shape[:2]
    about.Rows, about.Columns = size
    about.SamplesPerPixel = 3 if pixels.ndim == 3 and not frames else 1
    about.PhotometricInterpretation = "RGB" if about.SamplesPerPixel == 3 else "MONOCHROME2"
    if about.SamplesPerPixel == 3:
        about.PlanarConfiguration = 0
    about.BitsAllocated, about.BitsStored, about.HighBit = 8 * pixels.itemsize, bits, bits - 1
    about.PixelRepresentation = int(pixels.dtype.kind == "i")
    about.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(about, name, value)
    stream = io.BytesIO()
    about.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def shown(encoded: bytes) -> np.ndarray:
    pixels = np.asarray(decode(encoded, "x"))
    assert (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 0] == pixels[..., 2]).all()
    return pixels[..., 0]


def by_pydicom(encoded: bytes) -> np.ndarray:
    """pydicom's own windowed values, from their own least to their own greatest as 0 to 255."""
    from pydicom.pixels.processing import apply_modality_lut, apply_windowing

    about = pydicom.dcmread(io.BytesIO(encoded))
    values = apply_windowing(apply_modality_lut(about.pixel_array, about), about)
    whole = (1 << about.BitsStored) - 1
    low, high = (-(whole + 1) // 2, whole // 2) if about.PixelRepresentation else (0, whole)
    slope, intercept = float(about.get("RescaleSlope", 1)), float(about.get("RescaleIntercept", 0))
    low, high = low * slope + intercept, high * slope + intercept
    scaled: np.ndarray = 255 * (values - low) / (high - low)
    return scaled


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(40, 400), (-600, 1500), (1000, 2), (0, 1.5)])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.filterwarnings("ignore:overflow encountered in exp")  # pydicom's own
def test_windows_are_pydicoms(function: str, center: int, width: float, signed: bool) -> None:
    pixels = CT.astype(np.int16) - 2048 if signed else CT
    tags = {"RescaleSlope": 1, "RescaleIntercept": 0 if signed else -1024}
    encoded = written(pixels, WindowCenter=center, WindowWidth=width, VOILUTFunction=function, **tags)
    np.testing.assert_allclose(shown(encoded), by_pydicom(encoded), atol=0.5 + 1e-6)
    assert decoded(encoded, "x").remarks == [WINDOW]


def test_a_window_by_hand() -> None:
    # PS3.3 C.11.2.1.2.1, of a window of 3 around 10.5: up to 9 black, above 11 white, the middle half way
    pixels = np.array([[8, 9, 10, 11, 12]], np.uint16)
    assert shown(written(pixels, WindowCenter=10.5, WindowWidth=3)).tolist() == [[0, 0, 128, 255, 255]]
    assert shown(written(pixels, WindowCenter=10.5, WindowWidth=1)).tolist() == [[0, 0, 0, 255, 255]]
    # the first of two
    assert shown(written(pixels, WindowCenter=[10.5, 0], WindowWidth=[3, 9])).tolist() == [[0, 0, 128, 255, 255]]
    with pytest.raises(ImageError, match="its window is 0 wide"):
        shown(written(pixels, WindowCenter=10, WindowWidth=0))


def test_without_a_window_from_the_least_to_the_greatest_value() -> None:
    pixels = np.array([[100, 150, 300]], np.uint16)
    encoded = written(pixels)
    assert shown(encoded).tolist() == [[0, 64, 255]]
    assert decoded(encoded, "x").remarks == [RANGE]
    assert shown(written(pixels, PhotometricInterpretation="MONOCHROME1")).tolist() == [[255, 191, 0]]
    assert shown(written(np.full((2, 2), 7, np.uint16))).max() == 0
    assert shown(written(pixels, RescaleSlope=-1, RescaleIntercept=0)).tolist() == [[255, 191, 0]]


def test_tables_for_viewing_come_before_windows() -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    table = Dataset()
    table.add_new("LUTDescriptor", "US", [4, 10, 8])
    table.add_new("LUTData", "US", [0, 100, 200, 255])
    pixels = np.array([[9, 10, 11, 12, 13, 99]], np.uint16)
    encoded = written(pixels, VOILUTSequence=Sequence([table]), WindowCenter=1, WindowWidth=1)
    assert shown(encoded).tolist() == [[0, 0, 100, 200, 255, 255]]
    modality = Dataset()
    modality.add_new("LUTDescriptor", "US", [4, 0, 16])
    modality.add_new("LUTData", "US", [1000, 2000, 3000, 5000])
    modality.ModalityLUTType = "HU"
    encoded = written(np.array([[0, 1, 2, 3]], np.uint16), ModalityLUTSequence=Sequence([modality]))
    assert shown(encoded).tolist() == [[0, 64, 128, 255]]


def test_a_file_that_begins_as_a_tiff_is_one_of_dicom() -> None:
    # Its first 128 bytes are anybody's, and whole-slide and scanner software puts a TIFF's header there.
    encoded = written(CT)
    for start in (b"II*\0", b"MM\0*"):
        both = start + (1 << 20).to_bytes(4, "little") + encoded[8:]
        np.testing.assert_array_equal(shown(both), shown(encoded))


FILES = Path(pydicom.__file__).parent / "data" / "test_files"
# of pydicom's own files, those that come with it: the name, and what is done
WITH_PYDICOM = {
    "CT_small.dcm": [RANGE],
    "MR_small.dcm": [WINDOW],
    "MR_small_RLE.dcm": [WINDOW],
    "MR_small_bigendian.dcm": [WINDOW],
    "MR_small_implicit.dcm": [WINDOW],
    "SC_rgb_jpeg_dcmtk.dcm": [],
    "SC_rgb_rle_2frame.dcm": [FRAMES],
    "examples_rgb_color.dcm": [],
}


@pytest.mark.parametrize("name", WITH_PYDICOM)
def test_files_of_scanners(name: str) -> None:
    path = next(iter(FILES.rglob(name)), None)
    if path is None:
        pytest.skip("this pydicom comes without it")
    image, remarks = decoded(path.read_bytes(), name)
    assert remarks == WITH_PYDICOM[name]
    about = pydicom.dcmread(path)
    pixels = pydicom.pixels.pixel_array(about, index=0)
    if remarks == [RANGE]:
        pixels = 255 * (pixels - pixels.min().astype(float)) / np.ptp(pixels)
    elif remarks == [WINDOW]:
        pixels = by_pydicom(path.read_bytes())
    expected = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
    np.testing.assert_allclose(np.asarray(image), expected, atol=0.5 + 1e-6)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_colour_of_more_bits(bits: int) -> None:
    values = (np.array([[[0, 1, 2], [3, 4, 5]]]) * ((1 << bits) - 1) // 5).astype(f"uint{bits}")
    pixels = np.asarray(decode(written(values, bits=bits), "x"))
    assert pixels.tolist() == [[[0, 51, 102], [153, 204, 255]]]


def test_colour_and_frames() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (6, 4, 3)).astype(np.uint8)
    np.testing.assert_array_equal(np.asarray(decode(written(colours, bits=8), "x")), colours)
    frames = np.stack([CT, CT[::-1], CT * 0])
    encoded = written(frames, NumberOfFrames=3)
    np.testing.assert_array_equal(shown(encoded), shown(written(CT)))
    assert decoded(encoded, "x").remarks == [FRAMES, RANGE]


def test_files_of_many_frames_keep_the_window_with_the_frame() -> None:
    from pydicom.dataset import Dataset
    from pydicom.sequence import Sequence

    def group(**parts: dict[str, Any]) -> Any:
        made = Dataset()
        for name, tags in parts.items():
            item = Dataset()
            for tag, value in tags.items():
                setattr(item, tag, value)
            setattr(made, name, Sequence([item]))
        return made

    rescale = {"RescaleSlope": 2, "RescaleIntercept": -10, "RescaleType": "HU"}
    window = {"WindowCenter": 10.5, "WindowWidth": 3}
    other = {"WindowCenter": 0, "WindowWidth": 1000}
    pixels = np.array([[[9, 10, 12]], [[0, 0, 0]]], np.uint16)
    encoded = written(
        pixels,
        NumberOfFrames=2,
        SharedFunctionalGroupsSequence=Sequence([group(PixelValueTransformationSequence=rescale)]),
        PerFrameFunctionalGroupsSequence=Sequence([group(FrameVOILUTSequence=t) for t in (window, other)]),
    )
    assert shown(encoded).tolist() == [[0, 128, 255]]  # 8, 10 and 14 in that window


@pytest.mark.parametrize("syntax", ["RLELossless", "JPEGBaseline8Bit"])
def test_compressed_ones(syntax: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image
    from pydicom.encaps import encapsulate

    grey = np.rint(np.linspace(0, 255, 16 * 24).reshape(16, 24)).astype(np.uint8)
    about = pydicom.dcmread(io.BytesIO(written(grey, bits=8, WindowCenter=128, WindowWidth=256)))
    about.file_meta.TransferSyntaxUID = getattr(pydicom.uid, syntax)
    if syntax == "RLELossless":
        about.compress(pydicom.uid.RLELossless, grey)
    else:
        stream = io.BytesIO()
        Image.fromarray(grey).save(stream, "JPEG", quality=95)
        about.PixelData = encapsulate([stream.getvalue()])
        about["PixelData"].is_undefined_length = True
    out = io.BytesIO()
    about.save_as(out, enforce_file_format=True)
    assert np.abs(shown(out.getvalue()).astype(int) - grey).max() <= 6
    if syntax != "RLELossless":
        about.Rows = 15
        out = io.BytesIO()
        about.save_as(out, enforce_file_format=True)
        with pytest.raises(ImageError, match="says that it is 24 x 15 pixels, and its JPEG is 24 x 16"):
            shown(out.getvalue())


def test_what_is_no_picture() -> None:
    about = pydicom.dcmread(io.BytesIO(written(CT)))
    del about.PixelData
    stream = io.BytesIO()
    about.save_as(stream, enforce_file_format=True)
    with pytest.raises(ImageError, match="holds no picture"):
        decode(stream.getvalue(), "x.dcm")
    with pytest.raises(ImageError, match=r"x\.dcm: breaks off"):
        decode(written(CT)[:-100], "x.dcm")
    with pytest.raises(ImageError, match="65535 x 65535 is 4,294,836,225 pixels"):
        decode(written(CT, Rows=65535, Columns=65535), "x.dcm")
    deflated = written(CT).replace(b"1.2.840.10008.1.2.1\0", b"1.2.840.10008.1.2.1.99")
    with pytest.raises(ImageError, match="is a deflated DICOM file"):
        decode(deflated, "x.dcm")
    about = pydicom.dcmread(io.BytesIO(written(CT)))
    about.file_meta.TransferSyntaxUID = pydicom.uid.JPEGLSLossless
    about.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    about["PixelData"].is_undefined_length = True
    stream = io.BytesIO()
    about.save_as(stream, enforce_file_format=True)
    with pytest.raises(ImageError, match=r"is a DICOM image in JPEG-LS.*pip install pylibjpeg"):
        decode(stream.getvalue(), "x.dcm")


def test_a_folder_says_how_its_pictures_are_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert formats.kind_of(written(CT)[:1024]) == "DICOM"
    for k, name in enumerate(("ill", "well")):
        (tmp_path / name).mkdir()
        for i in range(3):
            tags = {"WindowCenter": 500, "WindowWidth": 900} if i else {}
            (tmp_path / name / f"IM{i}").write_bytes(written(CT // (1 + k) + np.uint16(i), **tags))
    data = hs.data.folder(tmp_path)
    preprocess = hs.model("resnet18_half", weights=None, classes=2, size=16).preprocess
    with caplog.at_level(logging.INFO, "headstart"):
        list(hs.data.batches(data, preprocess, range(6), 4))
    assert [record.getMessage().split(": ", 1)[1].split(" (")[0] for record in caplog.records] == [
        "4 pictures are shown in the windows that their DICOM files name",
        "2 pictures are DICOM without a window: of each the least value is black, the greatest white",
    ]
