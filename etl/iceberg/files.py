"""Data files of an Iceberg table: written before any snapshot names them, and merged with those that are there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, parquet_file_to_data_file, schema_to_pyarrow
from pyiceberg.table import Table

from etl.errors import DataError
from etl.formats.encoders import Descriptions, Encoder, grouped
from etl.formats.hashed import HashedStream
from etl.formats.options import FormatOptions, ParquetOptions
from etl.tables.one_schema import same_kind

if TYPE_CHECKING:
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import FileScanTask, Transaction

_ROW = "__row"


class DataFiles:
    """Writes Parquet files with the table's field ids into its folder. ``sha256`` is over all of their bytes."""

    def __init__(self, transaction: Transaction, stem: str, options: ParquetOptions, max_file_bytes: int) -> None:
        self.paths: list[str] = []
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.schema = schema_to_pyarrow(transaction.table_metadata.schema())
        self._table = transaction._table  # a table that is about to be created can be had in no other way
        self._stem = stem
        self._options = FormatOptions(parquet=options)
        self._max_file_bytes = max_file_bytes

    def write(self, tables: Iterable[pa.Table]) -> int:
        """Write them all, cast to the table's types; gives back the number of rows. No rows: no files."""
        rows = 0
        groups = grouped((_cast(table, self.schema) for table in tables), self._options.parquet.row_group_rows)
        for group in groups:
            path = self._table.location_provider().new_data_location(f"{self._stem}-{len(self.paths):05}.parquet")
            self.paths.append(path)
            rows += self._write_file(path, group, groups)
        return rows

    def _write_file(self, path: str, group: pa.Table | None, groups: Iterator[pa.Table]) -> int:
        rows = 0
        with (
            HashedStream(self._table.io.new_output(path).create(overwrite=True), self.sha256) as sink,
            Encoder(sink, self.schema, "parquet", self._options) as encoder,
        ):
            while group is not None:
                encoder.write(group)
                rows += group.num_rows
                group = next(groups, None) if sink.size < self._max_file_bytes else None
        self.size += sink.size
        return rows

    def remove(self) -> None:
        remove(self._table, self.paths)


def remove(table: Table, paths: Iterable[str]) -> None:
    """Remove files that no snapshot names, as far as that is possible."""
    for path in paths:
        with suppress(Exception):
            table.io.delete(path)


def data_files(transaction: Transaction, paths: Iterable[str]) -> Iterator[DataFile]:
    """What a snapshot says of each file, read from its footer."""
    for path in paths:
        yield parquet_file_to_data_file(transaction._table.io, transaction.table_metadata, path)


# -- the types of a table ------------------------------------------------------------------------------------------


def storable(schema: pa.Schema, descriptions: Descriptions | None = None) -> pa.Schema:
    """The schema in types that Iceberg has (microseconds, and UTC for whatever has a zone), its columns documented."""
    return pa.schema(
        [
            pa.field(field.name, _storable_type(field.type), metadata=_doc((descriptions or {}).get(field.name, {})))
            for field in schema
        ]
    )


def _doc(meaning: Mapping[str, str]) -> dict[str, str] | None:
    """As pyiceberg reads it: ``US retail price at launch (US dollars)``."""
    unit = f"({meaning['unit']})" if "unit" in meaning else ""
    text = f"{meaning.get('description', '')} {unit}".strip()
    return {"doc": text} if text else None


def _storable_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.TimestampType):
        return pa.timestamp("us", "UTC" if kind.tz else None)
    if pa.types.is_date(kind):
        return pa.date32()
    return pa.time64("us") if pa.types.is_time(kind) else kind


def additions(incoming: pa.Schema, existing: pa.Schema) -> pa.Schema:
    """The columns of ``incoming`` that a table lacks, or has in a narrower type that Iceberg can widen."""
    return pa.schema(
        [
            field
            for field in incoming
            if field.name not in existing.names or _is_wider(field.type, existing.field(field.name).type)
        ]
    )


def _is_wider(new: pa.DataType, old: pa.DataType) -> bool:
    if pa.types.is_decimal(new) and pa.types.is_decimal(old):
        return bool(new.scale == old.scale and new.precision > old.precision)
    return (new, old) in ((pa.int64(), pa.int32()), (pa.float64(), pa.float32()))


def check_types(incoming: pa.Schema, existing: pa.Schema) -> None:
    """Raise DataError for a column whose values can never be cast to the table's type."""
    for field in incoming:
        if field.name in existing.names:
            wanted = existing.field(field.name).type
            if field.type != wanted and not pa.types.is_null(field.type) and not same_kind(field.type, wanted):
                raise DataError(f"{field.name} is {field.type}, and {wanted} in the table")


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns in the order and types of ``schema``; null for those that it lacks."""
    columns = [
        table.column(field.name) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    try:
        return pa.table(columns, names=schema.names).cast(schema)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, ValueError) as error:
        raise DataError(f"a value does not fit the table's schema: {error}") from error


# -- upsert --------------------------------------------------------------------------------------------------------


class Survivors:
    """The rows of a table that no row of the new files replaces. ``replaced``: the files that have lost rows.

    Holds the keys of all new rows in memory, and those of one old file.
    """

    def __init__(self, transaction: Transaction, new_paths: Sequence[str], keys: Sequence[str]) -> None:
        self.replaced: list[DataFile] = []
        self._table = transaction._table
        self._metadata = transaction.table_metadata
        self._keys = list(keys)
        self._new_keys = pa.concat_tables([self._read_keys(path) for path in new_paths])

    def tables(self) -> Iterator[pa.Table]:
        for task in self._table.scan().plan_files():
            replaced = self._replaced_rows(task)
            if replaced.any():
                self.replaced.append(task.file)
                yield from self._kept_rows(task, replaced)

    def _read_keys(self, path: str) -> pa.Table:
        with self._table.io.new_input(path).open() as file:
            return pq.read_table(file, columns=self._keys)  # type: ignore[arg-type]  # a stream of Arrow's own

    def _replaced_rows(self, task: FileScanTask) -> Any:
        """Mask over the rows of a file."""
        old = self._scan(*self._keys).to_table([task])
        mask = np.zeros(old.num_rows, dtype=bool)
        numbered = old.append_column(_ROW, pa.array(np.arange(old.num_rows)))
        new_keys = self._new_keys.cast(old.schema)
        found = numbered.join(new_keys, self._keys, join_type="left semi").column(_ROW)
        mask[found.to_numpy()] = True
        return mask

    def _kept_rows(self, task: FileScanTask, replaced: Any) -> Iterator[pa.Table]:
        start = 0
        for batch in self._scan("*").to_record_batches([task]):
            kept = pa.array(~replaced[start : start + batch.num_rows])
            start += batch.num_rows
            yield pa.Table.from_batches([batch]).filter(kept)

    def _scan(self, *columns: str) -> ArrowScan:
        schema = self._metadata.schema()
        projected = schema if columns == ("*",) else schema.select(*columns)
        return ArrowScan(self._metadata, self._table.io, projected, AlwaysTrue())
