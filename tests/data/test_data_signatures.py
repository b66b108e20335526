"""What is no image that can be read here is called what it is, whatever its name says."""

from __future__ import annotations

import io
import zipfile

import pytest
from PIL import Image, features

from headstart.common.errors import ImageError
from headstart.data import decode
from headstart.data.signatures import kind_of

pytestmark = pytest.mark.neutral


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (16, 16), (9, 8, 7)).save(stream, kind)
    return stream.getvalue()


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("a.txt", "a")
    return stream.getvalue()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CASES = {
    "GIF": (lambda: saved("GIF"), "a GIF image: convert it"),
    "TIFF": (lambda: saved("TIFF"), "a TIFF image"),
    "PPM": (lambda: saved("PPM"), "a Netpbm image"),
    "ICO": (lambda: saved("ICO"), r"an icon \(ICO\)"),
    "HEIC": (lambda: HEIC, "a HEIC image: convert it: heif-convert"),
    "AVIF": (lambda: b"\0\0\0\x1cftypavif\0\0\0\0mif1miaf" + bytes(40), "an AVIF image: convert it.*avifdec"),
    "MP4": (lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video.*ffmpeg"),
    "JPEG XL": (lambda: b"\xff\x0a\xfa\x7f", "a JPEG XL image.*djxl"),
    "JPEG XL in a container": (lambda: b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(20), "a JPEG XL image"),
    "JPEG 2000": (lambda: b"\xff\x4f\xff\x51" + bytes(20), "a JPEG 2000 image"),
    "PSD": (lambda: b"8BPS\0\1" + bytes(20), "a Photoshop document"),
    "PDF": (lambda: b"%PDF-1.7\n", "a PDF document"),
    "SVG": (lambda: b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG drawing"),
    "LFS": (lambda: POINTER, "a pointer of git LFS.*git lfs pull"),
    "page": (lambda: b"\r\n <!DOCTYPE html>\n<html><head>", "a web page"),
    "page with a mark": (lambda: b"\xef\xbb\xbf<html lang='en'>", "a web page"),
    "XML": (lambda: b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML text"),
    "JSON": (lambda: b'{"error": "not found"}', "JSON text"),
    "text": (lambda: b"Not found\n", "but text"),
    "ZIP": (zipped, "a ZIP archive.*unpack it"),
    "numpy": (lambda: b"\x93NUMPY\x01\0v\0", "a NumPy array"),
    "zeros": (lambda: bytes(2000), "nothing but zero bytes"),
    "noise": (lambda: bytes(range(128, 256)), "whatever its name says$"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_it_is(case: str) -> None:
    make, message = CASES[case]
    with pytest.raises(ImageError, match=rf"x\.jpg: is not a JPEG, PNG, WebP or BMP image.*{message}") as caught:
        decode(make(), "x.jpg")
    assert len(str(caught.value)) < 250 and "\n" not in str(caught.value)


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow writes no AVIF")
def test_a_real_avif() -> None:
    with pytest.raises(ImageError, match="but an AVIF image"):
        decode(saved("AVIF"), "x.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "BMP"])
def test_what_decodes_is_told_by_its_first_bytes(kind: str) -> None:
    encoded = saved(kind)
    assert kind_of(encoded[:16]) == kind
    assert decode(encoded, "x").size == (16, 16)
