"""RenameColumns, SelectColumns, DropColumns, DeriveColumns and SplitColumn."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.errors import DataError, EtlError
from etl.ledger import Account
from etl.transformers.columns import (
    DeriveColumns,
    DropColumns,
    RenameColumns,
    SelectColumns,
    SplitColumn,
    snake_case,
)
from tests.any_split import AnySplitContract, listed, repairs, table


def cities() -> DataFrame:
    return table(
        {"people": pa.int64()},
        City=["Utrecht", "Gent", None, "", "Köln"],
        postCode=["3511-AB", "9000", "a-b-c", None, "-"],
        people=[361_699, None, 0, -5, 1_073_096],
    )


class CitiesContract(AnySplitContract):
    def frame(self) -> DataFrame:
        return cities()


class TestRenameColumns(CitiesContract):
    def make(self) -> Transformer:
        return RenameColumns(names={"City": "town"}, style="snake_case")


class TestSelectColumns(CitiesContract):
    def make(self) -> Transformer:
        return SelectColumns(columns=("people", "City"))


class TestDropColumns(CitiesContract):
    def make(self) -> Transformer:
        return DropColumns(columns=("people",))


class TestDeriveColumns(CitiesContract):
    def make(self) -> Transformer:
        return DeriveColumns(columns={"large": "people > 500000", "City": "upper(City)", "half": "people / 2"})


class TestSplitColumn(CitiesContract):
    def make(self) -> Transformer:
        return SplitColumn(column="postCode", into=("digits", "letters"), separator="-")


def columns_of(step: Transformer) -> list[str]:
    return list(step.transform(cities()).columns)


def test_columns_are_renamed_selected_and_dropped() -> None:
    assert columns_of(RenameColumns(names={"City": "town"})) == ["town", "postCode", "people"]
    assert columns_of(RenameColumns(style="snake_case")) == ["city", "post_code", "people"]
    assert columns_of(SelectColumns(columns=("people", "City"))) == ["people", "City"]
    assert columns_of(DropColumns(columns=("City", "people"))) == ["postCode"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("bricksetURL", "brickset_url"),
        ("US_retailPrice", "us_retail_price"),
        ("URLOfThumbnail", "url_of_thumbnail"),
        ("Order Date (UTC)", "order_date_utc"),
        ("already_fine", "already_fine"),
        ("pieces2", "pieces2"),
        ("Größe", "größe"),
        ("%", "%"),
    ],
)
def test_snake_case(name: str, expected: str) -> None:
    assert snake_case(name) == expected


def test_two_columns_cannot_get_one_name() -> None:
    with pytest.raises(DataError, match="City and people would both be named x"):
        RenameColumns(names={"City": "x", "people": "x"}).transform(cities())


def test_a_column_cannot_be_named_twice() -> None:
    with pytest.raises(ValidationError, match="names a column more than once"):
        SelectColumns(columns=("City", "City"))
    with pytest.raises(ValidationError, match="names a column more than once"):
        SplitColumn(column="postCode", into=("x", "x"), separator="-")


def test_renaming_needs_something_to_do() -> None:
    with pytest.raises(ValidationError, match="give names"):
        RenameColumns()


def test_every_missing_column_is_named() -> None:
    with pytest.raises(DataError, match=r"'a'.*\n.*'b'"):
        SelectColumns(columns=("a", "b")).transform(cities())


def derived(expressions: dict[str, str]) -> tuple[DataFrame, Account]:
    account = Account("DeriveColumns")
    return DeriveColumns(columns=expressions).transform(cities(), account), account


def test_later_columns_may_use_earlier_ones() -> None:
    result, account = derived({"twice": "people * 2", "four": "twice * 2"})
    assert result["four"].tolist()[:1] == [361_699 * 4]
    assert repairs(account) == {}


def test_replacing_a_column_is_reported() -> None:
    _, account = derived({"City": "upper(City)", "people": "text(people)"})
    assert repairs(account) == {"City: derived": 3}
    assert account.repaired["City: derived"].samples[0] == {"row": 1, "before": "Utrecht", "after": "UTRECHT"}


def test_a_mistake_in_an_expression_names_its_place() -> None:
    with pytest.raises(ValidationError, match=r"columns\.x\n.*cannot be read"):
        DeriveColumns(columns={"x": "price +"})
    with pytest.raises(EtlError, match=r"DeriveColumns: columns\.x: City \* 2: mixes a number and text"):
        derived({"x": "City * 2"})


@pytest.mark.parametrize(
    ("into", "expected"),
    [
        (("x", "y"), [["3511", "9000", "a", None, ""], ["AB", None, "b-c", None, ""]]),
        (
            ("x", "y", "z"),
            [["3511", "9000", "a", None, ""], ["AB", None, "b", None, ""], [None, None, "c", None, None]],
        ),
    ],
)
def test_splitting_loses_nothing(into: tuple[str, ...], expected: list[list[str | None]]) -> None:
    result = SplitColumn(column="postCode", into=into, separator="-").transform(cities())
    assert [listed(result[name]) for name in into] == expected
    assert "postCode" not in result


def test_split_may_keep_the_column_and_must_not_hide_another() -> None:
    kept = SplitColumn(column="postCode", into=("x", "y"), separator="-", keep=True)
    assert columns_of(kept) == ["City", "postCode", "people", "x", "y"]
    reused = SplitColumn(column="postCode", into=("postCode", "y"), separator="-")
    assert columns_of(reused) == ["City", "people", "postCode", "y"]
    with pytest.raises(DataError, match="there is a column City already"):
        SplitColumn(column="postCode", into=("City", "y"), separator="-").transform(cities())
