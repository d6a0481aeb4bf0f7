"""Compressed files: known by their content, damaged, made to do harm, and in zips."""

from __future__ import annotations

import base64
import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from etl.errors import DataError
from etl.extractors.files import FilesExtractor
from tests.files import CSV, PARQUET, RECORDS, ROWS, WORKBOOK, Put, lines, needs_openpyxl, zip_of
from tests.reading import rows_of

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": lambda data: pa.compress(data, "zstd", asbytes=True),
    "zip": lambda data: zip_of(("sets.csv", data)),
}


@pytest.mark.parametrize("method", COMPRESS)
@pytest.mark.parametrize("name", ["sets.csv", "sets.csv.gz"])
def test_compression_is_known_by_content(put: Put, method: str, name: str) -> None:
    assert rows_of(FilesExtractor(path=put(name, COMPRESS[method](CSV)))) == ROWS


def test_a_name_may_promise_a_compression_that_is_not_there(put: Put) -> None:
    assert rows_of(FilesExtractor(path=put("sets.csv.gz", CSV))) == ROWS


@pytest.mark.parametrize("method", ["gzip", "bzip2", "xz", "zstd"])
def test_compressed_files_can_be_chained(put: Put, method: str) -> None:
    compress = COMPRESS[method]
    assert len(rows_of(FilesExtractor(path=put("sets.csv", compress(CSV) + compress(b"6,six,6\n"))))) == 6


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
    [(method, damage) for method in COMPRESS for damage in ("cut", "turned") if (method, damage) != ("zstd", "turned")],
)
def test_damage_is_an_error(put: Put, method: str, damage: str) -> None:
    noise = "id,text\n" + "".join(f"{number},{number * 7919 % 104729}\n" for number in range(5_000))
    data = COMPRESS[method](noise.encode())
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
    path = put("export.zip", zip_of(("a.csv", CSV), ("b.jsonl", lines(*RECORDS)), ("c.parquet", PARQUET)))
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
    assert len(rows_of(FilesExtractor(path=put("a.parquet.gz", gzip.compress(PARQUET))))) == 5
    packed = put("b.zip", zip_of(("a.parquet", PARQUET)))
    assert len(rows_of(FilesExtractor(path=packed, format="parquet"))) == 5
    assert rows_of(FilesExtractor(path=put("c.gz", gzip.compress(WORKBOOK)), format="xlsx")) == ROWS
    assert rows_of(FilesExtractor(path=put("d.xlsx.zip", zip_of(("d.xlsx", WORKBOOK))))) == ROWS
