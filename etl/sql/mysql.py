"""How MySQL and MariaDB are read: one snapshot, from the wire as it comes, each value as the text that they write."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from etl.sql import dialect as say
from etl.sql import forms as f
from etl.sql.dialect import CONNECT_TIMEOUT_S, Dialect, Explained, given
from etl.tables.forms import Form

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection


class MySql(Dialect):
    """PyMySQL, for MySQL and MariaDB. Results are read from the wire as they come, as text."""

    driver = "mysql+pymysql"
    package = "PyMySQL[rsa]"

    def connect_args(self, url: URL) -> dict[str, Any]:
        from pymysql.converters import conversions

        writing_only = {kind: write for kind, write in conversions.items() if not isinstance(kind, int)}
        timeout = {} if "connect_timeout" in url.query else {"connect_timeout": CONNECT_TIMEOUT_S}
        return {"conv": writing_only, "charset": "utf8mb4", **timeout}

    def begin(self, connection: Connection) -> Connection:
        # The server hangs up on who does not read for a minute, by default: an upload may take longer.
        connection.exec_driver_sql("SET SESSION time_zone = '+00:00', net_write_timeout = 3600")
        connection.exec_driver_sql("SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        connection.exec_driver_sql("START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
        return connection

    def columns(self, inspector: sa.Inspector, name: str, schema: str | None) -> dict[str, Any]:
        bind: Any = inspector.bind
        return dict(bind.execute(_MYSQL_COLUMNS, {"schema": schema, "name": name}).all())

    def selected(self, column: sa.ColumnClause[Any], declared: Any) -> sa.ColumnElement[Any]:
        """A FLOAT is written with six digits, of the nine that it may have; as a DOUBLE it comes with all."""
        return (column + sa.literal_column("0e0")).label(column.name) if declared == _FLOAT else column

    def forms(self, cursor: Any, declared: Mapping[str, Any]) -> list[Form | None]:
        def form_of(field: Any) -> Form:
            unsigned, binary = bool(field.flags & _UNSIGNED), field.charsetnr == _BINARY
            if field.type_code in (_DECIMAL, _NEWDECIMAL):
                digits = field.length - (field.scale > 0) - (not unsigned)
                return f.decimal_form(digits, field.scale) or f.TEXT
            if field.type_code == _TINY and field.length == 1:
                return f.BOOL
            if declared.get(field.name) == _FLOAT:
                return f.FLOAT32
            if field.type_code in _MYSQL:
                return _MYSQL[field.type_code][unsigned]
            return f.BYTES if binary and field.type_code in _BYTES else f.TEXT

        return [form_of(field) for field in cursor._result.fields]  # what description leaves out is only there

    def at_least(self, column: sa.ColumnElement[Any], value: Any) -> sa.ColumnElement[bool]:
        if isinstance(value, str):
            return _utf8(column) >= _utf8(given(value))
        return super().at_least(column, value)

    def abandon(self, connection: Connection, cursor: Any) -> None:
        unread = cursor._result
        if unread is not None:
            unread.unbuffered_active = False  # PyMySQL would read all that is left before it closes
        connection.invalidate()

    def explain(self, error: BaseException) -> Explained:
        code = error.args[0] if error.args else None
        return next((news for codes, news in _MYSQL_CODES if code in codes), say.REFUSED)


def _utf8(text: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(sa.func.convert(text.op("USING")(sa.text("utf8mb4"))), sa.LargeBinary)


_MYSQL_COLUMNS = sa.text(  # SQLAlchemy would give a name with a backtick in it wrongly
    "SELECT column_name, data_type FROM information_schema.columns "
    "WHERE table_schema = coalesce(:schema, database()) AND table_name = :name ORDER BY ordinal_position"
)
_FLOAT = "float"
_UNSIGNED, _BINARY = 32, 63
_DECIMAL, _TINY, _NEWDECIMAL = 0, 1, 246
_BYTES = (249, 250, 251, 252, 253, 254, 255)  # the four BLOBs, VARBINARY, BINARY, GEOMETRY
_MYSQL = {  # signed, unsigned
    1: (f.INT16, f.INT16),  # TINYINT
    2: (f.INT16, f.INT32),  # SMALLINT
    3: (f.INT32, f.INT64),  # INT
    4: (f.FLOAT32, f.FLOAT32),
    5: (f.FLOAT64, f.FLOAT64),
    7: (f.TIMESTAMP_UTC, f.TIMESTAMP_UTC),
    8: (f.INT64, f.UINT64),  # BIGINT
    9: (f.INT32, f.INT32),  # MEDIUMINT
    10: (f.DATE, f.DATE),
    11: (f.TIME, f.TIME),
    12: (f.TIMESTAMP, f.TIMESTAMP),  # DATETIME
    13: (f.INT16, f.INT16),  # YEAR
    16: (f.BITS, f.BITS),
}
_MYSQL_CODES: tuple[tuple[tuple[int, ...], Explained], ...] = (
    ((1045, 1130, 1698, 1820, 1862, 2059, 3118, 4151), say.NOT_LET_IN),
    ((1044, 1142, 1143, 1227, 1370), say.NOT_ALLOWED),
    ((1049,), say.NO_SUCH_DATABASE),
    ((1052, 1054, 1059, 1060, 1064, 1102, 1103, 1109, 1146, 1248, 1305, 1582), say.MISWRITTEN),
    ((1055, 1056, 1111, 1140, 1222, 1241, 1267), say.MISWRITTEN),  # groups, and columns that do not match
    ((1242, 1690), say.NOT_COMPUTABLE),
    ((1792,), say.CHANGES_DATA),
    ((1040, 1203, 1226, 1205, 1213), say.NO_ROOM),
    ((2003, 2005), say.UNREACHABLE),
    ((2006, 2013, 2014, 2027, 1053, 1152, 1158, 1159, 1160, 1161, 1317, 1927), say.LOST),
)
