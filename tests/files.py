"""Files for tests: how to make them, and what is in them."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from collections.abc import Callable
from datetime import date, datetime
from decimal import Decimal
from importlib.util import find_spec
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

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

Put = Callable[[str, bytes], str]


class Dribble:
    """A stream that gives its bytes in pieces of these sizes, over and over."""

    def __init__(self, content: bytes, sizes: list[int]) -> None:
        self._content = io.BytesIO(content)
        self._sizes = cycle(sizes)

    def read(self, n: int, /) -> bytes:
        return self._content.read(min(n, next(self._sizes)))


def zip_of(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def parquet(table: pa.Table, **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


def with_broken_footer(parquet_file: bytes) -> bytes:
    start = len(parquet_file) - 8 - int.from_bytes(parquet_file[-8:-4], "little")
    return parquet_file[:start] + b"\xff" * 8 + parquet_file[start + 8 :]


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


def edited_workbook(part: str, old: bytes, new: bytes) -> bytes:
    """A small workbook in one of whose files something is different."""
    file = io.BytesIO()
    if has_openpyxl:
        with zipfile.ZipFile(io.BytesIO(workbook(("a",), (1,)))) as book, zipfile.ZipFile(file, "w") as copy:
            for name in book.namelist():
                copy.writestr(name, book.read(name).replace(old, new) if name == part else book.read(name))
    return file.getvalue()


def local_pipeline(folder: Path, more: str = "") -> Path:
    """A pipeline file that publishes ``orders.csv`` of the folder as ``out/orders.parquet``. ``more``: other tables."""
    file = folder / "orders.toml"
    file.write_text(f"""
        max_rejects = 10
        [extract]
        type = "FilesExtractor"
        path = "{folder}/orders.csv"
        [load]
        type = "LocalLoader"
        path = "{folder}/out/orders.parquet"
        {more}
    """)
    return file


def lines(*records: Any) -> bytes:
    return b"".join(json.dumps(record, ensure_ascii=False).encode() + b"\n" for record in records)


GZIPPED = gzip.compress(CSV)
JSON_LINES = lines(*RECORDS)
JSON_ARRAY = json.dumps(RECORDS, indent=2).encode()
PARQUET = parquet(TYPED, row_group_size=2)
WORKBOOK = workbook(("id", "name", "pieces"), *ROWS)
