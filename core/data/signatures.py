"""What a file is that is no image that can be read here, told by its first bytes, and how to make one of it.

Names lie: phones, web servers and download scripts call a video or a web page "x.jpg". This is the one table that
says what such a file is; `decode` and the walk of folders take their words from it. Nothing is parsed. (What is
read: `formats`.)
"""

from __future__ import annotations

import re

from headstart.data.formats import READ, brands, kind_of, lacking

# Where Pillow reads a format, three words of it convert one file; the others have programs of their own.
PILLOW = 'convert it, in Python: PIL.Image.open(path).convert("RGB").save("it.png")'
PAGES = "export its pictures as PNG or JPEG"
FRAMES = "take single pictures of it: ffmpeg -i FILE frame-%05d.jpg"
UNPACK = "unpack it, and name the folder"
TAR = "a tar archive"
GZIP, BZIP2, XZ, ZSTANDARD = "a gzip archive", "a bzip2 archive", "an xz archive", "a Zstandard archive"
COMPRESSED = (GZIP, BZIP2, XZ, ZSTANDARD)
"""what a tar may be packed in as a whole"""
RAW = "develop it to JPEG, in your photo program or with `dcraw -c -w FILE`"

TABLE: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"II*\0\x10\0\0\0CR", "a raw photograph (CR2)", RAW),
    (0, b"IIRO", "a raw photograph (ORF)", RAW),
    (0, b"IIU\0", "a raw photograph (RW2)", RAW),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph (RAF)", RAW),
    (0, b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image", PILLOW),
    (0, b"\xff\x4f\xff\x51", "a JPEG 2000 image", PILLOW),
    (0, b"8BPS", "a Photoshop document (PSD)", PILLOW),
    (0, b"gimp xcf", "a GIMP document (XCF)", "export it from GIMP as PNG"),
    (0, b"\0\0\x01\0", "an icon (ICO)", PILLOW),
    (0, b"\0\0\x02\0", "a cursor (CUR)", PILLOW),
    (0, b"icns", "an icon (ICNS)", PILLOW),
    (0, b"qoif", "a QOI image", PILLOW),
    (0, b"DDS ", "a DDS texture", PILLOW),
    (0, b"\x76\x2f\x31\x01", "an OpenEXR image", "convert it to PNG, in the range and gamma that you mean"),
    (0, b"#?RADIANCE", "a Radiance HDR image", "convert it to PNG, in the range and gamma that you mean"),
    (0, b"SIMPLE  =", "a FITS image", "convert it to PNG, in the range that you mean"),
    (0, b"%PDF", "a PDF document", PAGES),
    (0, b"%!PS", "a PostScript document", PAGES),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document or a thumbnail database", PAGES),
    (0, b"version https://git-lfs", "a pointer of git LFS in place of the file", "fetch the file: git lfs pull"),
    (0, b"PK\x03\x04", "a ZIP archive (or a document in one)", UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", "get it again"),
    (0, b"\x1f\x8b", GZIP, UNPACK),
    (0, b"BZh", BZIP2, UNPACK),
    (0, b"\xfd7zXZ\0", XZ, UNPACK),
    (0, b"\x28\xb5\x2f\xfd", ZSTANDARD, UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", TAR, UNPACK),
    (0, b"PAR1", "a Parquet table", "export its images as files"),
    (0, b"ARROW1", "an Arrow table", "export its images as files"),
    (0, b"SQLite format 3\0", "an SQLite database", ""),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", "export its images as files, or give hs.data.arrays what it holds"),
    (0, b"\x93NUMPY", "a NumPy array", "give hs.data.arrays what it holds"),
    (0, b"\x80\x02", "a Python pickle", ""),
    (0, b"\x80\x03", "a Python pickle", ""),
    (0, b"\x80\x04", "a Python pickle", ""),
    (0, b"\x80\x05", "a Python pickle", ""),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", FRAMES),
    (0, b"\0\0\x01\xba", "a video (MPEG)", FRAMES),
    (0, b"\0\0\x01\xb3", "a video (MPEG)", FRAMES),
    (0, b"FLV\x01", "a video (Flash)", FRAMES),
    (0, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "a video (Windows Media)", FRAMES),
    (0, b"OggS", "a video or sound (Ogg)", FRAMES),
    (0, b"ID3", "a sound (MP3)", ""),
    (0, b"fLaC", "a sound (FLAC)", ""),
    (0, b"L\0\0\0\x01\x14\x02\0", "a shortcut of Windows", "put the file that it stands for in its place"),
    (0, b"book\0\0\0\0mark", "an alias of macOS", "put the file that it stands for in its place"),
    (0, b"\x7fELF", "a program", ""),
    (0, b"MZ", "a program", ""),
)

RAW_BRANDS = frozenset({b"crx "})
"""of files in boxes (as AVIF, HEIC and MP4 are), those of Canon's CR3"""
RIFF = {b"AVI ": ("a video (AVI)", FRAMES), b"WAVE": ("a sound (WAV)", "")}
NETPBM = re.compile(rb"P[7F][ \t\r\n#]")
PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE)
SVG = re.compile(rb"<(?:\w+:)?svg\b", re.IGNORECASE)
MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8"))


def what_is(prefix: bytes) -> tuple[str, str]:
    """What a file is, such as "a GIF image", and what to do about it; either is empty where nothing is known."""
    for offset, mark, what, remedy in TABLE:
        if prefix.startswith(mark, offset):
            return what, remedy
    if of_file := brands(prefix):
        return ("a raw photograph (CR3)", RAW) if of_file & RAW_BRANDS else ("a video (MP4 or QuickTime)", FRAMES)
    if prefix[4:8] in (b"moov", b"mdat", b"wide"):
        return "a video (QuickTime)", FRAMES
    if prefix.startswith(b"RIFF") and prefix[8:12] in RIFF:
        return RIFF[prefix[8:12]]
    if NETPBM.match(prefix):
        return "a Netpbm image (PAM, or of floats in colour)", "convert it to PNG or PPM"
    if prefix and not prefix.strip(b"\0"):
        return "nothing but zero bytes (a copy that broke off?)", "get it again"
    return _text(prefix)


def _text(prefix: bytes) -> tuple[str, str]:
    for mark, encoding in MARKS:
        if prefix.startswith(mark):
            prefix = prefix[len(mark) :].decode(encoding, "ignore").encode()
            break
    start = prefix.lstrip().lower()
    if SVG.search(start) and start.startswith(b"<"):
        return "an SVG drawing", "export it as PNG"
    if PAGE.match(re.sub(rb"^(?:<\?xml[^>]*>|<!--.*?-->|\s)+", b"", start, flags=re.DOTALL)):
        return "a web page", "what was downloaded is a page that says why there is no picture; get the file again"
    if start.startswith(b"<?xml") or re.match(rb"<[a-z]", start):
        return "XML text", ""
    if start.startswith((b"{", b"[")) and b'"' in start:
        return "JSON text", ""
    if start and not re.search(rb"[\0-\x08\x0e-\x1a\x1c-\x1f]", prefix):
        try:
            prefix[: max(1, len(prefix) - 4)].decode("utf-8")  # the last character may be cut
        except UnicodeDecodeError:
            return "", ""
        return "text", ""
    return "", ""


def no_image(prefix: bytes) -> str | None:
    """Why a file with these first bytes cannot be read, and how to mend that; None where it can."""
    if not prefix:
        return "is not an image: the file is empty"
    if (kind := kind_of(prefix)) is not None:
        return lacking(kind)
    what, remedy = what_is(prefix)
    is_none = "is not an image that is read here"
    return (f"{is_none} but {what}" if what else f"{is_none} ({READ}), whatever its name says") + (
        f": {remedy}" if remedy else ""
    )
