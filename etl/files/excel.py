"""Reads one sheet of an Excel workbook as rows of text, one at a time."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from etl.errors import ConfigError, DataError
from etl.files.csv_reader import usable_names
from etl.files.damage import damage_reported
from etl.files.formats import FileOptions
from etl.files.safe_zip import looks_like_zip, open_member
from etl.files.streams import check_limits
from etl.steps import did_you_mean

Rows: TypeAlias = "Iterator[tuple[int, list[str | None]]]"  # with their numbers in the sheet

_OLD_OR_ENCRYPTED = b"\xd0\xcf\x11\xe0"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError)
_EXACT_IN_FLOAT = 1 << 53


@contextmanager
def open_sheet(path: Path, options: FileOptions, source: str) -> Iterator[tuple[list[str], Rows]]:
    """The column names of the sheet (its first row that is not blank), and its other rows with their numbers.

    A row's number is that of the sheet less that of the header. Blank rows are left out. A cell is text as a program
    writes it: 67, 0.5, 2024-01-31, 2024-01-31T12:00:00, true; null if it is empty; the last known result for a formula.
    Raises DataError: no workbook, damaged, beyond the limits, a header that cannot be used; ConfigError: no such sheet.
    """
    _check_workbook(path, options, source)
    with path.open("rb") as file, closing(_load(file, source)) as workbook:
        sheet = _chosen(workbook, options.sheet, source)
        sheet.reset_dimensions()  # what a workbook says of the size of its sheets is often wrong
        rows = _rows(sheet, f"{source}#{sheet.title}")
        header_number, header = next(rows, (0, []))
        yield _names(header, source), ((number - header_number, cells) for number, cells in rows)


def _check_workbook(path: Path, options: FileOptions, source: str) -> None:
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(_OLD_OR_ENCRYPTED):
        raise DataError(f"{source}: is an old .xls file or has a password; save it as .xlsx without one")
    if not looks_like_zip(head):
        raise DataError(f"{source}: is no Excel workbook: it begins with {head!r}; set format to what it is")
    with open_member(path, "xl/workbook.xml", options, source), zipfile.ZipFile(path) as archive:
        inflated = sum(member.file_size for member in archive.infolist())
    check_limits(inflated, path.stat().st_size, source, options)


def _load(file: BinaryIO, source: str) -> Any:
    try:
        from openpyxl import load_workbook
    except ModuleNotFoundError as error:
        raise ConfigError("reading Excel workbooks needs openpyxl: pip install openpyxl") from error
    with damage_reported(f"{source}: the workbook is damaged", *_DAMAGE):
        return load_workbook(file, read_only=True, data_only=True, keep_links=False)


def _chosen(workbook: Any, name: str | None, source: str) -> Any:
    sheets = {sheet.title: sheet for sheet in workbook.worksheets}
    if not sheets:
        raise DataError(f"{source}: the workbook has no sheet of cells, or is damaged")
    if name is None and len(sheets) == 1:
        return next(iter(sheets.values()))
    if name is None:
        raise ConfigError(f"{source}: has {len(sheets)} sheets; set sheet to one of: {', '.join(map(repr, sheets))}")
    if name not in sheets:
        raise ConfigError(f"{source}: has no sheet {name!r}{did_you_mean(name, sheets)}")
    return sheets[name]


def _rows(sheet: Any, source: str) -> Rows:
    with damage_reported(f"{source}: the workbook is damaged", *_DAMAGE):
        for number, values in enumerate(sheet.iter_rows(values_only=True), start=1):
            cells = [_text(value) for value in values]
            if any(cell is not None for cell in cells):
                yield number, cells


def _names(header: Sequence[str | None], source: str) -> list[str]:
    """As in a CSV file, but blank cells at the end of the row are no columns."""
    cells = list(header)
    while cells and cells[-1] is None:
        cells.pop()
    if not cells:
        raise DataError(f"{source}: the sheet is empty; expected a header and rows")
    return usable_names(cells, source)


def _text(value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT_IN_FLOAT:
        return str(int(value))  # Excel has no other numbers than floats
    if isinstance(value, datetime) and value.time() == time.min:
        return value.date().isoformat()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return _duration(value)
    return str(value)


def _duration(value: timedelta) -> str:
    """As Excel shows it: hours, which may be more than 24, minutes, seconds and, if there are any, parts of these."""
    seconds, parts = divmod(abs(value), timedelta(seconds=1))
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if value < timedelta(0) else ""
    fraction = f".{parts.microseconds:06}" if parts else ""
    return f"{sign}{hours}:{minutes:02}:{seconds:02}{fraction}"
