"""Contract: each rule, every broken rule of a row, and memory beyond one batch."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pandas import DataFrame, Series
from pydantic import ValidationError

from etl.base import Transformer
from etl.errors import ConfigError, DataError
from etl.ledger import Account
from etl.tables.rules import conform
from etl.tables.schema import Column, Columns
from etl.transformers.contract import Contract
from main import Pipeline
from tests.any_split import AnySplitContract, listed, rejects, table

NEW_YEAR = dt.date(2024, 1, 1)


class Orders(Contract):
    """Orders, as a Python class with a check of its own."""

    columns: Columns = {  # noqa: RUF012  (pydantic copies it)
        "id": Column(type="int64", required=True, unique=True, description="Number of the order"),
        "ordered": Column(type="date", min=dt.date(2020, 1, 1)),
        "shipped": Column(type="date"),
        "total": Column(type="decimal(8,2)", min=0, unit="EUR"),
        "state": Column(one_of=("open", "paid")),
    }

    def checks(self, batch: DataFrame) -> Iterator[tuple[str, Series[Any]]]:
        yield "shipped before it was ordered", batch["shipped"] < batch["ordered"]


def orders() -> DataFrame:
    return table(
        id=["1", "2", "2", "x", None, "3", "2", "4"],
        ordered=["2024-01-31", "2024-01-31", "2024-02-01", "soon", "2019-12-31", "2024-02-30", "2024-01-01", None],
        shipped=["2024-02-01", "2024-01-30", None, None, "2020-01-01", None, "2024-01-02", "2024-01-02"],
        total=["12.50", "1", "0", "-1", "0.001", "x", "5", None],
        state=["open", "open", "paid", "lost", None, "", "paid", "open"],
        note=["a", None, "b", "c", "d", "e", "f", "g"],
    )


class TestContractInPython(AnySplitContract):
    def make(self) -> Transformer:
        return Orders()

    def frame(self) -> DataFrame:
        return orders()


class TestContractWithAFile(AnySplitContract):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "states.csv"
        self.file.write_text("state\nopen\npaid\n")

    def make(self) -> Transformer:
        columns = {
            "state": {"references": {"file": self.file, "column": "state"}, "pattern": "[a-z]+", "max_length": 4},
            "id": {"unique": True},
            "note": {"unique": True},
        }
        return Contract.model_validate({"columns": columns, "key": ["id", "state"], "extra": "keep"})

    def frame(self) -> DataFrame:
        return orders()


def checked(frame: DataFrame, options: dict[str, Any] | None = None, **columns: Any) -> tuple[DataFrame, Account]:
    account = Account("Contract")
    result = Contract.model_validate({"columns": columns, **(options or {})}).transform(frame, account)
    account.close()
    return result, account


def broken(values: list[Any], **rules: Any) -> list[tuple[str | None, str]]:
    """The values that break a rule of a column, and the rule."""
    _, account = checked(table(a=values), a=rules)
    return [(value, rule) for _, _, value, rule in rejects(account)]


@pytest.mark.parametrize(
    ("rules", "values", "expected"),
    [
        ({"required": True}, ["x", None], [(None, "missing")]),
        ({"type": "int16"}, ["1", "40000", "x"], [("40000", "not a number (int16)"), ("x", "not a number (int16)")]),
        ({"type": "bool"}, ["yes", "maybe"], [("maybe", "not true or false")]),
        ({"type": "date"}, ["2024-01-31", "31/1"], [("31/1", "not a date")]),
        ({"type": "timestamp[UTC]"}, ["2024-01-31", "x"], [("x", "not a timestamp[UTC]")]),
        ({"type": "int32", "min": 1, "max": 9}, ["0", "1", "9", "10"], [("0", "below 1"), ("10", "above 9")]),
        ({"type": "float64", "min": 0.5}, ["0.4", "0.5"], [("0.4", "below 0.5")]),
        ({"type": "decimal(5,2)", "max": Decimal("1.10")}, ["1.10", "1.11"], [("1.11", "above 1.10")]),
        ({"type": "date", "max": NEW_YEAR}, ["2024-01-01", "2024-01-02"], [("2024-01-02", "above 2024-01-01")]),
        (
            {"type": "timestamp", "min": NEW_YEAR},
            ["2023-12-31T23:59", "2024-01-01"],
            [("2023-12-31T23:59", "below 2024-01-01")],
        ),
        (
            {"type": "timestamp[Europe/Amsterdam]", "min": NEW_YEAR},
            ["2023-12-31T23:00Z", "2023-12-31T22:59Z"],
            [("2023-12-31T22:59Z", "below 2024-01-01")],
        ),
        ({"min_length": 2, "max_length": 3}, ["é", "éé", "éééé"], [("é", "shorter than 2"), ("éééé", "longer than 3")]),
        ({"pattern": "a|b+"}, ["a", "bb", "ab"], [("ab", "does not match a|b+")]),
        ({"one_of": ["a", "b"]}, ["a", "c", None], [("c", "not one of a, b")]),
        ({"one_of": list("abcdefg")}, ["x"], [("x", "not one of a, b, c, d, e and 2 more")]),
        ({"type": "int16", "one_of": [1, 2]}, ["1.0", "3"], [("3", "not one of 1, 2")]),
        ({"unique": True}, ["a", "b", "a", None, None, "a"], [("a", "not unique"), ("a", "not unique")]),
        ({"type": "int16", "unique": True}, ["1", "1.0"], [("1", "not unique")]),
    ],
)  # fmt: skip
def test_a_broken_rule_is_named_with_the_raw_value(
    rules: dict[str, Any], values: list[Any], expected: list[tuple[str | None, str]]
) -> None:
    assert broken(values, **rules) == expected


@pytest.mark.parametrize("type_name", ["text", "int64", "float64", "bool", "date", "timestamp", "decimal(5,2)"])
def test_null_breaks_no_rule_but_required(type_name: str) -> None:
    assert broken([None, None], type=type_name) == []


def test_columns_come_out_typed_and_in_the_declared_order() -> None:
    result, _ = checked(
        orders().iloc[:1], total={"type": "decimal(8,2)"}, id={"type": "int16"}, ordered={"type": "date"}
    )
    assert {name: str(dtype) for name, dtype in result.dtypes.items()} == {
        "total": "decimal128(8, 2)[pyarrow]",
        "id": "int16[pyarrow]",
        "ordered": "date32[day][pyarrow]",
    }
    assert [listed(values) for _, values in result.items()] == [[Decimal("12.50")], [1], [dt.date(2024, 1, 31)]]


def test_every_broken_rule_of_a_row_is_listed_and_the_row_counted_once() -> None:
    account = Account("Orders")
    result = Orders().transform(orders(), account)
    assert result.index.tolist() == [1, 3, 8]
    assert account.rejected.total() == 5
    assert sorted(reject for reject in rejects(account) if reject[0] in (4, 5)) == [
        (4, "id", "x", "not a number (int64)"),
        (4, "ordered", "soon", "not a date"),
        (4, "state", "lost", "not one of open, paid"),
        (4, "total", "-1", "below 0"),
        (5, "id", None, "missing"),
        (5, "ordered", "2019-12-31", "below 2020-01-01"),
        (5, "total", "0.001", "not a number (decimal(8,2))"),
    ]


def test_a_check_of_ones_own_rejects_rows() -> None:
    account = Account("Orders")
    Orders().transform(orders(), account)
    assert (2, None, None, "shipped before it was ordered") in rejects(account)


def test_a_row_that_broke_another_rule_does_not_claim_its_value() -> None:
    result, account = checked(table(id=["1", "1"], n=["x", "5"]), id={"unique": True}, n={"type": "int16"})
    assert result.index.tolist() == [2]
    assert rejects(account) == [(1, "n", "x", "not a number (int16)")]


def test_several_columns_may_be_a_key() -> None:
    frame = table(a=["1", "1", "1", None, None], b=["x", "y", "x", "z", "z"])
    result, account = checked(frame, {"key": ["a", "b"]}, a={}, b={})
    assert result.index.tolist() == [1, 2, 4]
    assert rejects(account) == [(3, "a, b", "1, x", "not unique"), (5, "a, b", "null, z", "not unique")]


def test_values_may_have_to_be_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "years.csv"
    file.write_text("year\n1970\n1971\n")
    result, account = checked(
        table(y=["1970", "1972", None]), y={"type": "int16", "references": {"file": file, "column": "year"}}
    )
    assert result.index.tolist() == [1, 3]
    assert rejects(account) == [(2, "y", "1972", "not in year of years.csv")]


def test_a_file_without_the_column_is_named(tmp_path: Path) -> None:
    file = tmp_path / "years.csv"
    file.write_text("year\n1970\n")
    with pytest.raises(ConfigError, match=r"years\.csv: there is no column 'yaer'; did you mean 'year'"):
        checked(table(y=["1970"]), y={"references": {"file": file, "column": "yaer"}})


def test_columns_that_are_not_declared() -> None:
    frame = table(a=["1"], b=["2"], c=["3"])
    result, account = checked(frame, c={}, a={})
    assert list(result.columns) == ["c", "a"]
    assert account.warnings == ["columns that are not in the contract, and left out: b"]
    result, account = checked(frame, {"extra": "keep"}, c={})
    assert list(result.columns) == ["c", "a", "b"]
    assert account.warnings == []
    with pytest.raises(DataError, match="does not know: b"):
        checked(frame, {"extra": "refuse"}, c={}, a={})


def test_descriptions_and_units_are_kept_for_the_published_file() -> None:
    described = Orders().describes()
    assert described["id"] == {"description": "Number of the order"}
    assert described["total"] == {"unit": "EUR"}


def test_another_content_of_a_file_is_another_ingredient(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_text("a\n1\n")
    contract = Contract.model_validate({"columns": {"a": {"references": {"file": file, "column": "a"}}}})
    before = contract.ingredients()
    file.write_text("a\n2\n")
    assert contract.ingredients() != before
    assert Orders().ingredients() == ()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"type": "strng"}, "unknown type 'strng'"),
        ({"type": "int16", "pattern": "a"}, "pattern is a rule for text; this column is int16"),
        ({"min": 1}, "min is a rule for numbers and dates; this column is text"),
        ({"type": "date", "max": 5}, "max = 5 does not fit a column of type date"),
        ({"type": "int16", "min": dt.date(2024, 1, 1)}, "does not fit a column of type int16"),
        ({"type": "int16", "min": 5, "max": 4}, "nothing is between 5 and 4"),
        ({"type": "decimal(38,0)", "max": 10**20}, "max = 100000000000000000000 is beyond 64 bits"),
        ({"type": "timestamp", "min": dt.datetime(2024, 1, 1, tzinfo=dt.UTC)}, "has a zone, and the times .* none"),
        ({"type": "int16", "min": "soon"}, "should be a number, or a date"),
        ({"type": "float64", "one_of": [1.5]}, "one_of is a rule for text and whole numbers"),
        ({"type": "int16", "one_of": [1, "2"]}, "one_of: '2' does not fit a column of type int16"),
        ({"one_of": [1]}, "one_of: 1 does not fit a column of type text"),
        ({"pattern": "("}, "not a regular expression"),
        ({"pattern": r"(a)\\1"}, "not supported"),
        ({"requierd": True}, "Extra inputs"),
        ({"references": {"file": "a.csv"}}, "Field required"),
    ],
)
def test_mistakes_in_a_declaration_are_found_at_once(rules: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as failure:
        Contract.model_validate({"columns": {"a": rules}})
    assert failure.value.errors()[0]["loc"][:2] == ("columns", "a")


def test_a_pattern_that_arrow_refuses_names_its_column() -> None:
    with pytest.raises(ConfigError, match=r"a: the pattern '\\\\Z'"):
        broken(["x"], pattern=r"\Z")


def test_a_key_is_made_of_declared_columns() -> None:
    with pytest.raises(ValidationError, match="key: there is no column 'yaer'; did you mean 'year'"):
        Contract.model_validate({"columns": {"year": {}}, "key": ["yaer"]})


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([{"name": "a"}, {"name": "a"}], "a is declared twice"),
        ([{"type": "text"}], "each column of a list needs a name"),
        ({"a": {"name": "b"}}, "a has another name inside: b"),
        ({}, "at least 1"),
    ],
)
def test_every_column_has_one_name(columns: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Contract.model_validate({"columns": columns})


def test_the_columns_may_be_tables_or_a_list_in_a_pipeline_file(tmp_path: Path) -> None:
    ends = (
        '[extract]\ntype = "ZipUrlExtractor"\nurl = "https://example.com/a.zip"\n',
        '[load]\ntype = "S3Loader"\nbucket = "my-bucket"\nkey = "a.parquet"\n',
    )
    tables = """
    [[transform]]
    type = "Contract"
    [transform.columns.id]
    type = "int32"
    unique = true
    [transform.columns.day]
    type = "date"
    min = 2024-01-31
    """
    listing = """
    [[transform]]
    type = "Contract"
    columns = [{ name = "id", type = "int32", unique = true }, { name = "day", type = "date", min = "2024-01-31" }]
    """
    contracts = []
    for text in (tables, listing):
        file = tmp_path / "a.toml"
        file.write_text(text.join(ends))
        contracts.append(Pipeline.from_file(file).transformers[0])
    assert contracts[0] == contracts[1]


def test_uniqueness_holds_over_the_whole_stream() -> None:
    contract, account = Contract(columns={"id": Column(type="int64", unique=True)}), Account("Contract")
    numbers = [*range(50_000), *range(49_000, 51_000)]
    parts = [
        contract.transform(
            DataFrame({"id": numbers[start : start + 1000]}).set_axis(range(start, start + 1000)), account
        )
        for start in range(0, len(numbers), 1000)
    ]
    account.close()
    assert len(pd.concat(parts)) == 51_000
    assert dict(account.rejected) == {"id: not unique": 1000}


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64()])
def test_what_lies_hidden_in_the_place_of_a_null_is_not_out_of_bounds(kind: Any) -> None:
    numbers: Any = pa.array([5, 999, 7], kind)
    valid = pa.array([True, False, True]).buffers()[1]
    hidden = pa.Array.from_buffers(kind, 3, [valid, numbers.buffers()[1]])
    account = Account("Contract")
    column = Column(type="int32" if kind == pa.int32() else "float64", max=100)
    typed = conform(Series(hidden, dtype=pd.ArrowDtype(kind)), column, account)
    assert listed(typed) == [5, None, 7]
    assert not account.rejected
