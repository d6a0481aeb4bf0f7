"""How SQLite is read: one SELECT is one snapshot, and each value has a type of its own."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal
from typing import Any

import sqlalchemy as sa
from sqlalchemy import types as sql

from etl.errors import AccessError, ConfigError, DataError, RetryLater, SourceError
from etl.sql import dialect as say
from etl.sql import forms as f
from etl.sql.dialect import Dialect, Explained, given
from etl.tables.forms import Form


class SQLite(Dialect):
    """Python's own sqlite3. One SELECT is one snapshot; each value has a type of its own."""

    driver = "sqlite"
    package = ""

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


_TO_THE_MILLISECOND = "%Y-%m-%d %H:%M:%f"
_SQLITE_NAMES: tuple[tuple[str, Explained], ...] = (
    ("SQLITE_CANTOPEN", (SourceError, "the file cannot be opened; check its path in url")),
    ("SQLITE_NOTADB", (DataError, "the file is no SQLite database, or an encrypted one")),
    ("SQLITE_CORRUPT", (DataError, "the file is damaged")),
    ("SQLITE_BUSY", (RetryLater, "another program is writing to it; run again later")),
    ("SQLITE_LOCKED", (RetryLater, "another program is writing to it; run again later")),
    ("SQLITE_READONLY", say.CHANGES_DATA),
    ("SQLITE_PERM", (AccessError, "this user may not read the file")),
    ("SQLITE_AUTH", (AccessError, "this user may not read the file")),
    ("SQLITE_ERROR", say.MISWRITTEN),
)


def _sqlite_form(declared: Any) -> Form | None:
    if isinstance(declared, sql.Numeric) and not isinstance(declared, sql.Float):
        return f.sqlite_decimal(declared.precision, declared.scale)
    return next((form for kind, form in _SQLITE if isinstance(declared, kind)), None)


_SQLITE: tuple[tuple[type, Form], ...] = (
    (sql.Boolean, f.SQLITE_BOOL),
    (sql.Integer, f.SQLITE_INT64),
    (sql.Float, f.SQLITE_FLOAT64),
    (sql.DateTime, f.TIMESTAMP),
    (sql.Date, f.DATE),
    (sql.Time, f.TIME),
    (sql.JSON, f.TEXT),
    (sql.String, f.TEXT),
    (sql.LargeBinary, f.BYTES),
)
