"""Read text tables: CSV with several separators, UTF-8 or UTF-16, quoted or not; and JSON records."""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import pandas as pd

from tritone_serving.ids import normalize_id
from tritone_training.data.tables.packing import UNPACKING_ERRORS, Content
from tritone_training.data.tables.table import NOT_UTF8, Table, check_names, check_zero_bytes
from tritone_training.exceptions import DataError

UTF8: Final = "utf-8-sig"
_SEPARATORS: Final = ("\t", "::", ";", "|", ",")  # the comma last, because names contain commas
_QUOTED: Final = re.compile(r'"((?:[^"]|"")*)"')
_SEPARATOR_LINE: Final = re.compile(r'^\ufeff?"?sep=(?P<separator>\\t|.)"?[ ,;\t]*(?:\r\n|\r|\n|$)', re.IGNORECASE)
_SNIFFED: Final = 1 << 16
_ROWS_AT_ONCE: Final = 200_000
_CHUNK: Final = 1 << 20
_BOMS: Final = (
    (codecs.BOM_UTF8, UTF8),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_EXPECTED: Final = 'expected a list of objects ([{"user": "ann", "item": "a"}, ...]) or one such object a line'


@dataclass(frozen=True)
class Dialect:
    """How a text table is written.

    Attributes:
        n_skipped: characters before the table: a line `sep=;`.
    """

    encoding: str
    separator: str
    n_skipped: int = 0


def encoding_of(head: bytes) -> str:
    """Return the encoding by the byte order mark, or by the zero bytes of UTF-16; else UTF-8."""
    for mark, encoding in _BOMS:
        if head.startswith(mark):
            return encoding
    even, odd = head[0::2].count(0), head[1::2].count(0)
    if len(head) >= 4 and max(even, odd) > len(head) // 5 and min(even, odd) <= len(head) // 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    return UTF8


def decoded(head: bytes, encoding: str) -> str:
    """Return the start of a table as text; a character that is cut at its end is left out."""
    decoder = codecs.getincrementaldecoder(encoding)("surrogateescape" if encoding == UTF8 else "replace")
    return decoder.decode(head)


def dialect_of(content: Content, encoding: str) -> Dialect:
    """Detect encoding, separator and a line `sep=;` from the beginning of a table."""
    head = content.head(_SNIFFED)
    text = decoded(head, encoding)
    if given := _SEPARATOR_LINE.match(text):
        return Dialect(encoding, given["separator"].replace("\\t", "\t"), given.end())
    return Dialect(encoding, _separator(text, is_whole=len(head) < _SNIFFED))


def _separator(text: str, *, is_whole: bool) -> str:
    """Return the separator that splits most of the first rows into as many cells as the header, at best many."""
    best, best_score = ",", (False, 1)
    for separator in _SEPARATORS:
        counts = [len(row) for row in _first_rows(text, separator, is_whole=is_whole) if row]
        if not counts or counts[0] < 2:
            continue
        n_equal = sum(count == counts[0] for count in counts)
        score = (2 * n_equal > len(counts), counts[0])
        if score > best_score:
            best, best_score = separator, score
    return best


def _first_rows(text: str, separator: str, *, is_whole: bool) -> list[list[str]]:
    lines = io.StringIO(text, newline="")
    rows: list[list[str]] = []
    if len(separator) > 1:
        rows = [line.split(separator) for line in text.splitlines()[:21]]
    else:
        quoting: Any = csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        reader = csv.reader(lines, delimiter=separator, quoting=quoting, skipinitialspace=True)
        with contextlib.suppress(csv.Error):  # such as a cell that is longer than the module reads; pandas reports it
            rows.extend(row for row, _ in zip(reader, range(21), strict=False))
    return rows if is_whole or len(rows) < 2 else rows[:-1]


def text_table(content: Content, encoding: str) -> Table:
    """Open a text table.

    Raises:
        DataError: it is damaged, holds zero bytes, or has two columns of one name.
    """
    path = content.path
    notes = _checked_bytes(content, encoding)
    dialect = dialect_of(content, encoding)
    first = next(iter(_chunks(content, dialect, n_rows=1)), None)
    if first is None or not len(first):
        raise DataError(f"{path}: is empty; expected a header line and at least one row")
    header = ["" if pd.isna(name) else normalize_id(str(name)) for name in first.iloc[0]]
    names = check_names(path, header)
    if encoding != UTF8:
        notes = (f"read as {encoding.upper()}", *notes)

    def load_chunks(wanted: Sequence[str]) -> Iterator[pd.DataFrame]:
        indices = [names.index(name) for name in wanted]
        for number, chunk in enumerate(_chunks(content, dialect)):
            columns = chunk.iloc[:, indices]
            yield columns.iloc[1:] if number == 0 else columns  # without the header

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        return pd.concat(list(load_chunks(wanted)), ignore_index=True)

    return Table(
        path,
        "CSV",
        names,
        load,
        notes=notes,
        separator=dialect.separator,
        first_row=header,
        numbered_rows=(lambda: _numbered_rows(content, dialect)) if len(dialect.separator) == 1 else None,
        load_chunks=load_chunks,
    )


def _checked_bytes(content: Content, encoding: str) -> tuple[str, ...]:
    """Return a note on bytes that are not UTF-8.

    Raises:
        DataError: the file holds zero bytes, which CSV readers treat as the end of a cell.
    """
    if encoding != UTF8:
        _check_zero_characters(content, encoding)
        return ()
    decoder = codecs.getincrementaldecoder("utf-8")()
    n_bytes = n_lines = 0
    bad_line: int | None = None
    with content.open() as file:
        while chunk := file.read(_CHUNK):
            if (zero := chunk.find(0)) >= 0:
                raise DataError(
                    f"{content.path}: holds a zero byte (at byte {n_bytes + zero:,}): expected text; it is damaged or "
                    f"not a table"
                )
            if bad_line is None:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError as error:
                    bad_line = n_lines + error.object[: error.start].count(b"\n") + 1
            n_lines += chunk.count(b"\n")
            n_bytes += len(chunk)
    if bad_line is None:
        return ()
    return (
        f"{NOT_UTF8} (first in line {bad_line:,}): if it is in Windows-1252 or Latin-1, convert it "
        f"with: iconv -f WINDOWS-1252 -t UTF-8",
    )


def _check_zero_characters(content: Content, encoding: str) -> None:
    with content.open() as file, io.TextIOWrapper(file, encoding, errors="replace", newline="") as text:
        while chunk := text.read(_CHUNK):
            if "\0" in chunk:
                raise DataError(
                    f"{content.path}: holds a zero byte: expected text in {encoding.upper()}; the file is damaged or "
                    f"not a table"
                )


@contextlib.contextmanager
def _stream(content: Content, dialect: Dialect) -> Iterator[BinaryIO | io.TextIOBase]:
    """Open the table where its header begins: as bytes if it is UTF-8, which pandas reads fastest, else as text."""
    with content.open() as file:
        if dialect.encoding == UTF8:
            # A line `sep=;` is ASCII, but for a byte order mark.
            mark = file.read(3) if dialect.n_skipped else b""
            file.read(max(0, dialect.n_skipped + (2 if mark == codecs.BOM_UTF8 else 0) - len(mark)))
            yield file
            return
        with io.TextIOWrapper(file, dialect.encoding, newline="") as text:
            text.read(dialect.n_skipped)
            yield text


def _chunks(content: Content, dialect: Dialect, *, n_rows: int | None = None) -> Iterator[pd.DataFrame]:
    """Yield rows, including the header.

    Cells contain no tabs, so tables separated by tabs need no quotes, and quotes in them are usually part of the text:
    only the quotes around a whole cell, as programs write them, are removed.
    """
    separator = dialect.separator
    try:
        with (
            _stream(content, dialect) as stream,
            pd.read_csv(
                stream,
                sep=separator if len(separator) == 1 else re.escape(separator),
                header=None,  # pandas would rename duplicates and use unnamed columns as the index
                dtype=object,
                encoding=dialect.encoding,
                encoding_errors="surrogateescape",
                engine="c" if len(separator) == 1 else "python",
                quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL,
                skipinitialspace=True,
                keep_default_na=False,  # an artist may be called NA or None
                na_values=["", r"\N"],  # as MySQL and Hive write a missing value
                nrows=n_rows,
                chunksize=_ROWS_AT_ONCE,
            ) as reader,
        ):
            for chunk in reader:
                yield chunk.map(_unquoted) if separator == "\t" else chunk
    except pd.errors.EmptyDataError:
        return
    except (pd.errors.ParserError, UnicodeError, ValueError, *UNPACKING_ERRORS) as error:
        raise DataError(f"{content.path}: is not a table that can be read ({_why(error)})") from error


def _numbered_rows(content: Content, dialect: Dialect) -> Iterator[tuple[int, list[str]]]:
    """Yield (line in the file, cells) of each row.

    Raises:
        DataError: it is not in its encoding, or a quote is never closed.
    """
    path = content.path
    try:
        with content.open() as file, io.TextIOWrapper(file, dialect.encoding, newline="") as text:
            text.read(dialect.n_skipped)
            reader = csv.reader(text, delimiter=dialect.separator, strict=True, skipinitialspace=True)
            for row in reader:
                yield reader.line_num + bool(dialect.n_skipped), row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not text in UTF-8 ({error.reason}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: is not a CSV table ({error})") from error


def _why(error: Exception) -> str:
    why = (str(error).splitlines() or [type(error).__name__])[0].removeprefix("Error tokenizing data. C error: ")
    if unclosed := re.search(r"EOF inside string starting at row (\d+)", why):
        return f"a double quote in row {int(unclosed[1]) + 1} is never closed"
    ragged = re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", why)
    if ragged is None:
        return why
    return (
        f"line {ragged[2]} has {ragged[3]} cells: expected {ragged[1]} as in the header; a cell that holds the "
        f"separator must be enclosed in double quotes"
    )


def _unquoted(cell: object) -> object:
    found = _QUOTED.fullmatch(cell) if isinstance(cell, str) and cell[:1] == '"' else None
    return cell if found is None else found[1].replace('""', '"') or None


def json_table(content: Content, encoding: str) -> Table:
    """Read a JSON table.

    Raises:
        DataError: it is damaged, or holds values other than objects.
    """
    path = content.path
    unusable: dict[str, str] = {}
    rows: list[dict[str, str]] = []
    names: dict[str, None] = {}
    try:
        for record in _records(content, encoding):
            if not isinstance(record, dict):
                raise DataError(f"{path}: is JSON, but not a table: {_EXPECTED}")
            row = {}
            for name, value in record.items():
                names.setdefault(name)
                if isinstance(value, list | dict):
                    unusable.setdefault(normalize_id(name), "lists" if isinstance(value, list) else "nested objects")
                elif value is not None and value != "":
                    row[name] = str(value).lower() if isinstance(value, bool) else value
            rows.append(row)
    except (ValueError, RecursionError, *UNPACKING_ERRORS) as error:
        raise DataError(f"{path}: is JSON that cannot be read ({error}); {_EXPECTED}") from error
    if not rows:
        raise DataError(f"{path}: is empty; {_EXPECTED}")
    if len(rows) == 1 and len(unusable) == len(names):  # the default of pandas
        raise DataError(
            f"{path}: is JSON by columns: {_EXPECTED}; convert it (pandas: to_json(orient='records', lines=True))"
        )
    plain = dict(zip(check_names(path, [normalize_id(name) for name in names]), names, strict=True))

    def load(wanted: Sequence[str]) -> pd.DataFrame:
        columns = [pd.Series([row.get(plain[name]) for row in rows], dtype=object) for name in wanted]
        for name, column in zip(wanted, columns, strict=True):
            check_zero_bytes(path, name, column)
        return pd.concat(columns, axis=1) if columns else pd.DataFrame(index=range(len(rows)))

    return Table(path, "JSON", [name for name in plain if name not in unusable], load, unusable=unusable)


def _records(content: Content, encoding: str) -> Iterator[Any]:
    # Numbers keep their digits: floats would round ids, and lose the difference between 12.0 and 12.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=lambda _: None)
    with content.open() as file, io.TextIOWrapper(file, encoding, errors="strict") as text:
        first = text.readline()
        while first and not first.strip():
            first = text.readline()
        if not first.lstrip().startswith("["):
            try:
                yield decoder.decode(first)
            except json.JSONDecodeError:
                pass  # one object over several lines
            else:
                for number, line in enumerate(text, start=2):
                    if line.strip():
                        try:
                            yield decoder.decode(line)
                        except json.JSONDecodeError as error:
                            raise ValueError(f"line {number}: {error.msg}") from error
                return
        whole = decoder.decode(first + text.read())
    if not isinstance(whole, list):
        whole = (
            [whole] if isinstance(whole, dict) and not any(isinstance(v, list | dict) for v in whole.values()) else [0]
        )
    yield from whole
