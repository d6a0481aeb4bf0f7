"""Cuts a stream of tables into files on the local disk, by partition and size. The same rows give the same files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa

from etl.errors import ConfigError, DataError
from etl.formats.encoders import Encoder, grouped
from etl.formats.hashed import HashedStream
from etl.run import Run
from etl.s3.bodies import crc32_text
from etl.s3.manifest import DataFile
from etl.s3.pointer import folder_of
from etl.tables.batches import regroup

if TYPE_CHECKING:
    from etl.s3.options import S3Options

NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # what Hive, Spark, Athena, DuckDB and Polars take for null

_SORTED_ROWS = 65_536
_MOST_PARTITIONS = 10_000
_LONGEST_FOLDER = 400
_KEY_TYPES = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_integer,
    pa.types.is_boolean,
    pa.types.is_date32,
    pa.types.is_null,
)

Values = tuple[str | None, ...]
Part = tuple[Path, DataFile]  # a finished file on the local disk, and what it will be in the dataset


class Cutter:
    """Writes tables that all have ``schema`` into files in ``folder``; whoever is given a file deletes it."""

    def __init__(self, schema: pa.Schema, folder: Path, options: S3Options, run: Run) -> None:
        _check_keys(schema, options.partition_by)
        self._schema = schema
        self._folder = folder
        self._options = options
        self._run = run
        self._numbers: Counter[Values] = Counter()
        self._paths = (folder / f"part-{number}" for number in count())
        self._most_rows = options.max_file_rows or float("inf")
        self._group_rows = options.group_rows(options.file_format)
        if options.max_file_rows:  # a file is so many equal groups, so that each begins with a full one
            groups = -(-options.max_file_rows // self._group_rows)
            self._group_rows = options.max_file_rows // groups

    def parts(self, tables: Iterable[pa.Table]) -> Iterator[Part]:
        """Files as they get full: in the order of the rows, or for partitions when all their rows have come.

        The rows of partitions wait on disk, at most ``spool_bytes`` of them. No rows: no files.
        """
        if not self._options.partition_by:
            yield from self._files((), self._schema, tables)
            return
        inside = pa.schema([field for field in self._schema if field.name not in self._options.partition_by])
        for values, waiting in self._partitions(tables, inside):
            yield from self._files(values, inside, waiting)

    def empty_part(self) -> Part:
        """A file without rows: it tells readers which columns there are."""
        return self._file((), self._schema, self._schema.empty_table(), iter(()))[0]

    def _files(self, values: Values, schema: pa.Schema, tables: Iterable[pa.Table]) -> Iterator[Part]:
        groups = grouped(tables, self._group_rows)
        group = next(groups, None)
        while group is not None:
            part, group = self._file(values, schema, group, groups)
            yield part

    def _file(
        self, values: Values, schema: pa.Schema, group: pa.Table | None, groups: Iterator[pa.Table]
    ) -> tuple[Part, pa.Table | None]:
        """One file, and the group that the next one begins with. The last group may take it past its size."""
        rows, options = 0, self._options
        how = (options.file_format, options, self._run.descriptions)
        path = next(self._paths)
        with HashedStream(path.open("xb")) as sink, Encoder(sink, schema, *how) as encoder:
            while group is not None and sink.size < options.max_file_bytes and rows + group.num_rows <= self._most_rows:
                encoder.write(group)
                rows += group.num_rows
                group = next(groups, None)
        partition = dict(zip(options.partition_by, values, strict=False))
        number = self._numbers[values]
        self._numbers[values] += 1
        sha256 = sink.sha256.hexdigest()
        name = f"part-{number:05}-{sha256[:16]}.{options.file_format}"
        file = DataFile(
            f"{folder_of(self._run)}{_partition_folder(partition)}{name}",
            sink.size,
            sha256,
            crc32_text(sink.crc32),
            rows,
            self._run.id,
            partition,
            encryption=options.encrypted_as,
        )
        return (path, file), group

    def _partitions(self, tables: Iterable[pa.Table], inside: pa.Schema) -> Iterator[tuple[Values, Iterator[pa.Table]]]:
        with _Spool(self._folder / "spool", inside) as spool:
            for table in regroup(tables, _SORTED_ROWS):
                for values, rows in _sorted_out(table, self._options.partition_by):
                    spool.add(values, rows)
                if spool.size >= self._options.spool_bytes:
                    yield from spool.drain()
            yield from spool.drain()


def _partition_folder(partition: Mapping[str, str | None]) -> str:
    """Such as ``year=2026/country=__HIVE_DEFAULT_PARTITION__/``, or nothing without partitions."""
    folder = "".join(
        f"{quote(name, safe='')}={NULL_FOLDER if value is None else quote(value, safe='')}/"
        for name, value in partition.items()
    )
    if len(folder) > _LONGEST_FOLDER:
        raise DataError(f"a value is too long for the name of a partition: {folder[:80]}...")
    return folder


def _check_keys(schema: pa.Schema, partition_by: Sequence[str]) -> None:
    for name in partition_by:
        if name not in schema.names:
            raise ConfigError(f"partition_by: there is no column {name!r}; there are {', '.join(schema.names)}")
        key_type = schema.field(name).type
        if not any(fits(key_type) for fits in _KEY_TYPES):
            raise ConfigError(f"partition_by: {name} is {key_type}; partitions are text, integers, booleans or dates")
    if len(partition_by) == len(schema.names):
        raise ConfigError("partition_by: names every column; one at least must be left for the files")


def _sorted_out(table: pa.Table, partition_by: Sequence[str]) -> Iterator[tuple[Values, pa.Table]]:
    """The rows of each partition, in their order, without the columns that make it."""
    texts: Any = {name: table.column(name).cast(pa.string()) for name in partition_by}
    keys = pa.table(texts)
    numbered = keys.append_column("", pa.array(range(table.num_rows), pa.int32()))
    # One thread keeps partitions, and the rows of each, in the order in which they came.
    groups = numbered.group_by(list(partition_by), use_threads=False).aggregate([("", "list")])
    rest = table.drop_columns(list(partition_by))
    values = zip(*(groups.column(name).to_pylist() for name in partition_by), strict=True)
    for key, rows in zip(values, groups.column("_list"), strict=True):
        yield key, rest.take(rows.values)


class _Spool:
    """A file of rows that wait, as small Arrow streams, with a list of where those of each partition are."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.size = 0
        self._schema = schema
        self._file = path.open("w+b")
        self._places: dict[Values, list[tuple[int, int]]] = {}

    def add(self, values: Values, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, self._schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        content = sink.getvalue()
        self._places.setdefault(values, []).append((self.size, content.size))
        if len(self._places) > _MOST_PARTITIONS:
            raise DataError(f"partition_by: more than {_MOST_PARTITIONS:,} partitions; partition by something coarser")
        self._file.write(content)
        self.size += content.size

    def drain(self) -> Iterator[tuple[Values, Iterator[pa.Table]]]:
        """Partition after partition, each to be read before the next; the spool is empty then."""
        for values in sorted(self._places, key=_nulls_last):
            yield values, self._tables(self._places[values])
        self._places = {}
        self._file.seek(0)
        self._file.truncate()
        self.size = 0

    def _tables(self, places: Sequence[tuple[int, int]]) -> Iterator[pa.Table]:
        for start, size in places:
            self._file.seek(start)
            yield pa.ipc.open_stream(self._file.read(size)).read_all()

    def __enter__(self) -> _Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _nulls_last(values: Values) -> tuple[tuple[bool, str], ...]:
    return tuple((value is None, value or "") for value in values)
