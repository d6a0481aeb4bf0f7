"""How the values of documents become columns: their types, and JSON text for what is nested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import Any

import pyarrow as pa

from etl.files.json_types import EXACT_DECIMAL, JSON_TYPES, TIME, Types, json_text
from etl.tables.forms import Form, form, parsed, written
from etl.tables.schema import arrow_type

_NUMBERS = (int, float, Decimal)
_SCALARS = (str, bool, datetime, *_NUMBERS)


def _scalar_text(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)


# -- forms: exact, or not at all -----------------------------------------------------------------------------------


def _whole(value: Any) -> int:
    whole = int(value)
    if whole != value:
        raise ValueError(f"{value} has a fraction")
    return whole


def _decimal(value: Any) -> Decimal:
    return Decimal(repr(value)) if isinstance(value, float) else Decimal(value)


@cache
def _declared(kind: str) -> Form:
    """The form of a declared type: it also takes values of other classes, where nothing of them is lost.

    A float is as exact as it is written, so 0.1 fits decimal(10,2); a float64 is the one nearest to a decimal.
    """
    if kind == "text":
        return form("text", pa.string(), *_SCALARS, make=written(_scalar_text, pa.string()))
    if kind in ("bool", "binary", "json"):
        return _EXACT[kind]
    arrow = arrow_type(kind)
    if kind.startswith("int"):
        return form(f"an {kind}", arrow, *_NUMBERS, make=written(_whole, arrow))
    if kind.startswith("timestamp"):
        return form("a time", arrow, datetime, str, make=_times(arrow))
    return form(f"a {kind}", arrow, *_NUMBERS, make=_floats if kind == "float64" else written(_decimal, arrow))


def _times(arrow: pa.DataType) -> Callable[[Sequence[Any]], pa.Array[Any]]:
    """Text among them is read as ISO 8601: DynamoDB has no other times."""
    parse = parsed(arrow)

    def make(values: Sequence[Any]) -> pa.Array[Any]:
        if str not in set(map(type, values)):
            return pa.array(values, arrow)
        return parse([value.isoformat() if isinstance(value, datetime) else value for value in values])

    return make


def _floats(values: Sequence[Any]) -> pa.Array[Any]:
    return pa.array([float(value) if isinstance(value, Decimal) else value for value in values], pa.float64())


_EXACT: dict[str, Form] = {
    **JSON_TYPES.told,
    "float64": form("a float64", pa.float64(), float, int),
    EXACT_DECIMAL: form(f"a {EXACT_DECIMAL}", arrow_type(EXACT_DECIMAL), Decimal, int),
    TIME: form("a time", arrow_type(TIME), datetime),
    "binary": form("binary", pa.binary(), bytes),
    "json": form("JSON", pa.string(), dict, list, bytes, *_SCALARS, make=written(json_text, pa.string())),
}
_CLASSES: dict[type, str] = {**JSON_TYPES.of_class, Decimal: EXACT_DECIMAL, datetime: TIME, bytes: "binary"}
DOCUMENT_TYPES = Types(_CLASSES, _EXACT, _declared)
