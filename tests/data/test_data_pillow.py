"""A picture is the same however it comes: by its path, opened by Pillow, in a list of arrays, as bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import headstart as hs
from headstart.common.errors import DataError, ImageError, SettingError
from headstart.data.decode import decode, pixels_of
from headstart.data.pictures import pictures_of as as_dataset

pytestmark = pytest.mark.neutral

ORIENTATION = 0x0112


def picture(seed: int = 0) -> Image.Image:
    """16 x 10, of smooth colours and noise."""
    ramp = np.stack(np.meshgrid(np.linspace(0, 255, 16), np.linspace(30, 200, 10)), -1)
    noise = np.random.default_rng(seed).normal(0, 20, (10, 16, 3))
    return Image.fromarray(np.clip(np.dstack([ramp, ramp[..., :1]]) + noise, 0, 255).astype(np.uint8))


def deep(dtype: str = "<u2") -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (10, 16)).astype(dtype)


def with_alpha() -> Image.Image:
    image = picture().convert("RGBA")
    image.putalpha(Image.fromarray(np.tile(np.arange(16, dtype=np.uint8) * 16, (10, 1))))
    return image


def transparent_palette() -> Image.Image:
    image = picture().quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    return image


# name -> the image in memory, and how it is saved without a loss
SAVED: dict[str, tuple[Callable[[], Image.Image], str]] = {
    "1": (lambda: picture().convert("1"), "PNG"),
    "L": (lambda: picture().convert("L"), "PNG"),
    "LA": (lambda: with_alpha().convert("LA"), "PNG"),
    "P": (lambda: picture().quantize(64), "PNG"),
    "P, grey, two colours": (lambda: picture().convert("L").quantize(2), "PNG"),
    "P, transparent": (transparent_palette, "PNG"),
    "RGB": (picture, "PNG"),
    "RGBA": (with_alpha, "PNG"),
    "RGBA, WebP": (lambda: picture().convert("RGBA"), "WEBP"),
    "I;16": (lambda: Image.fromarray(deep()), "PNG"),
    "CMYK": (lambda: picture().convert("CMYK"), "JPEG"),
    "L, JPEG": (lambda: picture().convert("L"), "JPEG"),
    "P, BMP": (lambda: picture().quantize(256), "BMP"),
}


def through(image: Image.Image) -> np.ndarray:
    """As a data set of it in memory has it."""
    pixels: np.ndarray = hs.data.arrays([image, picture()], [0, 1])[0].image
    np.testing.assert_array_equal(as_dataset([image])[0].image, pixels)
    np.testing.assert_array_equal(as_dataset(image)[0].image, pixels)
    return pixels


@pytest.mark.parametrize("kind", SAVED)
def test_of_every_mode_as_by_its_path(kind: str, tmp_path: Path) -> None:
    make, format = SAVED[kind]
    path = tmp_path / "x.img"
    make().save(path, format, **({"lossless": True} if format == "WEBP" else {}))
    expected = as_dataset([str(path)])[0].image
    np.testing.assert_array_equal(expected, decode(path.read_bytes(), "x"))
    with Image.open(path) as opened:  # lazily: it is loaded here
        np.testing.assert_array_equal(through(opened), expected)
    loaded = Image.open(io.BytesIO(path.read_bytes()))
    mode = loaded.mode
    loaded.load()
    info = dict(loaded.info)
    np.testing.assert_array_equal(through(loaded), expected)
    np.testing.assert_array_equal(through(loaded.copy()), expected)
    assert dict(loaded.info) == info and loaded.mode == mode, "nothing was changed"
    if format == "PNG":
        np.testing.assert_array_equal(through(make()), expected)
    np.testing.assert_array_equal(as_dataset([path.read_bytes(), path])[0].image, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "I;16", "RGBA"])
def test_turned_as_by_its_path(orientation: int, mode: str, tmp_path: Path) -> None:
    image = (
        Image.fromarray(deep())
        if mode == "I;16"
        else picture().quantize(64)
        if mode == "P"
        else picture().convert(mode)
    )
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "x.png", exif=exif.tobytes())
    expected = as_dataset([tmp_path / "x.png"])[0].image
    assert expected.shape[:2] == ((16, 10) if orientation > 4 else (10, 16))
    np.testing.assert_array_equal(through(Image.open(tmp_path / "x.png")), expected)
    if mode != "I;16":  # convert() would clip
        np.testing.assert_array_equal(through(Image.open(tmp_path / "x.png").convert("RGB")), expected)
        turned = ImageOps.exif_transpose(Image.open(tmp_path / "x.png"))
        np.testing.assert_array_equal(through(turned), expected)


def test_eight_bits_in_thirty_two_are_not_taken_for_sixteen() -> None:
    with pytest.raises(ImageError, match=r"from 0 to 200 .*black; of 8 bits make"):
        pixels_of(Image.fromarray(np.array([[0, 200]], np.int32)), "it")
    assert not pixels_of(Image.fromarray(np.zeros((2, 2), np.int32)), "it").any()
    assert pixels_of(Image.fromarray(np.array([[0, 65535]], np.int32)), "it").max() == 255


def test_other_modes_are_converted_or_refused() -> None:
    rgb = np.asarray(picture())
    for mode in ("HSV", "YCbCr"):
        image = picture().convert(mode)
        np.testing.assert_array_equal(through(image), image.convert("RGB"))
    np.testing.assert_array_equal(
        through(picture().quantize(32).convert("PA")), picture().quantize(32).convert("RGB")
    )
    opaque = with_alpha()
    opaque.putalpha(255)
    np.testing.assert_array_equal(through(opaque.convert("RGBa")), rgb)
    np.testing.assert_array_equal(
        through(opaque.convert("LA").convert("La")), picture().convert("L").convert("RGB")
    )
    big = Image.frombytes("I;16B", (16, 10), deep(">u2").tobytes())
    np.testing.assert_array_equal(through(big), through(Image.fromarray(deep())))
    np.testing.assert_array_equal(through(Image.fromarray(deep("<i4"))), through(big))
    refused = {
        "floats": Image.fromarray(rgb[..., 0].astype(np.float32)),
        "LAB": Image.new("LAB", (4, 4)),
        "-1 to 70000": Image.fromarray(np.array([[-1, 70000]], np.int32)),
    }
    for reason, image in refused.items():
        for way in (lambda image: hs.data.arrays([image], [0]), as_dataset):
            with pytest.raises(ImageError, match=f"image 0: .*{reason}"):
                way(image)


def test_ids_of_plain_pictures_are_those_of_their_arrays() -> None:
    # What was extracted for them before stays good.
    for mode in ("L", "RGB", "RGBA"):
        image = picture().convert(mode)
        assert hs.data.arrays([image], [0]).ids == hs.data.arrays([np.asarray(image)], [0]).ids


def test_closed_truncated_and_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture().save(tmp_path / "x.png")
    closed = Image.open(tmp_path / "x.png")
    closed.close()
    with pytest.raises(
        ImageError, match="image 0: the image was closed before its pixels were read; open it again"
    ):
        hs.data.arrays([closed], [0])
    half = (tmp_path / "x.png").read_bytes()[:-200]
    with pytest.raises(ImageError, match="image 0: breaks off: bytes are missing"):
        as_dataset([Image.open(io.BytesIO(half))])
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "100")
    with pytest.raises(ImageError, match=r"16 x 10 is 160 pixels, allowed are 100"):
        pixels_of(picture(), "it")


def test_of_many_frames_the_one_at_which_it_stands(tmp_path: Path) -> None:
    frames = [picture(seed).quantize(32) for seed in range(3)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with Image.open(tmp_path / "x.gif") as image:
        image.seek(2)
        np.testing.assert_array_equal(through(image), image.convert("RGB"))
        assert image.tell() == 2


def test_tensors_and_what_is_no_picture() -> None:
    class Tensor:
        """What frameworks' tensors have in common."""

        def __init__(self, values: np.ndarray) -> None:
            self.values = values

        def __array__(self, dtype: object = None, copy: bool | None = None) -> np.ndarray:
            if self.values.dtype == np.int8:
                raise TypeError("can't convert cuda:0 device type tensor to numpy")
            return self.values

    images = np.random.default_rng(0).integers(0, 256, (3, 5, 6, 3)).astype(np.uint8)
    plain = hs.data.arrays(images, [0, 1, 1])
    assert hs.data.arrays(Tensor(images), Tensor(np.array([0, 1, 1]))).ids == plain.ids
    assert hs.data.arrays([Tensor(image) for image in images], [0, 1, 1]).ids == plain.ids
    assert hs.data.arrays(np.array([*images, None], object)[:3], [0, 1, 1]).ids == plain.ids
    assert as_dataset(Tensor(images).values).ids == plain.ids
    wrong = {
        "can't convert cuda": Tensor(images.astype(np.int8)),
        "are a str; .*hs.data.folder": "photos",
        "are a NoneType": None,
        "are a int": 7,
        "of one image make a list": picture(),
        "image 0 is a str; expected an array": ["x.png"],
        "of 16 bits: .images / 257.*of 0 to 255: images.astype": [images[0].astype(np.uint16)],
        "int64; expected uint8, 0 to 255 .of 0 to 255": [images[0].astype(np.int64)],
        "floats of 0 to 1: .*of 0 to 255": [images[0].astype(np.float32)],
        "the channels come last": images.transpose(0, 3, 1, 2),
    }
    for reason, value in wrong.items():
        with pytest.raises(DataError, match=reason):
            hs.data.arrays(value, [0, 1, 1])
    with pytest.raises(SettingError, match=r"the pixels are uint16.*images / 257.*of 0 to 255: images.astype"):
        as_dataset(images.astype(np.uint16))


def ways(folder: Path) -> dict[str, tuple[Callable[[], Any], list[int]]]:
    """name -> images for prediction, and which of three pictures they are."""
    files = [folder / f"{kind}.png" for kind in range(3)]
    arrays = [np.asarray(picture(kind)) for kind in range(3)]
    return {
        "a path": (lambda: files[1], [1]),
        "a string": (lambda: str(files[2]), [2]),
        "a folder": (lambda: folder, [0, 1, 2]),
        "a folder's name": (lambda: str(folder), [0, 1, 2]),
        "an image": (lambda: Image.fromarray(arrays[1]), [1]),
        "bytes": (lambda: files[0].read_bytes(), [0]),
        "a tuple": (lambda: tuple(files), [0, 1, 2]),
        "a generator": (lambda: (file for file in files), [0, 1, 2]),
        "mixed": (
            lambda: [files[2].read_bytes(), arrays[0], str(files[1]), Image.fromarray(arrays[0]), files[2]],
            [2, 0, 1, 0, 2],
        ),
        "an array of paths": (lambda: np.array([str(file) for file in files]), [0, 1, 2]),
        "an array": (lambda: np.stack(arrays), [0, 1, 2]),
        "an array of images": (
            lambda: np.array([Image.fromarray(a) for a in arrays] + [None], object)[:3],
            [0, 1, 2],
        ),
        "no image": (list, []),
        "an empty array": (lambda: np.zeros((0, 12, 12, 3), np.uint8), []),
    }


def test_every_way_to_name_pictures(tmp_path: Path) -> None:
    for kind in range(3):
        picture(kind).save(tmp_path / f"{kind}.png")
    for name, (make, rows) in ways(tmp_path).items():
        data = as_dataset(make())
        assert len(data) == len(rows), name
        for sample, kind in zip(data, rows, strict=True):
            np.testing.assert_array_equal(sample.image, np.asarray(picture(kind)), err_msg=name)
