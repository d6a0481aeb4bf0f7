"""One session of a SQL database: what the catalogue says, the statement to execute, and errors in a person's words."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.sql import quoted_name

from etl.errors import ConfigError, DataError
from etl.ledger import Account
from etl.redact import redact
from etl.sql.dialect import Dialect, given
from etl.sql.mysql import MySql
from etl.sql.postgres import PostgreSql
from etl.sql.reader import Result
from etl.sql.sqlite import SQLite
from etl.steps import did_you_mean

if TYPE_CHECKING:
    from etl.extractors.sql import SqlExtractor

_SECRET = re.compile("pass|secret|token|key", re.IGNORECASE)
_DIALECTS: dict[str, Dialect] = {"postgresql": PostgreSql(), "mysql": MySql(), "sqlite": SQLite()}


class Range(NamedTuple):
    """Some of the rows: ``low <= column < high``, where these are not None; and with ``nulls``, those of null."""

    column: str
    low: Any
    high: Any
    nulls: bool


@contextmanager
def open_session(options: SqlExtractor) -> Iterator[Session]:
    """Connect, for reading only. Raises SourceError, AccessError, ConfigError, DataError or RetryLater, also later."""
    dialect = _DIALECTS[options.database]
    with _translated(options, dialect), _engine(options, dialect).connect() as connection:
        yield Session(dialect.begin(connection), dialect, options)


class Session:
    """Executes one statement, in a transaction that reads only and sees one state of the database."""

    def __init__(self, connection: sa.Connection, dialect: Dialect, options: SqlExtractor) -> None:
        self._connection = connection
        self._dialect = dialect
        self._options = options

    @contextmanager
    def result(self, part: Range | None, fetch_rows: int) -> Iterator[Result]:
        """The rows that the options ask for, or those of them in ``part``, fetched so many at a time."""
        options = self._options
        if options.query and part is None:
            statement: sa.Executable = _bound(options)
            types: Mapping[str, Any] = {}
        else:
            source, types = self._source()
            names = options.columns or types
            columns: list[Any] = [self._dialect.selected(_column(name), types[name]) for name in names] or [
                sa.text("*")
            ]
            chosen = sa.select(*columns).select_from(source).order_by(*map(_column, options.order_by))
            statement = chosen if part is None else chosen.where(self._condition(part))
        with self._executed(statement, types, fetch_rows) as result:
            if options.incremental is not None:
                result.check_cursor(options.incremental)
            yield result

    def bounds(self) -> tuple[Any, Any]:
        """The least and the greatest value of ``split_on``: numbers, dates or times, or None and None."""
        source, _ = self._source()
        column = _column(self._options.split_on or "")
        statement = sa.select(sa.func.min(column).label("low"), sa.func.max(column).label("high")).select_from(source)
        with self._executed(statement, {}, 1) as result:
            kind = result.schema.field(0).type
            found = next(result.tables(Account("bounds"), 1)).to_pylist()
        split_on = f"split_on: {self._options.split_on!r}"
        if not found:
            raise ConfigError(f"{split_on} goes to infinity, or begins before year 1; choose another column")
        low, high = found[0]["low"], found[0]["high"]
        if low is not None and not _is_dividable(kind):
            raise ConfigError(f"{split_on} is {kind}; choose an integer, date or timestamp column")
        return low, high

    @contextmanager
    def _executed(self, statement: Any, types: Mapping[str, Any], fetch_rows: int) -> Iterator[Result]:
        """Execute on a cursor in the server, where the rows stay until they are fetched."""
        self._dialect.prepare(self._connection)
        streaming = self._connection.execution_options(stream_results=True, yield_per=fetch_rows)
        result = streaming.execute(statement)
        if not result.returns_rows:
            raise ConfigError("query: it gives no rows; write a SELECT")
        cursor = result.cursor
        try:
            yield Result(result, self._dialect.forms(cursor, types), self._options.uri)
        finally:
            self._dialect.abandon(self._connection, cursor)

    def _condition(self, part: Range) -> sa.ColumnElement[bool]:
        column = _column(part.column)
        inside = sa.and_(
            sa.true(),
            *([self._dialect.at_least(column, part.low)] if part.low is not None else []),
            *([column < given(part.high)] if part.high is not None else []),
        )
        return sa.or_(inside, column.is_(None)) if part.nulls else inside

    def _source(self) -> tuple[sa.FromClause, dict[str, Any]]:
        """What to select from, and the types of its columns as far as the catalogue has them."""
        if self._options.query:
            return _bound(self._options).columns().subquery("etl_query"), {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", sa.exc.SAWarning)  # of types that SQLAlchemy does not know
            inspector = sa.inspect(self._connection)
            schema, name = self._place(inspector)
            types = self._dialect.columns(inspector, name, schema)
        self._check_columns(types)
        return sa.table(quoted_name(name, True), schema=quoted_name(schema, True) if schema else None), types

    def _place(self, inspector: sa.Inspector) -> tuple[str | None, str]:
        """Schema and name of the table, which must be in the catalogue just so."""
        wanted = self._options.table or ""
        schema, dot, name = wanted.partition(".")
        if inspector.has_table(wanted):
            return None, wanted
        if dot and schema in inspector.get_schema_names() and inspector.has_table(name, schema):
            return schema, name
        known = _tables(inspector, None)
        if dot and schema in inspector.get_schema_names():
            known = [f"{schema}.{other}" for other in _tables(inspector, schema)]
        raise ConfigError(f"table: {self._options.uri}: there is no {wanted!r}{did_you_mean(wanted, known)}")

    def _check_columns(self, known: Mapping[str, Any]) -> None:
        options = self._options
        split_on = (options.split_on,) if options.split_on else ()
        for option, names in (("columns", options.columns), ("order_by", options.order_by), ("split_on", split_on)):
            for name in names:
                if name not in known:
                    raise ConfigError(f"{option}: {options.uri} has no column {name!r}{did_you_mean(name, known)}")


def _engine(options: SqlExtractor, dialect: Dialect) -> sa.Engine:
    try:
        return dialect.engine(options.address, poolclass=sa.NullPool, hide_parameters=True)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reading {options.database} needs {dialect.package}: pip install '{dialect.package}'"
        ) from error


def _bound(options: SqlExtractor) -> sa.TextClause:
    """The query with its parameters. They have no type of ours: the database takes them as what they stand beside."""
    untyped = sa.types.NullType()
    query = (options.query or "").strip().removesuffix(";") + "\n"  # lest a comment at its end reach further
    return sa.text(query).bindparams(
        *(
            sa.bindparam(name, _in_session_zone(value), untyped, expanding=isinstance(value, list | tuple))
            for name, value in options.params.items()
        )
    )


def _in_session_zone(value: Any) -> Any:
    """Times in UTC and without a zone: some drivers would just leave it out."""
    if isinstance(value, list | tuple):
        return [_in_session_zone(each) for each in value]
    return value.astimezone(UTC).replace(tzinfo=None) if isinstance(value, datetime) and value.tzinfo else value


def _column(name: str) -> sa.ColumnClause[Any]:
    return sa.column(quoted_name(name, True))


def _is_dividable(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def _tables(inspector: sa.Inspector, schema: str | None) -> Sequence[str]:
    return [*inspector.get_table_names(schema), *inspector.get_view_names(schema)]


# -- errors -------------------------------------------------------------------------------------------------------


@contextmanager
def _translated(options: SqlExtractor, dialect: Dialect) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError as error:
        cause = error.orig or error
        kind, remedy = dialect.explain(cause)
        raise kind(f"{options.uri}: {remedy} ({_hushed(cause, options)})") from error
    except sa.exc.SQLAlchemyError as error:
        raise ConfigError(f"{options.uri}: {_hushed(error, options)}; check table, columns or query") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{options.uri}: holds text that is not in its declared encoding: {error}") from error
    except TypeError as error:
        if "keyword argument" not in str(error):
            raise
        raise ConfigError(f"{options.uri}: url has an option that the driver does not know: {error}") from error


def _hushed(error: BaseException, options: SqlExtractor) -> str:
    """The first line of what the driver says, without any secret of the url."""
    said = error.args[1] if len(error.args) > 1 and isinstance(error.args[0], int) else error
    text = (str(said).strip().splitlines() or [type(error).__name__])[0]
    url = options.address
    secrets = [url.password, *(value for name, value in url.query.items() if _SECRET.search(name))]
    for secret in secrets:
        if secret:
            text = text.replace(str(secret), "***")
    return redact(text)
