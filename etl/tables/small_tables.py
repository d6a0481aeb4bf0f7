"""Reads the small files that a step needs beside its source, whole into memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from etl.errors import ConfigError, DataError
from etl.paths import PROJECT

if TYPE_CHECKING:
    from pandas import DataFrame

_ROWS_AT_ONCE = 65_536


def find_file(path: Path) -> Path:
    """``path`` as given, or seen from the project's folder (cron starts elsewhere). Raises ConfigError if not there."""
    for candidate in (path, PROJECT / path):
        if candidate.is_file():
            return candidate
    raise ConfigError(f"there is no file {path}, neither here nor in {PROJECT}")


def fingerprint(path: Path) -> str:
    """A hash of the file's content."""
    return hashlib.sha256(find_file(path).read_bytes()).hexdigest()


def read_small_table(path: Path, columns: Iterable[str]) -> DataFrame:
    """The table in a CSV file (UTF-8, commas, with a header; all text) or in a Parquet file.

    Raises DataError if it is damaged, and ConfigError if it lacks one of ``columns``.
    """
    from etl.tables.arrow import check_columns

    file = find_file(path)
    table = _read_parquet(file) if file.suffix == ".parquet" else _read_csv(file)
    try:
        check_columns(table, columns)
    except DataError as error:
        raise ConfigError(f"{path}: {error.message}") from error
    return table


def _read_csv(file: Path) -> DataFrame:
    import pandas as pd

    from etl.files.csv_options import CsvOptions
    from etl.files.csv_reader import read_csv
    from etl.ledger import Account

    account = Account(file.name)
    with file.open("rb") as stream:
        batches = list(read_csv(stream, CsvOptions(), account, batch_rows=_ROWS_AT_ONCE, source=str(file)))
    for reject in account.take_rejects():
        raise DataError(f"{file}: row {reject.row}: {reject.rule}")
    return pd.concat(batches)


def _read_parquet(file: Path) -> DataFrame:
    import pandas as pd
    import pyarrow as pa

    from etl.files.damage import damage_reported

    with damage_reported(f"{file} is not a Parquet file, or damaged", pa.ArrowException):
        return pd.read_parquet(file, dtype_backend="pyarrow")
