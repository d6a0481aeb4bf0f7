"""FilterRows and DropDuplicates."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.ledger import Account
from etl.transformers.rows import DropDuplicates, FilterRows
from tests.any_split import AnySplitContract, rejects, table


def sets() -> DataFrame:
    return table(
        {"year": pa.int16()},
        id=["1-1", "2-1", "1-1", None, "1-1", None, "2-1"],
        theme=["City", "Space", "City", "Duplo", "Town", "Duplo", None],
        year=[1970, 1999, 1970, None, 1970, None, 2022],
    )


class SetsContract(AnySplitContract):
    def frame(self) -> DataFrame:
        return sets()


class TestFilterRows(SetsContract):
    def make(self) -> Transformer:
        return FilterRows(keep='year >= 1980 or theme == "Town"')


class TestDropDuplicates(SetsContract):
    def make(self) -> Transformer:
        return DropDuplicates(keys=("id",))


class TestDropRepeatedRows(SetsContract):
    def make(self) -> Transformer:
        return DropDuplicates()


def test_rows_that_are_filtered_out_have_their_reason() -> None:
    account = Account("FilterRows")
    result = FilterRows(keep="year\n  >= 1980").transform(sets(), account)
    assert result.index.tolist() == [2, 7]
    assert dict(account.dropped) == {"does not hold: year >= 1980": 3, "cannot be told: year >= 1980": 2}


def test_rows_of_which_nothing_is_known_may_stay() -> None:
    account = Account("FilterRows")
    result = FilterRows(keep="year >= 1980", keep_unknown=True).transform(sets(), account)
    assert result.index.tolist() == [2, 4, 6, 7]
    assert dict(account.dropped) == {"does not hold: year >= 1980": 3}


def test_a_condition_is_checked_before_any_row_is_seen() -> None:
    with pytest.raises(ValidationError, match="there is no such function; did you mean 'lower'"):
        FilterRows(keep="lowr(theme) == 'city'")


def test_a_condition_must_be_true_or_false() -> None:
    with pytest.raises(Exception, match=r"FilterRows: keep: 'year \+ 1' is a number; it should be true or false"):
        FilterRows(keep="year + 1").transform(sets())


def test_an_identical_repeat_is_dropped_and_a_conflict_rejected() -> None:
    account = Account("DropDuplicates")
    result = DropDuplicates(keys=("id",)).transform(sets(), account)
    assert result.index.tolist() == [1, 2, 4]
    assert dict(account.dropped) == {"identical repeat of id": 2}
    assert rejects(account) == [
        (5, "id", "1-1", "the same came before with other facts"),
        (7, "id", "2-1", "the same came before with other facts"),
    ]


def test_conflicts_may_be_dropped() -> None:
    account = Account("DropDuplicates")
    result = DropDuplicates(keys=("id",), conflicts="drop").transform(sets(), account)
    assert result.index.tolist() == [1, 2, 4]
    assert dict(account.dropped) == {"identical repeat of id": 2, "repeat of id with other facts": 2}


def test_a_key_may_be_several_columns_or_all() -> None:
    account = Account("DropDuplicates")
    result = DropDuplicates(keys=("id", "theme")).transform(sets(), account)
    assert result.index.tolist() == [1, 2, 4, 5, 7]
    account = Account("DropDuplicates")
    result = DropDuplicates().transform(sets(), account)
    assert result.index.tolist() == [1, 2, 4, 5, 7]
    assert dict(account.dropped) == {"identical repeat of a row": 2}


def test_conflicts_of_several_columns_show_all_of_the_key() -> None:
    account = Account("DropDuplicates")
    frame = sets().assign(year=range(7))
    DropDuplicates(keys=("id", "theme")).transform(frame, account)
    rule = "the same came before with other facts"
    assert rejects(account) == [(3, "id, theme", "1-1, City", rule), (6, "id, theme", "null, Duplo", rule)]
