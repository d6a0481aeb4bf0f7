"""The file formats: their names, how a file's ending tells which one is meant, and the options of each."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from etl.options import Options

Format = Literal["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"]

CONTENT_TYPES: dict[Format, str] = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "csv.gz": "application/gzip",
    "jsonl": "application/x-ndjson",
    "jsonl.gz": "application/gzip",
}

_OTHER_ENDINGS: dict[str, Format] = {".ndjson": "jsonl", ".ndjson.gz": "jsonl.gz"}
_ENDINGS = {f".{name}": name for name in CONTENT_TYPES} | _OTHER_ENDINGS
_LEVELS = {"zstd": range(1, 23), "gzip": range(1, 10), "brotli": range(12)}
_TEXT_GROUP_ROWS = 16_384


def format_of(key: str) -> Format | None:
    """The format that the ending of a key or file name stands for; None if it stands for none."""
    return next((name for ending, name in _ENDINGS.items() if key.lower().endswith(ending)), None)


class ParquetOptions(Options):
    """How Parquet files are written."""

    compression: Literal["zstd", "snappy", "gzip", "lz4", "brotli", "none"] = Field(
        default="zstd", description="How column data is compressed."
    )
    compression_level: int | None = Field(
        default=None, description="For zstd 1 to 22, gzip 1 to 9, brotli 0 to 11; by default the codec's own."
    )
    row_group_rows: int = Field(
        default=131_072, ge=1, le=16_777_216, description="Rows in a row group. So many are in memory at a time."
    )
    statistics: bool = Field(
        default=True,
        description="Keep least and greatest values, so that readers can skip; not of texts in no order.",
    )
    page_index: bool = Field(
        default=True, description="Keep an index of pages, so that readers can skip within groups."
    )

    @model_validator(mode="after")
    def _level_fits_compression(self) -> ParquetOptions:
        levels = _LEVELS.get(self.compression, ())
        if self.compression_level is not None and self.compression_level not in levels:
            given = f"compression_level {self.compression_level}"
            if not levels:
                raise ValueError(f"{given}: {self.compression} has no levels")
            raise ValueError(f"{given}: {self.compression} takes {levels[0]} to {levels[-1]}")
        return self


class CsvStyle(Options):
    """How CSV files are written."""

    delimiter: str = Field(default=",", description="The character between fields.")
    quoting: Literal["text", "all", "none"] = Field(
        default="text", description='What is put in quotes. With "none", text that would need them stops the run.'
    )
    header: bool = Field(default=True, description="Begin with the column names.")
    null_word: str = Field(
        default="", description="What stands for null; never in quotes, so that it differs from text."
    )
    escape_formulas: bool = Field(
        default=False,
        description="Put ' before text that a spreadsheet would run as a formula: what begins with = + - @ tab or CR.",
    )

    @field_validator("delimiter")
    @classmethod
    def _one_ascii_character(cls, value: str) -> str:
        if len(value) != 1 or not value.isascii() or value in '\r\n\0"':
            raise ValueError("must be one ASCII character, and neither a quote nor a line end")
        return value

    @model_validator(mode="after")
    def _null_word_is_one_cell(self) -> CsvStyle:
        if any(character in self.null_word for character in f'"\r\n{self.delimiter}'):
            raise ValueError("null_word must hold no quote, delimiter or line end")
        return self


class FormatOptions(Options):
    """The options of all formats. A loader that writes files inherits them, and hands itself to ``encode``."""

    parquet: ParquetOptions = Field(default=ParquetOptions(), description="How Parquet is written.")
    csv: CsvStyle = Field(default=CsvStyle(), description="How CSV is written.")
    gzip_level: int = Field(default=6, ge=1, le=9, description="Of .gz files: 1 is the fastest, 9 the slowest.")

    def group_rows(self, file_format: Format) -> int:
        """Rows that are encoded at a time. That they are always as many keeps the bytes the same."""
        return self.parquet.row_group_rows if file_format == "parquet" else _TEXT_GROUP_ROWS
