"""Turns Arrow columns into columns of JSON text, whole columns at a time."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl.tables.arrow import is_bytes, is_text

_TEXT = pa.large_string()
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_OTHER_CONTROL = r"[\x00-\x08\x0b\x0c\x0e-\x1f]"
_SHORT_ESCAPES = (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r"), ("\t", "\\t"))
_WHOLE_NUMBER = r"^-?[0-9]+$"
_MOST_DAYS = 11_000_000
_TICKS_A_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}
_NOT_FINITE = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def json_text(column: Any) -> Any:
    """JSON for each value of an Arrow array, as a ``large_string`` array; null stays null.

    Decimals become text, to stay exact; dates, times and timestamps ISO 8601, with the offset of their zone; bytes
    base64; durations seconds. JSON has no NaN and no infinity: they become the text "NaN", "Infinity" or "-Infinity".
    Raises ArrowInvalid, or OverflowError within nested values, for times too far away.
    """
    kind = column.type
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return column.cast(_TEXT)
    if pa.types.is_floating(kind):
        return _floats(column)
    if is_text(kind):
        return _quoted(_escaped(column.cast(_TEXT)))
    check_times(column)
    if pa.types.is_timestamp(kind):
        offset = "%Ez" if kind.tz else ""
        return _quoted(pc.strftime(column, format=f"%Y-%m-%dT%H:%M:%S{offset}").cast(_TEXT))
    if is_bytes(kind):
        return _quoted(base64_text(column))
    if is_plain(kind):
        return _quoted(column.cast(_TEXT))
    values = (None if value is None else json.dumps(_simple(value), ensure_ascii=False) for value in column.to_pylist())
    return pa.array(values, _TEXT)


def is_plain(kind: pa.DataType) -> bool:
    """Whether Arrow itself has a textual form for the values of this type that others understand."""
    return not (pa.types.is_nested(kind) or pa.types.is_duration(kind) or isinstance(kind, pa.BaseExtensionType))


def check_times(column: Any) -> None:
    """Raise ArrowInvalid for a date or time some 30,000 years away: as text, Arrow writes another or none at all."""
    kind = column.type
    if not pa.types.is_timestamp(kind) and not pa.types.is_date(kind):
        return
    day = 1 if pa.types.is_date32(kind) else _TICKS_A_DAY[getattr(kind, "unit", "ms")]
    ends: Any = pc.min_max(column)
    if any(abs(end.value or 0) > _MOST_DAYS * day for end in ends.values()):
        raise pa.ArrowInvalid(f"a {kind} is too far away to be text; filter it out, or write Parquet")


def base64_text(column: Any) -> Any:
    encoded = (None if value is None else base64.b64encode(value).decode() for value in column.to_pylist())
    return pa.array(encoded, _TEXT)


def _quoted(text: Any) -> Any:
    quote = pa.scalar('"', _TEXT)
    return pc.binary_join_element_wise(quote, text, quote, pa.scalar("", _TEXT))


def _escaped(text: Any) -> Any:
    if not _any(pc.match_substring_regex(text, _NEEDS_ESCAPE)):
        return text
    for character, escape in _SHORT_ESCAPES:
        text = pc.replace_substring(text, character, escape)
    if _any(pc.match_substring_regex(text, _OTHER_CONTROL)):
        for code in range(32):
            text = pc.replace_substring(text, chr(code), f"\\u{code:04x}")
    return text


def _floats(column: Any) -> Any:
    """The shortest text that gives the same number again; whole numbers keep a ``.0``, so that they stay floats."""
    text = column.cast(_TEXT)
    whole = pc.match_substring_regex(text, _WHOLE_NUMBER)
    if _any(whole):
        text = pc.if_else(whole, pc.binary_join_element_wise(text, pa.scalar(".0", _TEXT), pa.scalar("", _TEXT)), text)
    if not pc.all(pc.is_finite(column)).as_py():
        for ours, theirs in _NOT_FINITE.items():
            text = pc.if_else(pc.equal(text, pa.scalar(ours, _TEXT)), pa.scalar(f'"{theirs}"', _TEXT), text)
    return text


def _any(mask: Any) -> bool:
    return bool(pc.any(mask).as_py())


def _simple(value: Any) -> Any:
    """A value from within a nested one, in what JSON has."""
    if isinstance(value, Mapping):
        return {str(key): _simple(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_simple(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return _NOT_FINITE[str(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return str(value)
