"""Encodes batches as Parquet, CSV or JSON lines. The same rows give the same bytes, however they were batched."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from io import BufferedIOBase, RawIOBase
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from zlib_ng import gzip_ng

from etl.errors import DataError
from etl.formats.json_text import base64_text, check_times, is_plain, json_text
from etl.formats.options import CsvStyle, Format, FormatOptions, ParquetOptions
from etl.tables.arrow import is_bytes, is_text
from etl.tables.batches import regroup
from etl.tables.one_schema import arrow_tables

if TYPE_CHECKING:
    from pandas import DataFrame

Descriptions: TypeAlias = Mapping[str, Mapping[str, str]]  # column -> such as {"description": ..., "unit": ...}

_SAMPLE_ROWS = 16_384
_BUFFER_BYTES = 1 << 20
# Of each chunk of a column, Arrow's Parquet writer takes so many rows at a time, and sees whether the page is full.
_WRITE_ROWS = 1_024
_gzip_file: Any = gzip_ng.GzipNGFile  # like the standard library's, and almost twice as fast
# What a spreadsheet may take for a formula, by OWASP's page on CSV injection; the last four are = + - @ in full width.
_FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
_QUOTING: Any = {"text": "needed", "all": "all_valid", "none": "none"}


def encode(
    batches: Iterable[DataFrame],
    sink: RawIOBase | BufferedIOBase,
    file_format: Format,
    options: FormatOptions,
    descriptions: Descriptions | None = None,
) -> tuple[int, pa.Schema]:
    """Write all batches to ``sink`` as one file; give back the number of rows, and their schema.

    ``descriptions``: what the columns mean; Parquet keeps it in the fields' metadata.
    Raises DataError as ``arrow_tables`` does, and for values that the format cannot hold.
    """
    schema, tables = arrow_tables(batches)
    rows = 0
    with Encoder(sink, schema, file_format, options, descriptions) as encoder:
        for table in grouped(tables, encoder.group_rows):
            encoder.write(table)
            rows += table.num_rows
            del table  # else these rows would stay in memory while the next are collected
    return rows, schema


def grouped(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Tables of exactly ``rows`` rows, as an Encoder takes them; the last may be shorter."""
    return regroup(tables, rows, _WRITE_ROWS)


class Encoder:
    """A file that is being written to ``sink``, of Arrow tables that all have ``schema``.

    Give it tables of ``group_rows`` rows, as ``grouped`` makes them: then the bytes do not depend on how rows arrived.
    """

    def __init__(
        self,
        sink: RawIOBase | BufferedIOBase,
        schema: pa.Schema,
        file_format: Format,
        options: FormatOptions,
        descriptions: Descriptions | None = None,
    ) -> None:
        self.group_rows = options.group_rows(file_format)
        self._gzip: Any = None
        self._outlet = target = _Outlet(sink)
        if file_format.endswith(".gz"):
            # No name and no time in the header: the same rows must give the same bytes.
            self._gzip = _gzip_file("", "wb", options.gzip_level, self._outlet, mtime=0)
            target = _Outlet(self._gzip)
        # Arrow writes in hundreds of small pieces, and would wait for Python's lock before each of them.
        self._buffered = pa.BufferedOutputStream(pa.PythonFile(target, mode="w"), _BUFFER_BYTES)
        self._writer = _writer(file_format, self._buffered, described(schema, descriptions or {}), options)

    def write(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table)
            self._buffered.flush()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
            raise DataError(f"cannot be written: {error}") from error

    def close(self) -> None:
        """Write what the format has at its end. The sink stays open."""
        self._writer.close()
        self._buffered.flush()
        if self._gzip is not None:
            self._gzip.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self._outlet.shut = True  # an upload would send it, and a run that is being stopped wait for that
            with suppress(Exception):  # the first error is the one to see
                self.close()


class _Outlet(RawIOBase):
    """Passes on what is written, until it is ``shut``, but not that Arrow or gzip have closed their end."""

    def __init__(self, sink: Any) -> None:
        self.shut = False
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data) if self.shut else self._sink.write(data)


def described(schema: pa.Schema, descriptions: Descriptions) -> pa.Schema:
    """``schema`` with the descriptions in its fields' metadata, beside what is there."""
    fields = []
    for field in schema:
        metadata: dict[Any, Any] = {**(field.metadata or {}), **descriptions.get(field.name, {})}
        fields.append(field.with_metadata(metadata) if metadata else field)
    return pa.schema(fields)


def _writer(file_format: Format, sink: Any, schema: pa.Schema, options: FormatOptions) -> Any:
    """Something with ``write_table`` and ``close``."""
    if file_format == "parquet":
        return _ParquetWriter(sink, schema, options.parquet)
    if file_format.startswith("csv"):
        return _CsvWriter(sink, schema, options.csv)
    return _JsonLinesWriter(sink)


class _ParquetWriter:
    """pyarrow's writer, opened when the first rows are there: they show what is worth doing for which column."""

    def __init__(self, sink: Any, schema: pa.Schema, options: ParquetOptions) -> None:
        self._sink = sink
        self._schema = schema
        self._options = options
        self._writer: Any = None

    def write_table(self, table: pa.Table) -> None:
        self._writer = self._writer or self._opened(table.slice(0, _SAMPLE_ROWS))
        self._writer.write_table(table)

    def close(self) -> None:
        self._writer = self._writer or self._opened(self._schema.empty_table())
        self._writer.close()

    def _opened(self, some: pa.Table) -> Any:
        names = some.column_names
        dictionaries: Any = [name for name in names if _repeats(some[name])]
        statistics: Any = [name for name in names if not is_text(some[name].type) or _in_some_order(some[name])]
        if any(pa.types.is_nested(field.type) for field in some.schema):
            dictionaries = statistics = True  # the leaves of nested columns have other names
        return pyarrow.parquet.ParquetWriter(
            self._sink,
            self._schema,
            compression=self._options.compression,
            compression_level=self._options.compression_level,
            use_dictionary=dictionaries,
            write_batch_size=_WRITE_ROWS,
            write_statistics=self._options.statistics and statistics,
            write_page_index=self._options.page_index,
        )


def _repeats(column: Any) -> bool:
    """Whether values come twice on average. If not, a dictionary takes more time and room than none."""
    try:
        distinct: int = pc.count_distinct(column).as_py()
    except pa.ArrowNotImplementedError:  # of nested types, of extensions, and of nothing but nulls
        return True
    return 2 * distinct <= len(column)


def _in_some_order(column: Any) -> bool:
    """Whether most values are as great as the one before, or as small: sorted, nearly so, or in runs of equal ones.

    If not, the least and greatest of all parts are much alike, so no reader can skip one; and texts compare slowly.
    """
    before, after = column[:-1], column[1:]
    rising, falling = (pc.sum(compared).as_py() or 0 for compared in (pc.less(before, after), pc.less(after, before)))
    return 4 * min(rising, falling) <= len(column)


class _CsvWriter:
    """Bytes become base64 and nested values JSON, both as text; for the rest it is pyarrow's writer."""

    def __init__(self, sink: Any, schema: pa.Schema, style: CsvStyle) -> None:
        self._escape = style.escape_formulas
        write_options: dict[str, Any] = {
            "include_header": style.header,
            "delimiter": style.delimiter,
            "null_string": style.null_word,
            "quoting_style": _QUOTING[style.quoting],
            "quoting_header": _QUOTING[style.quoting],
        }
        self._writer = pyarrow.csv.CSVWriter(
            sink,
            self._as_cells(schema.empty_table()).schema,
            write_options=pyarrow.csv.WriteOptions(**write_options),
        )

    def write_table(self, table: pa.Table) -> None:
        self._writer.write_table(self._as_cells(table))

    def close(self) -> None:
        self._writer.close()

    def _as_cells(self, table: pa.Table) -> pa.Table:
        columns = [self._cells(column.combine_chunks()) for column in table.columns]
        names: Any = pa.array(table.column_names, pa.string())
        return pa.table(columns, names=(_without_formulas(names) if self._escape else names).to_pylist())

    def _cells(self, column: Any) -> Any:
        if is_text(column.type):
            return _without_formulas(column) if self._escape else column
        if is_bytes(column.type):
            return base64_text(column)
        check_times(column)
        return column if is_plain(column.type) else json_text(column)


def _without_formulas(text: Any) -> Any:
    quote = pa.scalar("'", text.type)
    empty = pa.scalar("", text.type)
    dangerous = pc.match_substring_regex(text, _FORMULA)
    return pc.if_else(dangerous, pc.binary_join_element_wise(quote, text, empty), text)


class _JsonLinesWriter:
    """One JSON object a row; see ``json_text`` for what becomes of each type."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def write_table(self, table: pa.Table) -> None:
        if table.num_rows:
            columns = [column.combine_chunks() for column in table.columns]
            self._sink.write(_json_lines(table.column_names, columns))

    def close(self) -> None:
        return None


def _json_lines(names: list[str], columns: list[Any]) -> memoryview:
    text = pa.large_string()
    starts = json_text(pa.array(names, text)).to_pylist()
    parts: list[Any] = []
    for opening, start, column in zip(chain("{", [", "] * len(names)), starts, columns, strict=False):
        parts += [pa.scalar(f"{opening}{start}: ", text), pc.fill_null(json_text(column), "null")]
    lines = pc.binary_join_element_wise(*parts, pa.scalar("}\n", text), pa.scalar("", text))
    *_, values = lines.buffers()
    return memoryview(values)
