"""Formats that photographs come in: known pixels of each, told by content and never by name, the same at every
door; and what is said where a reader is missing."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

import headstart as hs
from headstart.common.errors import DataError, ImageError
from headstart.data import decode, formats
from headstart.data.pictures import pictures_of as as_dataset

pytestmark = pytest.mark.neutral

needs_avif = pytest.mark.skipif("avif" not in features.get_supported(), reason="this Pillow has no AVIF")


def picture(seed: int = 0, width: int = 24, height: int = 16) -> Image.Image:
    """Smooth colours, which lossy formats keep to a few steps."""
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    planes = [60 + 100 * x, 40 + 120 * y + 5 * seed, 200 - 80 * x]
    return Image.fromarray(np.rint(np.dstack(planes)).astype(np.uint8))


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").from_pillow(image).save(stream, **options)
    elif kind == "JXL":
        pytest.importorskip("pillow_jxl")
        image.save(stream, "JXL", **options)
    else:
        image.save(stream, kind, **options)
    return stream.getvalue()


# name -> how it is saved, and how far pixels may be off
KINDS: dict[str, tuple[str, dict[str, Any], int]] = {
    "JPEG": ("JPEG", {"quality": 95}, 8),
    "PNG": ("PNG", {}, 0),
    "WebP": ("WEBP", {"lossless": True}, 0),
    "BMP": ("BMP", {}, 0),
    "TIFF": ("TIFF", {}, 0),
    "PPM": ("PPM", {}, 0),
    "AVIF": ("AVIF", {"quality": 95}, 6),
    "HEIC": ("HEIF", {"quality": 95}, 6),
    "JPEG XL": ("JXL", {"lossless": True}, 0),
}


def made(name: str, image: Image.Image) -> bytes:
    kind, options, _ = KINDS[name]
    if name == "AVIF" and "avif" not in features.get_supported():
        pytest.skip("this Pillow has no AVIF")
    return saved(image, kind, **options)


@pytest.mark.parametrize("name", KINDS)
def test_a_picture_keeps_its_pixels_and_is_told_by_its_first_bytes(name: str) -> None:
    encoded = made(name, picture())
    assert formats.kind_of(encoded[: formats.PREFIX_NBYTES]) == name
    off = np.abs(np.asarray(decode(encoded, "x"), int) - np.asarray(picture(), int)).max()
    assert off <= KINDS[name][2]


@pytest.mark.parametrize("name", KINDS)
def test_what_breaks_off_is_an_error(name: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    encoded = made(name, noise)
    for share in (0.5, 0.9, 0.99):
        with pytest.raises(ImageError, match="breaks off"):
            decode(encoded[: int(share * len(encoded))], "x")
        if name not in ("BMP", "TIFF", "PPM"):  # of which zeros are black pixels
            half = encoded[: int(min(share, 0.9) * len(encoded))].ljust(len(encoded), b"\0")
            with pytest.raises(ImageError, match=r"breaks off|cannot be decoded"):
                decode(half, "x")


def test_a_gif_keeps_its_palette_and_breaks_off_too() -> None:
    image = picture().quantize(32)
    encoded = saved(image, "GIF")
    np.testing.assert_array_equal(np.asarray(decode(encoded, "x")), np.asarray(image.convert("RGB")))
    with pytest.raises(ImageError, match="breaks off"):
        decode(encoded[: len(encoded) // 2], "x")
    with pytest.raises(ImageError, match="breaks off"):
        decode(encoded[: len(encoded) // 2] + bytes(1000), "x")
    with pytest.raises(ImageError, match="breaks off: its pixels end in 20 zero bytes"):
        decode(encoded[:-20] + bytes(20), "x")  # which Pillow takes for an end
    assert decode(encoded[:-1], "x").size == image.size  # some programs leave the semicolon out
    assert decode(encoded + bytes(1000), "x").size == image.size  # what follows the end does not matter


def test_grey_and_bits_in_ppm() -> None:
    deep = np.array([[0, 128, 257], [32768, 65407, 65535]], np.uint16)
    plain = b"P5 3 2 65535\n" + deep.astype(">u2").tobytes()
    assert np.asarray(decode(plain, "x"))[..., 0].tolist() == [[0, 0, 1], [128, 255, 255]]
    assert np.asarray(decode(b"P1\n# two\n2 1\n1 0\n", "x"))[0, :, 0].tolist() == [0, 255]
    assert np.asarray(decode(b"P3 1 1 255 7 8 9\n", "x")).tolist() == [[[7, 8, 9]]]
    half = np.array([[0.0, 0.5, 1.0]], "<f4")
    assert np.asarray(decode(b"Pf\n3 1\n-1.0\n" + half.tobytes(), "x"))[0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["TIFF", "AVIF", "HEIC"])
def test_turned_as_the_file_says(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture(width=32, height=16)
    if name == "TIFF":
        encoded = saved(stored, "TIFF", exif=exif, compression="tiff_lzw")
    elif name == "AVIF":
        encoded = made("AVIF", stored) and saved(stored, "AVIF", quality=95, exif=exif.tobytes())
    else:
        # as irot and imir, of which alone a HEIC's readers take notice
        encoded = saved(stored, "HEIF", quality=95, exif=exif.tobytes())
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # numbers of Image.Transpose, by the standard's figure
    turn = turns.get(orientation)
    plain = picture(width=32, height=16)
    expected = plain if turn is None else plain.transpose(Image.Transpose(turn))
    decoded = decode(encoded, "x")
    assert decoded.size == expected.size
    assert np.abs(np.asarray(decoded, int) - np.asarray(expected, int)).max() <= 8


def test_a_jpeg_xl_is_upright_by_its_own_header() -> None:
    # What its EXIF says of how it once lay is not followed: by ISO/IEC 18181 the header has the orientation.
    exif = Image.Exif()
    exif[0x0112] = 6
    encoded = saved(picture(), "JXL", lossless=True, exif=exif.tobytes())
    np.testing.assert_array_equal(np.asarray(decode(encoded, "x")), np.asarray(picture()))


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (256, 256), (24, 16), (16, 24), (700, 3), (3, 700), (40, 30)])
def test_a_jpeg_xl_says_its_size_before_it_is_decoded(size: tuple[int, int]) -> None:
    from headstart.data.jxl import size_of

    image = Image.new("RGB", size, (9, 80, 200))
    assert size_of(saved(image, "JXL")) == size
    assert size_of(saved(image, "JXL", use_container=True)) == size
    assert size_of(b"\xff\x0a") is None


@pytest.mark.parametrize("name", ["TIFF", "PPM", "AVIF", "HEIC", "JPEG XL"])
def test_more_pixels_than_are_allowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = made(name, picture())
    monkeypatch.setenv("HEADSTART_MAX_PIXELS", "383")
    with pytest.raises(ImageError, match="24 x 16 is 384 pixels, allowed are 383"):
        decode(encoded, "x")


def test_a_jpeg_xl_bomb_is_not_decoded_first() -> None:
    pytest.importorskip("pillow_jxl")
    side = 100_000  # not small; of 30 bits; as wide as high
    header = (3 << 1) | ((side - 1) << 3) | (1 << 33)
    with pytest.raises(ImageError, match="100000 x 100000 is 10,000,000,000 pixels"):
        decode(b"\xff\x0a" + header.to_bytes(12, "little"), "x")


def test_bombs_are_refused_from_their_headers() -> None:
    gif = b"GIF89a" + (60000).to_bytes(2, "little") * 2 + b"\0\0\0,\0\0\0\0" + (60000).to_bytes(2, "little") * 2
    for bomb in (gif + b"\0\x08\0;", b"P6 60000 60000 255\n", b"P1 60000 60000\n"):
        with pytest.raises(ImageError, match=r"60000 x 60000 is 3,600,000,000 pixels, allowed are 50,000,000"):
            decode(bomb, "x")


# ------------------------------------------------------------------------------------------- names and doors


NAMES = {
    "a.jpg": "JPEG",
    "b.JFIF": "JPEG",
    "c.jpe": "JPEG",
    "d": "JPEG",
    "e.jpg_large": "JPEG",
    "f.tif": "TIFF",
    "g.TIFF": "TIFF",
    "h.gif": "GIF",
    "i.pgm": "PPM",
    "gif.jpg": "GIF",
    "tiff.png": "TIFF",
    "k.unknown": "WEBP",
    "l.dib": "BMP",
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for k, name in enumerate(("cat", "dog")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i, (file, kind) in enumerate(NAMES.items()):
            (tmp_path / "photos" / name / file).write_bytes(saved(picture(20 * k + i), kind))
    return tmp_path / "photos"


def test_content_decides_at_every_door(photos: Path, tmp_path: Path) -> None:
    data = hs.data.folder(photos)
    files = sorted(path for path in photos.rglob("*") if path.is_file())
    assert sorted(map(data.source_name, range(len(data)))) == sorted(map(str, files)) and len(data) == 26
    by_path = {data.source_name(i): np.asarray(data[i].image) for i in range(len(data))}
    for path, pixels in by_path.items():
        with Image.open(path) as image:  # Pillow goes by content as well
            np.testing.assert_array_equal(pixels, np.asarray(image.convert("RGB")))

    rows = {"image": [str(path) for path in files], "label": [path.parent.name for path in files]}
    contents = {"image": [path.read_bytes() for path in files], "label": rows["label"]}
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for i, path in enumerate(files):
            suffix = {"JPEG": "jpg", "TIFF": "tif", "GIF": "gif", "PPM": "ppm", "WEBP": "webp", "BMP": "bmp"}
            for name, content in ((f"{i}.{suffix[NAMES[path.name]]}", path.read_bytes()), (f"{i}.cls", b"0")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    doors = {
        "table of files": hs.data.table(rows),
        "table of bytes": hs.data.table(contents),
        "tar": hs.data.webdataset(tmp_path / "t.tar"),
        "pairs of paths": hs.data.wrap(list(zip(rows["image"], rows["label"], strict=True))),
        "pairs of bytes": hs.data.wrap(list(zip(contents["image"], rows["label"], strict=True))),
        "prediction on a folder": as_dataset(photos),
        "prediction on paths": as_dataset(rows["image"]),
        "prediction on bytes": as_dataset(contents["image"]),
        "Pillow images": hs.data.arrays(
            [Image.open(io.BytesIO(path.read_bytes())) for path in files], rows["label"]
        ),
    }
    ids = {data.source_name(i): id for i, id in enumerate(data.ids)}
    for door, others in doors.items():
        order = data.source_name if door == "prediction on a folder" else lambda i: str(files[i])
        for i in range(len(others)):
            np.testing.assert_array_equal(others[i].image, by_path[order(i)], err_msg=door)
            assert others.ids[i] == ids[order(i)] or door in ("prediction on bytes", "Pillow images"), door


def test_a_wrapped_format_without_its_reader_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    formats.lacking.cache_clear()
    heads = {
        "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40), "HEIC", "heif-convert"),
        "jxl": (b"\xff\x0a\xfa\x7f", "JPEG XL", "djxl"),
        "dicom": (bytes(128) + b"DICM" + bytes(20), "DICOM", "PNG"),
    }
    try:
        for extra, (content, name, convert) in heads.items():
            message = (
                rf"is a {name} image, whose reader is not installed: pip install 'headstart\[{extra}\]'.*{convert}"
            )
            with pytest.raises(ImageError, match=message):
                decode(content, "x.jpg")
            root = tmp_path / extra
            for kind in ("cat", "dog"):
                (root / kind).mkdir(parents=True)
                picture().save(root / kind / "a.png")
            (root / "cat" / f"b.{extra}").write_bytes(content)
            with pytest.raises(ImageError, match=message):  # as the data are opened, and not after an hour
                hs.data.folder(root)
            assert len(hs.data.folder(root, on_error="skip")) == 2
    finally:
        formats.lacking.cache_clear()


def test_endings_and_sentences_follow_from_the_table(tmp_path: Path) -> None:
    for suffix in formats.SUFFIXES:
        assert suffix == suffix.lower() and suffix.startswith(".")
    assert set(formats.BELIEVED) < set(formats.SUFFIXES)
    assert len(set(formats.SUFFIXES)) == len(formats.SUFFIXES)
    with pytest.raises(
        ImageError, match="JPEG, PNG, WebP, BMP, GIF, DICOM, TIFF, AVIF, PPM, HEIC, JPEG XL, NumPy"
    ):
        decode(bytes(range(128, 256)), "x")
    (tmp_path / "t.csv").write_text("photo.heic,cat\nother.heic,dog\n")
    with pytest.raises(DataError, match="has no header"):
        hs.data.table(tmp_path / "t.csv")


def test_a_tars_array_beside_a_picture_is_no_second_picture(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.save(stream, np.zeros(512, np.float32))
    whole = io.BytesIO()
    np.save(whole, np.asarray(picture(3)))
    members = {
        "0.npy": stream.getvalue(),  # its features, say
        "0.jpg": saved(picture(), "PNG"),
        "0.json": json.dumps({"label": "cat"}).encode(),
        "1.png": saved(picture(1), "PNG"),
        "1.npy": stream.getvalue(),
        "1.json": json.dumps({"label": "dog"}).encode(),
        "2.npy": whole.getvalue(),
        "2.json": json.dumps({"label": "dog"}).encode(),
    }
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    data = hs.data.webdataset(tmp_path / "t.tar")
    for i, seed in enumerate((0, 1, 3)):
        np.testing.assert_array_equal(data[i].image, np.asarray(picture(seed)))


def test_a_set_whose_own_pillow_refuses_a_picture_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = saved(picture(), "PNG")

    class Pictures:
        classes = ("cat", "dog")
        targets = (0, 1)

        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(io.BytesIO(encoded)), index

    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"sample 0 of the set: .*decompression bomb"):
        hs.data.wrap(Pictures())
