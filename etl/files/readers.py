"""Reads one file of each format as frames; several files of a pattern all give the columns of the first."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet as pq

from etl.errors import ConfigError, DataError
from etl.files.csv_reader import read_csv
from etl.files.damage import damage_reported
from etl.files.excel import Rows, open_sheet
from etl.files.formats import FileFormat, FileOptions
from etl.files.json_columns import JsonTable
from etl.files.json_records import Record, json_array, json_lines
from etl.files.json_types import arrow_schema
from etl.files.places import FoundFile
from etl.files.streams import Stream, unpacked, unpacked_on_disk
from etl.ledger import Account
from etl.steps import did_you_mean
from etl.tables.arrow import plain_type
from etl.tables.numbered import numbered_frames, with_numbers
from etl.tables.one_schema import with_types

if TYPE_CHECKING:
    from pandas import DataFrame

Shape: TypeAlias = Any  # what the first file says of the columns; only the reader that made it looks inside

_CHUNK_ROWS = 8_192
_PARQUET_DAMAGE = (pa.ArrowException, UnicodeDecodeError)


class TableReader(ABC):
    """Reads files of one format."""

    def __init__(self, options: FileOptions, file_format: FileFormat) -> None:
        self.options = options
        self.format = file_format

    @abstractmethod
    def shape(self, file: FoundFile) -> Shape:
        """The columns of ``file``, reading as little of it as can be; None or empty if it does not tell."""

    @abstractmethod
    def frames(self, file: FoundFile, shape: Shape, account: Account, batch_rows: int) -> Iterator[DataFrame]:
        """The rows of ``file``, numbered from 1. ``shape``: of the first file, or None if this one is the first.

        Raises DataError if the columns are not those of the shape, ConfigError if they lack one of ``columns``.
        """

    def frames_of(
        self, tables: Iterator[pa.Table], schema: pa.Schema, account: Account, batch_rows: int, name: str
    ) -> Iterator[DataFrame]:
        """Frames of all the numbered tables of a file. Raises DataError if it has no rows, and none was rejected."""
        problem = None if self.options.allow_empty else f"{name}: has no rows"
        return numbered_frames(tables, schema, batch_rows, account, problem)

    def wanted(self, found: Sequence[str], shape: Collection[str] | None, name: str) -> list[str]:
        """The columns to take, in order. ``found``: those of the file; ``shape``: those of the first file."""
        columns = self.options.columns
        for column in columns:
            if column not in found:
                raise ConfigError(f"{name}: columns: there is no column {column!r}{did_you_mean(column, found)}")
        if columns or shape is None:
            return list(columns or found)
        missing = [column for column in shape if column not in found]
        extra = [column for column in found if column not in shape]
        if missing or extra:
            news = [f"lacks {', '.join(map(repr, missing))}"] if missing else []
            news += [f"also has {', '.join(map(repr, extra))}"] if extra else []
            raise DataError(f"{name}: {' and '.join(news)}, unlike the first file; set columns to those wanted")
        return list(shape)


class CsvReader(TableReader):
    """CSV and TSV: every column is text."""

    def shape(self, file: FoundFile) -> Shape:
        return list(next(self.frames(file, None, Account("shape"), 1)).columns)

    def frames(self, file: FoundFile, shape: Shape, account: Account, batch_rows: int) -> Iterator[DataFrame]:
        options = self.options.csv_options(self.format)
        with unpacked(file, self.options, self.format) as stream:
            for frame in read_csv(stream, options, account, batch_rows=batch_rows, source=stream.name):
                yield frame[self.wanted(list(frame.columns), shape, stream.name)]
                del frame  # or it would stay in memory while the next is made


class JsonReader(TableReader):
    """JSON lines and JSON arrays: typed columns, as ``etl.files.json_columns`` says."""

    def shape(self, file: FoundFile) -> Shape:
        with unpacked(file, self.options, self.format) as stream:
            records = self._records(stream)
            first = next(records, None)
            if first is None:
                return None
            columns, _ = self._table(Account("shape"), stream.name).tables(chain([first], records), None)
            return columns

    def frames(self, file: FoundFile, shape: Shape, account: Account, batch_rows: int) -> Iterator[DataFrame]:
        with unpacked(file, self.options, self.format) as stream:
            columns, tables = self._table(account, stream.name).tables(self._records(stream), shape)
            if not columns:
                raise DataError(f"{stream.name}: has no fields, so there are no columns; declare them in types")
            yield from self.frames_of(tables, arrow_schema(columns), account, batch_rows, stream.name)

    def _records(self, stream: Stream) -> Iterator[Record]:
        if self.format == "jsonl":
            return json_lines(stream, self.options.max_record_bytes)
        return json_array(stream, self.options.max_record_bytes, stream.name)

    def _table(self, account: Account, name: str) -> JsonTable:
        return JsonTable(self.options.columns, self.options.types, account, name)


class ParquetReader(TableReader):
    """Parquet: the types of the file; those of the first file where they differ and the values fit."""

    def shape(self, file: FoundFile) -> Shape:
        with self._opened(file) as parquet:
            return self._schema(parquet, None, file.uri)

    def frames(self, file: FoundFile, shape: Shape, account: Account, batch_rows: int) -> Iterator[DataFrame]:
        with self._opened(file) as parquet:
            schema = self._schema(parquet, shape, file.uri)
            tables = self._tables(parquet, schema, file.uri)
            yield from self.frames_of(tables, schema, account, batch_rows, file.uri)

    @contextmanager
    def _opened(self, file: FoundFile) -> Iterator[pq.ParquetFile]:
        with unpacked_on_disk(file, self.options, self.format) as path:
            with damage_reported(f"{file.uri}: is no Parquet file, or damaged", *_PARQUET_DAMAGE):
                parquet = pq.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
            with parquet:
                yield parquet

    def _schema(self, parquet: pq.ParquetFile, shape: pa.Schema | None, name: str) -> pa.Schema:
        found = parquet.schema_arrow
        names = self.wanted(found.names, shape.names if shape is not None else None, name)
        twice = {column for column in names if found.names.count(column) > 1}
        if twice:
            raise DataError(f"{name}: has more than one column called {', '.join(sorted(twice))}")
        if shape is not None:
            return shape
        return pa.schema([(column, plain_type(found.field(column).type)) for column in names])

    def _tables(self, parquet: pq.ParquetFile, schema: pa.Schema, name: str) -> Iterator[pa.Table]:
        first = 1
        with damage_reported(f"{name}: the Parquet file is damaged", *_PARQUET_DAMAGE):
            for batch in parquet.iter_batches(_CHUNK_ROWS, columns=schema.names, use_threads=False):
                table = pa.Table.from_batches([batch]).select(schema.names)
                yield with_numbers(_fitted(table, schema, name), range(first, first + len(table)))
                first += len(table)


def _fitted(table: pa.Table, schema: pa.Schema, name: str) -> pa.Table:
    try:
        return with_types(table, schema)
    except pa.ArrowException as error:
        changed = [
            f"{new.name!r} is {new.type}, not {old.type}"
            for new, old in zip(table.schema, schema, strict=True)
            if new.type != old.type
        ]
        kinds = "; ".join(changed)
        raise DataError(f"{name}: {kinds} as in the first file, which cannot hold all values of this type") from error


class ExcelReader(TableReader):
    """Excel workbooks: every column is text."""

    def shape(self, file: FoundFile) -> Shape:
        with self._opened(file) as (names, _):
            return self.wanted(names, None, file.uri)

    def frames(self, file: FoundFile, shape: Shape, account: Account, batch_rows: int) -> Iterator[DataFrame]:
        with self._opened(file) as (names, rows):
            wanted = self.wanted(names, shape, file.uri)
            schema = pa.schema([(name, pa.string()) for name in wanted])
            tables = _text_tables(_even(rows, len(names), account), [names.index(name) for name in wanted], schema)
            yield from self.frames_of(tables, schema, account, batch_rows, file.uri)

    @contextmanager
    def _opened(self, file: FoundFile) -> Iterator[tuple[list[str], Rows]]:
        with (
            unpacked_on_disk(file, self.options, self.format) as path,
            open_sheet(path, self.options, file.uri) as sheet,
        ):
            yield sheet


def _even(rows: Rows, width: int, account: Account) -> Rows:
    """Rows of ``width`` cells; those with a value beyond the header's last column are rejected."""
    for number, cells in rows:
        if any(cell is not None for cell in cells[width:]):
            line = json.dumps(cells, ensure_ascii=False)
            account.reject_line(number, "ragged: a value right of the last column of the header", line)
        else:
            yield number, [*cells[:width], *[None] * (width - len(cells))]


def _text_tables(rows: Rows, positions: Sequence[int], schema: pa.Schema) -> Iterator[pa.Table]:
    while chunk := list(islice(rows, _CHUNK_ROWS)):
        columns = [pa.array([cells[position] for _, cells in chunk], pa.string()) for position in positions]
        yield with_numbers(pa.Table.from_arrays(columns, schema=schema), [number for number, _ in chunk])


_READERS: dict[FileFormat, type[TableReader]] = {
    "csv": CsvReader,
    "tsv": CsvReader,
    "jsonl": JsonReader,
    "json": JsonReader,
    "parquet": ParquetReader,
    "xlsx": ExcelReader,
}


def reader_for(file_format: FileFormat, options: FileOptions) -> TableReader:
    return _READERS[file_format](options, file_format)
