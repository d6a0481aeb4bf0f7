"""How SQLite is read: one SELECT is one snapshot, and each value has a type of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy import types as sql

from etl.errors import AccessError, ConfigError, DataError, RetryLater, SourceError
from etl.sql import dialect as say
from etl.sql import forms as f
from etl.sql.dialect import Dialect, Explained, given
from etl.tables.forms import Form, form, written

if TYPE_CHECKING:
    from sqlalchemy import URL

_WAIT_S = 10


class SQLite(Dialect):
    """Python's own sqlite3. One SELECT is one snapshot; each value has a type of its own."""

    def engine(self, url: URL, **options: Any) -> sa.Engine:
        return sa.create_engine("sqlite://", creator=lambda: _connection(url.database or ""), **options)

    def forms(self, cursor: Any, declared: Mapping[str, Any]) -> list[Form | None]:
        return [_sqlite_form(declared.get(column[0])) for column in cursor.description]

    def at_least(self, column: sa.ColumnElement[Any], value: Any) -> sa.ColumnElement[bool]:
        """Times are text in one of several ways; what is no time is read, to be rejected."""
        if isinstance(value, date):
            read, low = (sa.func.strftime(_TO_THE_MILLISECOND, time) for time in (column, given(str(value))))
            return sa.or_(read >= low, read.is_(None))
        if isinstance(value, Decimal):
            return column >= sa.cast(given(str(value)), sql.Numeric)
        return super().at_least(sa.collate(column, "BINARY") if isinstance(value, str) else column, value)

    def explain(self, error: BaseException) -> Explained:
        name = getattr(error, "sqlite_errorname", None)
        if name is None:  # Python refuses, before SQLite is asked
            return ConfigError, "check query and params"
        return next((news for start, news in _SQLITE_NAMES if name.startswith(start)), (SourceError, "SQLite refused"))


def _connection(path: str) -> sqlite3.Connection:
    """Open a database file for reading only, which also keeps SQLite from making a new one."""
    connection = sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_WAIT_S, check_same_thread=False)
    connection.text_factory = _text_or_not
    return connection


class NotText(bytes):
    """Text that is not UTF-8. It fits no type, which costs its row and not the run."""


def _text_or_not(data: bytes) -> str | NotText:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return NotText(data)


_TO_THE_MILLISECOND = "%Y-%m-%d %H:%M:%f"
_SQLITE_NAMES: tuple[tuple[str | tuple[str, ...], Explained], ...] = (
    ("SQLITE_CANTOPEN", (SourceError, "the file cannot be opened; check its path in url")),
    ("SQLITE_NOTADB", (DataError, "the file is no SQLite database, or an encrypted one")),
    ("SQLITE_CORRUPT", (DataError, "the file is damaged")),
    (("SQLITE_BUSY", "SQLITE_LOCKED"), (RetryLater, "another program is writing to it; run again later")),
    ("SQLITE_READONLY", say.CHANGES_DATA),
    (("SQLITE_PERM", "SQLITE_AUTH"), (AccessError, "this user may not read the file")),
    ("SQLITE_ERROR", say.MISWRITTEN),
)


def _sqlite_form(declared: Any) -> Form | None:
    """None if only the values tell what is in the column."""
    if isinstance(declared, sql.Numeric) and not isinstance(declared, sql.Float):
        return _decimal_form(declared.precision or 0, declared.scale or 0)
    return next((found for kind, found in _SQLITE if isinstance(declared, kind)), None)


def _decimal_form(precision: int, scale: int) -> Form | None:
    """SQLite keeps 19.90 as the float 19.9."""
    exact = f.decimal_form(precision, scale)
    if exact is None:
        return None
    make = written(str, pa.string())
    return form(exact.words, exact.arrow, int, float, str, make=lambda values: make(values).cast(exact.arrow))


def _bools(values: Sequence[int | None]) -> pa.Array[Any]:
    if not set(values) <= {0, 1, None}:
        raise ValueError("neither 0 nor 1")
    return pa.array([None if value is None else value == 1 for value in values], pa.bool_())


_INT64 = form("an int64", pa.int64(), int)
_FLOAT64 = form("a float64", pa.float64(), float, int)
_SQLITE: tuple[tuple[type, Form], ...] = (
    (sql.Boolean, form("true or false", pa.bool_(), int, make=_bools)),
    (sql.Integer, _INT64),
    (sql.Float, _FLOAT64),
    (sql.DateTime, f.TIMESTAMP),
    (sql.Date, f.DATE),
    (sql.Time, f.TIME),
    (sql.JSON, f.TEXT),
    (sql.String, f.TEXT),
    (sql.LargeBinary, f.BYTES),
)


def told_by(name: str, values: Sequence[Any], source: str) -> Form:
    """The form of a column that no catalogue declares. Raises DataError if these values disagree."""
    kinds = set(map(type, values)) - {type(None), NotText}
    if len(kinds) > 1 and kinds != {int, float}:
        found = " and ".join(sorted(kind.__name__ for kind in kinds))
        raise DataError(f"{source}: {name!r} holds values of several types ({found}); CAST it to one in the query")
    if float in kinds:
        return _FLOAT64
    return {int: _INT64, bytes: f.BYTES}.get(next(iter(kinds), str), f.TEXT)
