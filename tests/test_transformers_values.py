"""CleanText, FillMissing and ReplaceValues."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pandas import DataFrame, Series

from etl.base import Transformer
from etl.errors import ConfigError
from etl.ledger import Account
from etl.tables.arrow import pc
from etl.tables.text import clean_text
from etl.transformers.values import CleanText, FillMissing, ReplaceValues
from tests.any_split import AnySplitContract, listed, repairs, table


def dirty() -> DataFrame:
    return table(
        {"pieces": pa.int32()},
        name=["  two \t words ", "Cafe\u0301", "", "n/a", None, "a\u00a0\u2003b\u3000c", "fine"],
        theme=["City", "city", " ", None, "N/A", "CITY\n", "City"],
        pieces=[1, None, 0, -3, 4, None, 9],
    )


class DirtyContract(AnySplitContract):
    def frame(self) -> DataFrame:
        return dirty()


class TestCleanText(DirtyContract):
    def make(self) -> Transformer:
        return CleanText(columns=("name", "theme"), null_words=("n/a",), case="lower")


class TestCleanTextThatKeepsEmptyText(DirtyContract):
    def make(self) -> Transformer:
        return CleanText(columns=("name",), empty_to_null=False, collapse=False, unicode="NFKC", case="title")


class TestFillMissing(DirtyContract):
    def make(self) -> Transformer:
        return FillMissing(values={"theme": "none", "pieces": 0})


class TestReplaceValues(DirtyContract):
    def make(self) -> Transformer:
        return ReplaceValues(values={"theme": {"city": "City", "CITY\n": "City"}, "pieces": {"0": 100, "4": 5}})


def cleaned(text: str | None, **options: Any) -> str | None:
    result: str | None = listed(CleanText(**options).transform(table(a=[text]))["a"])[0]
    return result


@pytest.mark.parametrize(
    ("text", "options", "expected"),
    [
        (" a  b\t", {}, "a b"),
        (" a  b\t", {"trim": False}, " a b "),
        (" a  b\t", {"collapse": False}, "a  b"),
        (" a  b\t", {"trim": False, "collapse": False}, " a  b\t"),
        ("\u00a0", {}, None),
        ("", {"empty_to_null": False}, ""),
        (None, {"empty_to_null": False}, None),
        ("e\u0301", {}, "\u00e9"),
        ("e\u0301", {"unicode": "keep"}, "e\u0301"),
        ("ﬁ", {}, "ﬁ"),
        ("ﬁ", {"unicode": "NFKC"}, "fi"),
        ("Straße ÉA", {"case": "lower"}, "straße éa"),
        ("éa", {"case": "upper"}, "ÉA"),
        ("two words", {"case": "title"}, "Two Words"),
        (" N/A ", {"null_words": ("N/A",)}, None),
        ("n/a", {"null_words": ("N/A",)}, "n/a"),
    ],
)
def test_text_is_cleaned(text: str | None, options: dict[str, Any], expected: str | None) -> None:
    assert cleaned(text, **options) == expected


def test_every_white_space_of_unicode_is_seen() -> None:
    """The quick looks at bytes must not miss what Arrow would trim or collapse."""
    characters = pa.array([chr(code) for code in range(0x110000) if not 0xD800 <= code < 0xE000])
    spaces: list[str] = pc.filter(characters, pc.equal(pc.utf8_trim_whitespace(characters), "")).to_pylist()
    assert {" ", "\t", "\x85", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u205f", "\u3000"} <= set(spaces)
    for space in spaces:
        assert cleaned(f"{space}a") == cleaned(f"a{space}") == "a"
        if not "\x1c" <= space <= "\x1f":  # separators of records, which stay within a text
            assert cleaned(f"a{space}b") == cleaned(f"a{space} b") == "a b"


def test_each_rule_reports_what_it_changed() -> None:
    account = Account("CleanText")
    CleanText(columns=("name",), null_words=("N/A",), case="upper").transform(dirty(), account)
    assert repairs(account) == {
        "name: unicode": 1,
        "name: white space": 2,
        "name: case": 5,
        "name: null word": 1,
        "name: empty": 1,
    }


def test_all_columns_of_text_are_cleaned_unless_some_are_named() -> None:
    result = CleanText().transform(dirty())
    assert listed(result["theme"]) == ["City", "city", None, None, "N/A", "CITY", "City"]
    assert result["pieces"].equals(dirty()["pieces"])
    assert CleanText(columns=("name",)).transform(dirty())["theme"].equals(dirty()["theme"])


def test_missing_values_are_filled_with_a_value_of_the_columns_type() -> None:
    account = Account("FillMissing")
    result = FillMissing(values={"theme": "none", "pieces": 7}).transform(dirty(), account)
    assert listed(result["pieces"]) == [1, 7, 0, -3, 4, 7, 9]
    assert str(result["pieces"].dtype) == "int32[pyarrow]"
    assert repairs(account) == {"theme: filled": 1, "pieces: filled": 2}


@pytest.mark.parametrize("value", ["many", 1.5, 2**40])
def test_a_filling_that_does_not_fit_is_a_mistake(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"values.pieces: .* does not fit a column of type int32"):
        FillMissing(values={"pieces": value}).transform(dirty())


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_times_of_any_precision_can_be_filled(unit: str) -> None:
    result = FillMissing(values={"at": "2024-01-31 12:00"}).transform(table({"at": pa.timestamp(unit)}, at=[None]))
    assert [str(time) for time in result["at"]] == ["2024-01-31 12:00:00"]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary(4)], ids=str)
def test_bytes_are_filled_and_replaced(kind: pa.DataType) -> None:
    """As some programs write text into Parquet files."""
    frame = table({"a": kind}, a=[b"caf\xff", None])
    assert listed(FillMissing(values={"a": "cafe"}).transform(frame)["a"]) == [b"caf\xff", b"cafe"]
    assert listed(ReplaceValues(values={"a": {"none": "cafe"}}).transform(frame)["a"]) == [b"caf\xff", None]


def test_bytes_of_another_length_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="'abc' does not fit a column of type fixed_size_binary"):
        FillMissing(values={"a": "abc"}).transform(table({"a": pa.binary(4)}, a=[b"four", None]))


def test_a_column_of_lists_cannot_be_filled() -> None:
    with pytest.raises(ConfigError, match="no text can be read as list"):
        FillMissing(values={"a": "x"}).transform(table({"a": pa.list_(pa.int64())}, a=[[1], None]))


def test_values_are_replaced_whole() -> None:
    account = Account("ReplaceValues")
    result = ReplaceValues(values={"theme": {"city": "Town", "Cit": "?"}}).transform(dirty(), account)
    assert listed(result["theme"]) == ["City", "Town", " ", None, "N/A", "CITY\n", "City"]
    assert account.repaired["theme: replaced"].samples == [{"row": 2, "before": "city", "after": "Town"}]


@pytest.mark.parametrize("spellings", [{"many": 1}, {"1": "many"}])
def test_a_replacement_that_does_not_fit_is_a_mistake(spellings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="'many' does not fit a column of type int32"):
        ReplaceValues(values={"pieces": spellings}).transform(dirty())


@pytest.mark.parametrize("skipped", [0, 1])
def test_what_lies_hidden_in_the_place_of_a_null_changes_nothing(skipped: int) -> None:
    """Arrow allows any text there. Here it is a "b", which keeps the null from being as short as the empty text."""
    offsets, data = np.array([0, 1, 2, 2, 3], np.int32).tobytes(), b"abc"
    valid = pa.array([True, False, True, True]).buffers()[1]
    text: Any = pa.Array.from_buffers(pa.string(), 4, [valid, pa.py_buffer(offsets), pa.py_buffer(data)])
    given = Series(text.slice(skipped), dtype=pd.ArrowDtype(pa.string()))
    assert listed(clean_text(given)) == ["a", None, None, "c"][skipped:]


def test_clean_text_is_given_back_as_it_is() -> None:
    clean = table(name=["two words", None, "Caf\u00e9"])["name"]
    assert clean_text(clean) is clean


def test_a_column_may_have_any_name() -> None:
    """Such as ``self``, which is in each object of some APIs."""
    frame = table(self=[" a ", None])
    assert CleanText().transform(frame)["self"].tolist() == ["a", pd.NA]
    assert FillMissing(values={"self": "none"}).transform(frame)["self"].tolist() == [" a ", "none"]
