"""What to read from a SQL database: the options of its extractor, checked without connecting to anything."""

from __future__ import annotations

from typing import Any, Self

import sqlalchemy as sa
from pydantic import Field, PositiveInt, SecretStr, field_validator, model_validator

from etl.incremental.options import IncrementalOption
from etl.options import DifferentColumns, Options
from etl.steps import did_you_mean

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
_SCHEMES = "postgresql://, mysql://, mariadb:// or sqlite:///"
_EXAMPLE = "postgresql://user:password@host:5432/database"


class SqlOptions(Options):
    """Which database, and what of it."""

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

    @field_validator("url")
    @classmethod
    def _is_known(cls, value: SecretStr) -> SecretStr:
        try:
            url = sa.make_url(value.get_secret_value())
        except (sa.exc.ArgumentError, ValueError):
            raise ValueError(f"should be like {_EXAMPLE}, an @ in the password written as %40") from None
        if url.drivername not in _DATABASES:
            raise ValueError(f"should begin with {_SCHEMES}")
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
