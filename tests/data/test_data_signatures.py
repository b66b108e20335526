"""What is no image that can be read here is called what it is, whatever its name says."""

from __future__ import annotations

import io
import zipfile

import pytest
from PIL import Image

from headstart.common.errors import ImageError
from headstart.data import decode

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


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
CASES = {
    "ICO": (lambda: saved("ICO"), r"an icon \(ICO\)"),
    "MP4": (lambda: b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41", "a video.*ffmpeg"),
    "PAM": (lambda: b"P7\nWIDTH 2\n", "a Netpbm image"),
    "CR2": (lambda: b"II*\0\x10\0\0\0CR\2\0", r"a raw photograph \(CR2\)"),
    "CR3": (lambda: b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", r"a raw photograph \(CR3\)"),
    "AVI": (lambda: b"RIFF\0\0\0\0AVI LIST", "a video.*ffmpeg"),
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
    "zeros": (lambda: bytes(2000), "nothing but zero bytes"),
    "noise": (lambda: bytes(range(128, 256)), "whatever its name says$"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_error_says_what_it_is(case: str) -> None:
    make, message = CASES[case]
    with pytest.raises(ImageError, match=rf"x\.jpg: is not an image that is read here.*{message}") as caught:
        decode(make(), "x.jpg")
    assert len(str(caught.value)) < 260 and "\n" not in str(caught.value)
