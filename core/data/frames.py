"""Tables as columns: CSV, TSV, JSON lines, Parquet, and the frames of pandas, polars and Arrow.

Invariant: only the columns that are asked for are kept, a line and a cell are bounded before they are held, and
what a file is (its encoding, its delimiter, whether it has a header) is seen, or refused with what it looks like.

CSV is read by the standard library's module: a table of labels needs nothing installed, and errors name the line.
Frames are taken by three attributes that pandas, polars and Arrow have; a library for that would be a dependency
for a dozen lines.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from headstart.common.errors import DataError, UnknownNameError
from headstart.common.machine import available_memory
from headstart.data.class_files import MARKS
from headstart.data.class_labels import class_names, named
from headstart.data.formats import SUFFIXES
from headstart.data.json_text import AtOdds, at_odds, parsed
from headstart.data.layouts import refuse_url
from headstart.data.limits import MAX_NBYTES
from headstart.data.names import normal
from headstart.data.place import is_remote, parent_of, place_of
from headstart.data.rows import ordered, warn_of_order
from headstart.data.signatures import UNPACK, what_is
from headstart.data.table_file import TableFile

AS_UTF_8 = (
    ", as spreadsheets do ('CSV UTF-8') and iconv -f WINDOWS-1252 -t UTF-8; or in Python take the frame of "
    "pandas.read_csv(path, encoding='cp1252') as the table, with root= for the folder of its images"
)
MAX_LINE = 1 << 20  # characters
DELIMITERS = ",;\t|"
QUOTED = re.compile(r'"[^"]*(?:"|$)')
SEPARATOR_LINE = re.compile(r"sep=([,;\t|]?)", re.IGNORECASE)
FIRST_ROWS = 1000
"""of JSON lines, whose keys are the names of the columns: to look at all takes as long as to read them"""
LOOKED_AT = 20
"""lines behind the header, where several characters could stand between its names"""
AS_TEXT = '="'
"""how a cell begins that a spreadsheet is to take for text, whatever it looks like"""
TEXTS = ("text", "JSON text")
"""what a table of text looks like to `what_is`"""

NO_TABLES = (b"<", b"version https://git-lfs")
"""how text begins that is no table"""

PLAIN = frozenset({str, bytes, int, float, bool, type(None)})
"""of cells that are as Python has them"""

KINDS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".tab": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".pq": "parquet",
}
PANDAS = {
    **dict.fromkeys((".xlsx", ".xls", ".ods"), "read_excel(path, dtype=str)"),
    **dict.fromkeys((".feather", ".arrow"), "read_feather(path)"),
    **dict.fromkeys((".gz", ".zip"), "read_csv(path, dtype=str)"),
    ".json": "read_json(path, dtype=False)",
}
"""ending -> what of pandas reads such, and leaves 007 what it is"""
EXPECTED = "expected a .csv, .tsv, .jsonl or .parquet file, or a frame of pandas, polars or Arrow"

Column = Sequence[Any]


class Frame:
    """The columns of a table. `read(names)` gives those of these names, of one length, as sequences of Python's
    own values; bytes may be left where they are until they are asked for."""

    def __init__(
        self,
        name: str,
        names: Sequence[str],
        read: Callable[[Sequence[str]], dict[str, Column]],
        every_name: Callable[[], list[str]] | None = None,
    ) -> None:
        """`every_name`: looks for the names of all columns, where `names` may lack some."""
        self.name = name
        self.names = list(names)
        self._read = read
        self._every_name = every_name
        self.late: list[str] = []
        """of columns that have been read: others that first rows, which the names are from, do not have"""

    def require(self, column: str | int, argument: str) -> str:
        """The column's name, as text; UnknownNameError, with the nearest ones, where there is none."""
        called = [name for name in self.names if normal(name) == normal(str(column))]
        if not called and self._every_name is not None:
            self.names, self._every_name = self._every_name(), None
            return self.require(column, argument)
        if not isinstance(column, str | int) or not called:
            raise UnknownNameError(f"column {argument}=", str(column), self.names, f" of {self.name}")
        if len(called) > 1:
            raise DataError(f"{self.name} has two columns called {column!r}; rename one")
        return called[0]

    def columns(self, names: Sequence[str]) -> dict[str, Column]:
        read = self._read(list(dict.fromkeys(names)))
        if not len(next(iter(read.values()))):
            raise DataError(f"{self.name} has no rows; expected a row for each image")
        return read

    def place(self, row: int) -> str:
        """What messages call a row: "row 3", from 1, without the header."""
        return f"row {row + 1}"


def frame_of(source: Any) -> tuple[Frame, str | None]:
    """The table, and the folder (or its URL) that its file names are relative to, if it is a file."""
    if isinstance(source, str | Path):
        refuse_url(source)
        place = place_of(source)
        return _of_file(TableFile(place)), parent_of(place)
    if isinstance(source, Mapping):
        keys = {str(name): name for name in source}
        return _of_columns([str(name) for name in source], lambda name: source[keys[name]]), None
    if hasattr(source, "column_names") and hasattr(source, "column"):  # Arrow
        return Frame("the table", source.column_names, lambda names: _of_arrow(source.select(names))), None
    if hasattr(source, "collect") and hasattr(source, "collect_schema"):  # polars, not computed yet
        raise DataError(f"the table is a {type(source).__name__}; collect it first: frame.collect()")
    if hasattr(source, "columns") and hasattr(source, "__getitem__"):  # pandas, polars
        columns = {str(name): name for name in source.columns}  # a frame of pandas may have numbers for names
        names = [str(name) for name in source.columns]
        return _of_columns(names, lambda name: source[columns[name]]), None
    mend = "; hs.data.huggingface(data) opens it" if hasattr(source, "column_names") else ""
    if isinstance(source, list) and all(isinstance(row, Mapping) for row in source):
        mend = "; of rows: pandas.DataFrame(rows)"
    raise DataError(f"the table is a {type(source).__name__}; {EXPECTED}{mend}")


def _of_columns(names: list[str], column: Callable[[str], Any]) -> Frame:
    def values(name: str, found: Any) -> list[Any]:
        method = next((method for method in ("to_list", "tolist") if hasattr(found, method)), None)
        if method is not None:
            cells = list(getattr(found, method)())
        else:
            cells = list(ordered(found, f"the cells of column {name!r}"))
        return cells if set(map(type, cells)) <= PLAIN else [_plain(cell) for cell in cells]

    def read(names: Sequence[str]) -> dict[str, Column]:
        found = {name: column(name) for name in names}
        warn_of_order({f"the column {name!r}": cells for name, cells in found.items()})
        columns: dict[str, Column] = {name: values(name, cells) for name, cells in found.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns have differing lengths: {lengths}")
        return columns

    return Frame("the table", names, read)


def _plain(cell: Any) -> Any:
    """What a tensor of no axis or one holds; anything else as it is."""
    if isinstance(cell, np.ndarray | np.generic) or not hasattr(cell, "__array__") or getattr(cell, "ndim", 2) > 1:
        return cell
    return cell.tolist() if hasattr(cell, "tolist") else np.asarray(cell).tolist()


def _of_file(path: TableFile) -> Frame:
    kind = KINDS.get(path.suffix)
    if (what := path.missing()) is not None:
        raise DataError(f"the table {path} {what}; {EXPECTED}")
    if kind is None:
        reader = PANDAS.get(path.suffix)
        mend = f": pandas.{reader}, with root= for the folder of its images" if reader else ""
        raise DataError(f"{path} is no table that is read here; {EXPECTED}{mend}")
    if kind == "parquet":
        return _of_parquet(path)
    try:
        return _of_csv(path) if kind == "csv" else _of_json_lines(path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


# --- text


def _opened(path: TableFile) -> TextIO:
    with path.open() as file:
        head = file.read(4096)
    what, remedy = what_is(head)
    if what and what not in TEXTS and (b"\0" in head or head.startswith(NO_TABLES)):
        mend = "export it as CSV" if remedy == UNPACK else remedy or "expected text in UTF-8"
        raise DataError(f"{path} is {what}, and no table of text: {mend}")
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if encoding is None and b"\0" in head:
        raise DataError(f"{path} holds zero bytes: it is UTF-16 without a mark, or no text; save it as UTF-8")
    codec = {"utf-8": "utf-8-sig", "utf-16-le": "utf-16", "utf-16-be": "utf-16", None: "utf-8"}.get(
        encoding, "utf-32"
    )
    return io.TextIOWrapper(path.open(), encoding=codec, newline="")


def _lines(path: TableFile, file: TextIO) -> Iterator[str]:
    number = 0
    while True:
        number += 1
        try:
            line = file.readline(MAX_LINE)
        except UnicodeDecodeError as error:
            code, wrong, mend = error.encoding.upper(), f"byte {error.object[error.start]:#04x}", ""
            if code == "UTF-8":
                number, wrong = _odd_line(path, number), f"{wrong}; Latin-1 or Windows-1252?"
                mend = AS_UTF_8
            raise DataError(f"{path} is no {code} in line {number} ({wrong}); save it as UTF-8{mend}") from None
        if not line:
            return
        if len(line) == MAX_LINE and not line.endswith(("\n", "\r")):
            raise DataError(f"{path}: line {number} has more than {MAX_LINE:,} characters; no table of labels has")
        if "\0" in line:
            raise DataError(f"{path}: line {number} holds a zero byte; it is no text")
        yield line


def _odd_line(path: TableFile, number: int) -> int:
    """The first line that is no UTF-8, from line `number` on, up to which a block of the file was decoded."""
    with path.open() as file:
        for at, line in enumerate(iter(lambda: file.readline(MAX_LINE), b""), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                return at
    return number


def _of_csv(path: TableFile) -> Frame:
    with _opened(path) as file:
        lines = _lines(path, file)
        before, first, delimiter = _header(lines)
        if path.suffix in (".tsv", ".tab"):
            delimiter = "\t"
        some = [first, *islice(lines, LOOKED_AT)]
        delimiter = delimiter or _delimiter(path, first, some)
        header = next(_rows(path, chain(some, lines), delimiter), [])  # in quotes it may have several lines
    names = [_written(name).strip() for name in header]
    if any(name.lower().endswith(SUFFIXES) for name in names):
        raise DataError(
            f"{path} has no header: its first line names an image ({first.strip()[:80]!r}); expected a first line "
            "with the names of the columns, such as file,label"
        )
    if not any(names):
        raise DataError(f"{path} is empty; expected a first line with the names of the columns")

    def read(asked: Sequence[str]) -> dict[str, Column]:
        places = [names.index(name) for name in asked]
        columns: list[list[str]] = [[] for _ in asked]
        adders = [(column.append, place) for column, place in zip(columns, places, strict=True)]
        same: dict[str, str] = {}  # labels come a thousand times each
        with _opened(path) as file:
            rows = _rows(path, islice(_lines(path, file), before, None), delimiter)
            next(rows)
            for row in rows:
                if len(row) != len(names):
                    if not row or (len(row) == 1 and not row[0].strip()):
                        continue
                    raise DataError(
                        f"{path}: row {len(columns[0]) + 1} has {len(row)} cells and the header {len(names)}; a "
                        "cell that holds the delimiter wants quotes"
                    )
                for add, place in adders:
                    cell = row[place]
                    if cell.startswith(AS_TEXT):
                        cell = _written(cell)
                    add(same.setdefault(cell, cell) if len(same) < 100_000 else cell)
        return dict(zip(asked, columns, strict=True))

    return Frame(str(path), names, read)


def _header(lines: Iterator[str]) -> tuple[int, str, str]:
    """How many lines stand before the one with the names of the columns, which are empty or tell a spreadsheet
    the delimiter, that line, and the delimiter where it is told."""
    told = ""
    for before, line in enumerate(lines):
        if before == 0 and (tells := SEPARATOR_LINE.match(line.strip("\r\n "))):
            told = tells[1]
        elif line.strip():
            return before, line, told
    return 0, "", told


def _delimiter(path: TableFile, header: str, lines: Sequence[str]) -> str:
    """What stands between the names of the columns: of several characters that do ("file;size, cm") one that
    stands between as many cells in the first rows, too, and leaves the names of images whole. `lines`: the first,
    from the header on."""
    outside = QUOTED.sub("", header)
    present = [delimiter for delimiter in DELIMITERS if delimiter in outside]
    even: dict[str, bool] = {}
    for delimiter in present if len(present) > 1 else ():
        rows = [row for row in _rows(path, iter(lines), delimiter, strict=False) if any(map(str.strip, row))]
        whole = rows[:-1] if len(lines) > LOOKED_AT else rows  # the last may go on behind these lines
        if len(set(map(len, whole))) == 1:
            even[delimiter] = any(_written(cell).strip().lower().endswith(SUFFIXES) for cell in whole[-1])
    return max(even or present or [","], key=lambda delimiter: even.get(delimiter, False))


def _written(cell: str) -> str:
    """What a spreadsheet shows for a cell: 007 for ="007", which keeps its zeros there."""
    is_text = len(cell) > len(AS_TEXT) and cell.startswith(AS_TEXT) and cell.endswith('"')
    return cell[len(AS_TEXT) : -1].replace('""', '"') if is_text else cell


def _rows(path: TableFile, lines: Iterator[str], delimiter: str, strict: bool = True) -> Iterator[list[str]]:
    reader = csv.reader(lines, delimiter=delimiter, strict=strict)
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num}: {error}; is a quote not closed?") from None


def _of_json_lines(path: TableFile) -> Frame:
    def objects() -> Iterator[dict[str, Any]]:
        with _opened(path) as file:
            for number, line in enumerate(_lines(path, file), 1):
                if not line.strip():
                    continue
                try:
                    value = parsed(line)
                except (ValueError, RecursionError) as error:
                    many = number == 1 and line.lstrip().startswith(("[", "{\n", "{\r"))
                    mend = "; expected an object a line: pandas.read_json(path, dtype=False) reads others" * many
                    raise DataError(f"{path}: line {number} is no JSON ({error}){mend}") from None
                if not isinstance(value, dict):
                    raise DataError(f"{path}: line {number} is no JSON object; expected one for each image")
                yield value

    def every_name(most: int | None = None) -> list[str]:
        names: dict[str, None] = {}
        for value in islice(objects(), most):
            names |= dict.fromkeys(value)
        return list(names)

    def read(asked: Sequence[str]) -> dict[str, Column]:
        columns: dict[str, list[Any]] = {name: [] for name in asked}
        known, late = set(frame.names), dict[str, None]()
        for row, value in enumerate(objects(), 1):
            if not known.issuperset(value):
                late |= dict.fromkeys(name for name in value if name not in known)
                known.update(late)
            for name, column in columns.items():
                cell = value.get(name)
                if isinstance(value, AtOdds) or isinstance(cell, AtOdds):
                    _refuse_two_values(path, row, value, name)
                column.append(cell)
        frame.late = list(late)
        return dict(columns)

    frame = Frame(str(path), every_name(FIRST_ROWS), read, every_name=every_name)
    return frame


def _refuse_two_values(path: TableFile, row: int, value: dict[str, Any], name: str) -> None:
    """DataError where a row says two things in the column `name`."""
    if (key := at_odds(value, name)) is not None:
        raise DataError(f"{path}: row {row} has the key {key!r} twice, with two values; keep one of them")


# --- Arrow


def _of_parquet(path: TableFile) -> Frame:
    try:
        parquet = import_module("pyarrow.parquet")
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed: pip install 'headstart[arrow]'"
        ) from error
    arrow_error = import_module("pyarrow").ArrowException
    try:
        here = path.place if not is_remote(path.place) else path.open()
        file = parquet.ParquetFile(here, memory_map=True)
    except (arrow_error, OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {' '.join(str(error).split())[:200]}") from error

    def read(asked: Sequence[str]) -> dict[str, Column]:
        about = file.metadata
        nbytes = sum(
            about.row_group(k).column(c).total_uncompressed_size
            for k in range(about.num_row_groups)
            for c in range(about.num_columns)
            if about.schema.column(c).path.split(".")[0] in asked
        )
        if nbytes > available_memory() // 2:
            raise DataError(
                f"{path}: the columns {', '.join(asked)} hold {nbytes:,} bytes, more than half of this "
                "machine's free memory; write the images to files and name those in the table"
            )
        try:
            return _of_arrow(file.read(columns=list(asked)))
        except (arrow_error, OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error

    return Frame(str(path), file.schema_arrow.names, read)


def _of_arrow(table: Any) -> dict[str, Column]:
    columns: dict[str, Column] = {}
    classes = class_names(table.schema.metadata)
    types = import_module("pyarrow.types")
    for name in table.column_names:
        column = table.column(name)
        kind = column.type
        if types.is_binary(kind) or types.is_large_binary(kind) or types.is_struct(kind):
            columns[name] = Cells(column, name)
        elif types.is_dictionary(kind):
            columns[name] = column.cast(kind.value_type).to_pylist()
        else:
            columns[name] = column.to_pylist()
        if (names := classes.get(name)) is not None:
            columns[name] = named(columns[name], names, name)
    return columns


class Cells(Sequence[Any]):
    """A column of bytes, or of Hugging Face's `{bytes, path}`, left in Arrow's memory until a cell is asked
    for."""

    def __init__(self, column: Any, name: str) -> None:
        """DataError for a cell that is larger than an encoded image may be."""
        self._chunks = column
        self._is_struct = import_module("pyarrow.types").is_struct(column.type)
        compute, content = import_module("pyarrow.compute"), self._content()
        if content is None or not self.any_bytes():
            return
        lengths = compute.binary_length(content)
        if (most := compute.max(lengths).as_py() or 0) > MAX_NBYTES:
            row = compute.index(lengths, most).as_py() + 1
            raise DataError(
                f"the cell of row {row} in column {name!r} has {most:,} bytes; an encoded image may have "
                f"{MAX_NBYTES:,}"
            )

    def __len__(self) -> int:
        return len(self._chunks)

    def __getitem__(self, index: Any) -> Any:
        return self._chunks[index].as_py()

    def any_bytes(self) -> bool:
        """Whether any cell holds bytes."""
        content, types = self._content(), import_module("pyarrow.types")
        is_bytes = content is not None and (types.is_binary(content.type) or types.is_large_binary(content.type))
        return is_bytes and content.null_count < len(content)

    def empty(self) -> list[int]:
        """The cells that hold neither bytes nor a path."""
        compute, (content, paths) = import_module("pyarrow.compute"), (self._content(), self._field("path"))
        held = [compute.is_valid(field) for field in (content, paths) if field is not None]
        if not held:
            return []
        some = held[0] if len(held) == 1 else compute.or_(*held)
        return [i for i, is_there in enumerate(some.to_pylist()) if not is_there]

    def _content(self) -> Any:
        return self._field("bytes") if self._is_struct else self._chunks

    def _field(self, name: str) -> Any:
        """A field of all cells; None where they have none."""
        if not self._is_struct or self._chunks.type.get_field_index(name) < 0:
            return None
        return import_module("pyarrow.compute").struct_field(self._chunks, name)
