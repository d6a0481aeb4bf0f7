"""Makes typed columns of JSON records.

The rule: a field of an object within a record becomes a column of its own, named by its path (``address.city``); an
array becomes its JSON text. The types are those that the option ``types`` declares, and for all other fields those of
the first 10,000 records (or 4 MB of them): text, int64, float64 (also for whole numbers among fractions), bool, and
text for a field that was always null. Where they disagree, as text and numbers do, or where no such type could hold
all the digits, the type must be declared: text keeps a number as it is. After that nothing changes any more: a record
with a value of another type, or with a field that is new, is rejected.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from etl.errors import ConfigError, DataError
from etl.steps import did_you_mean
from etl.tables.forms import Form, form, written
from etl.tables.numbered import with_numbers

if TYPE_CHECKING:
    from etl.ledger import Account

Row: TypeAlias = dict[str, Any]
Columns: TypeAlias = dict[str, str]

_SAMPLE_RECORDS = 10_000
_SAMPLE_BYTES = 4 << 20
_CHUNK_RECORDS = 8_192
_CHUNK_BYTES = 4 << 20
_EVIDENCE_CHARS = 4_000
_MOST_LEFT_OUT = 100  # about so many are named in a warning
EXACT_DECIMAL = "decimal(38,18)"  # of numbers that have fractions and are no floats, where none is declared
_EXACT_IN_FLOAT = 1 << 53
_BEYOND_INT64 = 1 << 63


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


class Record(Protocol):
    """One record of a source. ``number``: from 1. ``document`` is None if ``problem`` says why there is none.

    ``size``: about how much memory it takes, in bytes. ``evidence``: its beginning, as text, should it be rejected.
    """

    @property
    def number(self) -> int: ...

    @property
    def document(self) -> dict[str, Any] | None: ...

    @property
    def problem(self) -> str: ...

    @property
    def size(self) -> int: ...

    def evidence(self, most_chars: int) -> str: ...


class Types(NamedTuple):
    """The types that a kind of records has: which one the class of a value tells, and their forms.

    ``told``: of the types that values told, ``declared``: of those that somebody declared, who may ask for more.
    """

    of_class: Mapping[type, str]
    told: Mapping[str, Form]
    declared: Callable[[str], Form]


class JsonTable:
    """Turns records into tables of the same columns. ``names``: the columns wanted, or none for all there are."""

    def __init__(
        self,
        names: Sequence[str],
        declared: Mapping[str, str],
        account: Account,
        source: str,
        types: Types | None = None,
    ) -> None:
        self._names = names
        self._declared = declared
        self._account = account
        self._source = source
        self._types = types or JSON_TYPES
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
        kinds: dict[str, _Told] = {}
        for record in sample:
            row = self._row(record)
            for name, value in row.items() if isinstance(row, dict) else ():
                kind = kinds.setdefault(name, _Told(name, self._types.of_class))
                if name not in self._declared:
                    kind.see(value, record.number)
        found: Columns = {}
        for name, kind in kinds.items():
            if name in self._declared or kind.is_column(kinds):
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
        rows, kept, problems = self._rows(records, columns)
        misfits: dict[int, str] = {}
        arrays: list[Any] = []
        for name, kind in columns.items():
            values = [row.get(name) for row in rows]
            column = self._form(name, kind)
            array, bad = column.array(values)
            arrays.append(array)
            for position in bad:
                misfits.setdefault(position, f"{name}: not {column.words}")
        table = pa.Table.from_arrays(arrays, names=list(columns))
        table = with_numbers(table, [record.number for record in kept])
        for position, problem in misfits.items():
            problems.append((kept[position], problem))
        for record, problem in sorted(problems, key=lambda rejected: rejected[0].number):
            self._account.reject_line(record.number, problem, record.evidence(_EVIDENCE_CHARS))
        if misfits:
            table = table.filter(pa.array([position not in misfits for position in range(len(kept))]))
        return table

    def _form(self, name: str, kind: str) -> Form:
        return self._types.declared(kind) if name in self._declared else self._types.told[kind]

    def _rows(
        self, records: Sequence[Record], columns: Columns
    ) -> tuple[list[Row], list[Record], list[tuple[Record, str]]]:
        """The rows that can be, with their records, and the records that cannot be rows, with the reason."""
        rows, kept, problems = [], [], []
        for record in records:
            row = self._row(record)
            problem = row if isinstance(row, str) else self._unexpected(row, columns)
            if isinstance(row, str) or problem:
                problems.append((record, problem))
            else:
                rows.append(row)
                kept.append(record)
        return rows, kept, problems

    def _row(self, record: Record) -> Row | str:
        if record.document is None:
            return record.problem
        try:
            return flattened(record.document, self._whole)
        except ValueError as error:
            return str(error)

    def _unexpected(self, row: Row, columns: Columns) -> str:
        if row.keys() <= columns.keys():
            return ""
        extra = [name for name, value in row.items() if name not in columns and value is not None]
        if self._names:
            if len(self._left_out) < _MOST_LEFT_OUT:
                self._left_out.update(extra)
            return ""
        return f"{extra[0]}: a field that the first records do not have" if extra else ""


def _first(records: Iterator[Record], most: int = _SAMPLE_RECORDS, most_bytes: int = _SAMPLE_BYTES) -> Iterator[Record]:
    """The next records, until there are so many of them or of their bytes."""
    size = 0
    for record in islice(records, most):
        yield record
        size += record.size
        if size >= most_bytes:
            return


# -- types --------------------------------------------------------------------------------------------------------


def arrow_schema(columns: Columns, types: Types | None = None) -> pa.Schema:
    form_of = (types or JSON_TYPES).declared
    return pa.schema([(name, form_of(kind).arrow) for name, kind in columns.items()])


def json_text(value: Any) -> str:
    """``value`` as JSON, in one way only: numbers with all their digits, times as ISO 8601, bytes as base64.

    Raises ValueError for what JSON does not have.
    """
    try:
        return _ENCODER.encode(value)
    except TypeError:  # json knows no Decimal, time or bytes
        return _exact_text(value)


def _exact_text(value: Any) -> str:
    if isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"JSON has no {value}")
        return str(value)
    if isinstance(value, datetime):
        return f'"{value.isoformat()}"'
    if isinstance(value, bytes):
        return f'"{base64.b64encode(value).decode()}"'
    if isinstance(value, list):
        return f"[{','.join(map(_exact_text, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_ENCODER.encode(name)}:{_exact_text(item)}' for name, item in value.items())}}}"
    return _ENCODER.encode(value)


_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def _scalar_text(value: Any) -> str:
    return value if isinstance(value, str) else json_text(value)


def _finite(values: Sequence[Any]) -> pa.Array[Any]:
    array = pa.array(values, pa.float64())
    if pc.any(pc.is_inf(array)).as_py():
        raise OverflowError("JSON has no infinity: the number was too large")
    return array


def _rounded(values: Sequence[Any]) -> pa.Array[Any]:
    return _finite([float(value) if type(value) is Decimal else value for value in values])


_SCALARS = (str, int, float, bool, Decimal)
_FORMS: dict[str, Form] = {
    "text": form("text", pa.string(), str),
    "int64": form("an int64", pa.int64(), int),
    "float64": form("a float64", pa.float64(), float, int, make=_finite),
    "bool": form("true or false", pa.bool_(), bool),
    "json": form("JSON", pa.string(), dict, list, *_SCALARS, make=written(json_text, pa.string())),
}
_DECLARED: dict[str, Form] = {
    **_FORMS,
    "text": form("text", pa.string(), *_SCALARS, make=written(_scalar_text, pa.string())),
    "float64": form("a float64", pa.float64(), float, int, Decimal, make=_rounded),
}
_CLASSES: dict[type, str] = {
    str: "text",
    bool: "bool",
    int: "int64",
    float: "float64",
    Decimal: "float64",
    list: "json",
}
JSON_TYPES = Types(_CLASSES, _FORMS, _DECLARED.__getitem__)


class _Told:
    """What a sample tells about the type of one field."""

    def __init__(self, name: str, of_class: Mapping[type, str]) -> None:
        self._name = name
        self._of_class = of_class
        self._seen: dict[str, tuple[int, Any]] = {}  # type -> (record, value) of its first
        self._largest = 0
        self._too_long = False

    def see(self, value: Any, number: int) -> None:
        if value is None:
            return
        kind = self._of_class[type(value)]
        self._seen.setdefault(kind, (number, value))
        if kind == "int64":
            self._largest = max(self._largest, abs(value))
        self._too_long |= kind == "float64" and type(value) is Decimal

    def is_column(self, names: Iterable[str]) -> bool:
        """Null where other records have an object is no column of its own."""
        return bool(self._seen) or not any(name.startswith(f"{self._name}.") for name in names)

    def type(self, source: str) -> str:
        kinds = set(self._seen)
        if self._too_long:
            raise DataError(
                f"{source}: {self._name!r} holds numbers with more digits than a float64 keeps; declare it: "
                f"{self._remedy('text')}, or float64 to round them"
            )
        if kinds == {"int64", EXACT_DECIMAL}:
            return EXACT_DECIMAL
        if kinds == {"int64", "float64"} and self._largest <= _EXACT_IN_FLOAT:
            return "float64"
        if kinds == {"int64"} and self._largest >= _BEYOND_INT64:
            raise DataError(f"{source}: {self._name!r} holds numbers beyond int64; declare it: {self._remedy('text')}")
        if len(kinds) > 1:
            found = ", ".join(f"record {number:,} has {value!r:.40}" for number, value in self._seen.values())
            raise DataError(f"{source}: {self._name!r} has several types: {found}; declare one: {self._remedy('json')}")
        return next(iter(kinds), "text")

    def _remedy(self, kind: str) -> str:
        return f'types = {{ "{self._name}" = "{kind}" }}'
