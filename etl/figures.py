"""Figures of a table, counted while its rows stream by: how many rows and nulls, and from where to where values go."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame, Series


@dataclass
class ColumnFigures:
    """``low`` and ``high``: of numbers, dates and times; None for other types, and if all is null."""

    nulls: int = 0
    low: Any = None
    high: Any = None

    def add(self, nulls: int, low: Any, high: Any) -> None:
        self.nulls += nulls
        if low is not None:
            self.low = low if self.low is None else min(self.low, low)
            self.high = high if self.high is None else max(self.high, high)


@dataclass
class Figures:
    """Of the rows that were added so far."""

    rows: int = 0
    columns: dict[str, ColumnFigures] = field(default_factory=dict)

    def add(self, batch: DataFrame) -> None:
        self.rows += len(batch)
        for name, values in batch.items():
            self.columns.setdefault(str(name), ColumnFigures()).add(*_counted(values))

    def as_dict(self, types: Mapping[str, str]) -> dict[str, Any]:
        """As JSON can hold them. ``types``: of the columns, as they were published."""
        columns = {
            name: {"type": types.get(name), "nulls": each.nulls, "low": _plain(each.low), "high": _plain(each.high)}
            for name, each in self.columns.items()
        }
        return {"rows": self.rows, "columns": columns}


def summed(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of a table from those of its parts; empty if there are none."""
    total: Figures = Figures()
    types: dict[str, str] = {}
    for part in parts:
        total.rows += part.get("rows", 0)
        for name, each in part.get("columns", {}).items():
            total.columns.setdefault(name, ColumnFigures()).add(each["nulls"], *_bounds(each["low"], each["high"]))
            types[name] = each["type"]
    return total.as_dict(types) if total.columns else {}


def _bounds(low: Any, high: Any) -> tuple[Any, Any]:
    """As they were before JSON, which has no word for infinity."""
    if low is None and high is None:
        return None, None
    return -math.inf if low is None else low, math.inf if high is None else high


def _counted(values: Series[Any]) -> tuple[int, Any, Any]:
    from etl.tables.arrow import as_arrow, extremes, is_date_or_time, is_number

    if values.dtype == object:  # to make an Arrow array of it would cost more than all the rest
        return int(values.isna().sum()), None, None
    array = as_arrow(values)
    if not is_number(array.type) and not is_date_or_time(array.type):
        return array.null_count, None, None
    return array.null_count, *extremes(array)


def _plain(value: Any) -> Any:
    """A number, or a date or time in ISO 8601; None for what JSON has no word for."""
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, date):
        return value.isoformat()
    number = float(value)
    return number if math.isfinite(number) else None
