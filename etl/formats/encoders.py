"""Encodes batches as Parquet, CSV or JSON lines. The same rows give the same bytes, however they were batched."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from io import BufferedIOBase, RawIOBase
from itertools import chain, starmap
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from zlib_ng import gzip_ng

from etl.errors import DataError, EtlError
from etl.formats.json_text import base64_text, is_bytes, is_plain, json_text
from etl.formats.options import TEXT_GROUP_ROWS, CsvStyle, Format, FormatOptions, ParquetOptions
from etl.tables.arrow import as_arrow, is_text, plain_type
from etl.tables.batches import regroup

if TYPE_CHECKING:
    from pandas import DataFrame

Descriptions: TypeAlias = Mapping[str, Mapping[str, str]]  # column -> such as {"description": ..., "unit": ...}

_HEAD_ROWS = 131_072
_SAMPLE_ROWS = 16_384
_BUFFER_BYTES = 1 << 20
# Of each chunk of a column, Arrow's Parquet writer takes so many rows at a time, and sees whether the page is full.
_WRITE_ROWS = 1_024
_DEFAULTS = FormatOptions()
_gzip_file: Any = gzip_ng.GzipNGFile  # like the standard library's, and almost twice as fast
# What a spreadsheet may take for a formula, by OWASP's page on CSV injection; the last four are = + - @ in full width.
_FORMULA = r"^[=+\-@\t\r\n\x{FF1D}\x{FF0B}\x{FF0D}\x{FF20}]"
_QUOTING: Any = {"text": "needed", "all": "all_valid", "none": "none"}
_KINDS = (
    (pa.types.is_integer, pa.types.is_floating),
    (pa.types.is_integer, pa.types.is_decimal),
    (is_text,),
    (is_bytes,),
    (pa.types.is_date, pa.types.is_timestamp),
    (pa.types.is_time,),
    (pa.types.is_duration,),
    (pa.types.is_nested,),
)


def encode(
    batches: Iterable[DataFrame],
    sink: RawIOBase | BufferedIOBase,
    file_format: Format,
    options: FormatOptions = _DEFAULTS,
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
        options: FormatOptions = _DEFAULTS,
        descriptions: Descriptions | None = None,
    ) -> None:
        self.group_rows = options.group_rows(file_format)
        self._gzip: Any = None
        target: Any = sink
        if file_format.endswith(".gz"):
            # No name and no time in the header: the same rows must give the same bytes.
            target = self._gzip = _gzip_file("", "wb", options.gzip_level, sink, mtime=0)
        # Arrow writes in hundreds of small pieces, and would wait for Python's lock before each of them.
        self._buffered = pa.BufferedOutputStream(pa.PythonFile(_KeptOpen(target), mode="w"), _BUFFER_BYTES)
        self._writer = _writer(file_format, self._buffered, described(schema, descriptions or {}), options)

    def write(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table)
            self._buffered.flush()
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"cannot be written: {error}") from error

    def close(self) -> None:
        """Write what the format has at its end. The sink stays open."""
        self._writer.close()
        self._buffered.flush()
        if self._gzip is not None:
            self._gzip.close()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            with suppress(Exception):  # the first error is the one to see
                self.close()


class _KeptOpen(RawIOBase):
    """Passes on what is written, but not that Arrow has closed its end."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        written: int = self._sink.write(data)
        return written


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
        for start in range(0, table.num_rows, TEXT_GROUP_ROWS):
            columns = [column.combine_chunks() for column in table.slice(start, TEXT_GROUP_ROWS).columns]
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


# -- from batches to tables of one schema --------------------------------------------------------------------------


def arrow_tables(batches: Iterable[DataFrame]) -> tuple[pa.Schema, Iterator[pa.Table]]:
    """The schema, and an Arrow table of it for each batch. The types are those of the first batch.

    A column that holds only nulls there takes its type from the first batch that knows better, if it comes soon.
    Raises DataError for a batch with other columns, or with values that these types cannot hold.
    """
    tables = map(_placed, batches)  # neither this nor starmap holds on to a table while the next is made
    head: deque[tuple[pa.Table, str]] = deque()
    typed: dict[str, pa.Field[Any]] = {}
    rows = 0
    for table, place in tables:
        head.append((table, place))
        typed |= {name: table.schema.field(name) for name in _names_with_values(table) if name not in typed}
        rows += table.num_rows
        if rows >= _HEAD_ROWS or typed.keys() >= set(table.column_names):
            break
    if not head:
        raise EtlError("was given no batch, not even an empty one")
    first, _ = head[0]
    schema = pa.schema([typed.get(field.name, field) for field in first.schema])
    return schema, starmap(partial(_fitted, schema), chain(_drained(head), tables))


def _drained(head: deque[tuple[pa.Table, str]]) -> Iterator[tuple[pa.Table, str]]:
    while head:
        yield head.popleft()


def _placed(batch: DataFrame) -> tuple[pa.Table, str]:
    return _table(batch), _place(batch)


def _place(batch: DataFrame) -> str:
    return f"the batch at row {batch.index[0]:,}" if len(batch) else "an empty batch"


def _table(batch: DataFrame) -> pa.Table:
    try:
        table = _as_it_is(batch)
        if table is None:
            table = pa.Table.from_pandas(batch, preserve_index=False).replace_schema_metadata(None)
    except (pa.ArrowException, ValueError) as error:
        what = ": ".join(map(str, error.args))
        raise DataError(f"{_place(batch)} has values without a common type: {what}. Declare the types.") from error
    for number, field in enumerate(table.schema):
        plain = plain_type(field.type)  # which values are in a dictionary depends on the batch, and few can read views
        if plain != field.type:
            table = table.set_column(number, field.name, table.column(number).cast(plain))
    return table


def _as_it_is(batch: DataFrame) -> pa.Table | None:
    """A frame whose columns are all backed by Arrow, as nearly all are: far quicker than to have pyarrow find out."""
    from pandas import ArrowDtype

    columns = [values for _, values in batch.items()]
    if not batch.columns.is_unique or not all(isinstance(values.dtype, ArrowDtype) for values in columns):
        return None
    return pa.table([as_arrow(values) for values in columns], names=[str(name) for name in batch.columns])


def _names_with_values(table: pa.Table) -> list[str]:
    columns = zip(table.column_names, table.columns, strict=True)
    return [name for name, column in columns if column.null_count < table.num_rows]


def _fitted(schema: pa.Schema, table: pa.Table, place: str) -> pa.Table:
    if table.schema == schema:
        return table
    if table.column_names != schema.names:
        raise DataError(f"{place} has the columns {table.column_names}, the first batch had {schema.names}")
    changed = [(new, old) for new, old in zip(table.schema, schema, strict=True) if new.type != old.type]
    for new, old in changed:
        if table.column(new.name).null_count == table.num_rows:
            nulls = pa.nulls(table.num_rows, old.type)
            table = table.set_column(table.column_names.index(new.name), old, nulls)
        elif not same_kind(new.type, old.type):
            raise DataError(_changes(place, changed))
    try:
        return table.cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(_changes(place, changed)) from error


def _changes(place: str, changed: Iterable[tuple[Any, Any]]) -> str:
    types = "; ".join(f"{new.name} is {new.type}, was {old.type}" for new, old in changed)
    return f"{place} changed types: {types}. Declare the types in a transformer."


def same_kind(new: pa.DataType, old: pa.DataType) -> bool:
    """Whether a safe cast keeps values what they are: never text from numbers, never a shorter float."""
    if pa.types.is_floating(new) and pa.types.is_floating(old):
        return new.bit_width <= old.bit_width
    return any(any(is_kind(new) for is_kind in kind) and any(is_kind(old) for is_kind in kind) for kind in _KINDS)
