"""What files may hold and how they are read: the options of file-like sources, without the libraries that read them."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal, get_args

from pydantic import Field, PositiveInt

from etl.errors import ConfigError
from etl.files.csv_options import CsvOptions
from etl.files.safe_zip import ZipLimits
from etl.options import DifferentColumns

FileFormat = Literal["csv", "tsv", "jsonl", "json", "parquet", "xlsx"]
JsonType = Literal["text", "int64", "float64", "bool", "timestamp[UTC]", "json"]

_OTHER_ENDINGS: dict[str, FileFormat] = {".ndjson": "jsonl", ".xlsm": "xlsx"}
_ENDINGS: dict[str, FileFormat] = {f".{name}": name for name in get_args(FileFormat)} | _OTHER_ENDINGS
_PACKED = (".gz", ".bz2", ".xz", ".zst", ".zip")


class FileOptions(ZipLimits):
    """What is the same wherever a file lies."""

    format: FileFormat | None = Field(
        default=None, description="What the files hold; by default as their names end, a .gz or .zip left aside."
    )
    columns: DifferentColumns = Field(
        default=(), description="The columns to read, in this order. Default: those of the first file."
    )
    csv: CsvOptions = Field(default=CsvOptions(), description="How CSV files are written. TSV: a tab is the delimiter.")
    types: dict[str, JsonType] = Field(
        default={},
        description="Types of fields in JSON: text, int64, float64, bool, timestamp[UTC] (of ISO 8601 text), or json "
        "(any value, as JSON text). Default: told from the first 10,000 records.",
    )
    sheet: str | None = Field(default=None, description="Name of the sheet in a workbook. Default: the only one.")
    member: str | None = Field(
        default=None,
        description="Name or pattern of the file in a zip. Default: the only one that ends like the format.",
    )
    allow_empty: bool = Field(default=False, description="Whether a file without rows is in order.")
    max_record_bytes: PositiveInt = Field(
        default=16 << 20, le=1 << 30, description="Largest accepted record of JSON, in bytes."
    )

    def csv_options(self, file_format: FileFormat) -> CsvOptions:
        """``csv``, with the delimiter of a TSV file unless another was asked for."""
        changes: dict[str, object] = {"allow_empty": self.allow_empty or self.csv.allow_empty}
        if file_format == "tsv" and "delimiter" not in self.csv.model_fields_set:
            changes["delimiter"] = "\t"
        return self.csv.model_copy(update=changes)


def endings_of(file_format: FileFormat) -> tuple[str, ...]:
    return tuple(ending for ending, meant in _ENDINGS.items() if meant == file_format)


def format_of(name: str, options: FileOptions) -> FileFormat:
    """The format of the file called ``name``. Raises ConfigError if neither options nor name tell."""
    if options.format:
        return options.format
    path = PurePosixPath(name.lower())
    if path.suffix in _PACKED:
        path = path.with_suffix("")
    if path.suffix not in _ENDINGS and options.member:
        path = PurePosixPath(options.member.lower())
    found = _ENDINGS.get(path.suffix)
    if found is None and name.lower().endswith(".zip"):
        return "csv"  # as open_member chooses the only CSV
    if found is None:
        raise ConfigError(f'{name}: cannot tell what it holds from its name; set format, such as format = "csv"')
    return found
