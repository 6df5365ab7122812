"""Tables in text files: every cell as the file has it, rows by the lines that an editor shows."""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from ..distributed import World
from ..distributed.world import TABLE
from . import encodings, folders, frames
from .errors import DataError
from .frames import Frame
from .wording import listed, quoted

#: By which separators are said, beside themselves.
SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "\\t": "\t", "pipe": "|", "space": " "}
COMPRESSED = ".gz"  # how the name of a compressed text file ends
TABS = (".tsv", ".tsv.gz")  # how the name of one ends whose columns tabs separate
NOTES = "backprop_xp notes"  # key of a frame's attrs: sentences about how it was read
_TRIED = (",", ";", "\t", "|")
_SAMPLE = 200  # rows that show the separator
_CHUNK = 1 << 15  # rows that are lists of texts before they are put away as columns

Record = tuple[int, list[str]]  # the line it begins in, counted from 1, and its cells


def read(path: Path, separator: str | None = None, encoding: str | None = None, world: World | None = None) -> Frame:
    """The table in this file: texts without blanks around them, and missing values where cells are empty.

    Lines without any content are left out. With a ``world`` each rank keeps the rows of some of the lines, rank 0 those
    of the first ones; each goes through all of the text, for quotation marks may begin anywhere before a line.

    Raises:
        DataError: it is no table; the message says where.
    """
    frame = _table(path, separator, encoding, world)
    if not any([len(frame)] if world is None else world.told(TABLE, len(frame))):
        raise DataError(f"{path} has no rows")
    return frame


def read_folder(
    path: Path, separator: str | None = None, encoding: str | None = None, world: World | None = None
) -> Frame:
    """The rows of all text files of a folder, in the order of their names; rows are called "2 of FILE".

    A column that a file hasn't is missing in its rows, which is noted; what stands in the names of folders, as
    year=2024, is a column. With a ``world`` each rank reads some of the files, rank 0 the first ones.

    Raises:
        DataError: a file is no table, or none has rows; the message says where.
    """
    import pandas

    files = folders.files(path)
    own = folders.own([file.stat().st_size for file in files], world)
    found = {file: _table(file, separator, encoding) for file in files[own.start : own.stop]}
    for file, frame in found.items():
        for name, value in folders.columns_of(file, path):
            if name in frame.columns:
                raise DataError(f"{file}: its column {quoted(name)} is in the name of a folder too")
            frame[name] = pandas.Series(value, frame.index, _text())
    facts = [(str(file), list(frame.columns), len(frame), frame.attrs[NOTES]) for file, frame in found.items()]
    every = facts if world is None else [fact for rank in world.told(TABLE, facts) for fact in rank]
    if not any(rows for _, _, rows, _ in every):
        raise DataError(f"{path} has no rows")
    names, absent = folders.absent_columns({file: columns for file, columns, _, _ in every})
    for file, frame in found.items():
        frame.index = pandas.Index([f"{line} of {file.relative_to(path)}" for line in frame.index], dtype=_text())
    nothing = pandas.DataFrame(columns=names, index=pandas.Index([], dtype=_text()), dtype=_text())
    whole = pandas.concat([nothing, *found.values()])
    whole.attrs[NOTES] = [note for _, _, _, notes in every for note in notes] + absent
    return whole


def _table(path: Path, separator: str | None, encoding: str | None, world: World | None = None) -> Frame:
    """The table in a file, or this rank's rows of it; there may be none."""
    if separator is None and path.name.lower().endswith(TABS):
        separator = "tab"
    text, note = encodings.decode(path, _content(path), encoding)
    notes = [note] if note else []
    text = text.removeprefix("\ufeff")
    first = 1
    if separator is None and text[:4].lower() == "sep=" and len(text.splitlines()[0]) == 5:  # a line of Excel's
        separator, first = text[4], 2
        text = text[5:].removeprefix("\r").removeprefix("\n")
    if separator is None:
        separator = _found(path, text)
        notes += [f"{path}: {quoted(separator)} separates its columns"] if separator != "," else []
    records = _records(path, text, _one(separator), first)
    line, header = next(records, (0, []))
    if not header:
        raise DataError(f"{path} is empty")
    try:
        names = frames.unique(header)
    except DataError as error:
        raise DataError(f"{path}, row {line}: {error}") from None
    if 2 * sum(frames.as_float(name) is not None for name in header) > len(header) - header.count(""):
        notes.append(f"{path}: row {line}, {listed(names, 5)}, is taken for the names of the columns")
    if world is not None:
        records = _own(records, 1 + max(text.count("\n"), text.count("\r")), world)
    frame = _frame(path, names, records)
    frame.attrs[NOTES] = notes
    return frame


def _content(path: Path) -> bytes:
    """The bytes of a file, of a compressed one those that were compressed."""
    if path.suffix.lower() != COMPRESSED:
        return path.read_bytes()
    try:
        with gzip.open(path) as file:
            return file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} can't be read as gzip: {error}") from None


def _one(separator: str) -> str:
    mark = SEPARATORS.get(separator, separator)
    if len(mark) != 1 or mark in '"\r\n':
        raise ValueError(f"a separator must be one character, or {', '.join(SEPARATORS)}; got {separator!r}")
    return mark


def _records(path: Path, text: str, separator: str, first: int = 1) -> Iterator[Record]:
    """The rows that aren't blank."""
    blanks = separator != " "
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=blanks, strict=True)
    begun = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            reason = str(error)
            if "unexpected end" in reason:
                reason = "a quotation mark is opened and never closed"
            raise DataError(f"{path} can't be read as CSV: row {begun + first}: {reason}") from None
        if row and (row[0] or "".join(row).strip()):
            yield begun + first, row
        begun = rows.line_num


def _own(records: Iterator[Record], lines: int, world: World) -> Iterator[Record]:
    """The records that begin in this rank's share of so many lines."""
    return (record for record in records if min(record[0] * world.size // lines, world.size - 1) == world.rank)


def _found(path: Path, text: str) -> str:
    """The separator that splits names and rows alike; a comma where none does."""
    widths: dict[str, int] = {}
    for mark in _TRIED:
        try:
            rows = [row for _, row in islice(_records(path, text, mark), _SAMPLE)]
        except DataError:
            continue
        if rows and len(rows[0]) > 1 and {len(row) for row in rows} == {len(rows[0])}:
            widths[mark] = len(rows[0])
    best = [mark for mark in widths if widths[mark] == max(widths.values())]
    if len(best) > 1:
        raise DataError(f"{path}: {listed(best)} may separate its columns; say which one does with --separator")
    return best[0] if best else _most_names(path, text)


def _most_names(path: Path, text: str) -> str:
    """What splits the first line into most names; what is wrong with the rows comes out later."""
    return max(_TRIED, key=next(filter(str.strip, text.splitlines()), "").count)


def _text() -> Any:
    """The dtype in which pandas keeps texts."""
    import pandas

    return pandas.Series(["", None]).dtype


def _frame(path: Path, names: Sequence[str], records: Iterator[Record]) -> Frame:
    import pandas

    text = _text()
    chunks: list[dict[str, Any]] = []
    lines: list[int] = []
    width = len(names)
    while chunk := list(islice(records, _CHUNK)):
        for line, row in chunk:
            if len(row) != width:
                _fit(path, line, row, width)
        lines += [line for line, _ in chunk]
        columns = (pandas.Series(cells, dtype=text).str.strip() for cells in zip(*(row for _, row in chunk)))
        chunks.append({name: column.where(column != "") for name, column in zip(names, columns)})
    parts = [pandas.DataFrame(chunk) for chunk in chunks] or [pandas.DataFrame(columns=names, dtype=text)]
    return pandas.concat(parts).set_axis(pandas.Index(lines))


def _fit(path: Path, line: int, row: list[str], width: int) -> None:
    """Cut empty cells behind the last column; anything else is refused."""
    saw = len(row)
    while len(row) > width and not row[-1].strip():
        row.pop()
    if len(row) != width:
        were = "column was" if width == 1 else "columns were"
        raise DataError(
            f"{path}, row {line}: {saw} column{'s' * (saw != 1)} where {width} {were} expected; if something else "
            "separates them than was found, name it with --separator"
        )
