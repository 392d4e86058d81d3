"""Labels files as text rows: CSV as RFC 4180 defines it, and Parquet. Streams; no Spark, no pandas.

Python's ``csv`` module reads the records in strict mode: quotes are doubled, a quoted field may hold delimiters and
line breaks, and a stray quote is an error instead of a moved column. This module adds the rest: detecting the
encoding, the delimiter and compression, and errors that name the line.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from cxrflow.base import storage
from cxrflow.base.errors import UserError

DELIMITERS = (",", ";", "\t")
# UTF-16 without a byte order mark is recognised by the zero byte of its first character, which is ASCII in a header.
_SIGNATURES = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK_BYTES = 2**20
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)")
# A radiology report in one cell may be longer than the csv module's default of 131,072 characters.
_LONGEST_FIELD = 2**24


@dataclass(frozen=True)
class Row:
    """One record of a labels file."""

    line: int
    """Line of the file that the record starts on; 1 is the header. For Parquet the row number, counted from 1."""
    cells: dict[str, str]
    """Text by column name, without blanks around it; an absent value is the empty string."""


class LabelsFile:
    """One labels file: its columns and its rows. The rows can be read any number of times.

    Raises UserError, with the file's name and the line, for a byte that cannot be decoded, a broken quote, a record
    with too few or too many fields, an empty file, and a repeated column name.
    """

    def __init__(self, url: str):
        self.url = url
        self._is_parquet = url.lower().endswith((".parquet", ".pq"))
        with closing(self._records()) as records:
            self.columns: tuple[str, ...] = next(records)[1]

    @property
    def name(self) -> str:
        """The file's name without its folder."""
        return self.url.rsplit("/", 1)[-1]

    def rows(self) -> Iterator[Row]:
        """The records in the order of the file."""
        records = self._records()
        columns = next(records)[1]
        for line, fields in records:
            if len(fields) != len(columns):
                raise self._error(line, f"{len(columns)} fields, as in the header", f"{len(fields)}")
            yield Row(line, {name: cell.strip() for name, cell in zip(columns, fields, strict=True) if name})

    def _records(self) -> Generator[tuple[int, tuple[str, ...]], None, None]:
        """(line, fields) of the header, then of each record."""
        return self._parquet_records() if self._is_parquet else self._csv_records()

    def _parquet_records(self) -> Generator[tuple[int, tuple[str, ...]], None, None]:
        with storage.open_file(self.url) as file:
            table = pq.ParquetFile(file)
            yield 0, self._checked_header(table.schema_arrow.names)
            number = 0
            for batch in table.iter_batches(10_000):
                columns = [column.cast(pa.string()).to_pylist() for column in batch.columns]
                for fields in zip(*columns, strict=True):
                    number += 1
                    yield number, tuple(field or "" for field in fields)

    def _csv_records(self) -> Generator[tuple[int, tuple[str, ...]], None, None]:
        with storage.open_file(self.url) as raw:
            file = _decompressed(raw)
            start = file.read(4096)
            lines = self._lines(file, start, self._encoding(start))
            csv.field_size_limit(_LONGEST_FIELD)
            header_lines: list[str] = []
            delimiter = self._delimiter(lines, header_lines)
            consumed = _chain(header_lines, lines)
            reader = csv.reader(consumed, delimiter=delimiter, strict=True)
            started = 1
            header = None
            while True:
                try:
                    fields = next(reader, None)
                except csv.Error as error:
                    raise self._error(started, "text as RFC 4180 writes it, with quotes doubled", str(error)) from None
                if fields is None:
                    break
                if fields:  # a blank line is no record
                    if header is None:
                        header = self._checked_header(fields)
                        yield started, header
                    else:
                        yield started, tuple(fields)
                started = reader.line_num + 1
            if header is None:
                raise UserError(f"--labels: expected a header line in {self.url!r}, got an empty file")

    def _encoding(self, start: bytes) -> str:
        if start.startswith(b"PK\x03\x04"):
            raise UserError(f"--labels: expected text or gzip, got the ZIP archive {self.url!r}; unpack it first")
        for signature, encoding in _SIGNATURES:
            if start.startswith(signature):
                return encoding
        if len(start) >= 2 and 0 in start[:2]:
            return "utf-16-le" if start[1] == 0 else "utf-16-be"
        return "utf-8"

    def _lines(self, file: BinaryIO, start: bytes, encoding: str) -> Iterator[str]:
        """The decoded lines with their ends. Raises UserError, with the line, for a byte that cannot be decoded."""
        decoder = codecs.getincrementaldecoder(encoding)()
        pending, line, chunk = "", 1, start
        while True:
            try:
                pending += decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder drops the good text before the bad byte, so it is decoded again to count its lines.
                good = bytes(error.object[: error.start]).decode(encoding.removesuffix("-sig"), "ignore")
                bad = line + len(re.findall(r"\r\n|\r|\n", pending + good))
                raise self._error(
                    bad, f"{encoding.removesuffix('-sig').upper()} text", f"the byte 0x{error.object[error.start]:02x}"
                ) from None
            # A carriage return at the end may be half of a line end.
            whole = len(pending) if not chunk else len(pending) - pending.endswith("\r")
            end = 0
            for match in _LINE.finditer(pending, 0, whole):
                yield match[0]
                end, line = match.end(), line + 1
            pending = pending[end:]
            if not chunk:
                break
            chunk = file.read(_CHUNK_BYTES)
        if pending:
            yield pending

    def _delimiter(self, lines: Iterator[str], taken: list[str]) -> str:
        """The delimiter that splits the header into the most fields; ``taken`` receives the header's lines."""
        for text in lines:
            taken.append(text)
            if text.strip() and "".join(taken).count('"') % 2 == 0:
                break
        header = "".join(taken)

        def fields(delimiter: str) -> int:
            try:
                return max((len(record) for record in csv.reader(io.StringIO(header), delimiter=delimiter)), default=0)
            except csv.Error:
                return 0

        return max(DELIMITERS, key=fields)

    def _checked_header(self, names: list[str]) -> tuple[str, ...]:
        header = tuple(name.strip() for name in names)
        twice = sorted({name for name in header if name and header.count(name) > 1})
        if twice:
            raise UserError(
                f"--labels: expected each column name once in {self.url!r}, got {', '.join(twice)} more than once"
            )
        return header

    def _error(self, line: int, expected: str, got: str) -> UserError:
        return UserError(f"--labels: line {line} of {self.url!r}: expected {expected}, got {got}")


def read_lines(url: str) -> list[str]:
    """The lines of a text file without a header, such as a published list of file names; blank ones are left out."""
    with storage.open_file(url) as file:
        text = _decompressed(file).read().decode("utf-8-sig")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _decompressed(file: BinaryIO) -> BinaryIO:
    signature = file.read(2)
    file.seek(0)
    return cast(BinaryIO, gzip.GzipFile(fileobj=file)) if signature == b"\x1f\x8b" else file


def _chain(first: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest
