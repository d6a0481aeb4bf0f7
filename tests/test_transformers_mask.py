"""MaskColumns: what is hidden stays hidden, also in reports."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Transformer
from etl.ledger import Account
from etl.transformers.mask import MaskColumns
from main import Pipeline
from tests.any_split import AnySplitContract, listed, repairs, table

KEY = "a key of the tests only"


def people() -> DataFrame:
    return table(
        {"born": pa.int16()},
        email=["ann@example.com", "bob@example.com", None, "ann@example.com", ""],
        born=[1970, None, 1999, 1970, 2000],
    )


class PeopleContract(AnySplitContract):
    def frame(self) -> DataFrame:
        return people()


class TestMaskByHash(PeopleContract):
    def make(self) -> Transformer:
        return MaskColumns.model_validate({"columns": ("email", "born"), "key": KEY})


class TestMaskByRedaction(PeopleContract):
    def make(self) -> Transformer:
        return MaskColumns(columns=("email", "born"), method="redact")


class TestMaskByTruncation(PeopleContract):
    def make(self) -> Transformer:
        return MaskColumns(columns=("email", "born"), method="truncate", length=3)


def masked(**options: Any) -> tuple[DataFrame, Account]:
    account = Account("MaskColumns")
    return MaskColumns.model_validate({"columns": ("email", "born"), **options}).transform(people(), account), account


def test_a_hash_can_be_made_again_with_the_key_and_by_nobody_else() -> None:
    result, _ = masked(key=KEY)
    expected = hmac.new(KEY.encode(), b"ann@example.com", hashlib.sha256).hexdigest()[:32]
    first, bob, none, again, empty = listed(result["email"])
    assert first == again == expected
    assert none is None
    assert len({first, bob, empty}) == 3
    assert listed(masked(key=KEY + "!")[0]["email"])[0] != expected


def test_redaction_and_truncation() -> None:
    assert listed(masked(method="redact", text="-")[0]["email"]) == ["-", "-", None, "-", "-"]
    assert listed(masked(method="truncate")[0]["email"]) == ["a", "b", None, "a", ""]
    assert listed(masked(method="truncate", length=2)[0]["born"]) == ["19", None, "19", "19", "20"]


def test_no_report_shows_a_value_or_the_key() -> None:
    _, account = masked(key=KEY)
    assert repairs(account) == {"email: masked (hash)": 4, "born: masked (hash)": 4}
    step = MaskColumns.model_validate({"columns": ["email"], "key": KEY})
    told = json.dumps(account.as_dict()) + repr(step) + step.model_dump_json() + "".join(step.ingredients())
    assert "ann" not in told
    assert KEY not in told


def test_another_key_is_another_ingredient() -> None:
    one, other = (MaskColumns.model_validate({"columns": ["a"], "key": key}) for key in (KEY, KEY + "!"))
    assert one.ingredients() != other.ingredients()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "key is needed"),
        ({"key": "short"}, "16 characters or more"),
        ({"key": KEY, "method": "redact"}, "key is needed"),
    ],
)
def test_mistakes_are_found_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as failure:
        masked(**options)
    assert "short" not in str(failure.value)


def test_the_key_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_MASK_KEY", KEY)
    file = tmp_path / "masked.toml"
    file.write_text(
        '[extract]\ntype = "ZipUrlExtractor"\nurl = "https://example.com/a.zip"\n'
        '[[transform]]\ntype = "MaskColumns"\ncolumns = ["email"]\nkey = "${A_MASK_KEY}"\n'
        '[load]\ntype = "S3Loader"\nbucket = "my-bucket"\nkey = "a.parquet"\n'
    )
    step = Pipeline.from_file(file).transformers[0]
    assert step == MaskColumns.model_validate({"columns": ["email"], "key": KEY})
