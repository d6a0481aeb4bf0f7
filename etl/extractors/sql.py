"""Reads a table or a query from a SQL database: SQLite, PostgreSQL, MySQL or MariaDB."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self

from pydantic import PrivateAttr

from etl.base import Extractor
from etl.ledger import Account
from etl.run import Source
from etl.sql.options import SqlOptions

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.incremental.options import Cursor
    from etl.sql.session import Range

_FETCH_ROWS = 8_192  # a part of a large batch, lest its rows be in memory twice


class SqlExtractor(SqlOptions, Extractor):
    """Reads a table, or the result of a query, in one snapshot and with its types, a few thousand rows in memory.

    The session reads only, in UTC. Integers, floats, decimals, booleans, bytes, dates, times and timestamps (with their
    zone, as UTC) keep their types; arrays become JSON text, and JSON, uuid, intervals, enums and all else text as the
    database writes it. A row with a value that its type cannot hold, such as the date ``infinity``, is rejected.

    Splits are ranges of ``split_on``, each read in a snapshot of its own: what others commit between two of them is
    seen by the later one only. A result that broke off is an error; no other session continues it.
    """

    _part: Any = PrivateAttr(default=None)

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
