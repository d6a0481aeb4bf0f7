"""LegoCleaner: each repair, each rule, and the same result however the table is cut into batches."""

from __future__ import annotations

import os
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pandas import DataFrame
from pandas.testing import assert_frame_equal

from etl.errors import DataError
from etl.extractors.zip_url import ZipUrlExtractor
from etl.ledger import Account
from etl.transformers.lego import COLUMNS, LegoCleaner
from samples.make_sample import HEADER, MEMBER, ZIP_FILE, make_sample
from tests.any_split import TEXT, AnySplitContract, repairs


def a_set(set_id: str | None = "1-8", **changes: str | None) -> dict[str, str | None]:
    """A good source row, with changes by source column."""
    row: dict[str, str | None] = {
        "set_id": set_id,
        "name": "House",
        "year": "1970",
        "theme": "City",
        "subtheme": None,
        "themeGroup": "Modern day",
        "category": "Normal",
        "pieces": "67",
        "minifigs": None,
        "agerange_min": None,
        "US_retailPrice": "9.99",
        "bricksetURL": f"https://brickset.com/sets/{set_id}",
        "thumbnailURL": None,
        "imageURL": None,
    }
    assert changes.keys() <= row.keys()
    return row | changes


def frame(*rows: dict[str, str | None]) -> DataFrame:
    return DataFrame(list(rows), columns=list(HEADER), index=range(1, len(rows) + 1), dtype=TEXT)


def clean(*rows: dict[str, str | None]) -> tuple[DataFrame, Account]:
    account = Account("LegoCleaner")
    return LegoCleaner().transform(frame(*rows), account), account


class TestLegoCleaner(AnySplitContract):
    def make(self) -> LegoCleaner:
        return LegoCleaner()

    def frame(self) -> DataFrame:
        return frame(
            a_set("1-1"),
            a_set("01-Aug", bricksetURL="https://brickset.com/sets/1-8"),
            a_set("2-1", name="  two \t words "),
            a_set("3-1", year="soon"),
            a_set("1-1"),
            a_set("1-1", pieces="68"),
            a_set("4-1", theme="Collectable minifigures", pieces="67.0"),
            a_set("5-1", theme=" "),
            a_set("3-1"),
            a_set("6-1", US_retailPrice="inf", year="1900"),
        )


def test_columns_come_out_typed_and_in_order() -> None:
    result, _ = clean(a_set())
    assert list(result.columns) == [column.name for column in COLUMNS]
    assert {name: str(dtype) for name, dtype in result.dtypes.items()} == {
        column.name: {"text": "string", "float64": "double"}.get(column.type, column.type) + "[pyarrow]"
        for column in COLUMNS
    }


def test_columns_may_come_in_any_order_and_case() -> None:
    expected, _ = clean(a_set())
    shuffled = frame(a_set())[list(HEADER)[::-1]].rename(columns=str.upper)
    assert_frame_equal(LegoCleaner().transform(shuffled), expected)


def test_published_names_are_understood_too() -> None:
    expected, _ = clean(a_set())
    assert_frame_equal(LegoCleaner().transform(expected), expected)


def test_missing_columns_are_named() -> None:
    with pytest.raises(DataError, match="the source lacks year, image_url; it has set_id"):
        LegoCleaner().transform(frame(a_set()).drop(columns=["year", "imageURL"]))


def test_extra_columns_are_a_warning() -> None:
    account = Account("LegoCleaner")
    LegoCleaner().transform(frame(a_set()).assign(colour="red"), account)
    assert account.warnings == ["columns that are not published: colour"]


@pytest.mark.parametrize(
    ("dirty", "cleaned"),
    [
        (" House ", "House"),
        ("Two  words", "Two words"),
        ("a\u00a0\u2003b\u3000c", "a b c"),
        ("line\r\nbreak", "line break"),
        ("tab\tand\vvertical\ffeed", "tab and vertical feed"),
        ("l\u2019\u00e9t\u00e9", "l\u2019\u00e9t\u00e9"),
    ],
)
def test_white_space_is_tidied(dirty: str, cleaned: str) -> None:
    result, account = clean(a_set(name=dirty))
    assert result["name"].tolist() == [cleaned]
    assert repairs(account) == ({"name: white space": 1} if dirty != cleaned else {})


def test_blank_text_becomes_null() -> None:
    result, _ = clean(a_set(subtheme="  "))
    assert result["subtheme"].isna().all()


@pytest.mark.parametrize("mangled", ["01-Aug", "8-Jan", "45665", "Aug-01", None])
def test_ids_come_back_from_the_url(mangled: str | None) -> None:
    result, account = clean(a_set(mangled, bricksetURL="https://brickset.com/sets/1-8/?a=b#c"))
    assert result["set_id"].tolist() == ["1-8"]
    assert repairs(account) == {"set_id: taken from bricksetURL": 1}


@pytest.mark.parametrize("good", ["1-8", "853357 -1", "PE770439_1-1", "ISBN978-0241506271-1"])
def test_good_ids_need_no_url(good: str) -> None:
    result, account = clean(a_set(good, bricksetURL=None))
    assert result["set_id"].tolist() == [good]
    assert repairs(account) == {}


@pytest.mark.parametrize("mangled", ["01-Aug", "8-Jan", "45665", "Aug-01"])
@pytest.mark.parametrize("url", [None, "https://brickset.com/sets/"])
def test_mangled_ids_without_a_url_are_rejected(mangled: str, url: str | None) -> None:
    result, account = clean(a_set(mangled, bricksetURL=url))
    assert len(result) == 0
    assert [(r.column, r.value) for r in account.take_rejects()] == [("set_id", mangled)]


def test_one_theme_has_one_spelling() -> None:
    result, account = clean(a_set(theme="Collectable minifigures"), a_set("2-1", theme="Collectable Minifigures"))
    assert result["theme"].tolist() == ["Collectable Minifigures"] * 2
    assert repairs(account) == {"theme: spelling": 1}


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("name", None, "name: missing"),
        ("year", None, "year: missing"),
        ("theme", " ", "theme: missing"),
        ("year", "1931", "year: below 1932"),
        ("year", "2101", "year: above 2100"),
        ("year", "99999", "year: not a number (int16)"),
        ("pieces", "many", "pieces: not a number (int32)"),
        ("pieces", "-1", "pieces: below 0"),
        ("pieces", "0x1F", "pieces: not a number (int32)"),
        ("pieces", "1.5", "pieces: not a number (int32)"),
        ("pieces", "1e3", "pieces: not a number (int32)"),
        ("minifigs", "99999999999999999999999", "minifigs: not a number (int32)"),
        ("agerange_min", "100", "agerange_min: above 99"),
        ("US_retailPrice", "$5", "us_retail_price: not a number (float64)"),
        ("US_retailPrice", "nan", "us_retail_price: not a number (float64)"),
        ("US_retailPrice", "-inf", "us_retail_price: not a number (float64)"),
        ("US_retailPrice", "1e999", "us_retail_price: not a number (float64)"),
        ("US_retailPrice", "-0.01", "us_retail_price: below 0"),
    ],
)
def test_broken_rules_reject_the_row(column: str, value: str | None, rule: str) -> None:
    result, account = clean(a_set("1-1"), a_set("2-1", **{column: value}))
    assert result["set_id"].tolist() == ["1-1"]
    assert dict(account.rejected) == {rule: 1}


@pytest.mark.parametrize(
    ("column", "value", "typed"),
    [
        ("pieces", "67.0", 67),
        ("pieces", "+67.", 67),
        ("pieces", " 007 ", 7),
        ("pieces", "0", 0),
        ("us_retail_price", "1e2", 100.0),
        ("us_retail_price", ".5", 0.5),
        ("us_retail_price", "+5", 5.0),
        ("agerange_min", "99", 99),
    ],
)
def test_numbers_are_understood(column: str, value: str, typed: float) -> None:
    source = {"us_retail_price": "US_retailPrice"}.get(column, column)
    result, _ = clean(a_set(**{source: value}))
    assert result[column].tolist() == [typed]


def test_every_broken_rule_of_a_row_is_listed_and_the_row_counted_once() -> None:
    _, account = clean(a_set(name=None, year="soon", pieces="-1"))
    assert account.rejected.total() == 1
    assert [(r.column, r.rule) for r in account.take_rejects()] == [
        ("name", "missing"),
        ("year", "not a number (int16)"),
        ("pieces", "below 0"),
    ]


def test_a_rejected_row_does_not_claim_its_id() -> None:
    result, account = clean(a_set("1-1", year="soon"), a_set("1-1"))
    assert result.index.tolist() == [2]
    assert account.dropped == Counter()


def test_repeats_are_dropped_and_conflicts_rejected() -> None:
    result, account = clean(a_set("1-1"), a_set("1-1", name=" House"), a_set("1-1", name="Hut"))
    assert result.index.tolist() == [1]
    assert dict(account.dropped) == {"identical repeat of a set_id": 1}
    assert dict(account.rejected) == {"set_id: the same id came before with other facts": 1}


_CELLS: dict[str, Any] = {
    "set_id": st.sampled_from(["1-1", "2-1", "01-Aug", "45665", "", None]),
    "name": st.sampled_from(["House", " House", "Two  words", "", None]),
    "year": st.sampled_from(["1970", "1970.0", "x", "0x7B2", "1900", None]),
    "pieces": st.sampled_from(["1", "1.0", "-1", "1e3", "99999999999", None]),
    "US_retailPrice": st.sampled_from(["1", "1.5", "inf", "nan", "+2", "x", None]),
    "bricksetURL": st.sampled_from(["https://brickset.com/sets/1-1", "https://brickset.com/sets/2-1", "", None]),
    "theme": st.sampled_from(["City", "Collectable minifigures", None]),
}


@given(st.lists(st.fixed_dictionaries(_CELLS), min_size=1, max_size=12), st.integers(1, 12))
def test_batches_do_not_matter_and_every_row_is_accounted_for(rows: list[dict[str, str | None]], size: int) -> None:
    whole = frame(*(a_set() | row for row in rows))
    parts = [whole.iloc[start : start + size] for start in range(0, len(whole), size)]
    expected, told = TestLegoCleaner().outcome(whole)
    result, told_of_parts = TestLegoCleaner().outcome(*parts)
    assert told["rows_in"] == len(rows)
    assert_frame_equal(result, expected)
    assert told_of_parts == told


def test_sample_zip_is_what_its_maker_makes(tmp_path: Path) -> None:
    made = tmp_path / "made.zip"
    made.write_bytes(make_sample())
    with zipfile.ZipFile(made) as expected, zipfile.ZipFile(ZIP_FILE) as bundled:
        assert bundled.read(MEMBER) == expected.read(MEMBER)


@pytest.mark.skipif("LEGO_REAL_ZIP" not in os.environ, reason="LEGO_REAL_ZIP does not name a copy of the real file")
def test_the_real_file() -> None:
    from tests.web import WebServer

    with WebServer() as web:
        web.serve("/lego.zip", Path(os.environ["LEGO_REAL_ZIP"]).read_bytes())
        extractor = ZipUrlExtractor(url=web.url("/lego.zip"), member="lego_sets.csv", batch_rows=1000)
        cleaner, account = LegoCleaner(), Account("LegoCleaner")
        result = pd.concat([cleaner.transform(batch, account) for batch in extractor.extract()])
    account.close()
    assert len(result) == result["set_id"].nunique() == 18_457
    assert account.rejected == Counter()
    assert account.dropped == Counter()
    assert repairs(account)["set_id: taken from bricksetURL"] == 49
    assert repairs(account)["theme: spelling"] == 1
    assert result["pieces"].isna().sum() == 3_924
    assert result["us_retail_price"].max() == 849.99
