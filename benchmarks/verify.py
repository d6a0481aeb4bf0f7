"""Tells whether contestants published the same table, whatever the files, the order of rows and the names' spelling."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from benchmarks.servers import BUCKET, objects_under
from samples.make_sample import HEADER

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

Column = Any  # an Arrow chunked array, whose stubs want to know the type of each value

_KEY = "setid"
_INTEGERS = ("year", "pieces", "minifigs", "agerangemin")
_PRICE = "usretailprice"


def digest_of(client: S3Client, prefix: str) -> dict[str, Any]:
    """What can be said of the table under ``prefix`` without regard to the order of its rows.

    Rows, a hash over the sorted set ids, and for each column how many values it has and their sum: of the numbers
    themselves, or of the lengths of the texts.
    """
    with tempfile.TemporaryDirectory() as folder:
        readers = [_reader(client, key, Path(folder)) for key in _keys(client, prefix)]
        digest: dict[str, Any] = {}
        for name in map(_plain, HEADER):
            column: Column = pa.chunked_array([chunk for read in readers for chunk in read(name).chunks], _type(name))
            digest[name] = [len(column) - column.null_count, _sum(column)]
            if name == _KEY:
                digest["rows"] = len(column)
                digest["ids"] = _hash_of_sorted(column)
        return digest


def _keys(client: S3Client, prefix: str) -> list[str]:
    """The keys that hold the table itself, not what the contestants keep beside it."""
    return [key for key in objects_under(client, prefix) if "/_" not in key and key.endswith((".parquet", ".csv.gz"))]


def _reader(client: S3Client, key: str, folder: Path) -> Callable[[str], Column]:
    """A function that reads one column, as text, int64 or float64, from a copy of the object in ``folder``."""
    file = folder / key.replace("/", "-")
    client.download_file(BUCKET, key, str(file))
    if key.endswith(".parquet"):
        table: Any = pyarrow.parquet.ParquetFile(file)
        names = table.schema_arrow.names
        return lambda name: table.read([_spelled(names, name)]).column(0).cast(_type(name))
    table = pyarrow.csv.read_csv(file, convert_options=pyarrow.csv.ConvertOptions(strings_can_be_null=True))
    return lambda name: table.column(_spelled(table.column_names, name)).cast(_type(name))


def _type(name: str) -> Any:
    if name == _PRICE:
        return pa.float64()
    return pa.int64() if name in _INTEGERS else pa.large_string()


def _spelled(names: Sequence[str], wanted: str) -> str:
    return next(name for name in names if _plain(name) == wanted)


def _plain(name: str) -> str:
    return name.lower().replace("_", "")


def _sum(column: Column) -> float:
    values = pc.utf8_length(column) if pa.types.is_large_string(column.type) else column
    return round(pc.sum(values).as_py() or 0, 2)


def _hash_of_sorted(ids: Column) -> str:
    hashed = hashlib.sha256()
    for chunk in ids.take(pc.sort_indices(ids)).chunks:
        hashed.update("".join(f"{set_id}\n" for set_id in chunk.to_pylist()).encode())
    return hashed.hexdigest()[:16]
