"""The types of columns that are made of records: what tells them, how their values look, and JSON text."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, NamedTuple, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from etl.errors import DataError
from etl.tables.forms import Form, form, parsed, written
from etl.tables.schema import arrow_type

Columns: TypeAlias = dict[str, str]

TIME = "timestamp[UTC]"
EXACT_DECIMAL = "decimal(38,18)"  # of numbers that have fractions and are no floats, where none is declared
_EXACT_IN_FLOAT = 1 << 53
_BEYOND_INT64 = 1 << 63


class Types(NamedTuple):
    """The types that a kind of records has: which one the class of a value tells, and their forms.

    ``told``: of the types that values told, ``declared``: of those that somebody declared, who may ask for more.
    """

    of_class: Mapping[type, str]
    told: Mapping[str, Form]
    declared: Callable[[str], Form]


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
    TIME: form("a time", arrow_type(TIME), str, make=parsed(arrow_type(TIME))),
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


def arrow_schema(columns: Columns, types: Types = JSON_TYPES) -> pa.Schema:
    return pa.schema([(name, types.declared(kind).arrow) for name, kind in columns.items()])


class Told:
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
