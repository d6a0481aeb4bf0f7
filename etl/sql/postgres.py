"""How PostgreSQL is read: one snapshot, through a cursor in the server, each value as the text that it writes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from etl.errors import ConfigError, RetryLater, SourceError
from etl.sql import dialect as say
from etl.sql import forms as f
from etl.sql.dialect import CONNECT_TIMEOUT_S, Dialect, Explained
from etl.tables.forms import Form

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection


class PostgreSql(Dialect):
    """psycopg 3. Results come through a server-side cursor, as text."""

    driver = "postgresql+psycopg"
    package = "psycopg[binary]"

    def connect_args(self, url: URL) -> dict[str, Any]:
        alive = {"keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3}
        text = {"client_encoding": "utf8"}  # of a database in SQL_ASCII, psycopg would give bytes
        defaults = {"connect_timeout": CONNECT_TIMEOUT_S, "application_name": "etl", **alive, **text}
        chosen = {name: value for name, value in defaults.items() if name not in url.query}
        return {"prepare_threshold": None, **chosen}  # a pooler on the way may not know prepared statements

    def begin(self, connection: Connection) -> Connection:
        connection = connection.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)
        settings = {
            "timezone": "UTC",
            "datestyle": "ISO, YMD",
            "intervalstyle": "iso_8601",
            "bytea_output": "hex",
            "extra_float_digits": "1",  # as many as tell two floats apart
            "idle_in_transaction_session_timeout": "1h",  # it idles while its rows are uploaded
            "synchronize_seqscans": "off",  # or a large table is read from wherever another session is reading it
        }
        calls = ", ".join(f"set_config('{name}', '{value}', true)" for name, value in settings.items())
        connection.exec_driver_sql(f"SELECT {calls}")
        return connection

    def prepare(self, connection: Connection) -> None:
        from psycopg.types import TypeInfo
        from psycopg.types.string import TextLoader

        driver: Any = connection.connection.dbapi_connection
        found = connection.exec_driver_sql(_USER_TYPES_WITH_ARRAYS)
        for name, oid, array_oid, delimiter in found:
            TypeInfo(name, oid, array_oid, delimiter=delimiter).register(driver)
        for known in driver.adapters.types:
            if known.name != "bytea":
                driver.adapters.register_loader(known.oid, TextLoader)

    def forms(self, cursor: Any, declared: Mapping[str, Any]) -> list[Form | None]:
        types = cursor.adapters.types

        def form_of(column: Any) -> Form:
            known = types.get(column.type_code)
            if known is None:
                return f.OTHER
            if known.array_oid == column.type_code:
                return _ARRAYS.get(known.name, f.TEXTS)
            if known.name == "numeric":
                return f.decimal_form(column.precision or 0, column.scale or 0) or f.OTHER
            return _POSTGRES.get(known.name, f.OTHER)

        return [form_of(column) for column in cursor.description]

    def at_least(self, column: sa.ColumnElement[Any], value: Any) -> sa.ColumnElement[bool]:
        return super().at_least(sa.collate(column, "C") if isinstance(value, str) else column, value)

    def explain(self, error: BaseException) -> Explained:
        state = getattr(error, "sqlstate", None)
        if state is None:
            said = str(error)
            return next((news for words, news in _POSTGRES_WORDS if re.search(words, said)), say.LOST)
        return _POSTGRES_STATES.get(state) or _POSTGRES_STATES.get(state[:2], say.REFUSED)


_USER_TYPES_WITH_ARRAYS = """
    SELECT typname, oid::bigint, typarray::bigint, typdelim::text
    FROM pg_type WHERE typarray <> 0 AND typtype IN ('b', 'd', 'e', 'r') AND oid >= 16384
"""
_POSTGRES = {
    "bool": f.BOOL,
    "int2": f.INT16,
    "int4": f.INT32,
    "int8": f.INT64,
    "oid": f.INT64,
    "float4": f.FLOAT32,
    "float8": f.FLOAT64,
    "date": f.DATE,
    "time": f.TIME,
    "timestamp": f.TIMESTAMP,
    "timestamptz": f.TIMESTAMP_ZONED,
    "bytea": f.BYTES,
    **dict.fromkeys(("text", "varchar", "bpchar", "name"), f.TEXT),
}
_ARRAYS = {
    **dict.fromkeys(("int2", "int4", "int8", "oid", "float4", "float8", "numeric"), f.NUMBERS),
    **dict.fromkeys(("json", "jsonb"), f.JSONS),
    "bool": f.BOOLS,
}
_POSTGRES_WORDS: tuple[tuple[str, Explained], ...] = (
    (
        r"authentication failed|no password supplied|pg_hba\.conf|not permitted to log in|role .* does not exist|"
        r"permission denied for database",
        say.NOT_LET_IN,
    ),
    (r"database .* does not exist", say.NO_SUCH_DATABASE),
    (r"starting up|shutting down|in recovery|too many c|connection slots", (RetryLater, "run again later")),
    (r"invalid connection option|bad value|invalid .* value", (ConfigError, "check the options in url")),
    (r"connection failed|failed to resolve|timeout expired", say.UNREACHABLE),
)
_POSTGRES_STATES: dict[str, Explained] = {
    "42501": say.NOT_ALLOWED,
    "28": say.NOT_LET_IN,
    "3D": say.NO_SUCH_DATABASE,
    **dict.fromkeys(("0A", "42"), say.MISWRITTEN),
    "25006": say.CHANGES_DATA,
    **dict.fromkeys(("21", "22"), say.NOT_COMPUTABLE),
    **dict.fromkeys(("40", "55"), (RetryLater, "another session was in the way; run again")),
    "53": say.NO_ROOM,
    "57P03": (RetryLater, "the server is not ready; run again later"),
    "57014": (SourceError, "the server ended the query, for its time limit or by somebody's order"),
    **dict.fromkeys(("25P03", "57", "08"), say.LOST),
}
