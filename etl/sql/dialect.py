"""What a kind of database must tell: how to connect, to read one snapshot, its types and its errors.

Sessions read only, in UTC, and see one state of the database from their first statement to their last.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError
from etl.tables.forms import Form

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection

Explained = tuple[type[EtlError], str]

CONNECT_TIMEOUT_S = 10

# what all of them say in the same words
NOT_LET_IN: Explained = (AccessError, "the database does not let this user in; check user and password in url")
NOT_ALLOWED: Explained = (AccessError, "this user may not read that; ask for SELECT on it")
NO_SUCH_DATABASE: Explained = (ConfigError, "check the name of the database in url")
MISWRITTEN: Explained = (ConfigError, "check table, columns or query")
CHANGES_DATA: Explained = (ConfigError, "it would change data, and this session may only read")
NOT_COMPUTABLE: Explained = (DataError, "the query cannot be computed for some row")
NO_ROOM: Explained = (RetryLater, "the server has no room for this now; run again later")
UNREACHABLE: Explained = (SourceError, "cannot reach the database; check host and port in url, and the network")
LOST: Explained = (SourceError, "the connection was lost; nothing of what was read is used; run again")
REFUSED: Explained = (SourceError, "the database refused")


class Dialect(ABC):
    """One kind of database. For ``engine``, ``driver``: SQLAlchemy's name; ``package``: what to install for it."""

    driver: str
    package: str

    def engine(self, url: URL, **options: Any) -> sa.Engine:
        """What connects. Raises ModuleNotFoundError if the driver is missing."""
        return sa.create_engine(url.set(drivername=self.driver), connect_args=self.connect_args(url), **options)

    def connect_args(self, url: URL) -> dict[str, Any]:
        """What the driver needs beyond the url."""
        return {}

    def begin(self, connection: Connection) -> Connection:
        """Make the session read only, and all it reads one snapshot."""
        return connection

    def columns(self, inspector: sa.Inspector, name: str, schema: str | None) -> dict[str, Any]:
        """The columns of a table in the catalogue, in order, with their types where ``forms`` needs them."""
        return {str(column["name"]): column["type"] for column in inspector.get_columns(name, schema)}

    def selected(self, column: sa.ColumnClause[Any], declared: Any) -> sa.ColumnElement[Any]:
        """How a column of a table is asked for, so that its values come whole. ``declared``: the catalogue's type."""
        return column

    def prepare(self, connection: Connection) -> None:
        """Make the driver give values as ``forms`` expects them; what the catalogue says was read before."""
        return

    @abstractmethod
    def forms(self, cursor: Any, declared: Mapping[str, Any]) -> list[Form | None]:
        """The form of each column of a result; None if only the values tell. ``declared``: the catalogue's types."""

    def at_least(self, column: sa.ColumnElement[Any], value: Any) -> sa.ColumnElement[bool]:
        """The condition that it is ``value`` or more; text goes by its characters, not by a language's order."""
        return column >= given(value)

    def abandon(self, connection: Connection, cursor: Any) -> None:
        """Let go of a result that may not have been read to its end."""
        return

    @abstractmethod
    def explain(self, error: BaseException) -> Explained:
        """The class of our error, and what to do about it."""


def given(value: Any) -> sa.BindParameter[Any]:
    """A value for a statement, of no type of ours: the database takes it as what it stands beside."""
    return sa.bindparam("etl_value", value, sa.types.NullType(), unique=True)
