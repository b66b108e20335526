"""Whether an encoded picture breaks off, where its decoder would not say so.

What copying left to be filled in, zeros for example, decoders read as pixels, and the picture has a grey or black
bottom. Pixels that are not compressed (BMP, PPM, some TIFF) may be zeros in earnest, so of these only the length
tells.
"""

from __future__ import annotations

import re

MAX_SCANS = 100  # progressive JPEGs have about ten
MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # of JPEG: neither a byte of data, nor filling, nor a restart
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
END_OF_JPEG = bytes([0xFF, END_OF_IMAGE])
BLANK = 256  # zero bytes in a row, which compressed pixels never end in
BLANK_IN_GIF = 16  # zero bytes at its very end
BLANK_IN_BOXES = 8192  # as many, or a sixteenth: there metadata may lie behind the pixels, padded with zeros
MISSING = "bytes are missing"
ZEROS = "its pixels end in {} zero bytes"
HALF = "breaks off: {}. It was not copied or downloaded whole; get it again"
KEEP = ', or take what there is of it, the rest grey, as the data are opened: truncated="keep" (--truncated keep)'


def jpeg_never_ends(encoded: bytes) -> bool:
    """Whether a JPEG has no end behind its first scan."""
    if encoded.endswith(END_OF_JPEG):  # as nearly all do; to search takes a twentieth of decoding
        return False
    place = 2
    while (marker := MARKER.search(encoded, place)) is not None:
        if encoded[marker.end() - 1] == START_OF_SCAN:
            return encoded.find(END_OF_JPEG, marker.end()) < 0
        place = marker.end() + int.from_bytes(encoded[marker.end() : marker.end() + 2], "big")
    return False  # there is no scan, and the decoder says so


def jpeg_scans(encoded: bytes) -> int:
    """How many scans a JPEG has, each of which may take seventy bytes and as long as an image: its markers are
    followed, from one to the next, to the image's end. Sound files are counted more quickly, and about right."""
    # The count tells little, as metadata may hold these bytes; it spares sound files the closer look.
    if (about := encoded.count(bytes([0xFF, START_OF_SCAN]))) <= MAX_SCANS:
        return about
    scans, place = 0, 2
    while (marker := MARKER.search(encoded, place)) is not None:
        kind, place = encoded[marker.end() - 1], marker.end()
        if kind == END_OF_IMAGE:
            break
        scans += kind == START_OF_SCAN
        place += int.from_bytes(encoded[place : place + 2], "big")  # the segment's own length
    return scans


def webp_break(encoded: bytes) -> str | None:
    """How a WebP breaks off; None where it does not."""
    if int.from_bytes(encoded[4:8], "little") + 8 > len(encoded):
        return MISSING
    place = 12
    while place + 8 <= len(encoded):
        end = place + 8 + int.from_bytes(encoded[place + 4 : place + 8], "little")
        is_pixels = encoded[place : place + 4] in (b"VP8 ", b"VP8L", b"ANMF") and end - place > 2 * BLANK
        if is_pixels and not any(encoded[end - BLANK : end]):
            return ZEROS.format(f"{BLANK} or more")
        place = end + end % 2
    return None


def gif_break(encoded: bytes) -> str | None:
    """How a GIF breaks off. One that is whole ends in a semicolon, behind which anything may follow; or in the
    zero that ends its pixels."""
    if not any(encoded[-BLANK_IN_GIF:]) and not (filled := encoded.rstrip(b"\0")).endswith(b";"):
        return ZEROS.format(len(encoded) - len(filled))
    return None


def boxes_break(encoded: bytes) -> str | None:
    """How a file in boxes breaks off (AVIF, HEIC)."""
    place, length = 0, len(encoded)
    while place + 8 <= length:
        nbytes, kind = int.from_bytes(encoded[place : place + 4], "big"), encoded[place + 4 : place + 8]
        if nbytes == 1:
            nbytes = int.from_bytes(encoded[place + 8 : place + 16], "big")
        end = length if nbytes == 0 else place + nbytes
        if end > length:
            return MISSING
        if kind == b"mdat" and end - place > 2 * BLANK and not any(encoded[end - BLANK : end]):
            blank = end - place - len(encoded[place:end].rstrip(b"\0"))
            if blank >= min(BLANK_IN_BOXES, (end - place) // 16):
                return ZEROS.format(blank)
        if nbytes and nbytes < 8:  # no box: what follows the last one
            return None
        place = end
    return None


def tiff_break(encoded: bytes) -> str | None:
    """How a TIFF breaks off whose directory of tags, which mostly stands at the end, is not there."""
    order = "little" if encoded.startswith(b"II") else "big"

    def number(place: int, nbytes: int) -> int:
        return int.from_bytes(encoded[place : place + nbytes], order)  # type: ignore[arg-type]

    is_big = number(2, 2) == 43
    width, entry, first = (8, 20, number(8, 8)) if is_big else (2, 12, number(4, 4))
    if first + width > len(encoded) or first + width + number(first, width) * entry > len(encoded):
        return MISSING
    return None if number(first, width) else "its directory is empty"
