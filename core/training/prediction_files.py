"""Predictions as files: rows in, bytes out, a batch at a time, so that whoever writes them need hold no more."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from headstart.common.errors import ExportError

ROW_GROUP = 8192  # images: a Parquet file with a group a batch would be mostly headers


class Rows(NamedTuple):
    """A batch."""

    files: list[str]
    classes: list[list[str]]
    """by rank, then by image; "" where there is none"""
    probabilities: np.ndarray
    """float32 `(b, top)`; NaN where there is none"""


Encoder = Callable[[Iterator[Rows]], Iterator[bytes]]


def columns(top: int) -> list[str]:
    """The names of the columns."""
    return [
        "file",
        *(f"{name}{f'_{k + 1}' if k else ''}" for k in range(top) for name in ("class", "probability")),
    ]


def as_text(top: int, delimiter: str) -> Encoder:
    """CSV as RFC 4180 has it, in UTF-8. Halves of characters, in names of files, are escaped."""

    def encode(batches: Iterator[Rows]) -> Iterator[bytes]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(columns(top))
        for rows in batches:
            for i, file in enumerate(rows.files):
                line = [file]
                for names, p in zip(rows.classes, rows.probabilities[i].tolist(), strict=True):
                    line += [names[i], f"{p:.6g}" if names[i] else ""]
                writer.writerow(line)
            yield text.getvalue().encode("utf-8", "backslashreplace")
            text.seek(0)
            text.truncate()
        yield text.getvalue().encode()

    return encode


def as_parquet(top: int) -> Encoder:
    """Texts, and float32; null where there is no class."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ExportError(
            "Parquet needs pyarrow, which is not installed: pip install 'headstart[arrow]'; or write .csv"
        ) from error
    schema = pa.schema(
        [(name, pa.float32() if name.startswith("probability") else pa.string()) for name in columns(top)]
    )

    def table(held: list[Rows]) -> Any:
        files = [file.encode("utf-8", "backslashreplace").decode() for rows in held for file in rows.files]
        arrays = [pa.array(files, pa.string())]
        for k in range(top):
            arrays.append(pa.array([name or None for rows in held for name in rows.classes[k]], pa.string()))
            values = np.concatenate([rows.probabilities[:, k] for rows in held])
            arrays.append(pa.array(values, pa.float32(), mask=np.isnan(values)))
        return pa.Table.from_arrays(arrays, schema=schema)

    def encode(batches: Iterator[Rows]) -> Iterator[bytes]:
        sink = _Sink()
        with pq.ParquetWriter(sink, schema) as writer:
            held: list[Rows] = []
            for rows in batches:
                held.append(rows)
                if sum(len(of.files) for of in held) >= ROW_GROUP:
                    writer.write_table(table(held))
                    held = []
                    yield sink.taken()
            if held:
                writer.write_table(table(held))
        yield sink.taken()

    return encode


class _Sink(io.RawIOBase):
    """What pyarrow writes to: keeps what nobody has taken yet."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._position = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        self._position += len(chunk)
        return len(chunk)

    def tell(self) -> int:
        return self._position

    def taken(self) -> bytes:
        """What was written since the last call."""
        chunks, self._chunks = self._chunks, []
        return b"".join(chunks)


WRITERS: dict[str, Callable[[int], Encoder]] = {
    ".csv": lambda top: as_text(top, ","),
    ".tsv": lambda top: as_text(top, "\t"),
    ".parquet": as_parquet,
}
"""by suffix, from the number of classes that are named"""
