"""How a CSV file is written: the options of ``[extract.csv]``, importable without the libraries that read it."""

from __future__ import annotations

import codecs

from pydantic import Field, ValidationInfo, field_validator, model_validator

from etl.options import Options

_ASCII = "".join(map(chr, range(128)))
_LARGEST_ROW = 1 << 30  # a block of rows must stay below the 2 GiB that Arrow's offsets can address


class CsvOptions(Options):
    """The dialect of a CSV file, and what to do with bytes that do not fit it."""

    delimiter: str = Field(default=",", description="The character between fields.")
    quote: str = Field(default='"', description='The character around fields; "" if there is none.')
    header: bool | tuple[str, ...] = Field(
        default=True, description="true: the first record holds the names. A list of names: the file has no header."
    )
    encoding: str = Field(default="utf-8", description="The encoding of the file.")
    fallback_encoding: str | None = Field(
        default="cp1252", description='How bytes that are not UTF-8 in a UTF-8 file are read; "" rejects their row.'
    )
    null_words: tuple[str, ...] = Field(default=("",), description="Cells, quoted or not, that mean null.")
    max_row_bytes: int = Field(
        default=1_048_576,
        gt=0,
        le=_LARGEST_ROW,
        description="A longer row is rejected; a quoted field that does not end within it counts as broken.",
    )
    allow_empty: bool = Field(default=False, description="Whether a file without rows is in order.")

    @property
    def is_utf8(self) -> bool:
        return codecs.lookup(self.encoding).name in ("utf-8", "utf-8-sig")

    @field_validator("delimiter", "quote")
    @classmethod
    def _one_ascii_character(cls, value: str, info: ValidationInfo) -> str:
        if value == "" and info.field_name == "quote":
            return value
        if len(value) != 1 or not value.isascii() or value in "\r\n\0":
            raise ValueError("must be one ASCII character, and no line end")
        return value

    @model_validator(mode="after")
    def _delimiter_is_not_quote(self) -> CsvOptions:
        if self.delimiter == self.quote:
            raise ValueError("delimiter and quote must differ")
        return self

    @field_validator("header")
    @classmethod
    def _usable_names(cls, value: bool | tuple[str, ...]) -> bool | tuple[str, ...]:
        if value is True:
            return value
        if not value:
            raise ValueError('a file without a header needs its column names: header = ["first", "second"]')
        blank = any(not name.strip() for name in value)
        if blank or len(set(value)) < len(value):
            raise ValueError("column names must be unique and not blank")
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, value: str) -> str:
        _check_encoding(value)
        return value

    @field_validator("fallback_encoding")
    @classmethod
    def _single_byte_encoding(cls, value: str | None) -> str | None:
        if not value:
            return None
        _check_encoding(value)
        text = bytes(range(256)).decode(value, "replace")
        if len(text) != 256 or text[:128] != _ASCII or not set(text[128:]).isdisjoint(_ASCII):
            raise ValueError("must be a single-byte extension of ASCII such as cp1252 or latin-1")
        return value


def _check_encoding(name: str) -> None:
    try:
        " ".encode(name)
    except (LookupError, ValueError) as error:
        raise ValueError(f"unknown text encoding {name!r}; use a name such as utf-8, cp1252 or utf-16") from error
