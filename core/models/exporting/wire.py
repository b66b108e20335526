"""Protobuf's wire format, read from a file without believing it: what a message is made of, and where its parts
lie, but not yet their bytes.

A library that parses a file first allocates what the file says, and asks later. Here a length is held against the
file's before anything is read, and no more fields are looked at than a sound file has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, NamedTuple

BLOCK_NBYTES = 1 << 16
MOST_FIELDS = 500_000
"""of all messages together; the largest network of the zoo has a tenth of that"""
MOST_NBYTES = 1 << 26
"""of all texts together that are read"""
LONGEST_VARINT = 10
NUMBER, TEXT, SINGLE = 0, 2, 5
"""how a field's content is written: a number of seven bits a byte, a length and so many bytes, four bytes"""
BREAKS_OFF = "it breaks off, or is damaged"


class Field(NamedTuple):
    """A field of a message."""

    number: int
    kind: int
    """NUMBER, TEXT or SINGLE"""
    value: int
    """of a NUMBER, from -2^63 on"""
    start: int
    """where the bytes of the others begin in the file, and where they end"""
    end: int


class Wire:
    """A file of messages."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        """`size`: of the file, in bytes."""
        self._file, self.size = file, size
        self._block, self._block_start = b"", 0
        self._fields_left, self._nbytes_left = MOST_FIELDS, MOST_NBYTES

    def fields(self, start: int, end: int) -> Iterator[Field]:
        """The fields of the message between two places of the file. ValueError where there is none."""
        at = start
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"it is made of more than {MOST_FIELDS:,} pieces")
            key, at = self._varint(at, end)
            number, kind, value = key >> 3, key & 7, 0
            begin = at
            if kind == NUMBER:
                value, at = self._varint(at, end)
            elif kind == TEXT:
                length, begin = self._varint(at, end)
                if length < 0 or length > end - begin:
                    raise ValueError(f"{BREAKS_OFF}: a part of {length:,} bytes in {end - begin:,}")
                at = begin + length
            elif kind == SINGLE and end - begin >= 4:
                at = begin + 4
            else:
                raise ValueError(BREAKS_OFF)
            if number < 1:
                raise ValueError(BREAKS_OFF)
            yield Field(number, kind, value, begin, at)

    def read(self, field: Field, limit: int, what: str) -> bytes:
        """The bytes of a field, `limit` at most. `what` they are, for the error."""
        length = field.end - field.start
        if field.kind == NUMBER:
            raise ValueError(f"{what} is a number, and no text")
        if length > limit:
            raise ValueError(f"{what} has {length:,} bytes; expected at most {limit:,}")
        self._nbytes_left -= length
        if self._nbytes_left < 0:
            raise ValueError(f"its texts have more than {MOST_NBYTES:,} bytes")
        self._file.seek(field.start)
        content = self._file.read(length)
        if len(content) != length:
            raise ValueError(BREAKS_OFF)
        return content

    def text(self, field: Field, limit: int, what: str) -> str:
        """A field as UTF-8."""
        try:
            return self.read(field, limit, what).decode()
        except UnicodeDecodeError:
            raise ValueError(f"{what} is no UTF-8") from None

    def numbers(self, field: Field) -> Iterator[int]:
        """Whole numbers of a field that may have one, or many in a row."""
        if field.kind == NUMBER:
            yield field.value
            return
        if field.kind != TEXT:
            raise ValueError(BREAKS_OFF)
        at = field.start
        while at < field.end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"it is made of more than {MOST_FIELDS:,} pieces")
            value, at = self._varint(at, field.end)
            yield value

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        """A number at a place, and where it ends."""
        value = 0
        for i in range(min(LONGEST_VARINT, end - at)):
            place = at + i - self._block_start
            if not 0 <= place < len(self._block):
                self._file.seek(at + i)
                self._block, self._block_start, place = self._file.read(BLOCK_NBYTES), at + i, 0
                if not self._block:
                    break
            byte = self._block[place]
            value |= (byte & 0x7F) << (7 * i)
            if byte < 0x80:
                value &= (1 << 64) - 1
                return (value - (1 << 64) if value >= 1 << 63 else value), at + i + 1
        raise ValueError(BREAKS_OFF)
