"""Reads a table or a query from a SQL database: SQLite, PostgreSQL, MySQL or MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa
from pydantic import Field, PositiveInt, PrivateAttr, SecretStr, field_validator, model_validator

from etl.base import Extractor
from etl.incremental.options import Cursor, IncrementalOption
from etl.ledger import Account
from etl.options import DifferentColumns
from etl.run import Source
from etl.steps import did_you_mean

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.sql.session import Range

_DATABASES = {
    "postgresql": "postgresql",
    "postgres": "postgresql",
    "postgresql+psycopg": "postgresql",
    "mysql": "mysql",
    "mysql+pymysql": "mysql",
    "mariadb": "mysql",
    "mariadb+pymysql": "mysql",
    "sqlite": "sqlite",
}
_EXAMPLE = "postgresql://user:password@host:5432/database"
_FETCH_ROWS = 8_192  # a part of a large batch, lest its rows be in memory twice


class SqlExtractor(Extractor):
    """Reads a table, or the result of a query, in one snapshot and with its types, a few thousand rows in memory.

    The session reads only, in UTC. Integers, floats, decimals, booleans, bytes, dates, times and timestamps (with their
    zone, as UTC) keep their types; arrays become JSON text, and JSON, uuid, intervals, enums and all else text as the
    database writes it. A row with a value that its type cannot hold, such as the date ``infinity``, is rejected.

    Splits are ranges of ``split_on``, each read in a snapshot of its own: what others commit between two of them is
    seen by the later one only. A result that broke off is an error; no other session continues it.
    """

    url: SecretStr = Field(description=f"The database: {_EXAMPLE}, mysql://..., mariadb://..., sqlite:///file.db")
    table: str | None = Field(default=None, min_length=1, description='The table or view, such as "public.orders".')
    query: str | None = Field(default=None, min_length=1, description="A SELECT, to read its result instead.")
    params: dict[str, Any] = Field(default={}, description="Values of the :names in the query; a list for IN :name.")
    columns: DifferentColumns = Field(default=(), description="The columns of the table to read. Default: all.")
    order_by: DifferentColumns = Field(
        default=(), description="Columns of the table to sort by: then the same rows give the same bytes."
    )
    incremental: IncrementalOption = None
    split_on: str | None = Field(default=None, description="Integer, date or timestamp column by which to split.")
    split_into: PositiveInt = Field(default=1, le=1000, description="Number of splits.")

    _part: Any = PrivateAttr(default=None)

    @field_validator("url")
    @classmethod
    def _is_known(cls, value: SecretStr) -> SecretStr:
        try:
            url = sa.make_url(value.get_secret_value())
        except (sa.exc.ArgumentError, ValueError):
            raise ValueError(f"should be like {_EXAMPLE}, an @ in the password written as %40") from None
        if url.drivername not in _DATABASES:
            raise ValueError("should begin with postgresql://, mysql://, mariadb:// or sqlite:///")
        if url.database in (None, "", ":memory:"):
            raise ValueError(f"names no database; write it like {_EXAMPLE}")
        return value

    @model_validator(mode="after")
    def _table_or_query(self) -> Self:
        if (self.table is None) == (self.query is None):
            raise ValueError("set either table or query")
        if self.query is not None and (self.columns or self.order_by):
            raise ValueError("columns and order_by are for a table; write them into the query")
        if self.split_into > 1 and self.split_on is None:
            raise ValueError("split_into needs split_on, the column by which to split")
        if self.split_into > 1 and self.incremental is not None:
            raise ValueError("incremental takes no splits: what changes between their snapshots would be missed")
        return self

    @model_validator(mode="after")
    def _params_fit(self) -> Self:
        named = sa.text(self.query or "").compile().params
        for name in sorted(named.keys() - self.params.keys()):
            raise ValueError(f"the query names :{name}, which params does not have; a plain colon is written \\:")
        for name in sorted(self.params.keys() - named.keys()):
            raise ValueError(f"params has {name!r}, which the query does not name{did_you_mean(name, named)}")
        for name, value in self.params.items():
            if isinstance(value, dict):
                raise ValueError(f"params: {name!r} is a table; set it to a value, or to a list of values")
        return self

    @property
    def address(self) -> sa.URL:
        return sa.make_url(self.url.get_secret_value())

    @property
    def database(self) -> str:
        """The kind of database: postgresql, mysql (or mariadb) or sqlite."""
        return _DATABASES[self.address.drivername]

    @property
    def uri(self) -> str:
        """Where what is read lies, without user, password and options."""
        url = self.address
        port = f":{url.port}" if url.port else ""
        return f"{self.database}://{url.host or ''}{port}/{url.database}#{self.table or 'query'}"

    def inspect(self) -> Source:
        """Say what will be read. Whether it has changed cannot be told without reading it."""
        return Source(self.uri)

    def check(self) -> str:
        """Connect, look into the catalogue, and have the database understand the statement."""
        from etl.sql.session import open_session

        with open_session(self) as session, session.result(self._part, 1) as result:
            return f"reachable: {self.uri}, {len(result.names)} columns"

    def splits(self) -> Sequence[Self]:
        """Ranges of ``split_on`` of equal width; the first also has the rows where it is null."""
        if self.split_into == 1 or self._part is not None:
            return [self]
        from etl.sql.session import Range, open_session

        with self.blamed(), open_session(self) as session:
            low, high = session.bounds()
        edges = [] if low is None else _edges(low, high, self.split_into)
        parts = zip([None, *edges], [*edges, None], strict=True)
        return [self._only(Range(self.split_on or "", low, high, nulls=low is None)) for low, high in parts]

    def since(self, value: Cursor) -> Self:
        from etl.sql.session import Range

        column = self.incremental.column if self.incremental else ""
        return self._only(Range(column, value, None, nulls=True))

    def read(self, account: Account) -> Iterator[DataFrame]:
        from etl.sql.session import open_session
        from etl.tables.numbered import numbered_frames

        rows = min(self.batch_rows, _FETCH_ROWS)
        with open_session(self) as session, session.result(self._part, rows) as result:
            yield from numbered_frames(result.tables(account, rows), result.schema, self.batch_rows, account)

    def _only(self, part: Range) -> Self:
        copy = self.model_copy()
        copy._part = part
        return copy


def _edges(low: Any, high: Any, parts: int) -> list[Any]:
    """Where one range ends and the next begins: fewer than ``parts`` of them, all above ``low``."""
    step: Any = 1 if isinstance(low, int) else timedelta(days=1) if type(low) is date else timedelta(microseconds=1)
    steps = (high - low) // step + 1
    return sorted({low + step * (steps * part // parts) for part in range(1, parts)} - {low})
