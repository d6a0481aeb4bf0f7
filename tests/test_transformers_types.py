"""CastTypes, ParseDates and ParseNumbers, and the casting below them."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.errors import ConfigError
from etl.ledger import Account
from etl.tables.casting import cast
from etl.tables.schema import arrow_type
from etl.transformers.types import CastTypes, ParseDates, ParseNumbers
from tests.any_split import AnySplitContract, listed, rejects, repairs, table

AMSTERDAM = "timestamp[Europe/Amsterdam]"
NAIVE = dt.datetime  # times without a zone are what is tested


class TestCastTypes(AnySplitContract):
    def make(self) -> Transformer:
        return CastTypes(types={"a": "int32", "b": "bool", "c": "decimal(6,2)", "d": "date", "e": AMSTERDAM})

    def frame(self) -> DataFrame:
        return table(
            a=["1", "67.0", "x", None, "0x1F", "+5", "99999999999"],
            b=["true", "No", "1", None, "2", "", "F"],
            c=["1.50", "1e2", "1.555", None, "99999.99", "nan", "-.5"],
            d=["2024-02-29", "2024-02-30", "2024-01-01 00:00:00", None, "0000-01-01", "20240101", "1999-12-31"],
            e=[
                "2024-01-31",
                "2024-07-01T12:00Z",
                "2024-03-31 02:30",
                None,
                "2024-10-27T02:30:00",
                "x",
                "2024-01-01T00+01",
            ],
        )


class TestCastTypesThatMakesNulls(AnySplitContract):
    def make(self) -> Transformer:
        return CastTypes(types={"a": "float64"}, invalid="null")

    def frame(self) -> DataFrame:
        return table(a=["1", "1.5", "x", None, "inf", "1e400", "-0"])


class TestParseDates(AnySplitContract):
    def make(self) -> Transformer:
        return ParseDates(columns=("a", "b"), formats=("%d/%m/%Y", "%Y-%m-%d", "%d %b %Y"))

    def frame(self) -> DataFrame:
        return table(
            a=["31/01/2024", "2024-02-30", "now", None, "1 Feb 2024", "", "2/1/2024"],
            b=[None, "2024-01-31", "today", "31/02/2024", "NaT", "12", "29/02/2024"],
        )


class TestParseTimesInAZone(AnySplitContract):
    def make(self) -> Transformer:
        return ParseDates(
            columns=("a",),
            formats=("%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S%z"),
            to="timestamp",
            zone="Europe/Amsterdam",
            invalid="null",
        )

    def frame(self) -> DataFrame:
        return table(
            a=["2024-01-31 12:00", "2024-07-01T12:00:00Z", "2024-03-31 02:30", "2024-10-27 02:30", None, "soon"]
        )


class TestParseNumbers(AnySplitContract):
    def make(self) -> Transformer:
        return ParseNumbers(columns=("a",), decimal=",", thousands=".", currency=("€", "EUR"), to="decimal(9,2)")

    def frame(self) -> DataFrame:
        return table(a=["1.234,50 €", "EUR -5", "12", "1,2,3", None, "1.23", "€ 1.000.000", "$5", "0,001"])


class TestParsePercentages(AnySplitContract):
    def make(self) -> Transformer:
        return ParseNumbers(columns=("a",), percent=True, invalid="null")

    def frame(self) -> DataFrame:
        return table(a=["12%", "12.5 %", "7", "x", None, "%"])


# -- casting --------------------------------------------------------------------------------------------


def typed(value: Any, type_name: str, kind: pa.DataType | None = None) -> Any:
    return cast(pa.array([value], kind or pa.string()), arrow_type(type_name))[0].as_py()


@pytest.mark.parametrize(
    ("text", "type_name", "expected"),
    [
        ("67", "int32", 67),
        ("67.0", "int16", 67),
        ("+67.", "int64", 67),
        ("9223372036854775807", "int64", 2**63 - 1),
        ("-9223372036854775808", "int64", -(2**63)),
        ("9223372036854775808", "int64", None),
        ("32768", "int16", None),
        ("0x1F", "int64", None),
        ("1e3", "int64", None),
        ("1_000", "int64", None),
        ("٣", "int64", None),
        ("", "int64", None),
        (" 5", "int64", None),
        ("1e3", "float64", 1000.0),
        (".5", "float64", 0.5),
        ("nan", "float64", None),
        ("-inf", "float64", None),
        ("1e999", "float64", None),
        ("YES", "bool", True),
        ("0.0", "bool", False),
        ("2", "bool", None),
        ("1.50", "decimal(10,2)", Decimal("1.50")),
        ("1.5000", "decimal(10,2)", Decimal("1.50")),
        ("1.505", "decimal(10,2)", None),
        ("1e2", "decimal(10,2)", Decimal(100)),
        ("123456789", "decimal(10,2)", None),
        ("1e999999999", "decimal(10,2)", None),
        ("2024-02-29", "date", dt.date(2024, 2, 29)),
        ("2024-02-29T00:00:00.000", "date", dt.date(2024, 2, 29)),
        ("2024-02-29 12:00", "date", None),
        ("2023-02-29", "date", None),
        ("20240229", "date", None),
        ("2024-W05-1", "date", None),
        ("0000-01-01", "date", None),
        ("2024-02-29", "timestamp", NAIVE(2024, 2, 29)),
        ("2024-02-29 12:30:01.5", "timestamp", NAIVE(2024, 2, 29, 12, 30, 1, 500_000)),
        ("2024-02-29T12:30:01.1234567", "timestamp", None),
        ("2024-02-29T12:30Z", "timestamp", None),
        ("2024-02-29T24:00", "timestamp", None),
    ],
)
def test_text_becomes_a_value_or_null(text: str, type_name: str, expected: Any) -> None:
    assert typed(text, type_name) == expected


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2024-01-31T12:00", "2024-01-31T11:00"),
        ("2024-07-01T12:00", "2024-07-01T10:00"),
        ("2024-07-01T12:00Z", "2024-07-01T12:00"),
        ("2024-07-01T12:00-05:30", "2024-07-01T17:30"),
        ("2024-03-31T02:30", None),  # the clocks went from 2 to 3
        ("2024-10-27T02:30", None),  # twice: they went from 3 back to 2
        ("2024-10-27T02:30+02:00", "2024-10-27T00:30"),
        ("2040-07-01T12:00", "2040-07-01T10:00"),
        ("9999-12-31", "9999-12-30T23:00"),
        ("9999-12-31T23:30-05:00", None),  # the year 10000
    ],
)
def test_times_come_into_a_zone(text: str, utc: str | None) -> None:
    found = typed(text, AMSTERDAM)
    assert (found and found.astimezone(dt.UTC).isoformat(timespec="minutes")) == (utc and f"{utc}+00:00")


@pytest.mark.parametrize(
    ("value", "kind", "type_name", "expected"),
    [
        (67.0, pa.float64(), "int16", 67),
        (67.5, pa.float64(), "int16", None),
        (1e15, pa.float64(), "int64", 10**15),
        (2.0**63, pa.float64(), "int64", None),
        (float("nan"), pa.float64(), "text", None),
        (70_000, pa.int64(), "int16", None),
        (1, pa.int64(), "bool", True),
        (2, pa.int64(), "bool", None),
        (True, pa.bool_(), "int16", 1),
        (True, pa.bool_(), "text", "true"),
        (0.1, pa.float64(), "decimal(4,2)", Decimal("0.10")),
        (0.125, pa.float64(), "decimal(4,2)", None),
        (Decimal("2.00"), pa.decimal128(5, 2), "int32", 2),
        (Decimal("2.50"), pa.decimal128(5, 2), "int32", None),
        (Decimal("2.50"), pa.decimal128(5, 2), "float64", 2.5),
        (20240131, pa.int64(), "date", None),
        (dt.date(2024, 1, 31), pa.date32(), "timestamp", NAIVE(2024, 1, 31)),
        (NAIVE(2024, 1, 31, 12), pa.timestamp("ns"), "date", dt.date(2024, 1, 31)),
        (NAIVE(2024, 7, 1, 23), pa.timestamp("s", "UTC"), "date", dt.date(2024, 7, 1)),
        (NAIVE(2024, 7, 1, 23), pa.timestamp("s", "Europe/Amsterdam"), "date", dt.date(2024, 7, 2)),
        (NAIVE(2040, 7, 1, 22), pa.timestamp("us", "Europe/Amsterdam"), "timestamp", NAIVE(2040, 7, 2)),
        ({"a": ["1", "é"]}, pa.struct([("a", pa.list_(pa.string()))]), "text", '{"a": ["1", "é"]}'),
        (b"caf\xc3\xa9", pa.binary(), "text", "café"),
        (None, pa.null(), "date", None),
    ],
)
def test_values_of_other_types_become_a_value_or_null(
    value: Any, kind: pa.DataType, type_name: str, expected: Any
) -> None:
    assert typed(value, type_name, kind) == expected


_TYPES = ("bool", "int16", "int64", "float64", "decimal(10,2)", "date", "timestamp", AMSTERDAM)
_DAY = r"[0-2][0-9]{3}-[01][0-9]-[0-3][0-9]"
_TIME = r"[0-2][0-9](:[0-5][0-9](:[0-6][0-9](\.[0-9]{1,7})?)?)?"
_ZONE = r"Z|[+-][01][0-9](:?[0-5][0-9])?"
_LOOKS = st.one_of(
    st.text("0123456789+-.eE:TZ /xX", max_size=12),
    st.from_regex(r"[+-]?[0-9]{0,20}(\.[0-9]{0,4})?([eE][+-]?[0-9]{1,3})?", fullmatch=True),
    st.from_regex(r"0{0,50}[0-9]{0,3}(\.[0-9]{0,2}0{0,50}1?)?", fullmatch=True),
    st.from_regex(rf"{_DAY}([ T]{_TIME}({_ZONE})?)?", fullmatch=True),
    st.sampled_from(["nan", "inf", "infinity", "true", "T", "", " 1", "1.", "2024-02-29Z", "0x1F"]),
)


@given(st.lists(_LOOKS, min_size=1, max_size=6), st.sampled_from(_TYPES))
def test_the_fast_way_and_the_slow_way_agree(texts: list[str], type_name: str) -> None:
    """A column that Arrow casts at once must hold what it would hold beside a cell that Arrow cannot cast."""
    kind = arrow_type(type_name)
    alone = [cast(pa.array([text]), kind)[0] for text in texts]
    together = cast(pa.array([*texts, "certainly not"]), kind)
    assert together.slice(0, len(texts)).equals(pa.array([value.as_py() for value in alone], kind))


@pytest.mark.parametrize("name", ["int", "decimal(0,0)", "decimal(39,2)", "decimal(2,3)", "timestamp[Mars]", "string"])
def test_unknown_types_are_refused(name: str) -> None:
    with pytest.raises(ValidationError, match=r"types\.a"):
        CastTypes(types={"a": name})


# -- the steps ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(16)], ids=str)
def test_bytes_become_text_however_arrow_holds_them(kind: pa.DataType) -> None:
    values = cast(pa.array([b"0123456789abcde\xff", None], kind), pa.string())
    assert values.to_pylist() == [r"0123456789abcde\xff", None]


def test_a_uuid_becomes_its_text() -> None:
    uuids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([b"\xff" * 16, None], pa.binary(16)))
    assert cast(uuids, pa.string()).to_pylist() == ["ffffffff-ffff-ffff-ffff-ffffffffffff", None]


def test_a_row_is_rejected_once_with_every_misfit_and_its_raw_values() -> None:
    account = Account("CastTypes")
    frame = table(a=["1", "x"], b=["yes", "maybe"])
    result = CastTypes(types={"a": "int16", "b": "bool"}).transform(frame, account)
    assert result.index.tolist() == [1]
    assert account.rejected.total() == 1
    assert rejects(account) == [(2, "a", "x", "not a number (int16)"), (2, "b", "maybe", "not true or false")]


def test_a_misfit_may_become_null_and_is_reported() -> None:
    account = Account("CastTypes")
    result = CastTypes(types={"a": "int16"}, invalid="null").transform(table(a=["1", "x", None]), account)
    assert listed(result["a"]) == [1, None, None]
    assert repairs(account) == {"a: not a number (int16), made null": 1}


def test_the_first_format_that_fits_decides() -> None:
    account = Account("ParseDates")
    step = ParseDates(columns=("a",), formats=("%m/%d/%Y", "%d/%m/%Y"))
    result = step.transform(table(a=["02/01/2024", "31/01/2024", "2024-01-01"]), account)
    assert listed(result["a"]) == [dt.date(2024, 2, 1), dt.date(2024, 1, 31)]
    assert rejects(account) == [(3, "a", "2024-01-01", "not a date like %m/%d/%Y or %d/%m/%Y")]
    assert repairs(account) == {"a: read as a date": 2}


def test_times_keep_their_offset_as_an_instant() -> None:
    step = ParseDates(columns=("a",), formats=("%Y-%m-%dT%H:%M:%S%z",), to="timestamp", zone="UTC")
    result = step.transform(table(a=["2024-01-31T12:00:00+0100", "2024-01-31T12:00:00-0500"]))
    assert [time.isoformat() for time in listed(result["a"])] == [
        "2024-01-31T11:00:00+00:00",
        "2024-01-31T17:00:00+00:00",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["%Q"]}, "bad directive"),
        ({"formats": []}, "at least 1"),
        ({"formats": ["%d"], "zone": "UTC"}, "zone is for times"),
        ({"formats": ["%d%z"], "to": "timestamp"}, "need a zone"),
        ({"formats": ["%d"], "to": "timestamp", "zone": "Nowhere"}, "unknown time zone"),
    ],
)
def test_mistakes_about_dates_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ParseDates.model_validate({"columns": ["a"], **options})


def number(text: str, **options: Any) -> Any:
    step = ParseNumbers(columns=("a",), invalid="null", **options)
    return listed(step.transform(table(a=[text]))["a"])[0]


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        ("1234.5", {}, 1234.5),
        (" -1234.5 ", {}, -1234.5),
        ("\u22125", {}, -5.0),
        ("1,234.5", {}, None),
        ("1,234.5", {"thousands": ","}, 1234.5),
        ("1,234,567", {"thousands": ","}, 1_234_567.0),
        ("1234,567", {"thousands": ","}, None),
        ("1,23", {"thousands": ","}, None),
        ("1.234,50", {"decimal": ",", "thousands": "."}, 1234.5),
        ("1\u202f234,5", {"decimal": ",", "thousands": " "}, 1234.5),
        ("1\u2019234.5", {"thousands": "'"}, 1234.5),
        ("$5", {}, None),
        ("$5", {"currency": ("$",)}, 5.0),
        ("-$5", {"currency": ("$",)}, -5.0),
        ("$-5", {"currency": ("$",)}, -5.0),
        ("5 EUR", {"currency": ("€", "EUR")}, 5.0),
        ("5 USD", {"currency": ("€", "EUR")}, None),
        ("12.3%", {"percent": True}, 0.123),
        ("12.3", {"percent": True}, 0.123),
        ("12.3%", {}, None),
        ("0.29 %", {"percent": True, "to": "decimal(6,4)"}, Decimal("0.0029")),
        ("12", {"to": "int16"}, 12),
        ("12.50", {"to": "int16"}, None),
        (".", {}, None),
        ("", {}, None),
        ("$", {"currency": ("$",)}, None),
        ("--5", {}, None),
        ("1e5", {}, None),
        ("1\n2", {}, None),
    ],
)
def test_numbers_are_read_as_people_write_them(text: str, options: dict[str, Any], expected: Any) -> None:
    assert number(text, **options) == expected


def test_readings_are_evidence() -> None:
    account = Account("ParseNumbers")
    step = ParseNumbers(columns=("a",), decimal=",", thousands=".", currency=("€",))
    step.transform(table(a=["1.234,50 €", "5", "x"]), account)
    assert account.repaired["a: read as a number"].samples == [{"row": 1, "before": "1.234,50 €", "after": "1234.50"}]
    assert repairs(account) == {"a: read as a number": 1}
    assert rejects(account) == [(3, "a", "x", "not a number (float64)")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": ",", "thousands": ","}, "must differ"),
        ({"to": "date"}, "not a type of numbers"),
        ({"percent": True, "to": "int32"}, "fractions"),
        ({"currency": [""]}, "at least 1"),
    ],
)
def test_mistakes_about_numbers_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ParseNumbers.model_validate({"columns": ["a"], **options})


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (ParseNumbers(columns=("a",)), "double[pyarrow]"),
        (ParseDates(columns=("a",), formats=("%Y",)), "date32[day][pyarrow]"),
    ],
)
def test_only_text_is_parsed(step: Transformer, kind: str) -> None:
    with pytest.raises(ConfigError, match="a is int64 already"):
        step.transform(table({"a": pa.int64()}, a=[1]))
    without_a_type = step.transform(table({"a": pa.null()}, a=[None, None]))["a"]  # as a file may have it
    assert (str(without_a_type.dtype), listed(without_a_type)) == (kind, [None, None])
