"""Parquet and Excel files: types, sheets, and damage."""

from __future__ import annotations

from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from etl.errors import ConfigError, DataError
from etl.extractors.files import FilesExtractor
from etl.files.damage import damage_reported
from tests.files import (
    CSV,
    NOON,
    PARQUET,
    TYPED,
    WORKBOOK,
    Put,
    edited_workbook,
    needs_openpyxl,
    parquet,
    with_broken_footer,
    workbook,
    zip_of,
)
from tests.reading import frame_of, rejects_of, rows_of, said_by, types_of

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
        (pa.array([0.5], pa.float32()), pa.array([0.5])),
        (pa.array([NOON.date()]), pa.array([NOON])),
        (pa.array([NOON], pa.timestamp("us", "Europe/Brussels")), pa.array([NOON], pa.timestamp("us"))),
    ],
    ids=lambda column: str(column.type),
)
def test_but_not_if_that_would_change_a_value(put: Put, first: Any, second: Any) -> None:
    put("1.parquet", parquet(pa.table({"v": first})))
    pattern = put("2.parquet", parquet(pa.table({"v": second}))).replace("2.p", "*.p")
    with pytest.raises(DataError, match=r"2\.parquet: 'v' is .*, not .* as in the first file, which cannot hold"):
        rows_of(FilesExtractor(path=pattern))


def test_damaged_parquet(put: Put) -> None:
    with pytest.raises(DataError, match="is no Parquet file, or damaged"):
        rows_of(FilesExtractor(path=put("a.parquet", CSV)))
    data = bytearray(parquet(pa.table({"id": list(range(10_000))}), compression="zstd", use_dictionary=False))
    data[20:60] = bytes(40)
    with pytest.raises(DataError, match="damaged"):
        rows_of(FilesExtractor(path=put("b.parquet", bytes(data))))
    with pytest.raises(DataError, match="is no Parquet file, or damaged: Couldn't deserialize thrift"):
        rows_of(FilesExtractor(path=put("c.parquet", with_broken_footer(PARQUET))))


def test_too_little_memory_is_no_damage() -> None:
    with pytest.raises(MemoryError), damage_reported("the Parquet file is damaged", pa.ArrowException):
        pa.allocate_buffer(1 << 62)


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
@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (timedelta(hours=100, minutes=5), "100:05:00"),
        (timedelta(minutes=59, seconds=59.6), "0:59:59.600000"),
        (timedelta(minutes=-90), "-1:30:00"),
    ],
)
def test_durations(put: Put, duration: timedelta, text: str) -> None:
    assert rows_of(FilesExtractor(path=put("a.xlsx", workbook(("a",), (duration,))))) == [(text,)]


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
        (
            edited_workbook("[Content_Types].xml", b"sheet.main+xml", b"other+xml"),
            "the workbook is damaged: File contains no",
        ),
        (edited_workbook("xl/worksheets/sheet1.xml", b't="n"', b't="s"'), "the workbook is damaged"),
        (edited_workbook("xl/worksheets/sheet1.xml", b"</row>", b"</raw>"), "the workbook is damaged"),
        (
            edited_workbook("xl/_rels/workbook.xml.rels", b"sheet1.xml", b"gone.xml"),
            "has no sheet of cells, or is damaged",
        ),
    ],
)
def test_workbooks_that_cannot_be_read(put: Put, content: bytes, problem: str) -> None:
    with pytest.raises(DataError) as failure:
        rows_of(FilesExtractor(path=put("a.xlsx", content)))
    assert problem in str(failure.value)


@needs_openpyxl
def test_a_workbook_of_which_a_part_has_a_password(put: Put) -> None:
    content = bytearray(WORKBOOK)
    content[content.rindex(b"PK\1\2") + 8] |= 1
    with pytest.raises(DataError, match=r"the workbook is damaged: .* password required"):
        rows_of(FilesExtractor(path=put("a.xlsx", bytes(content))))


@needs_openpyxl
def test_a_library_that_is_missing_is_named(put: Put) -> None:
    path = put("a.xlsx", WORKBOOK)
    code = f"""
        import sys
        sys.modules["openpyxl"] = None
        from etl.extractors.files import FilesExtractor
        try:
            list(FilesExtractor(path={path!r}).extract())
        except Exception as error:
            print(type(error).__name__, error)
    """
    assert said_by(code) == "ConfigError FilesExtractor: reading Excel workbooks needs openpyxl: pip install openpyxl\n"
