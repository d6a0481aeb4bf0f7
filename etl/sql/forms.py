"""The types of SQL in Arrow: drivers give the text that the server writes, and Arrow reads it, exactly and fast."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from etl.tables.forms import Form, form, written

_JSON_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_FIRST_DAY = date(1, 1, 1)  # Python, and most that read the result, know none before
_MOST_DIGITS = 76
_DIGITS_OF_128_BITS = 38

TEXT = form("text", pa.string(), str)
OTHER = form("text", pa.string(), str)  # of a type that is no text, and has an order of its own, if any
BYTES = form("bytes", pa.binary(), bytes)


def from_text(words: str, kind: pa.DataType) -> Form:
    """Values of ``kind``, which come as the text that Arrow reads."""
    return form(words, kind, str, make=lambda texts: pa.array(texts, pa.string()).cast(kind))


def decimal_form(precision: int, scale: int) -> Form | None:
    """None for a decimal that Arrow or Parquet do not have."""
    if not (0 < precision <= _MOST_DIGITS and 0 <= scale <= precision):
        return None
    make: Any = pa.decimal128 if precision <= _DIGITS_OF_128_BITS else pa.decimal256
    return from_text(f"a decimal({precision},{scale})", make(precision, scale))


def _bools(texts: Sequence[str | None]) -> pa.Array[Any]:
    values = pa.array(texts, pa.string())
    true, false = (pc.is_in(values, value_set=pa.array(words)) for words in (("t", "1"), ("f", "0")))
    if not pc.all(pc.or_(pc.or_(true, false), values.is_null())).as_py() and len(values):
        raise ValueError("neither true nor false")
    bools: pa.Array[Any] = pc.if_else(values.is_valid(), true, None)
    return bools


def _since_year_one(kind: Any) -> Callable[[Sequence[Any]], pa.Array[Any]]:
    first = _FIRST_DAY if pa.types.is_date(kind) else datetime(1, 1, 1, tzinfo=UTC if kind.tz else None)

    def make(texts: Sequence[str | None]) -> pa.Array[Any]:
        values = pa.array(texts, pa.string()).cast(kind)
        if pc.any(pc.less(values, pa.scalar(first, kind))).as_py():
            raise ValueError("before year 1")
        return values

    return make


def _utc(texts: Sequence[str | None]) -> pa.Array[Any]:
    """Times without a zone, of a session whose zone is UTC."""
    return _since_year_one(pa.timestamp("us"))(texts).cast(pa.timestamp("us", "UTC"))


def _times(texts: Sequence[str | None]) -> pa.Array[Any]:
    """Arrow reads no times of day by themselves."""
    values: Any = pa.array([None if text is None else f"1970-01-01 {text}" for text in texts], pa.string())
    times: pa.Array[Any] = values.cast(pa.timestamp("us")).cast(pa.time64("us"))
    return times


INT16 = from_text("an int16", pa.int16())
INT32 = from_text("an int32", pa.int32())
INT64 = from_text("an int64", pa.int64())
UINT64 = from_text("a uint64", pa.uint64())
FLOAT32 = from_text("a float32", pa.float32())
FLOAT64 = from_text("a float64", pa.float64())
BOOL = form("true or false", pa.bool_(), str, make=_bools)
DATE = form("a date", pa.date32(), str, make=_since_year_one(pa.date32()))
TIME = form("a time of day", pa.time64("us"), str, make=_times)
TIMESTAMP = form("a timestamp", pa.timestamp("us"), str, make=_since_year_one(pa.timestamp("us")))
TIMESTAMP_ZONED = form("a timestamp", pa.timestamp("us", "UTC"), str, make=_since_year_one(pa.timestamp("us", "UTC")))
TIMESTAMP_UTC = form("a timestamp", pa.timestamp("us", "UTC"), str, make=_utc)
BITS = form("a uint64", pa.uint64(), bytes, make=written(int.from_bytes, pa.uint64()))


def _arrays_of(write: Callable[[Any], str]) -> Form:
    """Arrays as JSON text. ``write``: how the text of an element becomes JSON."""
    return form("an array", pa.string(), list, make=written(lambda value: _json_array(value, write), pa.string()))


def _json_array(value: Any, write: Callable[[Any], str]) -> str:
    if isinstance(value, list):
        return f"[{','.join(_json_array(item, write) for item in value)}]"
    return "null" if value is None else write(value)


def _json_string(value: Any) -> str:
    text = "\\x" + value.hex() if isinstance(value, bytes) else str(value)
    return json.dumps(text, ensure_ascii=False)


def _json_number(text: str) -> str:
    return text if _JSON_NUMBER.fullmatch(text) else _json_string(text)  # NaN is no number in JSON


NUMBERS = _arrays_of(_json_number)
BOOLS = _arrays_of(lambda text: "true" if text == "t" else "false")
JSONS = _arrays_of(str)
TEXTS = _arrays_of(_json_string)
