"""Transformers that make typed values of text: by their look, by the formats of dates, by the habits of numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from etl.base import Transformer
from etl.errors import ConfigError
from etl.options import DifferentColumns
from etl.tables.schema import ColumnType, arrow_type, check_zone

if TYPE_CHECKING:
    from pandas import DataFrame, Series

    from etl.ledger import Account
    from etl.tables.arrow import Values

_Columns = Annotated[DifferentColumns, Field(min_length=1)]
_Invalid = Literal["reject", "null"]
_INVALID = 'What becomes of a value that does not fit: "reject" its row, or make it "null" (and report that).'


class CastTypes(Transformer):
    """Gives columns their types. Text is read as programs write it: 1234.5, true, 2024-01-31, 2024-01-31T12:00:00Z."""

    types: dict[str, ColumnType] = Field(min_length=1, description="Column -> text, int32, decimal(10,2), date, ...")
    invalid: _Invalid = Field(default="reject", description=_INVALID)

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, check_columns, with_columns
        from etl.tables.casting import cast, misfit

        check_columns(batch, self.types)
        typed = {}
        for name, type_name in self.types.items():
            raw = array_of(batch[name])
            typed[name] = cast(raw, arrow_type(type_name))
            _report_misfits(batch[name], raw, typed[name], misfit(type_name), self.invalid, account)
        return with_columns(batch, typed)


class ParseDates(Transformer):
    """Makes dates or times of text in given formats. The first format that fits a text decides."""

    columns: _Columns = Field(description="The columns to read.")
    formats: Annotated[tuple[str, ...], Field(min_length=1)] = Field(
        description="Formats such as %d/%m/%Y or %Y-%m-%dT%H:%M:%S%z, in Python's letters, in order of preference."
    )
    to: Literal["date", "timestamp"] = Field(default="date", description="Whether to keep the time of day.")
    zone: Annotated[str, AfterValidator(check_zone)] | None = Field(
        default=None,
        description="The zone of the times, such as Europe/Amsterdam; those with an offset (%z) come into it.",
    )
    invalid: _Invalid = Field(default="reject", description=_INVALID)

    @field_validator("formats")
    @classmethod
    def _known_letters(cls, formats: tuple[str, ...]) -> tuple[str, ...]:
        for each in formats:
            try:
                datetime.strptime("", each)  # noqa: DTZ007
            except (ValueError, re.error) as error:
                if "does not match" not in str(error):
                    raise ValueError(f"{each!r}: {error}") from error
        return formats

    @model_validator(mode="after")
    def _zones_are_declared(self) -> Self:
        if self.zone and self.to == "date":
            raise ValueError('zone is for times: set to = "timestamp"')
        if not self.zone and any("%z" in each for each in self.formats):
            raise ValueError(
                'times with an offset (%z) need a zone to come into, such as to = "timestamp", zone = "UTC"'
            )
        return self

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import as_text, check_columns, with_columns

        check_columns(batch, self.columns)
        zone = f"[{self.zone}]" if self.zone else ""
        rule = f"not a {self.to}{zone} like {' or '.join(self.formats)}"
        parsed = {}
        for name in self.columns:
            raw = _text(batch[name], "ParseDates")
            parsed[name] = self._parsed(raw)
            _report_misfits(batch[name], raw, parsed[name], rule, self.invalid, account)
            _report_readings(batch[name], raw, as_text(parsed[name]), f"{name}: read as a {self.to}", account)
        return with_columns(batch, parsed)

    def _parsed(self, raw: Values) -> Values:
        """Each distinct text is read once, in all formats."""
        from etl.tables.arrow import pc

        coded: Any = raw.dictionary_encode()
        return pc.coalesce(*self._readings(coded.dictionary)).take(coded.indices)

    def _readings(self, texts: Values) -> Iterator[Values]:
        import pandas as pd
        import pyarrow as pa

        from etl.tables.arrow import pc
        from etl.tables.casting import cast

        kind = arrow_type(f"timestamp[{self.zone}]" if self.zone else self.to)
        plain = pc.if_else(pc.match_substring_regex(texts, "[0-9]"), texts, None)  # pandas reads "now" and "today"
        for each in self.formats:
            times = pd.to_datetime(pd.Series(plain, dtype=object), format=each, errors="coerce", utc="%z" in each)
            yield cast(pa.array(times, from_pandas=True), kind)


class ParseNumbers(Transformer):
    """Makes numbers of text as people write it: 1.234,50 EUR, $5, 12 %. What is not written like that is no number."""

    columns: _Columns = Field(description="The columns to read.")
    decimal: Literal[".", ","] = Field(default=".", description="The character before the fraction.")
    thousands: Literal["", ",", ".", " ", "'", "_"] = Field(
        default="", description="The character between groups of three digits, where there is one."
    )
    currency: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description='Signs or codes that may stand before or after the number, such as ["€", "EUR"].'
    )
    percent: bool = Field(default=False, description="Whether these are percentages: 12 and 12% become 0.12.")
    to: ColumnType = Field(default="float64", description="The type of the numbers, such as int32 or decimal(10,2).")
    invalid: _Invalid = Field(default="reject", description=_INVALID)

    @model_validator(mode="after")
    def _can_be_told_apart(self) -> Self:
        if self.decimal == self.thousands:
            raise ValueError("decimal and thousands must differ")
        if not self.to.startswith(("int", "float", "decimal")):
            raise ValueError(f"to = {self.to!r} is not a type of numbers")
        if self.percent and self.to.startswith("int"):
            raise ValueError(f"percentages are fractions, and {self.to} holds none")
        return self

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import as_text, check_columns, with_columns
        from etl.tables.casting import cast, misfit

        check_columns(batch, self.columns)
        parsed = {}
        for name in self.columns:
            raw = _text(batch[name], "ParseNumbers")
            plain = self._plain(raw)
            parsed[name] = cast(plain, arrow_type(self.to))
            _report_misfits(batch[name], raw, parsed[name], misfit(self.to), self.invalid, account)
            read = as_text(parsed[name]) if self.percent else plain
            _report_readings(batch[name], raw, read, f"{name}: read as a number", account)
        return with_columns(batch, parsed)

    def _plain(self, text: Values) -> Values:
        """The numbers as programs write them, null where there is none: 1.234,50 EUR -> 1234.50, 12% -> 12e-2."""
        from etl.tables.arrow import pc

        plain = pc.if_else(pc.match_substring_regex(text, self._pattern()), text, None)
        for sign in sorted(self.currency, key=len, reverse=True):
            plain = pc.replace_substring(plain, sign, "")
        plain = pc.replace_substring_regex(plain, f"[^0-9{self.decimal}{_MINUS}]+", "")
        for written, meant in ((self.decimal, "."), ("\u2212", "-")):
            plain = pc.replace_substring(plain, written, meant) if written != meant else plain
        return pc.binary_join_element_wise(plain, "e-2", "") if self.percent else plain

    def _pattern(self) -> str:
        """What a number looks like: with a sign before or after the currency, and at least one digit."""
        space, sign = r"[\s\p{Z}]*", f"[+{_MINUS}]"
        currency = f"(?:{'|'.join(map(re.escape, self.currency))})?" if self.currency else ""
        point, group = re.escape(self.decimal), _LOOK_ALIKES.get(self.thousands, re.escape(self.thousands))
        whole = rf"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+|[0-9]+)" if self.thousands else "[0-9]+"
        return (
            f"^{space}(?:{sign}{space}{currency}|{currency}{space}{sign}?){space}"
            f"(?:{whole}(?:{point}[0-9]*)?|{point}[0-9]+)"
            f"{space}{currency}{space}{'%?' if self.percent else ''}{space}$"
        )


_MINUS = "\u2212-"
_LOOK_ALIKES = {" ": "[ \u00a0\u202f]", "'": "['\u2019]"}


def _text(values: Series[Any], step: str) -> Values:
    import pyarrow as pa

    from etl.tables.arrow import array_of

    text = array_of(values)
    if pa.types.is_null(text.type):
        return text.cast(pa.string())
    if not pa.types.is_string(text.type):
        raise ConfigError(f"{values.name} is {text.type} already, and {step} reads text; CastTypes changes types")
    return text


def _report_misfits(
    values: Series[Any], raw: Values, typed: Values, rule: str, invalid: _Invalid, account: Account
) -> None:
    """Reject the rows whose value could not be read, or report that it was made null."""
    from etl.tables.arrow import pc, reported, rows_where

    if typed.null_count == raw.null_count:
        return
    misfits = pc.and_(typed.is_null(), raw.is_valid())
    if invalid == "reject":
        account.reject(rows_where(misfits, values.index), rule, column=str(values.name), values=values)
    else:
        kept = pc.if_else(misfits, None, raw)
        reported(account, f"{values.name}: {rule}, made null", raw, kept, values)


def _report_readings(values: Series[Any], raw: Values, read: Values, rule: str, account: Account) -> None:
    """Report the texts that were read as something that is written in another way."""
    from etl.tables.arrow import pc, reported

    if not read.equals(raw):
        reported(account, rule, raw, pc.coalesce(read, raw), values)
