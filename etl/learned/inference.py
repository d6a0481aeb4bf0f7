"""Finds what a column holds from all its values, batch by batch: its type, whether it has nulls, and its range."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from etl.figures import ColumnFigures
from etl.tables.arrow import Values, extremes, pc
from etl.tables.casting import cast
from etl.tables.schema import arrow_type, known_type

# What text must look like to be of a type, in order of preference. "01" is an article number, and 1e5 was one before a
# spreadsheet saw it; more digits than 15 would not all survive in a float64.
_DAY, _CLOCK = r"[0-9]{4}-[0-9]{2}-[0-9]{2}", r"[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?"
_LOOKS = {
    "int64": r"^(0|-?[1-9][0-9]{0,17})$",
    "float64": r"^-?(0|[1-9][0-9]*)(\.[0-9]+)?$",
    "bool": r"^([tT]rue|[fF]alse)$",
    "date": f"^{_DAY}$",
    "timestamp": f"^{_DAY}[ T]{_CLOCK}$",
    "timestamp[UTC]": f"^{_DAY}[ T]{_CLOCK}(Z|[+-][0-9]{{2}}:?[0-9]{{2}})$",
}
_FLOAT_DIGITS = 15
_LARGER = {"int8": "int16", "uint8": "int16", "uint16": "int32", "uint32": "int64", "float": "float64"}
_SAME = {"string": "text", "large_string": "text", "double": "float64", "date32[day]": "date"}
_DECIMAL = re.compile(r"decimal128(\(\d+, ?\d+\))")


class ColumnFacts:
    """What was seen of one column. ``declared``: a type that it has already, which is kept while all values fit it."""

    def __init__(self, declared: str | None = None) -> None:
        self.has_nulls = False
        self.has_values = False
        self._declared = declared
        self._own: str | None = None
        self._is_odd = False
        self._possible = list(_LOOKS)
        self._values = ColumnFigures()
        self._lengths = ColumnFigures()

    @property
    def type(self) -> str | None:
        """The name of its type; None if no column can be declared to have it."""
        if self._declared or self._own != "text" or not self.has_values:
            return self._declared or self._own
        return next(iter(self._possible), "text")

    @property
    def note(self) -> str:
        """The range of its values, or of text that of its lengths; empty if nobody can tell."""
        if not self.has_values:
            return "no values"
        if self.type == "text" and self._own == "text":
            return f"{_range(self._lengths)} characters"
        return _range(self._values)

    def see(self, values: Values) -> None:
        self.has_nulls = self.has_nulls or values.null_count > 0
        if pa.types.is_null(values.type):  # which other batches may know better
            return
        kind = declared_name(values.type)
        self._is_odd = self._is_odd or kind is None or not _fits(values, kind)  # NaN fits no declared type
        self._own = None if self._is_odd else kind
        if self._declared and (self._own is None or not _fits(values, self._declared)):
            self._declared = None
        if self._own is None or len(values) == values.null_count:
            return
        self.has_values = True
        if self._own == "text":
            self._lengths.add(0, *extremes(pc.utf8_length(values)))
            self._possible = [kind for kind in self._possible if _looks_like(values, kind)]
            if not self._possible:
                return
            values = cast(values, arrow_type(self._possible[0]))
        self._values.add(0, *extremes(values))


def _range(figures: ColumnFigures) -> str:
    if figures.low is None:
        return ""
    least, most = _shown(figures.low), _shown(figures.high)
    return least if least == most else f"{least} to {most}"


def _shown(value: Any) -> str:
    return f"{value:.0f}" if isinstance(value, float) and value.is_integer() else str(value)


def declared_name(kind: pa.DataType) -> str | None:
    """What a pipeline file calls an Arrow type, or the next larger one; None if it has no name for such."""
    name = str(kind)
    if decimal := _DECIMAL.fullmatch(name):
        name = f"decimal{decimal[1]}"
    elif pa.types.is_timestamp(kind):
        name = f"timestamp[{kind.tz}]" if kind.tz else "timestamp"
    try:
        return known_type(_SAME.get(name, _LARGER.get(name, name)))
    except ValueError:  # also of an offset such as +01:00, which is no zone
        return None


def _looks_like(values: Values, kind: str) -> bool:
    if not pc.all(pc.match_substring_regex(values, _LOOKS[kind])).as_py():
        return False
    if kind == "float64":
        digits = pc.utf8_length(pc.replace_substring_regex(values, "[-.]", ""))
        return bool(pc.max(digits).as_py() <= _FLOAT_DIGITS)
    return _fits(values, kind)


def _fits(values: Values, kind: str) -> bool:
    return bool(cast(values, arrow_type(kind)).null_count == values.null_count)
