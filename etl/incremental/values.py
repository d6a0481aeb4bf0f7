"""The values that a cursor may have: taken out of a batch, compared, and kept as text between two runs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

from etl.errors import ConfigError, DataError
from etl.incremental.options import Cursor
from etl.tables.arrow import Values, array_of, pc

if TYPE_CHECKING:
    from pandas import Series

_DAY = timedelta(days=1)  # no clock on earth is further ahead of UTC


class Kind(NamedTuple):
    """One kind of value. ``holds``: whether a column has it; ``read``: a value from the text that ``str`` makes."""

    name: str
    holds: Callable[[pa.DataType], bool]
    python: type
    read: Callable[[str], Cursor]


def _is_zoned(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is not None


def _is_plain_time(kind: pa.DataType) -> bool:
    return pa.types.is_timestamp(kind) and kind.tz is None


_KINDS = (
    Kind("integer", pa.types.is_integer, int, int),
    Kind("decimal", pa.types.is_decimal, Decimal, Decimal),
    Kind("timestamp with zone", _is_zoned, datetime, datetime.fromisoformat),
    Kind("timestamp", _is_plain_time, datetime, datetime.fromisoformat),
    Kind("date", pa.types.is_date, date, date.fromisoformat),
    Kind("text", pa.types.is_string, str, str),
)


def cursor_values(column: Series[Any]) -> Values:
    """The column as an Arrow array; of times the microseconds, in UTC. Raises DataError if it has no order to go by."""
    values = array_of(column)
    if pa.types.is_null(values.type):
        return values
    if not any(kind.holds(values.type) for kind in _KINDS):
        valid = ", ".join(kind.name for kind in _KINDS)
        raise DataError(f"incremental.column: {column.name!r} is {values.type}; choose one of: {valid}")
    if pa.types.is_timestamp(values.type):
        return microseconds(values)
    return values.cast(pa.decimal128(20, 0)) if pa.types.is_uint64(values.type) else values


def microseconds(times: Values) -> Values:
    """Timestamps of any unit and zone as microseconds, in UTC if they have a zone; what is finer is cut off."""
    whole = pc.floor_temporal(times, unit="microsecond") if times.type.unit == "ns" else times
    return whole.cast(pa.timestamp("us", "UTC" if times.type.tz else None), safe=False)


def greatest(values: Values) -> Cursor | None:
    """The greatest value; None if there is none. Text goes by its characters, whatever the database's language is."""
    value: Cursor | None = pc.max(values).as_py()
    return value.astimezone(UTC) if isinstance(value, datetime) and value.tzinfo else value


def fitted(value: Cursor, values: Values) -> Cursor:
    """``value`` as one of the column: a date as its midnight, a time without a zone as UTC, and back.

    Raises ConfigError if they cannot be compared.
    """
    expected = next(kind.name for kind in _KINDS if kind.holds(values.type))
    if isinstance(value, date):
        if expected == "date":
            return value.date() if isinstance(value, datetime) else value
        if expected.startswith("timestamp"):
            time = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)  # noqa: DTZ001
            return time.replace(tzinfo=UTC if expected == "timestamp with zone" else None)
    numbers = {"integer", "decimal"}
    if kind_of(value) != expected and not {kind_of(value), expected} <= numbers:
        raise ConfigError(
            f"incremental.column has values of kind {expected}, which cannot be compared with {value!r}, its start or "
            "where the runs so far have ended; cast the column, or mend start (a time has no quotes)"
        )
    return value


def kind_of(value: Cursor) -> str:
    """What a person calls values of this kind."""
    if isinstance(value, datetime):
        return "timestamp with zone" if value.tzinfo else "timestamp"
    return next(kind.name for kind in _KINDS if isinstance(value, kind.python))


def to_text(value: Cursor) -> list[str]:
    """A value as it is kept: its kind, and itself as text."""
    return [kind_of(value), value.isoformat() if isinstance(value, date) else str(value)]


def from_text(kept: list[str]) -> Cursor:
    name, text = kept
    return next(kind.read(text) for kind in _KINDS if kind.name == name)


def not_later_than(now: datetime, value: Cursor) -> Cursor:
    """``value``, or ``now`` if that is earlier; where no zone tells what is earlier, a day is granted."""
    if isinstance(value, datetime):
        return min(value, now if value.tzinfo else now.replace(tzinfo=None) + _DAY)
    return min(value, now.date() + _DAY) if isinstance(value, date) else value
