"""Programs that did not write it read what was published: the values, nulls and types are those that went in."""

from __future__ import annotations

import gzip
import io
import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, date, datetime
from decimal import Decimal
from importlib.util import find_spec
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.fs
import pyarrow.parquet
import pytest

import etl
from etl.loaders.s3 import S3Loader
from tests.conftest import PAGES, PROJECT, Bucket
from tests.contracts import published

COLUMNS: dict[str, pa.Array[Any]] = {
    "id": pa.array(["01", "=2", "naïve ☃", 'say "hi",\nhe said'], pa.string()),
    "text": pa.array(["", None, "NA", "null"], pa.string()),
    "whole": pa.array([2**53 + 1, None, -1, 0], pa.int64()),
    "small": pa.array([1932, 2026, None, 0], pa.int16()),
    "share": pa.array([0.1, None, 1e300, -0.0], pa.float64()),
    "good": pa.array([True, None, False, True], pa.bool_()),
    "price": pa.array([Decimal("1.50"), None, Decimal("-2.00"), Decimal("0.00")], pa.decimal128(9, 2)),
    "day": pa.array([date(2026, 11, 23), None, date(1932, 1, 1), date(2026, 11, 23)], pa.date32()),
    "moment": pa.array([datetime(2026, 11, 23, 2, tzinfo=UTC), None] * 2, pa.timestamp("us", "UTC")),
}
TABLE = pa.table(COLUMNS)
ROWS = TABLE.to_pylist()
NULLS_AND_WORDS = ["", None, "NA", "null"]  # the column "text": a null, and texts that look like one


def publish(bucket: Bucket, **place: Any) -> S3Loader:
    loader = S3Loader(bucket=bucket.name, **place)
    published(loader, iter([TABLE.to_pandas(types_mapper=pd.ArrowDtype)]))
    return loader


@pytest.fixture
def table_uri(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> str:
    return publish(bucket, key="a/table.parquet").uri


@pytest.fixture
def dataset_uri(bucket: Bucket) -> str:
    """Three files of one partition each; the column that tells them apart is the last then."""
    return publish(bucket, prefix="sales/", partition_by=("good",)).uri


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: str(row["id"]))


class TestParquet:
    def test_pyarrow(self, table_uri: str) -> None:
        assert pyarrow.parquet.read_table(table_uri).equals(TABLE)

    def test_pandas(self, table_uri: str) -> None:
        frame = pd.read_parquet(table_uri, dtype_backend="pyarrow")
        assert pa.Table.from_pandas(frame, preserve_index=False).cast(TABLE.schema).to_pylist() == ROWS
        assert frame.dtypes.to_dict() == {field.name: pd.ArrowDtype(field.type) for field in TABLE.schema}

    def test_duckdb(self, table_uri: str) -> None:
        found = duckdb_reading().sql(f"from read_parquet('{table_uri}')")
        assert rows_of(found) == ROWS
        types = dict(zip(found.columns, map(str, found.types), strict=True))
        assert types == {
            "id": "VARCHAR",
            "text": "VARCHAR",
            "whole": "BIGINT",
            "small": "SMALLINT",
            "share": "DOUBLE",
            "good": "BOOLEAN",
            "price": "DECIMAL(9,2)",
            "day": "DATE",
            "moment": "TIMESTAMP WITH TIME ZONE",
        }

    def test_polars(self, table_uri: str) -> None:
        assert in_polars(f"polars.read_parquet({table_uri!r})").cast(TABLE.schema).equals(TABLE)


class TestDataset:
    def test_itself(self, dataset_uri: str) -> None:
        frame = etl.read_dataset(dataset_uri)
        assert frame.dtypes.to_dict() == {field.name: pd.ArrowDtype(field.type) for field in TABLE.schema}
        assert by_id(pa.Table.from_pandas(frame, preserve_index=False).to_pylist()) == by_id(ROWS)

    def test_duckdb(self, dataset_uri: str) -> None:
        files = etl.dataset_files(dataset_uri)
        assert len(files) == 3
        hive = "hive_partitioning = true, hive_types = {'good': boolean}"
        found = duckdb_reading().sql(f"from read_parquet({files}, {hive})")
        assert by_id(rows_of(found)) == by_id(ROWS)

    def test_polars(self, dataset_uri: str) -> None:
        files = etl.dataset_files(dataset_uri)
        found = in_polars(
            f"polars.scan_parquet({files}, hive_partitioning=True, hive_schema={{'good': polars.Boolean}})"
        )
        assert by_id(found.select(TABLE.column_names).cast(TABLE.schema).to_pylist()) == by_id(ROWS)

    def test_pyarrow(self, dataset_uri: str) -> None:
        storage, _ = pyarrow.fs.FileSystem.from_uri(dataset_uri)
        files = [uri.removeprefix("s3://") for uri in etl.dataset_files(dataset_uri)]
        partitions = pyarrow.dataset.partitioning(pa.schema([("good", pa.bool_())]), flavor="hive")
        found = pyarrow.dataset.dataset(files, filesystem=storage, partitioning=partitions).to_table()
        assert by_id(found.select(TABLE.column_names).to_pylist()) == by_id(ROWS)


class TestText:
    """CSV and JSON lines, in which types are for the reader to know."""

    def test_csv_gz(self, bucket: Bucket) -> None:
        publish(bucket, key="table.csv.gz")
        body = gzip.decompress(bucket.body("table.csv.gz"))
        options = pyarrow.csv.ConvertOptions(
            column_types=TABLE.schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        )
        parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
        found = pyarrow.csv.read_csv(io.BytesIO(body), convert_options=options, parse_options=parsing)
        assert found.to_pylist() == ROWS
        frame = pd.read_csv(io.BytesIO(body), dtype=str, keep_default_na=False)
        assert frame["id"].tolist() == TABLE.column("id").to_pylist()
        read = in_polars("polars.read_csv(sys.stdin.buffer, infer_schema=False)", body)
        assert read["id"].to_pylist() == TABLE.column("id").to_pylist()

    def test_csv_gz_in_duckdb(self, bucket: Bucket) -> None:
        loader = publish(bucket, key="table.csv.gz", csv={"null_word": "\\N"})
        found = duckdb_reading().read_csv(
            loader.uri, na_values="\\N", all_varchar=True, compression="gzip", header=True, delimiter=",", quotechar='"'
        )
        assert [row["text"] for row in rows_of(found)] == NULLS_AND_WORDS
        assert [row["id"] for row in rows_of(found)] == TABLE.column("id").to_pylist()

    def test_json_lines(self, bucket: Bucket) -> None:
        loader = publish(bucket, key="table.jsonl")
        body = bucket.body("table.jsonl")
        frame = pd.read_json(io.BytesIO(body), lines=True, dtype=False)
        assert frame["id"].tolist() == TABLE.column("id").to_pylist()
        found = rows_of(duckdb_reading().read_json(loader.uri, format="newline_delimited"))
        for name in ("id", "text", "whole", "small", "share", "good"):
            assert [row[name] for row in found] == TABLE.column(name).to_pylist()
        read = in_polars("polars.read_ndjson(sys.stdin.buffer, schema_overrides={'whole': polars.Int64})", body)
        assert read["whole"].to_pylist() == TABLE.column("whole").to_pylist()
        assert read["text"].to_pylist() == NULLS_AND_WORDS


def test_the_aws_command_line(table_uri: str, bucket: Bucket) -> None:
    aws = shutil.which("aws")
    if aws is None:
        pytest.skip("needs the AWS command line")
    copied = subprocess.run([aws, "s3", "cp", table_uri, "-"], capture_output=True, check=False, timeout=120)
    assert copied.returncode == 0, copied.stderr
    assert pyarrow.parquet.read_table(io.BytesIO(copied.stdout)).equals(TABLE)


def test_what_the_documentation_shows_runs(table_uri: str, dataset_uri: str) -> None:
    """Its lines that read an object or a dataset, with the places of this test."""
    shown = "\n".join(page.read_text(encoding="utf-8") for page in PAGES).splitlines()
    lines = [line for line in shown if re.match(r"(frame = )?(etl|pandas|duckdb|polars)\.\w+\(", line)]
    assert len(lines) == 5
    names = {"etl": etl, "pandas": pd, "duckdb": duckdb_reading()}
    for line in lines:
        code = line.partition("  #")[0].removeprefix("frame = ")
        code = code.replace("s3://my-bucket/lego/lego_sets.parquet", table_uri)
        code = code.replace("s3://my-bucket/sales/", dataset_uri)
        assert table_uri in code or dataset_uri in code
        found = in_polars(code).to_pandas() if code.startswith("polars") else eval(code, names)
        assert (len(found), set(found.columns)) == (len(ROWS), set(TABLE.column_names))


def in_polars(code: str, body: bytes = b"") -> pa.Table:
    """The frame that ``code`` gives, which finds ``body`` in ``sys.stdin.buffer``.

    In a process of its own: one of the threads that Polars keeps once ended that of the tests, minutes later.
    """
    if find_spec("polars") is None:
        pytest.skip("needs Polars")
    program = f"""
import sys, polars, pyarrow, etl
table = ({code}).lazy().collect().to_arrow()
with pyarrow.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
    stream.write_table(table)
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=PROJECT, input=body, capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr.decode()
    return pa.ipc.open_stream(ran.stdout).read_all()


def duckdb_reading() -> Any:
    """A DuckDB that reads ``s3://``: by its own extension if that is installed, else through Arrow."""
    duckdb = pytest.importorskip("duckdb")
    connection = duckdb.connect()
    connection.sql("set timezone = 'UTC'")
    try:
        connection.sql("load httpfs")
    except duckdb.Error:
        arrow = pytest.importorskip("fsspec.implementations.arrow")
        storage, _ = pyarrow.fs.FileSystem.from_uri("s3://any")
        connection.register_filesystem(type("S3", (arrow.ArrowFSWrapper,), {"protocol": "s3"})(storage))
        return connection
    host = os.environ["AWS_ENDPOINT_URL"].removeprefix("http://")
    who = f"key_id '{os.environ['AWS_ACCESS_KEY_ID']}', secret '{os.environ['AWS_SECRET_ACCESS_KEY']}'"
    connection.sql(f"create secret (type s3, {who}, endpoint '{host}', use_ssl false, url_style 'path')")
    return connection


def rows_of(found: Any) -> list[dict[str, Any]]:
    return [dict(zip(found.columns, row, strict=True)) for row in found.fetchall()]
