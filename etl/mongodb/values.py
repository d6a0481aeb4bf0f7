"""BSON, the format of MongoDB's documents: taken apart, and made of plain Python values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from bson import Binary, CodecOptions, DBRef, Decimal128, Int64, ObjectId, decode, decode_all, json_util
from bson.binary import UuidRepresentation
from bson.codec_options import DatetimeConversion
from bson.errors import BSONError

from etl.errors import DataError
from etl.incremental.options import Cursor

CODEC: CodecOptions[dict[str, Any]] = CodecOptions(
    document_class=dict,
    tz_aware=True,
    uuid_representation=UuidRepresentation.STANDARD,
    datetime_conversion=DatetimeConversion.DATETIME_AUTO,  # a time beyond the year 9999 spoils one value, not the batch
)
_LENIENT = CODEC.with_options(unicode_decode_error_handler="replace")
_LENGTH_BYTES = 4


def documents_of(batch: bytes, source: str) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield each document of a raw batch, its size in bytes, and what is wrong with it (nothing, as a rule).

    Raises DataError for one that is so damaged that not even its ``_id`` is known.
    """
    try:
        documents = decode_all(batch, CODEC)
    except BSONError:
        yield from _one_by_one(batch, source)
        return
    size = len(batch) // max(len(documents), 1)
    for document in documents:
        yield document, size, ""


def _one_by_one(batch: bytes, source: str) -> Iterator[tuple[dict[str, Any], int, str]]:
    start = 0
    while start < len(batch):
        size = int.from_bytes(batch[start : start + _LENGTH_BYTES], "little")
        data = batch[start : start + size]
        start += size
        try:
            yield decode(data, CODEC), size, ""
        except BSONError as problem:
            try:
                yield decode(data, _LENIENT), size, f"not valid BSON: {problem}"
            except BSONError as error:
                raise DataError(f"{source}: a document is damaged: {error}; have its collection validated") from error


def plain(value: Any) -> Any:
    """The value in plain Python: text, int, float, Decimal, bool, datetime (UTC), bytes, dict, list or None.

    What has no such form, such as a regular expression, becomes its extended JSON.
    """
    kind = type(value)
    if kind in _PLAIN:
        return value
    if kind is dict:
        return {name: item if type(item) in _PLAIN else plain(item) for name, item in value.items()}
    if kind is list:
        return [plain(item) for item in value]
    convert = _CONVERTED.get(kind)
    return json_util.dumps(value) if convert is None else convert(value)


_PLAIN = frozenset((str, int, float, bool, datetime, bytes, type(None)))
_CONVERTED: Mapping[type, Callable[[Any], Any]] = {
    Int64: int,
    Decimal128: Decimal128.to_decimal,
    ObjectId: str,
    UUID: str,
    Binary: bytes,
    DBRef: lambda value: plain(dict(value.as_doc())),
}


def from_toml(value: Any) -> Any:
    """A value of a pipeline file as MongoDB wants it; extended JSON such as ``{ "$oid" = "..." }`` is understood.

    A date stands for its midnight in UTC, and so does a time without a zone for that time.
    """
    if isinstance(value, dict):
        return json_util.object_hook({name: from_toml(item) for name, item in value.items()}, json_util.JSONOptions())
    if isinstance(value, list | tuple):
        return [from_toml(item) for item in value]
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime.combine(value, time(), UTC)
    return value


def counterparts(value: Cursor) -> list[Any]:
    """What MongoDB may hold where a column has ``value``; of numbers that look the same, the least."""
    if isinstance(value, Decimal):
        nearest = float(value)
        return [nearest if Decimal(nearest) < value else Decimal128(value)]
    if isinstance(value, str) and ObjectId.is_valid(value):
        return [value, ObjectId(value)]
    return [from_toml(value)]
