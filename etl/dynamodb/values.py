"""DynamoDB's attribute values, such as ``{"N": "1.5"}``: taken apart, and made of the values of a pipeline file."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from etl.incremental.options import Cursor, earlier

_LEAST_INT64, _MOST_INT64 = -(1 << 63), (1 << 63) - 1
_DAY_CHARS = len("2026-01-31")
_KINDS = ("S", "N", "BOOL", "NULL", "L", "M", "SS", "NS")  # that a pipeline file can write


def plain(attribute: Mapping[str, Any]) -> Any:
    """A value of a reply in plain Python: text, int, Decimal, bool, bytes, dict, list, None; sets are sorted lists."""
    ((kind, value),) = attribute.items()
    convert = _PLAIN.get(kind)
    return value if convert is None else convert(value)


def plain_item(item: Mapping[str, Any], first: Mapping[str, int]) -> dict[str, Any]:
    """An item with its key in front and its other attributes by name: DynamoDB gives them in no order.

    ``first``: the place of each attribute of the key.
    """
    names = sorted(item, key=lambda name: (first.get(name, len(first)), name))
    return {name: plain(item[name]) for name in names}


def _number(text: str) -> int | Decimal:
    """A whole number as int where an int64 can hold it; no number goes through a float."""
    number = Decimal(text)
    if _LEAST_INT64 <= number <= _MOST_INT64 and number == int(number):
        return int(number)
    return number


_PLAIN: Mapping[str, Callable[[Any], Any]] = {
    "N": _number,
    "NULL": lambda _: None,
    "M": lambda value: {name: plain(value[name]) for name in sorted(value)},
    "L": lambda value: [plain(item) for item in value],
    "SS": sorted,
    "NS": lambda value: sorted(map(_number, value)),
    "B": b64decode,
    "BS": lambda value: sorted(map(b64decode, value)),
}


def attribute_of(value: Any) -> dict[str, Any]:
    """A value of a pipeline file as DynamoDB wants it. Raises ValueError for what it does not have.

    A table is an attribute value as it is, such as ``{ N = "1.50" }`` or ``{ SS = ["a", "b"] }``.
    """
    if isinstance(value, bool):
        return {"BOOL": value}
    if isinstance(value, str):
        return {"S": value}
    if isinstance(value, int | float):
        return {"N": repr(value)}  # as it is written in the file
    if isinstance(value, list | tuple):
        return {"L": [attribute_of(item) for item in value]}
    if isinstance(value, dict) and len(value) == 1 and next(iter(value)) in _KINDS:
        return value
    raise ValueError(f'{value!r} should be text, a number, true, false, a list, or typed, such as {{ N = "1" }}')


def bound_of(value: Cursor) -> dict[str, Any]:
    """An attribute value that is not above any which ``value`` may be written as.

    Of a time, the day before: in ISO 8601 this comes first, whatever is behind it and whatever zone that is in.
    """
    if isinstance(value, date):
        return {"S": earlier(value, timedelta(days=1)).isoformat()[:_DAY_CHARS]}
    return {"S": value} if isinstance(value, str) else {"N": str(value)}
