"""ExplodeJson, and the ledger of rows that multiply."""

from __future__ import annotations

import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.errors import ConfigError
from etl.ledger import Account, source_row
from etl.transformers.explode import ExplodeJson
from etl.transformers.types import CastTypes
from tests.any_split import AnySplitContract, listed, rejects, table

LINES = '[{"sku": "a", "n": 1.10, "to": {"city": "Gent"}}, {"sku": "b", "n": 2, "tags": [1, "x"]}]'


def orders() -> DataFrame:
    return table(
        id=["1", "2", "3", "4", "5", "6"],
        lines=[LINES, '{"sku": "c", "n": true}', "[]", None, "[1, 2", '["text", null, 3]'],
    )


class ExplodeContract(AnySplitContract):
    def frame(self) -> DataFrame:
        return orders()

    def test_rows_keep_their_numbers(self) -> None:
        result, _ = self.outcome(self.frame())
        assert set(map(source_row, result.index)) <= set(self.frame().index)
        assert result.index.is_unique

    def test_the_index_may_be_any_numbers(self) -> None:
        frame = self.frame()
        numbers = range(1_000_003, 1_000_003 + 7 * len(frame), 7)
        rows, _ = self.outcome(frame.set_axis(numbers, axis="index"))
        expected, _ = self.outcome(frame)
        assert [source_row(row) for row in rows.index] == [numbers[source_row(row) - 1] for row in expected.index]


class TestExplodeJson(ExplodeContract):
    def make(self) -> Transformer:
        return ExplodeJson(column="lines", take={"sku": "sku", "n": "n", "city": "to.city"})


class TestExplodeJsonThatDrops(ExplodeContract):
    def make(self) -> Transformer:
        return ExplodeJson(column="lines", take={"line": "."}, empty="drop")


def test_each_element_is_a_row() -> None:
    account = Account("ExplodeJson")
    step = ExplodeJson(column="lines", take={"sku": "sku", "n": "n", "city": "to.city", "tags": "tags"})
    result = step.transform(orders(), account)
    assert [source_row(row) for row in result.index] == [1, 1, 2, 3, 4, 6, 6, 6]
    assert listed(result["sku"]) == ["a", "b", "c", None, None, None, None, None]
    assert listed(result["n"]) == ["1.10", "2", "true", None, None, None, None, None]
    assert listed(result["city"]) == ["Gent", *[None] * 7]
    assert listed(result["tags"]) == [None, '[1,"x"]', *[None] * 6]
    assert listed(result["id"]) == ["1", "1", "2", "3", "4", "6", "6", "6"]
    assert dict(account.added) == {"elements of lines": 3}
    assert rejects(account) == [(5, "lines", "[1, 2", "not a JSON list or object")]
    assert account.balances()


def test_an_element_may_be_taken_whole_and_rows_without_any_may_leave() -> None:
    account = Account("ExplodeJson")
    result = ExplodeJson(column="lines", take={"line": "."}, empty="drop").transform(orders(), account)
    assert listed(result["line"])[3:] == ["text", None, "3"]
    assert dict(account.dropped) == {"no elements in lines": 2}
    assert account.balances()


def test_parts_of_one_row_leave_one_by_one() -> None:
    exploded = ExplodeJson(column="lines", take={"n": "n"}).transform(orders().iloc[:1])
    account = Account("CastTypes")
    result = CastTypes(types={"n": "int32"}).transform(exploded, account)
    assert listed(result["n"]) == [2]
    assert rejects(account) == [(1, "n", "1.10", "not a number (int32)")]


def test_parts_can_be_exploded_again() -> None:
    frame = table(id=["1", "2"], a=["[[1, 2], [3]]", "[[4]]"])
    once = ExplodeJson(column="a", take={"b": "."}).transform(frame)
    twice = ExplodeJson(column="b", take={"c": "."}).transform(once)
    assert listed(twice["c"]) == ["1", "2", "3", "4"]
    assert [source_row(row) for row in twice.index] == [1, 1, 1, 2]
    assert twice.index.is_unique


def test_deep_json_is_rejected_and_not_fatal() -> None:
    account = Account("ExplodeJson")
    ExplodeJson(column="a", take={"b": "."}).transform(table(a=["[" * 100_000, "NaN", "1", '"x"']), account)
    assert account.rejected.total() == 4


def test_numbers_keep_their_digits_however_deep_they_are() -> None:
    frame = table(a=['[{"b": [{"price": 1.10, "id": 12345678901234567890.12, "far": 1e400}]}]'])
    once = ExplodeJson(column="a", take={"b": "b"}).transform(frame)
    assert listed(once["b"]) == ['[{"price":1.10,"id":12345678901234567890.12,"far":1E+400}]']
    twice = ExplodeJson(column="b", take={"price": "price", "id": "id", "far": "far"}).transform(once)
    assert twice.iloc[0].tolist() == ["1.10", "12345678901234567890.12", "1E+400"]


def test_what_no_text_can_hold_is_rejected_and_not_fatal() -> None:
    """Half a surrogate pair, an endless exponent; and what can be read, but is too deep to be written exactly."""
    deep = '{"c": ' * 600 + "0.1" + "}" * 600
    account = Account("ExplodeJson")
    halves = [r'[{"b": "\ud800"}]', r'[{"b": {"c": ["\ud800"]}}]', r'[{"b": "\ud83d\ude00"}]']
    frame = table(a=[*halves, f'[{{"b": {deep}}}]', '[{"b": 1e9999999999999999999}]'])
    result = ExplodeJson(column="a", take={"b": "b"}).transform(frame, account)
    assert listed(result["b"]) == ["\U0001f600"]
    assert [reject.row for reject in account.take_rejects()] == [1, 2, 4, 5]


def test_mistakes_in_names_are_found() -> None:
    with pytest.raises(ConfigError, match="there is a column id already"):
        ExplodeJson(column="lines", take={"id": "."}).transform(orders())
    with pytest.raises(ValidationError, match="at least 1"):
        ExplodeJson(column="lines", take={})
