"""Predictions as files: columns in, bytes out, a batch at a time, so that who writes them need hold no more."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from headstart.common.errors import ExportError
from headstart.data.label_texts import SEPARATORS
from headstart.training.prediction_columns import LABELS, SHARE, VALUE, Cells

ROW_GROUP = 8192  # images: a Parquet file with a group a batch would be mostly headers
JOINT = ";"
"""between labels; tables of labels are read with it, too"""
DIVIDING = frozenset(SEPARATORS)
"""where a label has one of these in it, labels are written as a JSON list, which tables are read with, too"""

Encoder = Callable[[Iterator[Sequence[Cells]]], Iterator[bytes]]
"""of batches: for each column what it holds, see `prediction_columns`"""


def as_text(columns: Mapping[str, str], delimiter: str) -> Encoder:
    """CSV as RFC 4180 has it, in UTF-8. Halves of characters, in names of files, are escaped. `columns`: name ->
    what it holds."""
    write_cell: dict[str, Callable[[Any], str]] = {SHARE: _share, VALUE: _value, LABELS: _labels_of(columns)}

    def encode(batches: Iterator[Sequence[Cells]]) -> Iterator[bytes]:
        text = io.StringIO(newline="")
        writer = csv.writer(text, delimiter=delimiter)
        writer.writerow(columns)
        for batch in batches:
            texts = [
                [write_cell[kind](cell) for cell in cells] if kind in write_cell else cells
                for kind, cells in zip(columns.values(), batch, strict=True)
            ]
            writer.writerows(zip(*texts, strict=True))
            yield text.getvalue().encode("utf-8", "backslashreplace")
            text.seek(0)
            text.truncate()
        yield text.getvalue().encode("utf-8", "backslashreplace")

    return encode


def _share(p: float) -> str:
    return "" if p != p else f"{p:.6g}"


def _value(value: Any) -> str:
    """As many digits as tell it from every other float32."""
    return "" if value != value else str(np.float32(value))


def _labels_of(columns: Mapping[str, str]) -> Callable[[tuple[str, ...] | None], str]:
    """What writes labels as one text, of which they can be told again. `columns`: one is called by each label."""
    if any(DIVIDING & set(name) for name in columns):
        return lambda names: "" if names is None else json.dumps(names, ensure_ascii=False)
    return lambda names: JOINT.join(names or ())


def as_parquet(columns: Mapping[str, str]) -> Encoder:
    """Texts, and float32; null where there is none."""
    try:
        pa, pq = import_module("pyarrow"), import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ExportError(
            "Parquet needs pyarrow, which is not installed: pip install 'headstart[arrow]'; or write .csv"
        ) from error
    numbers, labels = (SHARE, VALUE), _labels_of(columns)
    schema = pa.schema(
        [(_utf8(name), pa.float32() if kind in numbers else pa.string()) for name, kind in columns.items()]
    )

    def column(kind: str, parts: Sequence[Cells]) -> Any:
        if kind in numbers:
            values = np.concatenate([np.asarray(part, np.float32) for part in parts])
            return pa.array(values, pa.float32(), mask=np.isnan(values))
        texts = (labels(cell) if isinstance(cell, tuple) else cell for part in parts for cell in part)
        return pa.array([None if text is None else _utf8(text) for text in texts], pa.string())

    def table(held: list[Sequence[Cells]]) -> Any:
        of_each = zip(columns.values(), zip(*held, strict=True), strict=True)
        arrays = [column(kind, parts) for kind, parts in of_each]
        return pa.Table.from_arrays(arrays, schema=schema)

    def encode(batches: Iterator[Sequence[Cells]]) -> Iterator[bytes]:
        sink = _Sink()
        with pq.ParquetWriter(sink, schema) as writer:
            held: list[Sequence[Cells]] = []
            for batch in batches:
                held.append(batch)
                if sum(len(cells[0]) for cells in held) >= ROW_GROUP:
                    writer.write_table(table(held))
                    held = []
                    yield sink.taken()
            if held:
                writer.write_table(table(held))
        yield sink.taken()

    return encode


def _utf8(text: str) -> str:
    """Without halves of characters, which names of files may hold."""
    return text.encode("utf-8", "backslashreplace").decode()


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


WRITERS: dict[str, Callable[[Mapping[str, str]], Encoder]] = {
    ".csv": lambda columns: as_text(columns, ","),
    ".tsv": lambda columns: as_text(columns, "\t"),
    ".parquet": as_parquet,
}
"""by suffix"""
