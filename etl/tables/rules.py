"""Holds the values of a column to its declaration, and rejects the rows that break it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from etl.errors import ConfigError
from etl.tables.arrow import Values, array_of, pc, rows_where, series_of
from etl.tables.casting import cast, misfit
from etl.tables.schema import Column

if TYPE_CHECKING:
    from pandas import Series

    from etl.ledger import Account

_SHOWN = 5

Broken = Iterator[tuple[str, Values]]


def conform(values: Series[Any], column: Column, account: Account) -> Series[Any]:
    """The values as the type that ``column`` declares; rows that break one of its rules are rejected, with every rule.

    A cell that cannot be typed comes back null. ``unique`` and ``references`` are not looked at: they need a memory.
    """
    raw = array_of(values)
    typed = cast(raw, column.arrow_type)
    for rule, mask in broken_rules(raw, typed, column):
        account.reject(rows_where(mask, values.index), rule, column=column.name, values=values)
    return series_of(typed, values)


def broken_rules(raw: Values, typed: Values, column: Column) -> Broken:
    """Yield each rule that some value breaks, and the mask of the values that do. ``raw``: before it was typed."""
    if column.required and raw.null_count:
        yield "missing", raw.is_null()
    if typed.null_count > raw.null_count:
        yield misfit(column.type), pc.and_(typed.is_null(), raw.is_valid())
    if len(typed) == typed.null_count:
        return
    if (column.min is not None or column.max is not None) and not _surely_within(typed, column):
        least, most = _bound(column.min, column), _bound(column.max, column)
        yield from _beyond(typed, least, most, f"below {column.min}", f"above {column.max}")
    if column.min_length is not None or column.max_length is not None:
        least, most = column.min_length, column.max_length
        yield from _beyond(pc.utf8_length(typed), least, most, f"shorter than {least}", f"longer than {most}")
    for rule, kept in _not_allowed(typed, column):
        if not pc.all(kept).as_py():
            yield rule, pc.invert(kept)


def _beyond(values: Values, least: Any, most: Any, below: str, above: str) -> Broken:
    """Yield those of the two rules that some value breaks. A bound that is None is none."""
    found: Any = pc.min_max(values)
    if least is not None and pc.less(found["min"], least).as_py():
        yield below, pc.less(values, least)
    if most is not None and pc.greater(found["max"], most).as_py():
        yield above, pc.greater(values, most)


def _surely_within(typed: Values, column: Column) -> bool:
    """A quick look at numbers, and at whatever is in the place of those that are null: zeros as a rule."""
    if not (pa.types.is_integer(typed.type) or pa.types.is_floating(typed.type)):
        return False
    cells = pa.Array.from_buffers(typed.type, len(typed), [None, typed.buffers()[1]], 0, typed.offset).to_numpy()
    return (column.min is None or cells.min() >= column.min) and (column.max is None or cells.max() <= column.max)


def _bound(bound: Any, column: Column) -> Any:
    """The bound as something that Arrow compares with the column's values."""
    kind: Any = column.arrow_type
    if bound is None or not pa.types.is_timestamp(kind):
        return bound if bound is None else pa.scalar(bound)
    time = bound if isinstance(bound, datetime) else datetime(bound.year, bound.month, bound.day)  # noqa: DTZ001
    if kind.tz and time.tzinfo is None:
        time = time.replace(tzinfo=ZoneInfo(kind.tz))
    return pa.scalar(time)


def _not_allowed(typed: Values, column: Column) -> Broken:
    """Yield rules with the masks of the values that keep them; null where there is no value."""
    if column.pattern is not None:
        yield f"does not match {column.pattern}", matching(typed, column.pattern, column.name)
    if column.one_of is not None:
        allowed = pa.array(column.one_of, pa.string() if column.type == "text" else pa.int64())
        yield f"not one of {_listed(column.one_of)}", among(typed, allowed)


def matching(text: Values, pattern: str, place: str) -> Values:
    """Whether the whole text matches. Raises ConfigError for a pattern that Arrow does not understand."""
    try:
        return pc.match_substring_regex(text, pattern=f"^(?:{pattern})$")
    except pa.ArrowInvalid as error:
        raise ConfigError(f"{place}: the pattern {pattern!r}: {error}") from error


def among(values: Values, allowed: Values) -> Values:
    """Whether each value is one of ``allowed``; null for null."""
    return pc.if_else(values.is_valid(), pc.is_in(values, value_set=allowed), None)


def _listed(values: tuple[Any, ...]) -> str:
    shown = ", ".join(map(str, values[:_SHOWN]))
    return f"{shown} and {len(values) - _SHOWN} more" if len(values) > _SHOWN else shown
