"""Encoders: the same rows give the same bytes, and every value comes back as what it was."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from itertools import accumulate, pairwise
from typing import Any, get_args

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pydantic import ValidationError

from etl.errors import DataError, EtlError
from etl.formats.encoders import encode
from etl.formats.options import CsvStyle, Format, FormatOptions, ParquetOptions
from etl.tables.batches import regroup
from etl.tables.one_schema import arrow_tables

FORMATS = get_args(Format)
NOON = datetime(2026, 1, 1, 12)  # noqa: DTZ001
SMALL_GROUPS = FormatOptions(parquet=ParquetOptions(row_group_rows=5))


class Sink(io.BytesIO):
    """Bytes in memory that a writer may not close."""

    def close(self) -> None:
        raise AssertionError("closed by the encoder")


def encoded(*frames: DataFrame, file_format: Format = "parquet", **options: Any) -> bytes:
    sink = Sink()
    given_options: FormatOptions = options.pop("options", None) or FormatOptions(**options)
    rows, _ = encode(frames, sink, file_format, given_options)
    assert rows == sum(map(len, frames))
    return sink.getvalue()


def csv_text(frame: DataFrame, **style: Any) -> str:
    return encoded(frame, file_format="csv", csv=CsvStyle(**style)).decode()


def json_lines(frame: DataFrame) -> list[dict[str, Any]]:
    text = encoded(frame, file_format="jsonl").decode()
    return [json.loads(line, parse_constant=pytest.fail) for line in text.split("\n")[:-1]]


def arrow_frame(**columns: Any) -> DataFrame:
    return pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)


# -- the same rows, the same bytes ---------------------------------------------------------------------------------

ROWS = st.lists(
    st.tuples(
        st.integers(-(2**40), 2**40) | st.none(),
        st.floats() | st.none(),
        st.text(st.characters(codec="utf-8"), max_size=9) | st.none(),
        st.sampled_from(["red", "green", "blue", None]),
    ),
    min_size=1,
    max_size=40,
)


def frame_of(rows: list[tuple[Any, ...]], start: int, stop: int) -> DataFrame:
    part = rows[start:stop]
    types = (pa.int64(), pa.float64(), pa.string())
    columns = [pa.array([row[number] for row in part], kind) for number, kind in enumerate(types)]
    frame = arrow_frame(number=columns[0], share=columns[1], text=columns[2])
    return frame.assign(colour=pd.Categorical([row[3] for row in part]))


@given(rows=ROWS, cuts=st.sets(st.integers(1, 39), max_size=6), file_format=st.sampled_from(FORMATS))
def test_batches_do_not_show(rows: list[tuple[Any, ...]], cuts: set[int], file_format: Format) -> None:
    whole = encoded(frame_of(rows, 0, len(rows)), file_format=file_format, options=SMALL_GROUPS)
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    parts = [frame_of(rows, *pair) for pair in pairwise(bounds)]
    assert encoded(*parts, file_format=file_format, options=SMALL_GROUPS) == whole


@pytest.mark.parametrize("file_format", FORMATS)
def test_bytes_are_the_same_over_groups_and_pages(file_format: Format) -> None:
    """More rows than a page and a group of text hold, cut in two ways."""
    frame = DataFrame({"number": range(40_000), "text": [f"{n * 7919:x}" * 5 for n in range(40_000)]})

    def digest(rows: int) -> str:
        parts = [frame.iloc[start : start + rows] for start in range(0, len(frame), rows)]
        options = FormatOptions(parquet=ParquetOptions(row_group_rows=30_000), gzip_level=1)
        return hashlib.sha256(encoded(*parts, file_format=file_format, options=options)).hexdigest()

    assert digest(40_000) == digest(9_999) == digest(30_000)


@pytest.mark.parametrize("file_format", FORMATS)
def test_after_an_error_nothing_is_written(file_format: Format) -> None:
    sink, written = io.BytesIO(), []

    def failing() -> Iterator[DataFrame]:
        yield arrow_frame(number=list(range(20_000)))
        written.append(sink.tell())
        raise EtlError("no more")

    with pytest.raises(EtlError, match="no more"):
        encode(failing(), sink, file_format, FormatOptions())
    assert [sink.tell()] == written


def test_regroup_lets_go_of_what_it_yielded() -> None:
    def tables() -> Iterator[pa.Table]:
        for _ in range(40):
            yield pa.table({"number": pa.array(range(10_000), pa.int64())})

    start, peak = pa.total_allocated_bytes(), 0
    for table in regroup(tables(), 20_000):
        peak = max(peak, pa.total_allocated_bytes() - start)
        assert table["number"].num_chunks == 1
        del table
    assert peak <= 4 * 20_000 * 8  # two groups and two batches, of forty


def test_regroup_copies_only_where_two_tables_meet() -> None:
    tables = [
        pa.table({"number": pa.array(range(start, start + 2_500), pa.int64())}) for start in range(0, 10_000, 2_500)
    ]
    before = pa.total_allocated_bytes()
    groups = list(regroup(iter(tables), 6_000, 1_000))
    assert pa.total_allocated_bytes() - before <= 3 * 1_000 * 8 + 1_000
    assert [group.num_rows for group in groups] == [6_000, 4_000]
    assert [len(chunk) for chunk in groups[0]["number"].chunks] == [2_000, 1_000, 2_000, 1_000]
    assert pa.concat_tables(groups)["number"].to_pylist() == list(range(10_000))


@pytest.mark.parametrize("sizes", [[1], [3, 1, 1, 1, 4], [10, 10], [7, 0, 13], [25], [9, 1, 15]])
def test_regroup_keeps_the_rows_in_order(sizes: list[int]) -> None:
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    tables = [
        pa.table({"n": pa.array(range(at, at + size), pa.int64())}) for at, size in zip(starts, sizes, strict=True)
    ]
    groups = list(regroup(iter(tables), 11, 5))
    assert [n for group in groups for n in group["n"].to_pylist()] == list(range(sum(sizes)))
    for group in groups:
        ends = list(accumulate(len(chunk) for chunk in group["n"].chunks))
        assert all(end % 5 == 0 for end in ends[:-1])


# -- Parquet -------------------------------------------------------------------------------------------------------


def parquet_file(*frames: DataFrame, **options: Any) -> pq.ParquetFile:
    return pq.ParquetFile(io.BytesIO(encoded(*frames, parquet=ParquetOptions(**options))))


def test_parquet_options_are_used() -> None:
    frame = DataFrame({"number": range(10)})
    column = parquet_file(frame).metadata.row_group(0).column(0)
    assert (column.compression, column.is_stats_set, column.has_column_index) == ("ZSTD", True, True)
    assert column.statistics is not None
    assert column.statistics.max == 9
    file = parquet_file(frame, compression="none", row_group_rows=4, statistics=False, page_index=False)
    assert [file.metadata.row_group(number).num_rows for number in range(3)] == [4, 4, 2]
    column = file.metadata.row_group(0).column(0)
    assert (column.compression, column.is_stats_set, column.has_column_index) == ("UNCOMPRESSED", False, False)


def test_statistics_are_kept_where_readers_can_skip_by_them() -> None:
    numbers = range(100)
    mixed = random.Random(1).sample(numbers, 100)
    columns = {
        "sorted": [f"{number:08}" for number in numbers],
        "falling": [f"{number:08}" for number in reversed(numbers)],
        "nearly sorted": [f"{number}-1" for number in numbers],
        "in runs": [f"{mixed[number // 10]}" for number in numbers],
        "gaps": [f"{number:08}" if number % 2 else None for number in numbers],
        "number": mixed,
        "mixed": [f"{number:08}" for number in mixed],
        "mixed, few": [f"{number % 7}" for number in mixed],
    }
    group = parquet_file(DataFrame(columns)).metadata.row_group(0)
    kept = {group.column(n).path_in_schema: group.column(n).is_stats_set for n in range(group.num_columns)}
    assert [name for name, is_kept in kept.items() if not is_kept] == ["mixed", "mixed, few"]


def test_parquet_levels_are_used() -> None:
    frame = DataFrame({"text": [f"{n * 7919:x}" for n in range(20_000)]})
    fast, small = (encoded(frame, parquet=ParquetOptions(compression_level=level)) for level in (1, 19))
    assert len(small) < len(fast)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"compression": "zstd", "compression_level": 23}, "zstd takes 1 to 22"),
        ({"compression": "snappy", "compression_level": 1}, "snappy has no levels"),
        ({"compression": "rar"}, "compression"),
        ({"row_group_rows": 0}, "row_group_rows"),
    ],
)
def test_bad_parquet_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ParquetOptions(**options)


def test_parquet_keeps_descriptions_and_units() -> None:
    sink = Sink()
    frame = DataFrame({"pieces": [1], "price": [2], "other": [3]})
    meanings = {
        "pieces": {"description": "Number of pieces"},
        "price": {"description": "At launch", "unit": "US dollars"},
        "gone": {"description": "not there"},
    }
    encode([frame], sink, "parquet", FormatOptions(), meanings)
    stored = {field.name: field.metadata or {} for field in pq.read_schema(io.BytesIO(sink.getvalue()))}
    assert stored["pieces"][b"description"] == b"Number of pieces"
    assert stored["price"] == {**stored["price"], b"description": b"At launch", b"unit": b"US dollars"}
    assert b"description" not in stored["other"]


@pytest.mark.parametrize(
    "column",
    [
        pa.array([["a", "b"], None, []]),
        pa.array([{"w": 1}, None, {"w": None}]),
        pa.array([[("key", 1)], None, []], pa.map_(pa.string(), pa.int8())),
        pa.array([None, None, None]),
        pa.ExtensionArray.from_storage(pa.uuid(), pa.array([bytes(16), None, b"x" * 16], pa.binary(16))),
    ],
    ids=lambda column: str(column.type),
)
def test_parquet_holds_columns_that_arrow_cannot_count(column: Any) -> None:
    found = pq.read_table(io.BytesIO(encoded(arrow_frame(v=column, n=pa.array([1, 2, 3])))))
    assert found["v"].combine_chunks().equals(column)
    assert found["n"].to_pylist() == [1, 2, 3]


# -- CSV -----------------------------------------------------------------------------------------------------------

MIXED = DataFrame({"number": [1, -2], "text": ["a,b", 'say "hi"']})


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ({}, '"number","text"\n1,"a,b"\n-2,"say ""hi"""\n'),
        ({"delimiter": ";", "header": False}, '1;"a,b"\n-2;"say ""hi"""\n'),
        ({"quoting": "all"}, '"number","text"\n"1","a,b"\n"-2","say ""hi"""\n'),
    ],
)
def test_csv_styles(style: dict[str, Any], expected: str) -> None:
    assert csv_text(MIXED, **style) == expected


def test_csv_without_quotes_refuses_what_needs_them() -> None:
    assert csv_text(DataFrame({"text": ["a"]}), quoting="none") == "text\na\n"
    with pytest.raises(DataError, match="quoting"):
        csv_text(MIXED, quoting="none")


def test_csv_null_word_is_never_mistaken_for_text() -> None:
    frame = DataFrame({"text": ["NULL", None, ""], "number": pd.array([1, None, 3], "Int64")})
    assert csv_text(frame, null_word="NULL", header=False) == '"NULL",1\nNULL,NULL\n"",3\n'


def test_csv_formulas_are_escaped_when_asked() -> None:
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "plain", "a=b", "'", "", None]
    frame = DataFrame({"=text": cells, "number": range(-6, 6)})
    kept = list(csv.reader(io.StringIO(csv_text(frame), newline="")))
    escaped = list(csv.reader(io.StringIO(csv_text(frame, escape_formulas=True), newline="")))
    assert [row[0] for row in kept] == ["=text", *(cell or "" for cell in cells)]
    assert [row[0] for row in escaped] == ["'=text", *(f"'{cell}" for cell in cells[:7]), *cells[7:11], ""]
    assert [row[1] for row in escaped] == [row[1] for row in kept]


def test_csv_holds_bytes_and_nested_values_as_text() -> None:
    frame = arrow_frame(
        raw=pa.array([b"\xff\x00", None]),
        tags=pa.array([["a", "b"], None]),
        took=pa.array([timedelta(seconds=1.5), None]),
    )
    assert csv_text(frame, header=False) == '"/wA=","[""a"", ""b""]","1.5"\n,,\n'


@pytest.mark.parametrize(
    ("style", "message"),
    [
        ({"delimiter": '"'}, "delimiter"),
        ({"delimiter": ";;"}, "delimiter"),
        ({"null_word": "a,b"}, "null_word"),
        ({"null_word": '"'}, "null_word"),
        ({"quoting": "some"}, "quoting"),
    ],
)
def test_bad_csv_styles_are_refused(style: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CsvStyle(**style)


def test_gzip_header_tells_neither_name_nor_time() -> None:
    body = encoded(MIXED, file_format="csv.gz")
    assert body[3:8] == bytes(5)
    assert gzip.decompress(body) == encoded(MIXED, file_format="csv")


# -- JSON lines ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file_format", ["csv", "jsonl"])
@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("us"),
        pa.timestamp("s", "UTC"),
        pa.date64(),
        pa.list_(pa.timestamp("us")),
        pa.struct([("d", pa.date64())]),
    ],
    ids=str,
)
def test_times_that_have_no_text_are_refused(kind: Any, file_format: Format) -> None:
    """Such as the infinity of PostgreSQL, which Arrow writes as a day of the year 32103."""
    never: Any = pa.array([None, (1 << 63) // 86_400_000 * 86_400_000 - 86_400_000])
    column: Any
    if pa.types.is_list(kind):
        column = pa.ListArray.from_arrays([0, 2], never.cast(kind.value_type))
    elif pa.types.is_struct(kind):
        column = pa.StructArray.from_arrays([never.cast(kind.field(0).type)], fields=list(kind))
    else:
        column = never.cast(kind)
    with pytest.raises(DataError, match="cannot be written: "):
        encoded(arrow_frame(value=column), file_format=file_format)


def test_json_values() -> None:
    moment = datetime(2026, 7, 1, 12, 30, 0, 250_000, tzinfo=UTC)
    frame = arrow_frame(
        price=pa.array([Decimal("1.10"), None]),
        day=pa.array([date(2026, 7, 1), None]),
        at=pa.array([moment, None], pa.timestamp("ms", "Europe/Brussels")),
        local=pa.array([datetime(2026, 7, 1, 12), None], pa.timestamp("s")),  # noqa: DTZ001
        clock=pa.array([time(1, 2, 3), None]),
        took=pa.array([timedelta(days=1, seconds=1.5), None]),
        raw=pa.array([b"\xff\x00", None]),
        whole=pa.array([3.0, None]),
        yes=pa.array([True, None]),
        nothing=pa.array([None, None]),
        tags=pa.array([[{"at": moment, "n": float("nan"), "d": Decimal("0.50"), "b": b"\xff"}], None]),
    )
    first, second = json_lines(frame)
    assert first == {
        "price": "1.10",
        "day": "2026-07-01",
        "at": "2026-07-01T14:30:00.250+02:00",
        "local": "2026-07-01T12:00:00",
        "clock": "01:02:03.000000",
        "took": 86401.5,
        "raw": "/wA=",
        "whole": 3.0,
        "yes": True,
        "nothing": None,
        "tags": [{"at": "2026-07-01T12:30:00.250000+00:00", "n": "NaN", "d": "0.50", "b": "/w=="}],
    }
    assert isinstance(first["whole"], float)
    assert set(second.values()) == {None}


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.none(), min_size=1), st.text(st.characters(codec="utf-8")))
def test_any_text_survives_json(values: list[str | None], name: str) -> None:
    frame = arrow_frame(**{name: pa.array(values, pa.string()), name + "2": pa.array(range(len(values)))})
    assert json_lines(frame) == [{name: value, name + "2": n} for n, value in enumerate(values)]


@given(st.lists(st.floats(), min_size=1))
def test_any_float_survives_json(values: list[float]) -> None:
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    found = [row["value"] for row in json_lines(arrow_frame(value=pa.array(values, from_pandas=False)))]
    assert [repr(value) for value in found] == [repr(words.get(repr(value), value)) for value in values]


@pytest.mark.parametrize("file_format", FORMATS)
def test_no_rows(file_format: Format) -> None:
    body = encoded(MIXED.iloc[:0], file_format=file_format)
    if file_format == "parquet":
        assert pq.read_table(io.BytesIO(body)).num_rows == 0
    elif file_format == "csv":
        assert body == b'"number","text"\n'


# -- types from batch to batch -------------------------------------------------------------------------------------


def types_of(*frames: DataFrame) -> list[str]:
    schema, tables = arrow_tables(frames)
    assert all(table.schema == schema for table in tables)
    return [str(kind) for kind in schema.types]


def test_a_column_of_nulls_takes_its_type_from_a_later_batch() -> None:
    nulls, texts = DataFrame({"text": [None, None]}), DataFrame({"text": ["a", None]})
    assert types_of(nulls, nulls, texts, nulls) == types_of(texts)
    assert encoded(nulls, texts) == encoded(DataFrame({"text": [None, None, "a", None]}))


def test_an_empty_batch_declares_nothing() -> None:
    frame = DataFrame({"number": [1]})
    assert types_of(DataFrame({"number": []}, dtype=object), frame, frame.iloc[:0].astype(str)) == ["int64"]


@pytest.mark.parametrize("file_format", FORMATS)
def test_how_values_are_packed_does_not_show(file_format: Format) -> None:
    plain = arrow_frame(text=pa.array(['say "=hi"', None]), raw=pa.array([b"\xff\0", None]))
    views = arrow_frame(
        text=pa.array(['say "=hi"', None], pa.string_view()), raw=pa.array([b"\xff\0", None], pa.binary_view())
    )
    packed = plain.assign(text=plain["text"].astype(pd.ArrowDtype(pa.dictionary(pa.int8(), pa.string()))))
    first, *others = (encoded(frame, file_format=file_format) for frame in (plain, views, packed))
    assert others == [first, first]


def test_integers_that_pandas_made_floats_stay_integers() -> None:
    assert types_of(DataFrame({"number": [1]}), DataFrame({"number": [2.0, None]})) == ["int64"]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["01"], [2], r"the batch at row 5 changed types: value is int64, was .*string"),
        ([1], [2.5], "value is double, was int64"),
        ([1], [True], "value is bool, was int64"),
        ([1], ["2"], "value is .*string, was int64"),
        ([b"1"], ["2"], "value is .*string, was binary"),
        ([["a"]], ["a"], "value is .*string, was list"),
        ([date(2026, 1, 1)], [NOON], "value is timestamp.*, was date"),
        ([NOON.replace(tzinfo=UTC)], [NOON], r"value is timestamp\[us\], was timestamp\[us, tz=UTC\]"),
        ([NOON.replace(tzinfo=UTC)], [date(2026, 1, 1)], "value is date.*, was timestamp"),
        ([{"w": 1}], [{"w": 1, "h": 2}], "value is struct<w: int64, h: int64>, was struct<w: int64>"),
        ([[0.5]], [["0.5"]], "value is list.*string>, was list.*double>"),
    ],
)
def test_other_types_are_refused(first: list[Any], second: list[Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        encoded(DataFrame({"value": first}), DataFrame({"value": second}, index=[5]))


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ([NOON], [date(2026, 1, 1)], datetime(2026, 1, 1)),  # noqa: DTZ001
        ([{"w": 1, "h": 2}], [{"h": 3}], {"w": None, "h": 3}),
        ([["a"]], [[]], []),
        ([[1]], [[2.0]], [2]),
    ],
)
def test_types_that_lose_nothing_are_cast(first: list[Any], second: list[Any], kept: Any) -> None:
    body = encoded(DataFrame({"value": first}), DataFrame({"value": second}))
    assert pq.read_table(io.BytesIO(body))["value"].to_pylist() == [*first, kept]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (pa.array([1], pa.decimal128(5, 2)), pa.array([None], pa.int64())),
        (pa.array([{"w": 1}]), pa.array([None], pa.list_(pa.int64()))),
        (pa.array(["a"]), pa.nulls(1)),
        (pa.array([["a"]]), pa.array([["a"]]).cast(pa.list_(pa.dictionary(pa.int8(), pa.string())))),
        (pa.array([{"w": "a"}]), pa.array([{"w": "a"}], pa.struct([("w", pa.string_view())]))),
    ],
    ids=lambda column: str(column.type),
)
def test_nulls_of_another_type_and_other_packing_fit(first: Any, second: Any) -> None:
    _, tables = arrow_tables([arrow_frame(value=first), arrow_frame(value=second)])
    assert [table["value"].to_pylist() for table in tables] == [first.to_pylist(), second.to_pylist()]


def test_mixed_values_are_refused_with_their_column() -> None:
    with pytest.raises(DataError, match=r"batch at row 3 has values without a common type: .*column value"):
        encoded(DataFrame({"value": ["a", 1]}, index=[3, 4]))


def test_no_batch_at_all_is_a_mistake() -> None:
    with pytest.raises(EtlError, match="no batch"):
        encoded()


def test_a_failing_batch_is_the_error_that_is_seen() -> None:
    def failing() -> Iterator[DataFrame]:
        yield MIXED
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        encode(failing(), Sink(), "parquet", SMALL_GROUPS)
