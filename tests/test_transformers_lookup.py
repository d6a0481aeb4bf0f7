"""Lookup: columns from a small file."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.errors import ConfigError, DataError
from etl.ledger import Account
from etl.transformers.lookup import Lookup
from tests.any_split import AnySplitContract, listed, rejects, table
from tests.files import PARQUET, with_broken_footer

CITIES = """country,id,city,people
NL,1,Utrecht,361699
NL,2,Gouda,
BE,1,Gent,265086
BE,,Nowhere,0
"""


@pytest.fixture
def cities(tmp_path: Path) -> Path:
    file = tmp_path / "cities.csv"
    file.write_text(CITIES)
    return file


def orders() -> DataFrame:
    return table(
        {"city_id": pa.int32()},
        country=["NL", "BE", "NL", "FR", None, "BE", "NL"],
        city_id=[1, 1, 3, 1, 1, None, 2],
    )


class LookupContract(AnySplitContract):
    unmatched = "null"

    @pytest.fixture(autouse=True)
    def _file(self, cities: Path) -> None:
        self.file = cities

    def make(self) -> Transformer:
        return Lookup.model_validate(
            {
                "file": self.file,
                "on": {"country": "country", "city_id": "id"},
                "take": {"city": "city", "people": "inhabitants"},
                "unmatched": self.unmatched,
            }
        )

    def frame(self) -> DataFrame:
        return orders()


class TestLookup(LookupContract):
    pass


class TestLookupThatRejects(LookupContract):
    unmatched = "reject"


class TestLookupThatDrops(LookupContract):
    unmatched = "drop"


def looked_up(file: Path, **options: Any) -> tuple[DataFrame, Account]:
    account = Account("Lookup")
    defaults = {"file": file, "on": {"country": "country", "city_id": "id"}, "take": ["city"]}
    return Lookup.model_validate({**defaults, **options}).transform(orders(), account), account


def test_columns_come_from_the_row_with_the_same_key(cities: Path) -> None:
    result, _ = looked_up(cities, take={"city": "town", "people": "people"})
    assert list(result.columns) == ["country", "city_id", "town", "people"]
    assert listed(result["town"]) == ["Utrecht", "Gent", None, None, None, None, "Gouda"]
    assert listed(result["people"]) == ["361699", "265086", None, None, None, None, None]


def test_unmatched_rows_leave_if_asked_to(cities: Path) -> None:
    result, account = looked_up(cities, unmatched="drop")
    assert result.index.tolist() == [1, 2, 7]
    assert dict(account.dropped) == {"country, city_id not in cities.csv": 4}
    result, account = looked_up(cities, unmatched="reject")
    assert result.index.tolist() == [1, 2, 7]
    assert rejects(account) == [
        (3, "country, city_id", "NL, 3", "not in cities.csv"),
        (4, "country, city_id", "FR, 1", "not in cities.csv"),
        (5, "country, city_id", "null, 1", "not in cities.csv"),
        (6, "country, city_id", "BE, null", "not in cities.csv"),
    ]


def test_parquet_files_keep_their_types(tmp_path: Path) -> None:
    file = tmp_path / "ids.parquet"
    pd.DataFrame({"id": [1, 2, 3], "price": [0.5, None, 1.5]}).to_parquet(file)
    result, _ = looked_up(file, on={"city_id": "id"}, take=["price"])
    assert listed(result["price"]) == [0.5, 0.5, 1.5, 0.5, 0.5, None, None]
    assert str(result["price"].dtype) == "double[pyarrow]"


def test_a_key_that_comes_twice_is_an_error(cities: Path) -> None:
    with pytest.raises(DataError, match=r"cities\.csv: id should be unique, and '1' comes twice or more"):
        looked_up(cities, on={"city_id": "id"})
    cities.write_text("id,city\n1,a\n01,b\n")
    with pytest.raises(DataError, match="id should be unique, and '01' comes twice"):
        looked_up(cities, on={"city_id": "id"})


@pytest.mark.parametrize(
    ("kind", "keys"),
    [(pa.time64("ns"), [1_000, 1_001]), (pa.float64(), [0.0, -0.0]), (pa.uuid(), [b"a" * 16, b"b" * 16])],
    ids=str,
)
def test_keys_that_python_cannot_hold_or_tell_apart_find_their_rows(
    tmp_path: Path, kind: pa.DataType, keys: list[Any]
) -> None:
    pq.write_table(pa.table({"id": pa.array(keys, kind), "found": ["first", "second"]}), tmp_path / "keys.parquet")
    step = Lookup.model_validate({"file": tmp_path / "keys.parquet", "on": ["id"], "take": ["found"]})
    result = step.transform(table({"id": kind}, id=[keys[1], None, keys[0]]))
    assert listed(result["found"]) == ["second", None, "first"]


def test_a_key_of_another_type_is_an_error(cities: Path) -> None:
    cities.write_text("id,city\none,a\n")
    with pytest.raises(DataError, match="id holds one, and the column that looks for it is int32"):
        looked_up(cities, on={"city_id": "id"})


def test_a_key_that_no_text_can_be_is_a_mistake(cities: Path) -> None:
    step = Lookup.model_validate({"file": cities, "on": {"at": "id"}, "take": ["city"]})
    with pytest.raises(ConfigError, match="no text can be read as time64"):
        step.transform(table({"at": pa.time64("us")}, at=[dt.time(12)]))


def test_a_column_without_a_type_finds_nothing(cities: Path) -> None:
    step = Lookup.model_validate({"file": cities, "on": {"at": "id"}, "take": ["city"]})
    assert listed(step.transform(table({"at": pa.null()}, at=[None, None]))["city"]) == [None, None]


def test_mistakes_in_names_are_found(cities: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cities\.csv: there is no column 'cty'; did you mean 'city'"):
        looked_up(cities, take=["cty"])
    with pytest.raises(DataError, match="there is no column 'contry'; did you mean 'country'"):
        looked_up(cities, on={"contry": "country"})
    with pytest.raises(ConfigError, match="there is a column country already"):
        looked_up(cities, take=["country"])
    with pytest.raises(ConfigError, match="there is no file"):
        looked_up(tmp_path / "none.csv")


@pytest.mark.parametrize("names", [{"on": {"a": "id", "b": "id"}}, {"take": {"city": "x", "people": "x"}}])
def test_two_columns_cannot_have_one_name(names: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="names a column more than once"):
        Lookup.model_validate({"file": "a.csv", "on": ["id"], "take": ["city"], **names})


def test_damaged_files_are_refused(cities: Path, tmp_path: Path) -> None:
    cities.write_text("id,city\n1,a,b\n")
    with pytest.raises(DataError, match=r"cities\.csv: row 1: ragged"):
        looked_up(cities)
    file = tmp_path / "no.parquet"
    file.write_text("not Parquet")
    with pytest.raises(DataError, match="is not a Parquet file"):
        looked_up(file)
    file.write_bytes(with_broken_footer(PARQUET))
    with pytest.raises(DataError, match=r"is not a Parquet file, or damaged: .*Couldn't deserialize"):
        looked_up(file)


@pytest.mark.parametrize("columns", [8, 20])
def test_keys_of_many_columns_are_told_apart(tmp_path: Path, columns: int) -> None:
    """Taken as digits, these keys are larger than 64 bits hold: that of the first row below would come out as 0."""
    names = [f"k{number}" for number in range(columns)]
    pd.DataFrame({name: range(300) for name in (*names, "found")}).to_parquet(tmp_path / "keys.parquet")
    step = Lookup.model_validate({"file": tmp_path / "keys.parquet", "on": names, "take": ["found"]})
    sought = {name: [(1 << 64) // 300**place % 300, 0, 7] for place, name in enumerate(reversed(names))}
    result = step.transform(table(dict.fromkeys(names, pa.int64()), **sought))
    assert listed(result["found"]) == [None, 0, 7]


def test_another_content_is_another_ingredient(cities: Path) -> None:
    step = Lookup.model_validate({"file": cities, "on": ["id"], "take": ["city"]})
    before = step.ingredients()
    cities.write_text(CITIES + "FR,1,Metz,118489\n")
    assert step.ingredients() != before
