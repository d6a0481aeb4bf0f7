"""FilesExtractor: every format and compression, one file or many, on this machine and in S3."""

from __future__ import annotations

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable, Iterator
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal
from pydantic import ValidationError

from etl.errors import ConfigError, DataError, EtlError, RetryLater, SourceError
from etl.extractors.files import FilesExtractor
from etl.files.json_columns import flattened
from etl.files.json_records import json_array, json_lines
from etl.ledger import Account, Reject
from etl.paths import PROJECT
from main import Pipeline
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.files import zip_of
from tests.web import WebServer

ROWS = [("001", "Castle", "7"), ("002", "Ümläut", None), ("003", "Spa ce", "21"), ("004", "B", "0"), ("005", "X", "5")]
NOON = datetime.fromisoformat("2026-01-31T12:00:00")
CSV = b"id,name,pieces\n" + b"".join(",".join(cell or "" for cell in row).encode() + b"\n" for row in ROWS)
RECORDS: list[dict[str, Any]] = [
    {"id": 1, "name": "Castle", "size": {"w": 1, "h": 0.5}, "tags": ["a", 1], "ok": True},
    {"id": 2, "name": None, "size": {"w": 2, "h": 2}, "tags": [], "ok": False},
    {"id": 3, "name": "Ümläut", "size": {}, "ok": None},
    {"id": 4, "size": {"w": 4}},
    {"id": 5, "name": "", "size": {"w": None, "h": 1e300}, "tags": [{"b": None}], "ok": True},
]
TYPED = pa.table(
    {
        "id": pa.array([1, 2, 3, 4, 5], pa.int16()),
        "price": pa.array([Decimal("1.10"), None, Decimal("3.00"), Decimal("4.50"), None], pa.decimal128(10, 2)),
        "day": pa.array([date(2026, 1, 31)] * 5, pa.date32()),
        "at": pa.array([NOON] * 5, pa.timestamp("us", "Europe/Amsterdam")),
        "theme": pa.array(["a", "b", "a", None, "b"]).dictionary_encode(),
        "parts": pa.array([[1], [], None, [2, 3], []], pa.list_(pa.int32())),
    }
)


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


has_openpyxl = find_spec("openpyxl") is not None
needs_openpyxl = pytest.mark.skipif(not has_openpyxl, reason="openpyxl is not installed")


def workbook(*rows: Any, **more_sheets: list[Any]) -> bytes:
    if not has_openpyxl:
        return b""
    import openpyxl

    book = openpyxl.Workbook()
    for name, content in {"Sets": rows, **more_sheets}.items():
        sheet = book.create_sheet(name)
        for row in content:
            sheet.append(row)
    book.remove(book.worksheets[0])
    file = io.BytesIO()
    book.save(file)
    return file.getvalue()


def edited(part: str, old: bytes, new: bytes) -> bytes:
    """A small workbook in one of whose files something is different."""
    file = io.BytesIO()
    if has_openpyxl:
        with zipfile.ZipFile(io.BytesIO(workbook(("a",), (1,)))) as book, zipfile.ZipFile(file, "w") as copy:
            for name in book.namelist():
                copy.writestr(name, book.read(name).replace(old, new) if name == part else book.read(name))
    return file.getvalue()


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


def frame_of(extractor: FilesExtractor, account: Account | None = None) -> pd.DataFrame:
    return pd.concat(extractor.extract(account))


def rows_of(extractor: FilesExtractor) -> list[tuple[Any, ...]]:
    found = frame_of(extractor)
    return [tuple(row) for row in found.astype(object).where(found.notna(), None).itertuples(index=False)]


def rejects_of(extractor: FilesExtractor) -> tuple[pd.DataFrame, list[Reject]]:
    account = Account("test")
    frame = frame_of(extractor, account)
    assert account.balances()
    return frame, account.take_rejects()


def types_of(frame: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype).removesuffix("[pyarrow]") for name, dtype in frame.dtypes.items()}


@pytest.fixture
def put(tmp_path: Path) -> Callable[[str, bytes], str]:
    """Writes a file into the test's folder and tells its path."""

    def put(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return put


Put = Callable[[str, bytes], str]


# -- the contract, for each kind of file --------------------------------------------------------------------------


class OneFile(ExtractorContract):
    """One file in the test's folder."""

    name: str
    content: bytes

    def make(self, **options: Any) -> FilesExtractor:
        path = self.folder / self.name
        if not path.exists():
            path.write_bytes(self.content)
        return FilesExtractor(path=str(path), **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=str(self.folder / f"missing-{self.name}"))


class TestCsv(OneFile):
    name, content = "sets.csv", CSV

    def test_reads_text(self) -> None:
        assert rows_of(self.make()) == ROWS


class TestCompressedCsv(OneFile):
    name, content = "sets.csv.gz", gzip.compress(CSV)


class TestJsonLines(OneFile):
    name, content = "sets.jsonl", lines(*RECORDS)


class TestJsonArray(OneFile):
    name, content = "sets.json", json.dumps(RECORDS, indent=2).encode()


class TestParquet(OneFile):
    name, content = "sets.parquet", parquet(TYPED, row_group_size=2)


@needs_openpyxl
class TestExcel(OneFile):
    name, content = "sets.xlsx", workbook(("id", "name", "pieces"), *ROWS)

    def test_reads_text(self) -> None:
        assert rows_of(self.make()) == ROWS


class TestSeveralFiles(ExtractorContract):
    def make(self, **options: Any) -> FilesExtractor:
        (self.folder / "a.csv").write_bytes(CSV)
        (self.folder / "b.csv").write_bytes(CSV)
        os.utime(self.folder / "a.csv", (1, 1))
        os.utime(self.folder / "b.csv", (1, 1))
        return FilesExtractor(path=str(self.folder / "?.csv"), **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=str(self.folder / "*.tsv"))

    def test_rows_are_numbered_from_one(self) -> None:
        for split in self.make(batch_rows=2).splits():
            assert [number for batch in split.extract() for number in batch.index] == [1, 2, 3, 4, 5]

    def test_a_batch_names_its_file(self) -> None:
        assert [Path(str(batch.attrs["source"])).name for batch in self.make().extract()] == ["a.csv", "b.csv"]


class TestS3(ExtractorContract):
    @pytest.fixture(autouse=True)
    def _objects(self, bucket: Bucket) -> None:
        self.bucket = bucket
        bucket.client.put_object(Bucket=bucket.name, Key="in/sets.csv", Body=CSV)

    def make(self, **options: Any) -> FilesExtractor:
        return FilesExtractor(path=f"s3://{self.bucket.name}/in/*.csv", **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=f"s3://{self.bucket.name}/missing.csv")

    def put(self, key: str, body: bytes) -> str:
        self.bucket.client.put_object(Bucket=self.bucket.name, Key=key, Body=body)
        return f"s3://{self.bucket.name}/{key}"

    def test_says_what_the_source_is(self) -> None:
        source = self.make().inspect()
        assert (source.uri, source.bytes) == (f"s3://{self.bucket.name}/in/sets.csv", len(CSV))
        before = source.fingerprint
        self.put("in/sets.csv", CSV)
        assert self.make().inspect().fingerprint == before
        self.put("in/sets.csv", CSV + b"6,six,6\n")
        assert self.make().inspect().fingerprint != before

    @pytest.mark.parametrize("name", ["x.parquet", "x.xlsx", "x.zip", "x.csv.gz"])
    @needs_openpyxl
    def test_every_format_is_read_from_s3_too(self, name: str) -> None:
        contents = {"x.parquet": TestParquet.content, "x.xlsx": TestExcel.content, "x.zip": zip_of(("a.csv", CSV))}
        found = rows_of(FilesExtractor(path=self.put(name, contents.get(name, TestCompressedCsv.content))))
        assert len(found) == 5

    def test_several_objects(self) -> None:
        self.put("in/deep/er/more.csv", CSV)
        self.put("in/.hidden.csv", CSV)
        self.put("in/folder.csv/", b"")
        extractor = FilesExtractor(path=f"s3://{self.bucket.name}/in/**/*.csv", file_column="file")
        extractor.inspect()
        assert [set(split.extract().__next__()["file"]) for split in extractor.splits()] == [
            {f"s3://{self.bucket.name}/in/deep/er/more.csv"},
            {f"s3://{self.bucket.name}/in/sets.csv"},
        ]

    def test_what_was_inspected_is_what_is_read(self) -> None:
        extractor = self.make()
        extractor.inspect()
        self.put("in/sets.csv", CSV + b"6,six,6\n")
        with pytest.raises(RetryLater, match="changed after this run began"):
            rows_of(extractor)
        self.bucket.client.delete_object(Bucket=self.bucket.name, Key="in/sets.csv")
        with pytest.raises(RetryLater, match="changed after this run began"):
            rows_of(extractor)

    def test_what_is_not_there(self) -> None:
        with pytest.raises(SourceError, match=r"there is no object s3://.*/missing\.csv"):
            self.make_broken().inspect()
        with pytest.raises(SourceError, match=r"there is no object s3://.*/no/\*"):
            FilesExtractor(path=f"s3://{self.bucket.name}/no/*").inspect()
        with pytest.raises(ConfigError, match="bucket does not exist"):
            FilesExtractor(path="s3://no-such-bucket-at-all/*.csv").inspect()

    def test_credentials_that_are_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        with pytest.raises(EtlError, match="no AWS credentials") as failure:
            self.make().inspect()
        assert failure.value.exit_code == 77


# -- an S3 server that misbehaves ---------------------------------------------------------------------------------


class TestBrokenS3:
    """A web server stands in for S3: it answers HEAD and GET of one object."""

    BODY = b"id,text\n" + b"".join(b"%d,%s\n" % (number, b"x" * 100) for number in range(20_000))

    @pytest.fixture(autouse=True)
    def _server(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        with WebServer() as self.web:
            monkeypatch.setenv("AWS_ENDPOINT_URL", self.web.url("").rstrip("/"))
            self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"')
            self.extractor = FilesExtractor(path="s3://bucket/sets.csv")
            self.extractor.inspect()
            self.web.forget()
            yield

    def test_a_broken_connection_is_taken_up_where_it_broke(self) -> None:
        self.web.once("/bucket/sets.csv", cut_after=1_000_000)
        self.web.once("/bucket/sets.csv", cut_after=500_000, reset=True)
        assert frame_of(self.extractor)["id"].tolist() == [str(number) for number in range(20_000)]
        asked = [(request.headers["Range"], request.headers["If-Match"]) for request in self.web.requests]
        assert asked[0] == (None, '"1"')
        assert [match for _, match in asked[1:]] == ['"1"'] * (len(asked) - 1)
        assert asked[1][0] == "bytes=1000000-"

    def test_but_not_for_ever(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"', cut_after=0)
        with pytest.raises(RetryLater, match=r"s3://bucket/sets\.csv"):
            frame_of(self.extractor)

    def test_another_content_is_never_spliced_in(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY.swapcase(), etag='"2"')
        self.web.once("/bucket/sets.csv", etag='"1"', cut_after=1_000_000)
        with pytest.raises(SourceError, match="something else than was asked for"):
            frame_of(self.extractor)

    def test_nor_the_beginning_once_more(self) -> None:
        self.web.serve("/bucket/sets.csv", self.BODY, etag='"1"', ranges=False)
        self.web.once("/bucket/sets.csv", cut_after=1_000_000)
        with pytest.raises(SourceError, match="something else than was asked for"):
            frame_of(self.extractor)


# -- compression --------------------------------------------------------------------------------------------------

COMPRESSED = {
    "gzip": gzip.compress(CSV),
    "bzip2": bz2.compress(CSV),
    "xz": lzma.compress(CSV),
    "zstd": pa.compress(CSV, "zstd", asbytes=True),
    "zip": zip_of(("sets.csv", CSV)),
}


@pytest.mark.parametrize("method", COMPRESSED)
@pytest.mark.parametrize("name", ["sets.csv", "sets.csv.gz"])
def test_compression_is_known_by_content(put: Put, method: str, name: str) -> None:
    assert rows_of(FilesExtractor(path=put(name, COMPRESSED[method]))) == ROWS


def test_a_name_may_promise_a_compression_that_is_not_there(put: Put) -> None:
    assert rows_of(FilesExtractor(path=put("sets.csv.gz", CSV))) == ROWS


@pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_files_can_be_chained(put: Put, method: str) -> None:
    more = {
        "gzip": gzip.compress(b"6,six,6\n"),
        "bzip2": bz2.compress(b"6,six,6\n"),
        "xz": lzma.compress(b"6,six,6\n"),
        "zstd": pa.compress(b"6,six,6\n", "zstd", asbytes=True),
    }
    assert len(rows_of(FilesExtractor(path=put("sets.csv", COMPRESSED[method] + more[method])))) == 6


# What the command zstd makes of CSV: it adds a checksum, which Arrow's own compressor does not.
ZSTD_WITH_CHECKSUM = base64.b64decode(
    "KLUv/SRIQQIAaWQsbmFtZSxwaWVjZXMKMDAxLENhc3RsZSw3CjAwMizDnG1sw6R1dCwKMDAzLFNwYSBjZSwyMQowMDQsQiwwCjAwNSxYLDUK2txXKw=="
)


def test_the_checksum_of_zstd_is_checked(put: Put) -> None:
    assert rows_of(FilesExtractor(path=put("a.csv", ZSTD_WITH_CHECKSUM))) == ROWS
    with pytest.raises(DataError, match=r"its zstd data is damaged or cut short: .*checksum"):
        rows_of(FilesExtractor(path=put("b.csv", ZSTD_WITH_CHECKSUM.replace(b"Castle", b"Cattle"))))


@pytest.mark.parametrize(
    ("method", "damage"),
    [
        (method, damage)
        for method in COMPRESSED
        for damage in ("cut", "turned")
        if (method, damage) != ("zstd", "turned")
    ],
)
def test_damage_is_an_error(put: Put, method: str, damage: str) -> None:
    noise = "id,text\n" + "".join(f"{number},{number * 7919 % 104729}\n" for number in range(5_000))
    pack: dict[str, Callable[[bytes], bytes]] = {
        "gzip": gzip.compress,
        "bzip2": bz2.compress,
        "xz": lzma.compress,
        "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
        "zip": lambda data: zip_of(("sets.csv", data)),
    }
    data = pack[method](noise.encode())
    middle = len(data) // 2
    bad = data[:-20] if damage == "cut" else data[:middle] + bytes(8) + data[middle + 8 :]
    with pytest.raises(DataError, match="damaged"):
        rows_of(FilesExtractor(path=put("sets.csv", bad)))


def test_bombs_are_refused(put: Put) -> None:
    bomb = put("bomb.csv.gz", gzip.compress(b"id\n" + b"0" * 12_000_000))
    with pytest.raises(DataError, match="max_ratio = 200"):
        rows_of(FilesExtractor(path=bomb))
    with pytest.raises(DataError, match="max_member_bytes = 1,000"):
        rows_of(FilesExtractor(path=bomb, max_member_bytes=1000))
    with pytest.raises(DataError, match="compressed twice, with gzip and gzip"):
        rows_of(FilesExtractor(path=put("twice.csv", gzip.compress(gzip.compress(CSV)))))


def test_members_of_zips(put: Put) -> None:
    path = put("export.zip", zip_of(("a.csv", CSV), ("b.jsonl", lines(*RECORDS)), ("c.parquet", TestParquet.content)))
    assert rows_of(FilesExtractor(path=path)) == ROWS
    assert len(rows_of(FilesExtractor(path=path, format="jsonl"))) == 5
    assert len(rows_of(FilesExtractor(path=path, member="*.parquet"))) == 5
    assert len(rows_of(FilesExtractor(path=put("b.jsonl.zip", Path(path).read_bytes())))) == 5
    with pytest.raises(DataError, match=r"no member matches 'd\.csv'"):
        rows_of(FilesExtractor(path=path, member="d.csv"))


@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson", "deep/A.JSONL"])
def test_the_member_that_ends_like_the_format_is_found(put: Put, name: str) -> None:
    content = zip_of((name, b'{"id": 1}'), ("__MACOSX/._a.jsonl", b"\0\5"), ("read.me", b""))
    assert rows_of(FilesExtractor(path=put("export.ndjson.zip", content))) == [(1,)]


@needs_openpyxl
def test_formats_that_are_not_read_from_front_to_back_may_be_compressed(put: Put) -> None:
    assert len(rows_of(FilesExtractor(path=put("a.parquet.gz", gzip.compress(TestParquet.content))))) == 5
    packed = put("b.zip", zip_of(("a.parquet", TestParquet.content)))
    assert len(rows_of(FilesExtractor(path=packed, format="parquet"))) == 5
    assert rows_of(FilesExtractor(path=put("c.gz", gzip.compress(TestExcel.content)), format="xlsx")) == ROWS
    assert rows_of(FilesExtractor(path=put("d.xlsx.zip", zip_of(("d.xlsx", TestExcel.content))))) == ROWS


# -- JSON ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [TestJsonLines, TestJsonArray])
def test_fields_become_typed_columns(put: Put, cls: type[OneFile]) -> None:
    frame = frame_of(FilesExtractor(path=put(cls.name, cls.content)))
    assert types_of(frame) == {
        "id": "int64",
        "name": "string",
        "size.w": "int64",
        "size.h": "double",
        "tags": "string",
        "ok": "bool",
    }
    assert frame["tags"].tolist() == ['["a",1]', "[]", pd.NA, pd.NA, '[{"b":null}]']
    assert frame["size.w"].tolist() == [1, 2, pd.NA, 4, pd.NA]
    assert frame["name"].tolist()[2:] == ["Ümläut", pd.NA, ""]


def test_types_do_not_change_after_the_first_records(put: Put) -> None:
    """The 10,001st record and those after it cannot change a column: they are rejected, as they were read."""
    good: list[Any] = [{"id": number, "name": "n", "price": 0.5, "empty": None} for number in range(10_000)]
    late: list[Any] = [
        {"id": "x1", "name": "n"},
        {"id": 1, "name": 5},
        {"id": 2, "price": 10},
        {"id": 3, "more": 1},
        {"id": 4, "more": None},
        {"id": 1.5},
        {"id": True},
        {"id": 5, "empty": 0},
        {"id": 2**63},
        {"id": 6, "price": 2**53 + 1},
    ]
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", lines(*good, *late)), batch_rows=3_000))
    assert frame["id"].tolist()[10_000:] == [2, 4]
    assert frame.index[-2:].tolist() == [10_003, 10_005]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (10_001, "id: not an int64"),
        (10_002, "name: not text"),
        (10_004, "more: a field that the first records do not have"),
        (10_006, "id: not an int64"),
        (10_007, "id: not an int64"),
        (10_008, "empty: not text"),
        (10_009, "id: not an int64"),
        (10_010, "price: not a float64"),
    ]
    assert rejects[0].raw == '{"id": "x1", "name": "n"}'


def test_first_records_that_disagree_must_be_settled(put: Put) -> None:
    path = put("a.jsonl", lines({"v": 1}, {"v": "one"}, {"v": [1]}, {"v": {"w": 1}}))
    with pytest.raises(DataError, match=r"'v' has several types: record 1 has 1, record 2 has 'one', .*types = \{ ."):
        rows_of(FilesExtractor(path=path))
    assert rows_of(FilesExtractor(path=path, types={"v": "json"})) == [("1",), ('"one"',), ("[1]",), ('{"w":1}',)]
    frame, rejects = rejects_of(FilesExtractor(path=path, types={"v": "int64"}, columns=("v",)))
    assert frame["v"].tolist() == [1, pd.NA]
    assert [reject.row for reject in rejects] == [2, 3]
    assert rows_of(
        FilesExtractor(path=put("b.jsonl", lines({"v": 1.5}, {"v": True}, {"v": "x"})), types={"v": "text"})
    ) == [
        ("1.5",),
        ("true",),
        ("x",),
    ]
    with pytest.raises(DataError, match="beyond int64"):
        rows_of(FilesExtractor(path=put("c.jsonl", lines({"v": 2**64}))))


def test_declared_columns_stay_in_their_place(put: Put) -> None:
    path = put("a.jsonl", b'{"a": 1, "b": 0.1234567890123456789, "c": {"d": 1.10}}\n')
    with pytest.raises(DataError, match="'b' holds numbers with more digits than a float64 keeps; declare it"):
        rows_of(FilesExtractor(path=path))
    frame = frame_of(FilesExtractor(path=path, types={"c": "json", "b": "text", "z": "bool"}))
    assert list(frame.columns) == ["a", "b", "c", "z"]
    assert frame.iloc[0].tolist() == [1, "0.1234567890123456789", '{"d":1.1}', pd.NA]
    assert frame_of(FilesExtractor(path=path, types={"b": "float64"}))["b"].tolist() == [0.12345678901234568]


def test_columns_choose_and_order(put: Put) -> None:
    path = put("a.jsonl", lines(*RECORDS))
    frame = frame_of(FilesExtractor(path=path, columns=("size.h", "id")))
    assert list(frame.columns) == ["size.h", "id"]
    with pytest.raises(ConfigError, match=r"no field 'size\.d'; did you mean 'size\.w'"):
        rows_of(FilesExtractor(path=path, columns=("size.d",)))


def test_fields_left_out_are_named(put: Put) -> None:
    account = Account("test")
    frame_of(FilesExtractor(path=put("a.jsonl", lines(*RECORDS)), columns=("id", "name", "size.w")), account)
    assert [warning.partition(": ")[2] for warning in account.warnings] == [
        "fields that are not in columns: ok, size.h, tags"
    ]


def test_lines_that_are_no_records(put: Put) -> None:
    content = b"\xef\xbb\xbf" + b"\r\n".join(
        [
            b'{"id": 1}',
            b"",
            b'{"id": 2',
            b"[1]",
            b'{"id": 3, "id": 4}',
            b'{"id": NaN}',
            b'{"id": "\xff"}',
            b'{"id": 5} {"id": 6}',
            b'{"id": 7, "long": "' + b"x" * 2_000_000 + b'"}',
            b'{"a.b": 1, "a": {"b": 2}}',
            b'{"id": ' + b"[" * 100_000 + b"1",
            b'{"id": 8}',
        ]
    )
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", content), max_record_bytes=1_000_000))
    assert frame["id"].tolist() == [1, 8]
    assert frame.index.tolist() == [1, 11]
    assert [(reject.row, reject.rule.partition(":")[0]) for reject in rejects] == [
        (2, "not JSON"),
        (3, "not a JSON object"),
        (4, "names 'id' twice"),
        (5, "not JSON"),
        (6, "not UTF-8"),
        (7, "not JSON"),
        (8, "longer than max_record_bytes = 1,000,000"),
        (9, "has two values for 'a.b'"),
        (10, "nested too deeply"),
    ]
    assert max(len(reject.raw) for reject in rejects) <= 4_000


def test_what_is_json_and_fits_nowhere_costs_its_record_alone(put: Put) -> None:
    content = b"\n".join(
        [
            b'{"id": 1, "v": [0.5]}',
            b'{"id": 2, "v": ' + b"[" * 700 + b"0.1234567890123456789" + b"]" * 700 + b"}",
            b'{"id": 3, "v": [1e99999999999999999999]}',
            b'{"id": 4, "v": [1e-99999999999999999999]}',
            b'{"id": 5, "\\ud83d": 1}',
            b'{"id": 6, "\\ud83d\\ude00": 1}',
        ]
    )
    frame, rejects = rejects_of(FilesExtractor(path=put("a.jsonl", content)))
    assert list(frame.columns) == ["id", "v", "😀"]
    assert frame["id"].tolist() == [1, 6]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (2, "v: not JSON"),
        (3, "v: not JSON"),
        (4, "v: not JSON"),
        (5, r"\ud83d: a name that is no text"),
    ]


def test_a_name_that_is_no_text_can_be_left_out(put: Put) -> None:
    account = Account("test")
    path = put("a.jsonl", b'{"id": 1, "\\ud83d": 1}\n')
    assert len(frame_of(FilesExtractor(path=path, columns=("id",)), account)) == 1
    assert account.warnings == [rf"{path}: fields that are not in columns: \ud83d"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{"id": 1}', "begins with '{'; if each line is an object, set format = \"jsonl\""),
        (b"", "begins with ''"),
        (b'[{"id": 1}, {"id": 2}', "should be a comma after record 2"),
        (b'[{"id": 1}, {"id": 2', "record 2 is cut short or no JSON"),
        (b'[{"id": 1} {"id": 2}]', "should be a comma after record 1"),
        (b'[{"id": 1},]', "record 2 is cut short or no JSON"),
        (b'[{"id": 1}] x', "something follows the array: 'x'"),
        (b'[{"id": 1}, {"id": nope}]', "record 2 is cut short or no JSON: Expecting value"),
        (b'[{"id": 1}, {"id": "\xff"}]', "after record 1 it is not UTF-8"),
        (b'[{"id": 1}, {"id": "' + b"x" * 3_000_000 + b'"}]', "longer than max_record_bytes = 1,000,000"),
    ],
)
def test_arrays_that_cannot_be_read_on(put: Put, content: bytes, problem: str) -> None:
    with pytest.raises(DataError) as failure:
        rows_of(FilesExtractor(path=put("a.json", content), max_record_bytes=1_000_000))
    assert problem in str(failure.value)


def test_an_element_of_an_array_may_be_rejected(put: Put) -> None:
    frame, rejects = rejects_of(FilesExtractor(path=put("a.json", b'[{"id": 1}, 5, {"id": 1, "id": 2}, {"id": 4}]')))
    assert frame["id"].tolist() == [1, 4]
    assert [(reject.row, reject.rule, reject.raw) for reject in rejects] == [
        (2, "not a JSON object", "5"),
        (3, "names 'id' twice", '{"id": 1, "id": 2}'),
    ]


class Trickle:
    """A stream that gives its bytes in pieces of these sizes, again and again."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = io.BytesIO(content)
        self._sizes = sizes

    def read(self, n: int, /) -> bytes:
        self._sizes = [*self._sizes[1:], self._sizes[0]]
        return self._content.read(min(n, self._sizes[0]))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.text(), values, max_size=4), max_size=5), st.lists(st.integers(1, 9), min_size=1))
def test_records_do_not_depend_on_how_the_bytes_arrive(records: list[Any], sizes: list[int]) -> None:
    array = json.dumps(records, indent=len(records) % 3 or None, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if b"\xed" not in array:
        assert [record.document for record in json_array(Trickle(array, sizes), 1 << 20, "x")] == records
    text = b"\n".join(json.dumps(record).encode() for record in records)
    assert [record.document for record in json_lines(Trickle(text, sizes), 1 << 20)] == records


def test_flattening() -> None:
    assert flattened({"a": {"b": {"c": 1}, "d": {}}, "e": [{"f": 1}]}) == {"a.b.c": 1, "e": [{"f": 1}]}
    assert flattened({"a": {"b": {"c": 1}}}, frozenset({"a.b"})) == {"a.b": {"c": 1}}


# -- Parquet ------------------------------------------------------------------------------------------------------


def test_parquet_keeps_its_types(put: Put) -> None:
    frame = frame_of(FilesExtractor(path=put("a.parquet", parquet(TYPED, row_group_size=2))))
    assert types_of(frame) == {
        "id": "int16",
        "price": "decimal128(10, 2)",
        "day": "date32[day]",
        "at": "timestamp[us, tz=Europe/Amsterdam]",
        "theme": "string",
        "parts": "list<element: int32>",
    }
    assert frame["price"].tolist()[0] == Decimal("1.10")


def test_parquet_of_pandas_has_no_hidden_index(put: Put, tmp_path: Path) -> None:
    pd.DataFrame({"id": [1, 2]}, index=pd.Index([7, 8], name="key")).to_parquet(tmp_path / "a.parquet")
    frame = frame_of(FilesExtractor(path=str(tmp_path / "a.parquet")))
    assert (list(frame.columns), frame.index.tolist()) == (["id", "key"], [1, 2])


def test_parquet_may_pack_its_values_as_it_likes(put: Put) -> None:
    views = pa.table({"t": pa.array(["a", None], pa.string_view()), "b": pa.array([b"a", None], pa.binary_view())})
    frame = frame_of(FilesExtractor(path=put("a.parquet", parquet(views))))
    assert types_of(frame) == {"t": "string", "b": "binary"}
    assert frame["t"].tolist() == ["a", pd.NA]


def test_a_later_file_takes_the_types_of_the_first(put: Put) -> None:
    put("1.parquet", parquet(pa.table({"id": pa.array([1], pa.int32()), "n": ["a"]})))
    pattern = put("2.parquet", parquet(pa.table({"n": ["b"], "id": pa.array([2], pa.int64())}))).replace("2.p", "*.p")
    extractor = FilesExtractor(path=pattern)
    assert types_of(frame_of(extractor)) == {"id": "int32", "n": "string"}
    assert [rows_of(split) for split in extractor.splits()] == [[(1, "a")], [(2, "b")]]
    put("3.parquet", parquet(pa.table({"id": [2**40], "n": ["c"]})))
    with pytest.raises(DataError, match=r"3\.parquet: 'id' is int64, not int32 as in the first file"):
        rows_of(extractor)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([True]), pa.array([5])),
        (pa.array([1]), pa.array(["01"])),
        (pa.array([0.5], pa.float32()), pa.array([0.1])),
        (pa.array([NOON.date()]), pa.array([NOON])),
        (pa.array([NOON], pa.timestamp("us", "Europe/Brussels")), pa.array([NOON], pa.timestamp("us"))),
    ],
    ids=lambda column: str(column.type),
)
def test_but_not_if_that_would_change_a_value(put: Put, first: Any, second: Any) -> None:
    put("1.parquet", parquet(pa.table({"v": first})))
    pattern = put("2.parquet", parquet(pa.table({"v": second}))).replace("2.p", "*.p")
    with pytest.raises(DataError, match=r"2\.parquet: 'v' is .* as in the first file, and the values do not fit"):
        rows_of(FilesExtractor(path=pattern))


def test_damaged_parquet(put: Put) -> None:
    with pytest.raises(DataError, match="is no Parquet file, or damaged"):
        rows_of(FilesExtractor(path=put("a.parquet", CSV)))
    data = bytearray(parquet(pa.table({"id": list(range(10_000))}), compression="zstd", use_dictionary=False))
    data[20:60] = bytes(40)
    with pytest.raises(DataError, match="damaged"):
        rows_of(FilesExtractor(path=put("b.parquet", bytes(data))))
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[-footer : 8 - footer] = b"\xff" * 8
    with pytest.raises(DataError, match="is no Parquet file, or damaged: Couldn't deserialize thrift"):
        rows_of(FilesExtractor(path=put("c.parquet", bytes(data))))


# -- Excel --------------------------------------------------------------------------------------------------------


@needs_openpyxl
def test_cells_become_text_as_a_program_writes_it(put: Put) -> None:
    row = (5, 0.1, 5.0, True, date(2026, 1, 31), NOON, time(8, 30), timedelta(hours=30), "007")
    content = workbook(("a", "b", "c", "d", "e", "f", "g", "h", " i "), row)
    frame = frame_of(FilesExtractor(path=put("a.xlsx", content)))
    assert list(frame.columns) == list("abcdefghi")
    assert frame.iloc[0].tolist() == [
        "5",
        "0.1",
        "5",
        "true",
        "2026-01-31",
        "2026-01-31T12:00:00",
        "08:30:00",
        "30:00:00",
        "007",
    ]


@needs_openpyxl
def test_sheets_are_chosen_by_name(put: Put) -> None:
    path = put("a.xlsx", workbook(("id",), (1,), Themes=[("theme",), ("City",)]))
    assert rows_of(FilesExtractor(path=path, sheet="Themes")) == [("City",)]
    with pytest.raises(ConfigError, match="has 2 sheets; set sheet to one of: 'Sets', 'Themes'"):
        rows_of(FilesExtractor(path=path))
    with pytest.raises(ConfigError, match="no sheet 'Theme'; did you mean 'Themes'"):
        rows_of(FilesExtractor(path=path, sheet="Theme"))


@needs_openpyxl
def test_rows_keep_the_numbers_that_the_sheet_shows(put: Put) -> None:
    content = workbook((None,), ("id", None, "name"), ("1",), (), ("2", None, "b", "beyond"), ("3", "x", "c", None))
    frame, rejects = rejects_of(FilesExtractor(path=put("a.xlsx", content)))
    assert list(frame.columns) == ["id", "column_2", "name"]
    assert frame.index.tolist() == [1, 4]
    assert [(reject.row, reject.rule.partition(":")[0]) for reject in rejects] == [(3, "ragged")]


@needs_openpyxl
@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<html>", "is no Excel workbook: it begins with b'<html>'"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "is an old .xls file or has a password"),
        (zip_of(("a.csv", CSV)), "no member matches 'xl/workbook.xml'"),
        (workbook(), "the sheet is empty"),
        (workbook(("a", "a")), "names a column more than once: a"),
        (workbook(("a", "b")), "has no rows"),
        (edited("[Content_Types].xml", b"sheet.main+xml", b"other+xml"), "the workbook is damaged: File contains no"),
        (edited("xl/worksheets/sheet1.xml", b't="n"', b't="s"'), "the workbook is damaged"),
        (edited("xl/worksheets/sheet1.xml", b"</row>", b"</raw>"), "the workbook is damaged"),
        (edited("xl/_rels/workbook.xml.rels", b"sheet1.xml", b"gone.xml"), "has no sheet of cells, or is damaged"),
    ],
)
def test_workbooks_that_cannot_be_read(put: Put, content: bytes, problem: str) -> None:
    with pytest.raises(DataError) as failure:
        rows_of(FilesExtractor(path=put("a.xlsx", content)))
    assert problem in str(failure.value)


@needs_openpyxl
def test_a_library_that_is_missing_is_named(put: Put) -> None:
    path = put("a.xlsx", TestExcel.content)
    code = f"""
        import sys
        sys.modules["openpyxl"] = None
        from etl.extractors.files import FilesExtractor
        try:
            list(FilesExtractor(path={path!r}).extract())
        except Exception as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == ("ConfigError FilesExtractor: reading Excel workbooks needs openpyxl: pip install openpyxl\n")


# -- which files --------------------------------------------------------------------------------------------------


def test_s3_patterns_mean_what_local_ones_do(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["a.csv", "b.csv", ".c.csv", "d/a.csv", "d/e/a.csv", "d/e/b.txt", ".f/a.csv", "d/.g/a.csv", "[x].csv"]
    for name in names:
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CSV)
        bucket.client.put_object(Bucket=bucket.name, Key=f"in/{name}", Body=CSV)
    monkeypatch.chdir(tmp_path)
    for pattern in [
        "*.csv",
        "**/*.csv",
        "**",
        "d/*/*.csv",
        "*/a.csv",
        "?.csv",
        "[ab].csv",
        "**/e/*",
        "d/**",
        ".*",
        "[[]x].csv",
    ]:
        local, remote = (
            [file.uri.partition("in/")[2] for file in FilesExtractor(path=path)._files()]
            for path in (f"in/{pattern}", f"s3://{bucket.name}/in/{pattern}")
        )
        assert sorted(local) == sorted(remote), pattern


def test_files_come_in_the_order_of_the_patterns_and_of_their_names(put: Put, tmp_path: Path) -> None:
    for name in ("2.csv", "10.csv", "z.csv"):
        put(name, CSV)
    extractor = FilesExtractor(path=(str(tmp_path / "z.csv"), str(tmp_path / "*.csv")), file_column="file")
    assert list(dict.fromkeys(Path(name).name for name in frame_of(extractor)["file"])) == ["z.csv", "10.csv", "2.csv"]


def test_names_with_wildcards_in_them(put: Put, tmp_path: Path) -> None:
    for name in ("a[1].csv", "a1.csv"):
        put(name, CSV)
    splits = FilesExtractor(path=str(tmp_path / "*.csv"), file_column="file").splits()
    assert [len(rows_of(pickle.loads(pickle.dumps(split)))) for split in splits] == [5, 5]
    fresh = FilesExtractor(path=splits[1].path)
    assert fresh.inspect().uri == str(tmp_path / "a[1].csv")


def test_a_tilde_need_not_mean_a_home(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("~sets.csv", CSV)
    monkeypatch.chdir(tmp_path)
    assert rows_of(FilesExtractor(path="~sets.csv")) == ROWS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rows_of(FilesExtractor(path="~/~sets.csv")) == ROWS


def test_what_cannot_be_a_source(tmp_path: Path, put: Put) -> None:
    with pytest.raises(ConfigError, match="is a folder; name the files in it"):
        FilesExtractor(path=str(tmp_path)).inspect()
    with pytest.raises(SourceError, match=r"there is no file nowhere/\*\.csv in /"):
        FilesExtractor(path="nowhere/*.csv").inspect()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="not a file but a device, pipe or socket"):
        FilesExtractor(path=str(tmp_path / "pipe.csv")).inspect()
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"dangling\.csv: No such file"):
        FilesExtractor(path=str(tmp_path / "dangling.csv")).inspect()
    with pytest.raises(ConfigError, match="cannot tell what it holds from its name; set format, such"):
        rows_of(FilesExtractor(path=put("a.dat", CSV)))
    assert rows_of(FilesExtractor(path=put("a.dat", CSV), format="csv")) == ROWS
    put("b.json", b"[]")
    with pytest.raises(ConfigError, match="read one format at a time"):
        FilesExtractor(path=(str(tmp_path / "a.csv"), str(tmp_path / "b.json"), put("a.csv", CSV))).check()


# -- several files, one table -------------------------------------------------------------------------------------


def test_columns_are_matched_by_name(put: Put, tmp_path: Path) -> None:
    put("1.csv", b"a,b\n1,2\n")
    put("2.csv", b"b,a\n4,3\n")
    extractor = FilesExtractor(path=str(tmp_path / "*.csv"))
    assert rows_of(extractor) == [("1", "2"), ("3", "4")]
    put("3.csv", b"a,c\n5,6\n")
    with pytest.raises(DataError, match=r"3\.csv: lacks 'b' and also has 'c', unlike the first file; set columns"):
        rows_of(extractor)
    assert rows_of(FilesExtractor(path=str(tmp_path / "*.csv"), columns=("a",))) == [("1",), ("3",), ("5",)]
    with pytest.raises(ConfigError, match="there is no column 'aa'; did you mean 'a'"):
        rows_of(FilesExtractor(path=str(tmp_path / "*.csv"), columns=("aa",)))


def test_splits_have_the_types_of_the_first_file(put: Put, tmp_path: Path) -> None:
    put("1.jsonl", lines({"id": 1, "v": 1}))
    put("2.jsonl", lines({"id": 2, "v": "one"}, {"id": 3, "v": 3}))
    account = Account("test")
    splits = FilesExtractor(path=str(tmp_path / "*.jsonl")).splits()
    frames = [pd.concat(split.extract(account)) for split in splits]
    assert_frame_equal(frames[0].iloc[:0], frames[1].iloc[:0], check_index_type=False)
    assert frames[1]["v"].tolist() == [3]
    assert account.balances()


def test_empty_files(put: Put, tmp_path: Path) -> None:
    for name, content in {"1.jsonl": b"", "2.jsonl": lines({"id": 1}), "3.jsonl": b"\n"}.items():
        put(name, content)
    with pytest.raises(DataError, match=r"1\.jsonl: has no rows; set allow_empty = true"):
        rows_of(FilesExtractor(path=str(tmp_path / "*.jsonl")))
    assert rows_of(FilesExtractor(path=str(tmp_path / "*.jsonl"), allow_empty=True)) == [(1,)]
    with pytest.raises(DataError, match="has no fields"):
        rows_of(FilesExtractor(path=str(tmp_path / "1.jsonl"), allow_empty=True))
    assert rows_of(FilesExtractor(path=put("a.csv", b"id\n"), allow_empty=True)) == []
    with pytest.raises(DataError, match="has no rows"):
        rows_of(FilesExtractor(path=put("a.csv", b"id\n")))
    empty = put("a.parquet", parquet(TYPED.slice(0, 0)))
    with pytest.raises(DataError, match="has no rows"):
        rows_of(FilesExtractor(path=empty))
    assert types_of(frame_of(FilesExtractor(path=empty, allow_empty=True)))["id"] == "int16"


def test_the_file_may_become_a_column(put: Put) -> None:
    path = put("a.csv", CSV)
    frame = frame_of(FilesExtractor(path=path, file_column="file"))
    assert list(frame.columns) == ["id", "name", "pieces", "file"]
    assert set(frame["file"]) == {path}
    with pytest.raises(ConfigError, match="has a column 'name' itself"):
        rows_of(FilesExtractor(path=path, file_column="name"))


def test_tsv_and_options_for_csv(put: Put) -> None:
    assert rows_of(FilesExtractor(path=put("a.tsv", CSV.replace(b",", b"\t")))) == ROWS
    assert rows_of(FilesExtractor(path=put("b.csv", CSV.replace(b",", b";")), csv={"delimiter": ";"})) == ROWS  # type: ignore[arg-type]


# -- what was inspected is what is read ---------------------------------------------------------------------------


def test_the_fingerprint_tells_of_names_and_content(put: Put, tmp_path: Path) -> None:
    put("a.csv", CSV)
    pattern = str(tmp_path / "*.csv")

    def fingerprint() -> str | None:
        return FilesExtractor(path=pattern).inspect().fingerprint

    first = fingerprint()
    os.utime(tmp_path / "a.csv", (1, 1))
    assert fingerprint() == first
    put("a.csv", CSV.replace(b"7", b"8"))
    os.utime(tmp_path / "a.csv", (1, 1))
    changed = fingerprint()
    assert changed != first
    put("b.csv", CSV)
    assert fingerprint() not in (first, changed)


def test_a_file_that_changes_meanwhile_is_noticed(put: Put) -> None:
    path = put("a.csv", CSV)
    extractor = FilesExtractor(path=path)
    extractor.inspect()
    put("a.csv", CSV.replace(b"7", b"8"))
    with pytest.raises(RetryLater, match=r"a\.csv changed after this run began; run again"):
        rows_of(extractor)
    Path(path).unlink()
    with pytest.raises(RetryLater, match="vanished after this run began"):
        rows_of(extractor)


@pytest.mark.parametrize("name", ["sets.csv", "sets.parquet"])
def test_a_file_that_changes_while_it_is_read_is_noticed(put: Put, name: str) -> None:
    path = put(name, CSV if name == "sets.csv" else TestParquet.content)
    batches = FilesExtractor(path=path, batch_rows=1).extract()
    next(batches)
    with Path(path).open("ab") as file:
        file.write(b"6,six,6\n")
    with pytest.raises(RetryLater, match="changed after this run began"):
        list(batches)


def test_a_file_that_is_written_over_is_not_called_damaged(put: Put) -> None:
    rows = b"".join(b"%d,%d\n" % (number, number * 7919 % 104729) for number in range(500_000))
    path = put("a.csv.gz", gzip.compress(b"id,number\n" + rows, 1))
    batches = FilesExtractor(path=path).extract()
    next(batches)
    with Path(path).open("r+b") as file:
        file.seek(-100_000, os.SEEK_END)
        file.write(bytes(1000))
    with pytest.raises(RetryLater, match="changed after this run began"):
        list(batches)


def test_an_unchanged_run_loads_no_heavy_library(put: Put) -> None:
    code = f"""
        import sys
        from etl.extractors.files import FilesExtractor
        extractor = FilesExtractor(path={put("a.csv.zst", COMPRESSED["zstd"])!r})
        extractor.inspect()
        extractor.check()
        print([name for name in ("pandas", "pyarrow", "numpy", "boto3", "openpyxl") if name in sys.modules])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"path": []}, "path"),
        ({"path": ""}, "path"),
        ({"path": "folder/"}, "path"),
        ({"path": "s3://bucket"}, "path"),
        ({"path": "s3:///key"}, "path"),
        ({"path": "a.csv", "columns": ["a", "a"]}, "columns"),
        ({"path": "a.csv", "types": {"a": "integer"}}, "types"),
        ({"path": "a.csv", "format": "xml"}, "format"),
        ({"path": "a.csv", "max_ratio": 0}, "max_ratio"),
        ({"path": "a.csv", "csv": {"quote": "no"}}, "csv"),
    ],
)
def test_mistakes_are_found_without_looking_at_any_file(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as failure:
        FilesExtractor.model_validate(options)
    assert [error["loc"][0] for error in failure.value.errors()] == [field]


def test_check_opens_the_first_file(put: Put, tmp_path: Path) -> None:
    put("a.csv", CSV)
    put("b.csv", CSV)
    assert (
        FilesExtractor(path=str(tmp_path / "*.csv")).check() == f"{tmp_path}/*.csv: 2 files, {2 * len(CSV)} bytes, csv"
    )


# -- the whole way ------------------------------------------------------------------------------------------------


def test_a_pipeline_of_ten_lines(put: Put, tmp_path: Path, bucket: Bucket) -> None:
    put("in/1.jsonl.gz", gzip.compress(lines({"id": 1, "size": {"w": 0.5}}, {"id": 2, "size": {"w": 1}})))
    put("in/2.jsonl.gz", gzip.compress(lines({"id": 3}, {"id": "four"})))
    pipeline = put(
        "files.toml",
        f"""
        max_rejects = 1
        [extract]
        type = "FilesExtractor"
        path = "{tmp_path}/in/*.jsonl.gz"
        file_column = "file"
        [load]
        type = "S3Loader"
        bucket = "{bucket.name}"
        key = "sets.parquet"
        """.encode(),
    )
    report = Pipeline.from_file(pipeline).run()
    assert (report.status, report.rows_rejected) == ("published", 1), report.error
    found = pq.read_table(io.BytesIO(bucket.body("sets.parquet")))
    assert found.column("id").to_pylist() == [1, 2, 3]
    assert [Path(str(name)).name for name in found.column("file").to_pylist()] == ["1.jsonl.gz"] * 2 + ["2.jsonl.gz"]
    assert Pipeline.from_file(pipeline).run().status == "unchanged"


def test_the_example_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "some-bucket")
    assert Pipeline.from_file(PROJECT / "pipelines" / "files.toml").extractor == FilesExtractor(
        path="exports/**/*.csv", file_column="file"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """The peak of a process that reads ten times as many rows is the same, give or take the allocator's slack."""
    rows = {"csv": 1_000_000, "jsonl": 100_000, "parquet": 1_000_000}[kind]
    peaks = [peak_of_reading(sample_file(tmp_path, kind, count), count) for count in (rows // 10, rows)]
    assert peaks[1] - peaks[0] < 64 << 20


def sample_file(folder: Path, kind: str, rows: int) -> Path:
    path = folder / f"{rows}.{kind}"
    if kind == "parquet":
        numbers = pa.array(range(rows))
        pq.write_table(pa.table({"id": numbers, "name": numbers.cast(pa.string())}), path, row_group_size=1 << 20)
        return path
    with path.open("w") as file:
        if kind == "csv":
            file.write("id,name,text\n")
            file.writelines(f"{number},name {number},{'x' * 40}\n" for number in range(rows))
        else:
            file.writelines(
                f'{{"id": {number}, "name": "name {number}", "in": {{"a": 1}}}}\n' for number in range(rows)
            )
    return path


def peak_of_reading(path: Path, rows: int) -> int:
    """Bytes of memory that a fresh process had at most."""
    code = f"""
        import resource
        from etl.extractors.files import FilesExtractor
        extractor = FilesExtractor(path={str(path)!r}, batch_rows=16_384)
        extractor.inspect()
        assert sum(len(batch) for batch in extractor.extract()) == {rows}
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    return int(done.stdout)
