"""Reads a collection in the order of ``_id``, and goes on after the last ``_id`` when a cursor is lost.

MongoDB orders ``_id`` by type first (numbers, text, ..., ObjectIds, ...), but a comparison such as ``$gt`` only finds
values of the same type. What comes after an ``_id`` is therefore all that is greater, and all of the later types.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from bson import Code, Decimal128, MaxKey, MinKey, ObjectId, Regex, Timestamp
from bson.datetime_ms import DatetimeMS
from pymongo.collection import Collection
from pymongo.errors import PyMongoError

from etl.incremental.options import Cursor
from etl.mongodb.client import tries_after
from etl.mongodb.values import counterparts, documents_of

Condition = Mapping[str, Any]

_BATCH_DOCUMENTS = 8_192  # MongoDB ends a batch at 16 MB already
_PAUSE_S = 0.2
_SAMPLES_A_PART = 50

_TYPES: tuple[tuple[tuple[str, ...], tuple[type, ...]], ...] = (  # in MongoDB's order
    (("minKey",), (MinKey,)),
    (("null",), (type(None),)),
    (("number",), (int, float, Decimal128)),
    (("string", "symbol"), (str,)),
    (("object",), (dict,)),
    (("array",), (list,)),
    (("binData",), (bytes, UUID)),
    (("objectId",), (ObjectId,)),
    (("bool",), (bool,)),
    (("date",), (datetime, DatetimeMS)),
    (("timestamp",), (Timestamp,)),
    (("regex",), (Regex,)),
    (("javascript", "javascriptWithScope"), (Code,)),
    (("maxKey",), (MaxKey,)),
)
_RANKS = {known: rank for rank, (_, classes) in enumerate(_TYPES) for known in classes}

log = logging.getLogger(__name__)


def after(edge: Any) -> Condition:
    """What comes after this ``_id``."""
    greater = {"$gte": float("-inf")} if _is_nan(edge) else {"$gt": edge}
    return _or_types(greater, _TYPES[_rank(edge) + 1 :])


def from_on(edge: Any) -> Condition:
    return _or_types({"$gte": edge}, _TYPES[_rank(edge) + 1 :])


def before(edge: Any) -> Condition:
    """All that ``from_on`` leaves out: of numbers also NaN, which is the least, and not compared."""
    nan = [{"_id": float("nan")}] if _rank(edge) == _RANKS[float] else []
    return _or_types({"$lt": edge}, _TYPES[: _rank(edge)], *nan)


def _or_types(compared: Condition, others: Sequence[Any], *more: Condition) -> Condition:
    types = [alias for aliases, _ in others for alias in aliases]
    choices: list[Condition] = [{"_id": compared}, *more, *([{"_id": {"$type": types}}] if types else [])]
    return {"$or": choices}


def _rank(value: Any) -> int:
    """The place of a value's type in MongoDB's order. A bool is an int to Python, and code is text."""
    return next(_RANKS[known] for known in type(value).__mro__ if known in _RANKS)


def _is_nan(value: Any) -> bool:
    if isinstance(value, Decimal128):
        return value.to_decimal().is_nan()
    return bool(value != value)


def not_less(path: str, value: Cursor) -> Condition:
    """What is not less than this: without a value, or with one of another type, as MongoDB compares within a type."""
    return all_of([{path: {"$not": {"$lt": each}}} for each in counterparts(value)])


def all_of(conditions: Sequence[Condition]) -> Condition:
    """One filter of several conditions."""
    given = [condition for condition in conditions if condition]
    return {"$and": given} if len(given) > 1 else given[0] if given else {}


def read(
    collection: Collection[dict[str, Any]], condition: Condition, projection: Condition, *, resumes: bool
) -> Iterator[tuple[dict[str, Any], int, str]]:
    """Yield each document, its size, and what is wrong with it. The projection must keep ``_id``.

    ``resumes``: whether ``_id`` is unique, so that a lost cursor can be replaced by one that begins after the last.
    """
    since: Condition = {}
    last: dict[str, Any] = {}
    failures = 0
    while True:
        cursor: Any = collection.find_raw_batches(
            all_of([condition, since]), projection or None, sort=[("_id", 1)], batch_size=_BATCH_DOCUMENTS
        )
        try:
            with cursor:
                for batch in cursor:
                    for last, size, problem in documents_of(batch, collection.full_name):
                        yield last, size, problem
                    failures = 0
            return
        except PyMongoError as error:
            failures += 1
            if not resumes or failures > tries_after(error):
                raise
            since = after(last["_id"]) if last else {}
            log.warning("Going on after the last _id: %s", type(error).__name__)
            time.sleep(_PAUSE_S * 2 ** (failures - 1))


def edges(collection: Collection[dict[str, Any]], condition: Condition, parts: int) -> list[Any]:
    """Some ``_id`` in their order, between which lie about ``parts`` equal parts; told from a random sample."""
    pipeline: list[Condition] = [
        {"$match": condition},
        {"$sample": {"size": parts * _SAMPLES_A_PART}},
        {"$project": {"_id": 1}},
        {"$sort": {"_id": 1}},
    ]
    found = [document["_id"] for document in collection.aggregate(pipeline)]
    chosen = [found[len(found) * part // parts] for part in range(1, parts)] if found else []
    return [edge for number, edge in enumerate(chosen) if edge not in chosen[:number] and not _is_nan(edge)]


def ranges(found: Sequence[Any]) -> list[list[Condition]]:
    """The conditions of each range between these edges: every document is in just one of them."""
    lower: list[list[Condition]] = [[], *([from_on(edge)] for edge in found)]
    upper: list[list[Condition]] = [*([before(edge)] for edge in found), []]
    return [[*low, *high] for low, high in zip(lower, upper, strict=True)]
