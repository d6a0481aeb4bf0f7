"""Gives values another type, exactly or not at all: what does not fit becomes null, for the caller to report."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, date, datetime, tzinfo
from decimal import Context, Decimal, InvalidOperation
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa

from etl.errors import ConfigError
from etl.tables.arrow import Values, as_text, is_bytes, is_date_or_time, is_number, is_text, pc
from etl.tables.text import has_letter, without

# "67.0" is how a whole number looks after it was in a column with gaps in pandas or a spreadsheet, and a date may
# have a midnight behind it for the same reason.
_INTEGER = r"^[+-]?[0-9]{1,38}(\.0*)?$"
_FLOAT = r"^[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?$"
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)([ T]00:00(:00(\.0+)?)?)?", re.ASCII)
_TIME = re.compile(r"\d{4}-\d\d-\d\d([ T]\d\d(:\d\d(:\d\d(\.\d{1,6}0*)?)?)?(Z|[+-]\d\d(:?\d\d)?)?)?", re.ASCII)
_TRUE = ("true", "t", "yes", "y", "1", "1.0")
_FALSE = ("false", "f", "no", "n", "0", "0.0")
_LAST_LISTED = datetime(2037, 1, 1, tzinfo=UTC)
_CALENDAR = (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))


def cast(values: Values, kind: Any) -> Values:
    """The values as ``kind``; null for each that has no exact counterpart in it.

    Text is read as programs write it: 1234.5, 2024-01-31, 2024-01-31T12:00:00+01:00. Beside that, "67.0" is a whole
    number, and true/false, yes/no, t/f, y/n and 1/0 in any case are a bool. Infinity and NaN are null. A time becomes
    a date by leaving the time out; one without a zone is taken to be in the zone that it is cast to, unless the clocks
    were set back or forward just then, which makes it null. Raises ConfigError if no text is ever read as ``kind``.
    """
    types = pa.types
    if types.is_null(values.type) or types.is_null(kind):
        return pa.nulls(len(values), kind)
    if is_text(kind):
        return as_text(values)
    if types.is_boolean(kind) or types.is_decimal(kind) or not _are_akin(values.type, kind):
        values = as_text(values)
        return finite(values.cast(kind) if values.null_count == len(values) else _parser(kind)(values, kind))
    if types.is_temporal(kind):
        return _between_times(values, kind)
    return finite(_between_numbers(values, kind))


def misfit(type_name: str) -> str:
    """The rule that a value breaks when it cannot be cast to this declared type."""
    if type_name == "bool":
        return "not true or false"
    if type_name.startswith(("date", "timestamp")):
        return f"not a {type_name}"
    return f"not a number ({type_name})"


def _are_akin(some: pa.DataType, other: pa.DataType) -> bool:
    """Whether Arrow's own cast means what a person would. (It takes 20240131 for a number of days.)"""
    numbers = is_number(other) and (is_number(some) or pa.types.is_boolean(some))
    return numbers or (is_date_or_time(some) and is_date_or_time(other)) or some == other


def _between_numbers(values: Values, kind: Any) -> Values:
    if pa.types.is_floating(kind):
        return values.cast(kind, safe=False)
    if pa.types.is_floating(values.type):
        limits = np.iinfo(kind.to_pandas_dtype())
        whole = pc.and_(pc.equal(values, pc.floor(values)), _within(values, float(limits.min), float(limits.max) + 1))
        return pc.if_else(whole, values, None).cast(kind)
    return _at_once(values, kind, otherwise=lambda values, kind: _integers(as_text(values), kind))


def _within(values: Values, least: float, above: float) -> Values:
    return pc.and_(pc.greater_equal(values, least), pc.less(values, above))


def _between_times(values: Values, kind: Any) -> Values:
    zone = getattr(values.type, "tz", None)
    if pa.types.is_timestamp(kind) and kind.tz:
        return (
            values.cast(kind, safe=False) if zone else localised(values.cast(pa.timestamp("us"), safe=False), kind.tz)
        )
    if zone:
        values = _local(values.cast(pa.timestamp("us", zone), safe=False), zone)
    return values.cast(kind, safe=False)  # leaves out nanoseconds, which no declared type has


# -- from text ------------------------------------------------------------------------------------------


def _parser(kind: pa.DataType) -> Callable[[Values, pa.DataType], Values]:
    types = pa.types
    if types.is_boolean(kind):
        return _parse_bools
    if types.is_integer(kind):
        return _parse_integers
    if types.is_decimal(kind):
        return _parse_decimals
    if types.is_date(kind):
        return _parse_dates
    if types.is_timestamp(kind):
        return _parse_times
    if types.is_floating(kind):
        return _parse_floats
    if is_bytes(kind):
        return _as_bytes
    raise ConfigError(f"no text can be read as {kind}; CastTypes makes text of such a column")


def _at_once(values: Values, kind: pa.DataType, otherwise: Callable[[Values, Any], Values]) -> Values:
    """The whole column in one go if it is clean, else by the slower way that tells the cells that are not."""
    try:
        return values.cast(kind)
    except pa.ArrowInvalid:
        return otherwise(values, kind)


def _parse_bools(text: Values, _kind: pa.DataType) -> Values:
    lower = pc.utf8_lower(text)
    true, false = (pc.is_in(lower, value_set=pa.array(words)) for words in (_TRUE, _FALSE))
    return pc.if_else(pc.or_(true, false), true, None)


def _parse_integers(text: Values, kind: pa.DataType) -> Values:
    if has_letter(text, "x"):  # Arrow would read 0x1F as 31
        return _integers(text, kind)
    return _at_once(text, kind, otherwise=_integers)


def _integers(text: Values, kind: Any) -> Values:
    wide = pc.replace_substring_regex(_matching(text, _INTEGER), r"\.0*$", "").cast(pa.decimal128(38, 0))
    limits = np.iinfo(kind.to_pandas_dtype())
    fits = pc.and_(pc.greater_equal(wide, Decimal(limits.min)), pc.less_equal(wide, Decimal(limits.max)))
    return pc.if_else(fits, wide, None).cast(kind)


def _parse_floats(text: Values, kind: pa.DataType) -> Values:
    return _at_once(text, kind, otherwise=lambda text, kind: _matching(text, _FLOAT).cast(kind))


def _parse_decimals(text: Values, kind: Any) -> Values:
    exact = Context(prec=kind.precision, traps=[InvalidOperation])
    step = Decimal(1).scaleb(-kind.scale)

    def parse(value: str) -> Decimal | None:
        try:
            number = Decimal(value)
            fitted = number.quantize(step, context=exact)
        except InvalidOperation:
            return None
        return fitted if fitted == number else None

    def slowly(text: Values, kind: Any) -> Values:
        return each_distinct(_matching(text, _FLOAT), parse, kind)

    if has_letter(text, "e"):  # Arrow would read 1e-100 as 0
        return slowly(text, kind)
    return _at_once(text, kind, otherwise=slowly)


def _as_bytes(text: Values, kind: Any) -> Values:
    if pa.types.is_fixed_size_binary(kind):
        text = pc.if_else(pc.equal(pc.binary_length(text), kind.byte_width), text, None)
    return text.cast(kind)


def _parse_dates(text: Values, kind: pa.DataType) -> Values:
    def parse(value: str) -> date | None:
        found = _DATE.fullmatch(value)
        return date.fromisoformat(found[1]) if found else None

    days = _at_once(text, kind, otherwise=lambda text, kind: each_distinct(text, parse, kind))
    return _in_calendar(days)


def _parse_times(text: Values, kind: Any) -> Values:
    zone = _zone(kind.tz) if kind.tz else None

    def parse(value: str) -> datetime | None:
        if not _TIME.fullmatch(value):
            return None
        time = datetime.fromisoformat(value)
        if zone is None:
            return None if time.tzinfo else time
        return time if time.tzinfo else _in_zone(time, zone)

    times = _times_at_once(text, kind)
    return _in_calendar(each_distinct(text, parse, kind) if times is None else times)


def _times_at_once(text: Values, kind: Any) -> Values | None:
    for tried in (kind, pa.timestamp("us")) if kind.tz else (kind,):
        try:
            times = text.cast(tried)
        except pa.ArrowInvalid:
            continue
        return times if tried == kind else localised(times, kind.tz)
    return None


def localised(times: Values, zone: str) -> Values:
    """The instants of these local times; null for those that came twice or never, as the clocks were set."""

    def quickly(times: Values) -> Values:
        ways: Any = ({"ambiguous": which, "nonexistent": which} for which in ("earliest", "latest"))
        first, last = (pc.assume_timezone(times, zone, **way) for way in ways)
        return pc.if_else(pc.equal(first, last), first, None)

    exactly = partial(_in_zone, zone=_zone(zone))
    return _in_calendar(_before_and_after_2037(times, quickly, exactly, pa.timestamp("us", zone)))


def _local(instants: Values, zone: str) -> Values:
    """What the clocks of their zone show."""

    def exactly(time: datetime) -> datetime:
        return time.astimezone(_zone(zone)).replace(tzinfo=None)

    return _before_and_after_2037(instants, pc.local_timestamp, exactly, pa.timestamp("us"))


def _before_and_after_2037(
    times: Values, quickly: Callable[[Values], Values], exactly: Callable[[Any], Any], kind: pa.DataType
) -> Values:
    """Arrow knows no summer time after 2037, where the time zone database's lists end; Python follows its rules."""
    late = pc.greater_equal(times, pa.scalar(_LAST_LISTED, times.type))
    if not pc.any(late).as_py():
        return quickly(times)
    return pc.coalesce(quickly(without(times, late)), each_distinct(without(times, pc.invert(late)), exactly, kind))


def _zone(name: str) -> tzinfo | None:
    """A zone such as Europe/Amsterdam, or an offset such as +05:30, as Arrow has them."""
    return datetime.strptime(name, "%z").tzinfo if name.startswith(("+", "-")) else ZoneInfo(name)


def _in_zone(time: datetime, zone: tzinfo | None) -> datetime | None:
    """What ``localised`` says of one time."""
    first, last = (time.replace(tzinfo=zone, fold=fold) for fold in (0, 1))
    return first if first.utcoffset() == last.utcoffset() else None


def _in_calendar(times: Values) -> Values:
    """With null beyond the years 1 to 9999, which are all that Python and most databases know."""
    if getattr(times.type, "unit", None) == "ns":
        return times  # which go from 1677 to 2262
    first, last = (pa.scalar(limit, times.type) for limit in _CALENDAR)
    return pc.if_else(pc.and_(pc.greater_equal(times, first), pc.less_equal(times, last)), times, None)


def _matching(text: Values, pattern: str) -> Values:
    return pc.if_else(pc.match_substring_regex(text, pattern=pattern), text, None)


def each_distinct(values: Values, parse: Callable[[Any], Any], kind: pa.DataType) -> Values:
    """Parse each distinct value by itself; what cannot be parsed is null."""

    def parsed(value: Any) -> Any:
        try:
            return None if value is None else parse(value)
        except (ValueError, OverflowError):
            return None

    coded: Any = values.dictionary_encode()
    return pa.array([parsed(value) for value in coded.dictionary.to_pylist()], kind).take(coded.indices)


def finite(numbers: Values) -> Values:
    """With null for infinity and NaN."""
    if not pa.types.is_floating(numbers.type):
        return numbers
    kept = pc.is_finite(numbers)
    return numbers if pc.all(kept).as_py() in (True, None) else pc.if_else(kept, numbers, None)
