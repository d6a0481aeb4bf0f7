"""The expression language: what it computes, what null does, and that nothing else can be written in it."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame

from etl.errors import ConfigError, DataError
from etl.tables.evaluation import evaluate
from etl.tables.expressions import FUNCTIONS, parse
from tests.any_split import table

NOON = dt.datetime(2024, 1, 31, 12)  # noqa: DTZ001


def sample() -> DataFrame:
    return table(
        {
            "a": pa.int64(),
            "b": pa.int16(),
            "f": pa.float64(),
            "m": pa.decimal128(10, 2),
            "d": pa.date32(),
            "time": pa.timestamp("us"),
            "zoned": pa.timestamp("us", "Europe/Amsterdam"),
            "ok": pa.bool_(),
            "US price": pa.int32(),
            "many": pa.decimal128(38, 0),
            "small": pa.decimal128(38, 18),
            "utc": pa.timestamp("us", "UTC"),
            "offset": pa.timestamp("us", "+05:30"),
        },
        a=[1, None, 2**63 - 1],
        b=[0, 2, 3],
        f=[1.5, None, 1e308],
        m=[Decimal("1.50"), None, Decimal("2.00")],
        t=["x", None, "Yy z"],
        d=[dt.date(2024, 1, 31), None, dt.date(2024, 3, 1)],
        time=[NOON, None, NOON],
        zoned=[NOON.replace(tzinfo=dt.UTC), None, NOON.replace(tzinfo=dt.UTC)],
        ok=[True, False, None],
        **{"US price": [1, 2, 3]},
        many=[Decimal(1)] * 3,
        small=[Decimal(1)] * 3,
        utc=[NOON.replace(tzinfo=dt.UTC)] * 3,
        offset=[NOON.replace(year=year, tzinfo=dt.UTC) for year in (2024, 2036, 2040)],
    )


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        # comparisons, and what null makes of them
        ("a > 1", [False, None, True]),
        ("1 < b <= 2", [False, True, False]),
        ("a != 1", [False, None, True]),
        ("a > 1.5", [False, None, True]),
        ("a == 9223372036854775807", [False, None, True]),
        ("m == 2", [False, None, True]),
        ("m > 1.7", [False, None, True]),
        ("t == 'x'", [True, None, False]),
        ("a in [1, 2.5]", [True, None, False]),
        ("t not in ('x', 'y')", [False, None, True]),
        ("b in {-1, 3}", [False, False, True]),
        ("d >= '2024-02-01'", [False, None, True]),
        ("d in ['2024-01-31']", [True, None, False]),
        ("time > '2024-01-31'", [True, None, True]),
        ("zoned == '2024-01-31T13:00'", [True, None, True]),
        ("d < time", [True, None, False]),
        ("offset > '2024-01-31T17:30'", [False, True, True]),
        ("year(offset)", [2024, 2036, 2040]),
        ("date(offset) == date('2040-01-31')", [False, False, True]),
        # logic: three-valued
        ("not ok", [False, True, None]),
        ("ok and a > 0", [True, False, None]),
        ("t == 'x' or b > 1", [True, True, True]),
        ("ok or b == 3", [True, False, True]),
        ("ok == True", [True, False, None]),
        ("is_null(a) or a > 1", [False, True, True]),
        # arithmetic: exact or null
        ("a + b", [1, None, None]),
        ("a * 10", [10, None, None]),
        ("a - 1", [0, None, 2**63 - 2]),
        ("-b", [0, -2, -3]),
        ("+f", [1.5, None, 1e308]),
        ("b / 2", [0.0, 1.0, 1.5]),
        ("a / b", [None, None, (2**63 - 1) / 3]),
        ("f * f", [2.25, None, None]),
        ("m * 2", [Decimal("3.00"), None, Decimal("4.00")]),
        ("m / 0", [None, None, None]),
        ("`US price` * 2 + 1", [3, 5, 7]),
        ("t + '!'", ["x!", None, "Yy z!"]),
        ("1 + 1", [2, 2, 2]),
        # choices
        ("'free' if b == 0 else 'paid'", ["free", "paid", "paid"]),
        ("1 if ok else 2.5", [1.0, 2.5, 2.5]),
        # functions
        ("coalesce(a, b, 7)", [1, 2, 2**63 - 1]),
        ("lower(t)", ["x", None, "yy z"]),
        ("upper(t)", ["X", None, "YY Z"]),
        ("trim(t + ' ')", ["x", None, "Yy z"]),
        ("length(t)", [1, None, 4]),
        ("contains(t, 'y')", [False, None, True]),
        ("starts_with(t, 'Y')", [False, None, True]),
        ("ends_with(t, 'x')", [True, None, False]),
        ("matches(t, '[a-z]')", [True, None, False]),
        ("abs(b - 5)", [5, 3, 2]),
        ("abs(-9223372036854775807 - 1)", [None, None, None]),
        ("round(f)", [2.0, None, 1e308]),
        ("round(f / 4, 1)", [0.4, None, 2.5e307]),
        ("round(m)", [Decimal(2), None, Decimal(2)]),
        ("round(b, 2)", [0, 2, 3]),
        ("year(d) * 100 + month(d)", [202401, None, 202403]),
        ("day(zoned)", [31, None, 31]),
        ("days_between(time, d)", [0, None, 30]),
        ("text(a) + text(ok)", ["1true", None, None]),
        ("number(text(f)) == f", [True, None, True]),
        ("number(t)", [None, None, None]),
        ("date('2024-01-31') == d", [True, None, False]),
        ("is_null(number(t))", [True, True, True]),
    ],
)
def test_expressions_are_computed(expression: str, expected: list[Any]) -> None:
    assert evaluate(expression, sample(), "keep").to_pylist() == expected


@pytest.mark.parametrize("expression", ["a", "a / b", "a > 1", "'EUR'", "m * m", "coalesce(f, 1)", "1 if ok else 2.5"])
def test_the_type_does_not_depend_on_the_rows(expression: str) -> None:
    frames = (sample(), sample().iloc[:1], sample().iloc[1:2], sample().iloc[:0])
    assert len({evaluate(expression, frame, "keep").type for frame in frames}) == 1


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a >", "cannot be read"),
        ("a = 1", "cannot be read at 'a = 1'.*=="),
        ("(a", "never closed"),
        ("`a", "cannot be read"),
        ("a\0", "cannot be read"),
        ("a == None", r"write is_null\(column\)"),
        ("a is 1", "write == or !="),
        ("a & b", "write 'and' or 'or'"),
        ("a in b", "'in' needs a list"),
        ("a in []", "'in' needs a list"),
        ("a in [b]", "b: only a number, a text"),
        ("lowr(t)", "did you mean 'lower'"),
        ("lower(t, 1)", r"lower\(\) takes a value$"),
        ("lower()", r"lower\(\) takes a value$"),
        ("lower(t=t)", r"lower\(\) takes a value$"),
        ("coalesce(*a)", r"coalesce\(\) takes 2 values or more"),
        ("contains(t, t)", "only a number, a text"),
        ("contains(t, 1)", r"contains\(\) takes a value and a text"),
        ("matches(t, '(')", "not a regular expression"),
        ("matches(t, '(?=x)')", "not supported"),
        ("round(f, 99)", "rounds to 0 to 15 digits"),
        ("1e999", "too large"),
        ("99999999999999999999", "too large"),
        ("+".join(["1"] * 200), "nested too deeply"),
        ("(" * 300 + "a" + ")" * 300, "too many nested"),
        ("a" * 20_000, "longer than"),
    ],
)
def test_mistakes_are_explained(expression: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "a.b",
        "t.str.len()",
        "a.__class__.__mro__",
        "a[0]",
        "().__class__",
        "__import__('os')",
        "open('x')",
        "eval('1')",
        "lower.__globals__",
        "lower(t).x",
        "(lambda: 1)()",
        "f'{a}'",
        "[x for x in a]",
        "{1: 2}",
        "(a := 1)",
        "a ** 2",
        "a // 2",
        "a % 2",
        "a @ b",
        "a << 2",
        "~a",
        "b'x'",
        "1j",
        "...",
        "*a",
        "@a",
        "await a",
        "a; b",
        "import os",
        "not",
    ],
)
def test_nothing_else_can_be_written(expression: str) -> None:
    with pytest.raises(ValueError, match=r"not allowed|cannot be read|no such function"):
        parse(expression)


_WORDS = (*FUNCTIONS, "a", "t", "`US price`", "__class__", "1", "'x'", "None", "True")
_KEYWORDS = ("lambda", "in", "not", "if", "else", "and", "or")
_MARKS = (".", "(", ")", "[", "]", ",", "==", "<", "+", "-", "*", "/", "@", ":=", " ", "{", "}", ":")


@given(st.lists(st.sampled_from((*_WORDS, *_KEYWORDS, *_MARKS)), max_size=12).map(" ".join))
def test_what_is_accepted_gives_a_column_or_a_clear_mistake(expression: str) -> None:
    try:
        parse(expression)
    except ValueError:
        return
    try:
        result = evaluate(expression, sample(), "keep")
    except (ConfigError, DataError) as error:
        assert str(error).startswith("keep: ")  # noqa: PT017  (both outcomes are right)
    else:
        assert len(result) == 3


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("a > 't'", "mixes a number and text"),
        ("a + t", "mixes a number and text"),
        ("ok + 1", "mixes a number and true or false"),
        ("ok + ok", "cannot be computed with true or false"),
        ("t - t", "cannot be computed with text"),
        ("d + d", "cannot be computed with a date"),
        ("not a", "a: is a number; it should be true or false"),
        ("-t", "needs a number, and t is text"),
        ("lower(a)", "needs text, and a is a number"),
        ("year(t)", "needs a date, and t is text"),
        ("days_between(d, '2024-03-01')", "needs a date, and '2024-03-01' is text"),
        ("d > 'soon'", "'soon' is not a date"),
        ("d > t", "compares a date with a column of text"),
        ("time > zoned", "mixes a time in a zone and a time without a zone"),
        ("a if ok else t", "mixes a number and text"),
        (r"matches(t, 'x\\Z')", "invalid escape sequence"),
        ("many > small", "precision out of range"),
        ("zoned if ok else utc", "types must be compatible"),
    ],
)
def test_what_cannot_be_mixed_names_its_place(expression: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as failure:
        evaluate(expression, sample(), "columns.x")
    assert str(failure.value).startswith("columns.x: ")


def test_a_missing_column_names_its_place() -> None:
    with pytest.raises(DataError, match=r"columns\.x: there is no column 'US pric'; did you mean 'US price'"):
        evaluate("`US pric` > 1", sample(), "columns.x")
