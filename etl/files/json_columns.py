"""Makes typed columns of JSON records.

The rule: a field of an object within a record becomes a column of its own, named by its path (``address.city``); an
array becomes its JSON text. The types are those that the option ``types`` declares, and for all other fields those of
the first 10,000 records (or 4 MB of them): text, int64, float64 (also for whole numbers among fractions), bool, and
text for a field that was always null. Where they disagree, as text and numbers do, or where no such type could hold
all the digits, the type must be declared: text keeps a number as it is. After that nothing changes any more: a record
with a value of another type, or with a field that is new, is rejected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from etl.errors import ConfigError, DataError
from etl.files.json_records import Record
from etl.files.json_types import JSON_TYPES, Columns, Told, Types, json_text
from etl.steps import did_you_mean
from etl.tables.forms import Form
from etl.tables.numbered import with_numbers

if TYPE_CHECKING:
    from etl.ledger import Account

Row: TypeAlias = dict[str, Any]

_SAMPLE_RECORDS = 10_000
_SAMPLE_BYTES = 4 << 20
_CHUNK_RECORDS = 8_192
_CHUNK_BYTES = 4 << 20
_MOST_LEFT_OUT = 100  # about so many are named in a warning
_MOST_COLUMNS = 5_000


def flattened(document: Mapping[str, Any], whole: frozenset[str] = frozenset()) -> Row:
    """The document's values by their paths: ``{"a": {"b": 1}}`` gives ``{"a.b": 1}``. An empty object has no values.

    ``whole``: paths of objects that are left as they are. Raises ValueError if two values have the same path.
    """
    row: Row = {}
    _flatten(document, "", whole, row)
    return row


def _flatten(document: Mapping[str, Any], prefix: str, whole: frozenset[str], row: Row) -> None:
    for name, value in document.items():
        path = prefix + name
        if type(value) is dict and path not in whole:
            _flatten(value, f"{path}.", whole, row)
        elif path in row:
            raise ValueError(f"has two values for {path!r}")
        else:
            row[path] = value


class JsonTable:
    """Turns records into tables of the same columns. ``names``: the columns wanted, or none for all there are."""

    def __init__(
        self,
        names: Sequence[str],
        declared: Mapping[str, str],
        account: Account,
        source: str,
        types: Types = JSON_TYPES,
    ) -> None:
        self._names = names
        self._declared = declared
        self._account = account
        self._source = source
        self._types = types
        self._whole = frozenset(name for name, kind in declared.items() if kind == "json")
        self._left_out: set[str] = set()

    def tables(self, records: Iterable[Record], columns: Columns | None) -> tuple[Columns, Iterator[pa.Table]]:
        """The columns, ``columns`` if they are known already, and tables that also have row numbers.

        Raises DataError if the types in the first records disagree.
        """
        records = iter(records)
        if columns is None:
            sample = list(_first(records))
            columns = self._told_by(sample)
            records = chain(sample, records)
        return columns, self._tables(records, columns)

    def _told_by(self, sample: Sequence[Record]) -> Columns:
        """The columns of these records, in the order of their first appearance or of ``names``."""
        kinds: dict[str, Told] = {}
        for record in sample:
            row, _ = self._row(record)
            for name, value in row.items():
                if name not in kinds:
                    kinds[name] = Told(name, self._types.of_class)
                if name not in self._declared:
                    kinds[name].see(value, record.number)
        if len(kinds) > _MOST_COLUMNS and not self._names:
            latest = _shown(next(reversed(kinds)))
            raise DataError(
                f"{self._source}: more than {_MOST_COLUMNS:,} different fields, such as {latest!r}: "
                "are they data? Name the wanted ones in columns, or declare the object that has them json in types"
            )
        found: Columns = {}
        for name, kind in kinds.items():
            if name in self._declared or (kind.is_column(kinds) and _shown(name) == name):
                found[name] = self._declared.get(name) or kind.type(self._source)
        found |= self._declared
        if not self._names:
            return found
        unknown = [name for name in self._names if name not in found]
        if unknown and sample:
            raise ConfigError(
                f"{self._source}: columns: the first {len(sample):,} records have no field {unknown[0]!r}"
                f"{did_you_mean(unknown[0], found)}"
            )
        return {name: found.get(name, "text") for name in self._names}

    def _tables(self, records: Iterator[Record], columns: Columns) -> Iterator[pa.Table]:
        while chunk := list(_first(records, _CHUNK_RECORDS, _CHUNK_BYTES)):
            yield self._table(chunk, columns)
        if self._left_out:
            self._account.warn(f"{self._source}: fields that are not in columns: {', '.join(sorted(self._left_out))}")

    def _table(self, records: Sequence[Record], columns: Columns) -> pa.Table:
        rows: list[Row] = []
        problems: dict[int, str] = {}  # by the position of their record
        for position, record in enumerate(records):
            row, problem = self._row(record)
            problem = problem or self._unexpected(row, columns)
            if problem:
                problems[position] = problem
            rows.append({} if problem else row)
        arrays: list[Any] = []
        for name, kind in columns.items():
            column = self._form(name, kind)
            array, misfits = column.array([row.get(name) for row in rows])
            arrays.append(array)
            for position in misfits:
                problems.setdefault(position, f"{name}: not {column.words}")
        table = pa.Table.from_arrays(arrays, names=list(columns))
        table = with_numbers(table, [record.number for record in records])
        for position, problem in sorted(problems.items()):
            record = records[position]
            self._account.reject_line(record.number, problem, _evidence(record))
        if problems:
            table = table.filter(pa.array([position not in problems for position in range(len(rows))]))
        return table

    def _form(self, name: str, kind: str) -> Form:
        return self._types.declared(kind) if name in self._declared else self._types.told[kind]

    def _row(self, record: Record) -> tuple[Row, str]:
        """The values of a record by their paths; or none, and what is wrong with it."""
        try:
            return flattened(record.document or {}, self._whole), record.problem
        except RecursionError:
            return {}, "nested too deeply"
        except ValueError as error:
            return {}, str(error)

    def _unexpected(self, row: Row, columns: Columns) -> str:
        if row.keys() <= columns.keys():
            return ""
        extra = [name for name, value in row.items() if name not in columns and value is not None]
        if self._names:
            if len(self._left_out) < _MOST_LEFT_OUT:
                self._left_out.update(map(_shown, extra))
            return ""
        if not extra:
            return ""
        name = _shown(extra[0])
        problem = "a field that the first records do not have" if name == extra[0] else "a name that is no text"
        return f"{name}: {problem}"


def _shown(name: str) -> str:
    """The name as it can be written: JSON, but no text, can hold half of a surrogate pair."""
    return name.encode(errors="backslashreplace").decode()


def _evidence(record: Record) -> str:
    if record.raw or record.document is None:
        return record.raw
    try:
        return json_text(record.document)
    except ValueError:  # NaN, which JSON does not have
        return str(record.document)


def _first(records: Iterator[Record], most: int = _SAMPLE_RECORDS, most_bytes: int = _SAMPLE_BYTES) -> Iterator[Record]:
    """The next records, until there are so many of them or of their bytes."""
    size = 0
    for record in islice(records, most):
        yield record
        size += record.size or len(record.raw)
        if size >= most_bytes:
            return
