"""Reads published datasets back: as a DataFrame, or as the list of their files for other programs."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa

from etl.errors import ConfigError, DataError, RetryLater
from etl.formats.decoders import decode
from etl.formats.options import CsvStyle
from etl.s3.manifest import DataFile, Manifest
from etl.s3.pointer import Catalog
from etl.s3.store import Store

if TYPE_CHECKING:
    from pandas import DataFrame

_READERS = 8


def read_dataset(
    uri: str,
    columns: Sequence[str] | None = None,
    *,
    region: str | None = None,
    expected_bucket_owner: str | None = None,
) -> DataFrame:
    """The live version of the dataset at ``uri`` (``s3://bucket/prefix/``), with Arrow-backed columns.

    ``columns``: only these, in this order. Every file's size and SHA-256 are checked. Partition columns have the types
    that they had when they were published. Raises ConfigError if there is no such dataset or column.
    """
    catalog = _catalog(uri, region, expected_bucket_owner)
    manifest = _live(catalog)
    schema = arrow_schema(manifest)
    wanted = list(schema.names if columns is None else columns)
    unknown = [name for name in wanted if name not in schema.names]
    if unknown:
        raise ConfigError(f"{catalog.uri} has no column {unknown[0]!r}; there are {', '.join(schema.names)}")
    with ThreadPoolExecutor(_READERS) as pool:
        tables = list(pool.map(lambda file: read_file(catalog, manifest, file, schema, wanted), manifest.files))
    empty = pa.schema([schema.field(name) for name in wanted]).empty_table()
    return pa.concat_tables(tables or [empty]).to_pandas(types_mapper=pd.ArrowDtype)


def dataset_files(uri: str, *, region: str | None = None, expected_bucket_owner: str | None = None) -> list[str]:
    """The URIs of the live version's files, for programs that read lists of files, such as DuckDB and Polars."""
    catalog = _catalog(uri, region, expected_bucket_owner)
    return [catalog.uri + file.path for file in _live(catalog).files]


def arrow_schema(manifest: Manifest) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(manifest.arrow_schema)))


def _catalog(uri: str, region: str | None, owner: str | None) -> Catalog:
    scheme, _, rest = uri.partition("://")
    bucket, _, prefix = rest.partition("/")
    if scheme != "s3" or not bucket or not prefix:
        raise ConfigError(f"{uri!r} is no dataset; it should be like s3://bucket/prefix/")
    return Catalog(Store(bucket, region=region, owner=owner), f"{prefix.rstrip('/')}/")


def _live(catalog: Catalog) -> Manifest:
    seen = catalog.pointer()
    if seen is None:
        raise ConfigError(f"there is no dataset at {catalog.uri}: it has no _current.json")
    return catalog.manifest(seen.pointer.manifest)


def read_file(
    catalog: Catalog, manifest: Manifest, file: DataFile, schema: pa.Schema, wanted: Sequence[str]
) -> pa.Table:
    """The wanted columns of one file, partition columns included."""
    found = catalog.store.get(catalog.prefix + file.path)
    if found is None:
        raise RetryLater(f"{catalog.uri}{file.path} is gone: deleted, or swept as no longer live; read again")
    content, _ = found
    if len(content) != file.bytes or hashlib.sha256(content).hexdigest() != file.sha256:
        raise DataError(f"{catalog.uri}{file.path} is damaged: it is not what was published")
    inside = pa.schema([field for field in schema if field.name not in file.partition])
    columns = [name for name in wanted if name in inside.names]
    style = CsvStyle.model_validate(manifest.format_options)
    table = decode(content, manifest.file_format, inside, columns, style)
    restored = {name: _restored(text, schema.field(name).type, file.rows) for name, text in file.partition.items()}
    arrays: Any = {name: restored[name] if name in restored else table.column(name) for name in wanted}
    return pa.table(arrays)


def _restored(text: str | None, kind: pa.DataType, rows: int) -> Any:
    """A partition column, which is not in the file: its one value, as often as the file has rows."""
    return pa.array([text] * rows, kind if text is None else pa.string()).cast(kind)
