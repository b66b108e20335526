"""What a file is, told by its first bytes, and how to make an image of it that can be read here.

Names lie: phones, web servers and download scripts call a HEIC, an AVIF or a web page "x.jpg". This is the one
table that says what such a file is; `decode` and the walk of folders take their words from it. Nothing is parsed.
"""

from __future__ import annotations

import re

PREFIX_NBYTES = 1024
"""bytes of a file's beginning that `kind_of` and `what_is` want"""

READ = "JPEG, PNG, WebP or BMP"
"""the formats that `decode` reads"""

# Where Pillow reads a format, three words of it convert one file; the others have programs of their own.
PILLOW = 'convert it, in Python: PIL.Image.open(path).convert("RGB").save("it.png")'
PAGES = "export its pictures as PNG or JPEG"
FRAMES = "take single pictures of it: ffmpeg -i FILE frame-%05d.jpg"
UNPACK = "unpack it, and name the folder"
RAW = "develop it to JPEG, in your photo program or with `dcraw -c -w FILE`"

TABLE: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"GIF8", "a GIF image", PILLOW),
    (0, b"II*\0\x10\0\0\0CR", "a raw photograph (CR2)", RAW),
    (0, b"IIRO", "a raw photograph (ORF)", RAW),
    (0, b"IIU\0", "a raw photograph (RW2)", RAW),
    (0, b"FUJIFILMCCD-RAW", "a raw photograph (RAF)", RAW),
    (0, b"II*\0", "a TIFF image (or a raw photograph in such a file)", PILLOW),
    (0, b"MM\0*", "a TIFF image (or a raw photograph in such a file)", PILLOW),
    (0, b"II+\0", "a BigTIFF image", "convert it to PNG, e.g. with libvips: vips copy FILE it.png"),
    (0, b"MM\0+", "a BigTIFF image", "convert it to PNG, e.g. with libvips: vips copy FILE it.png"),
    (0, b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", "convert it with libjxl's program: djxl FILE it.png"),
    (0, b"\xff\x0a", "a JPEG XL image", "convert it with libjxl's program: djxl FILE it.png"),
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
    (128, b"DICM", "a DICOM image", "convert it to PNG, in the window that you mean, e.g. with pydicom"),
    (0, b"%PDF", "a PDF document", PAGES),
    (0, b"%!PS", "a PostScript document", PAGES),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document or a thumbnail database", PAGES),
    (0, b"version https://git-lfs", "a pointer of git LFS in place of the file", "fetch the file: git lfs pull"),
    (0, b"PK\x03\x04", "a ZIP archive (or a document in one)", UNPACK),
    (0, b"PK\x05\x06", "an empty ZIP archive", "get it again"),
    (0, b"\x1f\x8b", "a gzip archive", UNPACK),
    (0, b"BZh", "a bzip2 archive", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz archive", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", UNPACK),
    (257, b"ustar", "a tar archive", UNPACK),
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

# ISO base media files (HEIC, AVIF, MP4) say what they are in a box "ftyp", in its major or compatible brands.
BRANDS: tuple[tuple[frozenset[bytes], str, str], ...] = (
    (
        frozenset({b"avif", b"avis"}),
        "an AVIF image",
        "convert it, e.g. with libavif's program: avifdec FILE it.png",
    ),
    (
        frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}),
        "a HEIC image",
        "convert it: heif-convert FILE it.jpg, or on macOS sips -s format jpeg FILE --out it.jpg",
    ),
    (frozenset({b"crx "}), "a raw photograph (CR3)", RAW),
)
RIFF = {b"AVI ": ("a video (AVI)", FRAMES), b"WAVE": ("a sound (WAV)", "")}
NETPBM = re.compile(rb"P[1-7Ff][ \t\r\n#]")
PAGE = re.compile(rb"<(?:!doctype\s+html|html|head|body|title|script|meta)\b", re.IGNORECASE)
SVG = re.compile(rb"<(?:\w+:)?svg\b", re.IGNORECASE)
MARKS = ((b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"), (b"\xef\xbb\xbf", "utf-8"))


def kind_of(prefix: bytes) -> str | None:
    """Which of the formats that can be read a file is, by its first bytes: "JPEG", "PNG", "WebP" or "BMP"."""
    if prefix.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if prefix.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if prefix.startswith(b"RIFF") and prefix[8:12] == b"WEBP":
        return "WebP"
    if prefix.startswith(b"BM"):
        return "BMP"
    return None


def what_is(prefix: bytes) -> tuple[str, str]:
    """What a file is, such as "a GIF image", and what to do about it; either is empty where nothing is known."""
    for offset, mark, what, remedy in TABLE:
        if prefix.startswith(mark, offset):
            return what, remedy
    if prefix[4:8] == b"ftyp":
        end = min(max(int.from_bytes(prefix[:4], "big"), 16), 256)
        brands = {prefix[8:12], *(prefix[at : at + 4] for at in range(16, end, 4))}
        for known, what, remedy in BRANDS:
            if brands & known:
                return what, remedy
        return "a video (MP4 or QuickTime)", FRAMES
    if prefix[4:8] in (b"moov", b"mdat", b"wide"):
        return "a video (QuickTime)", FRAMES
    if prefix.startswith(b"RIFF") and prefix[8:12] in RIFF:
        return RIFF[prefix[8:12]]
    if NETPBM.match(prefix):
        return "a Netpbm image (PPM and its kin)", PILLOW
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


def no_image(prefix: bytes) -> str:
    """Why a file with these first bytes, which is none of `READ`, cannot be read, and how to mend that."""
    return f"is not a {READ} image{_but(prefix)}"


def stray(prefix: bytes) -> str:
    """The same for a file among images whose name does not say that it is one."""
    if not prefix:
        return "is not an image: the file is empty"
    return f"is not an image that is read here ({READ}){_but(prefix)}"


def _but(prefix: bytes) -> str:
    what, remedy = what_is(prefix)
    return (f" but {what}" if what else ", whatever its name says") + (f": {remedy}" if remedy else "")
