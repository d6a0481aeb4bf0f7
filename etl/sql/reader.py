"""The result of a SQL statement as tables: never more of it in memory than a few thousand rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from etl.errors import ConfigError
from etl.sql.forms import OTHER
from etl.sql.sqlite import told_by
from etl.steps import did_you_mean
from etl.tables.numbered import with_numbers

if TYPE_CHECKING:
    from sqlalchemy import CursorResult

    from etl.incremental.options import Incremental
    from etl.ledger import Account
    from etl.tables.forms import Form

_SAMPLE_ROWS = 10_000


class Result:
    """The rows of a statement as they come from the server, and the types of their columns.

    ``forms``: one for each column; None is told by the first 10,000 rows. Raises ConfigError if two columns have the
    same name, DataError if those rows hold values of several types.
    """

    def __init__(self, rows: CursorResult[Any], forms: Sequence[Form | None], source: str) -> None:
        self._rows = rows
        self._source = source
        self.names = list(rows.keys())
        twice = [name for name, count in Counter(self.names).items() if count > 1]
        if twice:
            raise ConfigError(f"the query names a column more than once: {', '.join(twice)}; give one of them an alias")
        self._sample = rows.fetchmany(_SAMPLE_ROWS) if None in forms else []
        values = list(zip(*self._sample, strict=True)) or [()] * len(self.names)
        self._forms = [
            form or told_by(name, some, source) for form, name, some in zip(forms, self.names, values, strict=True)
        ]
        self.schema = pa.schema([(name, form.arrow) for name, form in zip(self.names, self._forms, strict=True)])

    def check_cursor(self, incremental: Incremental) -> None:
        """Raise ConfigError unless its columns are there, and the cursor's order is that of its values in Arrow."""
        for name in (incremental.column, *incremental.key):
            if name not in self.names:
                raise ConfigError(f"incremental: {self._source} has no column {name!r}{did_you_mean(name, self.names)}")
        if self._forms[self.names.index(incremental.column)] is OTHER:
            raise ConfigError(
                f"incremental.column: {incremental.column!r} has a type that is read as text, and sorted otherwise; "
                "choose another column, or CAST it in a query"
            )

    def tables(self, account: Account, fetch_rows: int) -> Iterator[pa.Table]:
        """Tables with row numbers, which go on from those of the account; a row that no type can hold is rejected."""
        first = account.next_row
        for rows in chain([self._sample] if self._sample else [], iter(lambda: self._rows.fetchmany(fetch_rows), [])):
            yield self._table(rows, first, account)
            first += len(rows)

    def _table(self, rows: Sequence[Any], first: int, account: Account) -> pa.Table:
        arrays: list[Any] = []
        misfits: dict[int, str] = {}
        for name, form, values in zip(self.names, self._forms, zip(*rows, strict=True), strict=True):
            array, bad = form.array(values)
            arrays.append(array)
            for position in bad:
                misfits.setdefault(position, f"{name}: not {form.words}")
        table = with_numbers(pa.Table.from_arrays(arrays, schema=self.schema), range(first, first + len(rows)))
        if not misfits:
            return table
        for position, rule in sorted(misfits.items()):
            account.reject_line(first + position, rule, self._evidence(rows[position]))
        return table.filter(pa.array([position not in misfits for position in range(len(rows))]))

    def _evidence(self, row: Sequence[Any]) -> str:
        return json.dumps(dict(zip(self.names, row, strict=True)), ensure_ascii=False, default=str)
