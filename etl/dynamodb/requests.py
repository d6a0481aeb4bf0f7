"""What to ask of DynamoDB, and its replies, page by page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from etl.dynamodb.client import Unanswered, patiently
from etl.dynamodb.values import attribute_of, bound_of
from etl.errors import SourceError
from etl.incremental.options import Cursor

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from etl.extractors.dynamodb import DynamoDbExtractor

Request = dict[str, Any]

_SINCE, _KIND = ":etl_since", ":etl_kind"
_NAME = re.compile(r"(?<![:\w])#?\w+")  # in an expression; words of the language are among them


class Since(NamedTuple):
    """Only items whose ``column`` is ``value`` or more, or that have none. ``in_key``: it is the query's sort key."""

    column: str
    value: Cursor
    in_key: bool = False


def request_of(asked: DynamoDbExtractor, segment: tuple[int, int] | None, since: Since | None = None) -> Request:
    """A Query if there is a key condition, and else a Scan. ``segment``: which of how many."""
    paths, own_names = _projected((*asked.projection, *([since.column] if since else [])))
    keys, conditions = [asked.key_condition], [asked.filter]
    values = {name: attribute_of(value) for name, value in asked.values.items()}
    if since:
        column, bound = paths.pop(), bound_of(since.value)
        values[_SINCE] = bound
        if since.in_key:
            keys.append(f"{column} >= {_SINCE}")
        else:
            values[_KIND] = {"S": next(iter(bound))}
            other = f"attribute_not_exists({column}) OR NOT attribute_type({column}, {_KIND})"
            conditions.append(f"{other} OR {column} >= {_SINCE}")
    request: Request = {
        "TableName": asked.table,
        "IndexName": asked.index,
        "KeyConditionExpression": " AND ".join(filter(None, keys)),
        "FilterExpression": " AND ".join(f"({condition})" for condition in conditions if condition),
        "ProjectionExpression": ", ".join(paths),
        "ExpressionAttributeNames": {**asked.names, **own_names},
        "ExpressionAttributeValues": values,
        "ConsistentRead": asked.consistent,
    }
    if segment:
        request["Segment"], request["TotalSegments"] = segment
    return {name: value for name, value in request.items() if value or name == "Segment"}


def since_of(asked: DynamoDbExtractor, table: Mapping[str, Any], column: str, value: Cursor) -> Since | None:
    """How what is new is asked for; None: it cannot be, as a query may not filter by its own keys.

    ``table``: as it is described, for a query.
    """
    if not asked.key_condition:
        return Since(column, value)
    keys = {part["AttributeName"]: part["KeyType"] for part in _keys_of(table, asked.index)}
    named = {asked.names.get(word, word) for word in _NAME.findall(asked.key_condition)}
    if column in keys and (column in named or keys[column] != "RANGE"):
        return None
    return Since(column, value, in_key=column in keys)


def _keys_of(table: Mapping[str, Any], index: str | None) -> Sequence[Mapping[str, str]]:
    indexes = (*table.get("LocalSecondaryIndexes", ()), *table.get("GlobalSecondaryIndexes", ()))
    found: Sequence[Mapping[str, str]] = next(
        (each["KeySchema"] for each in indexes if each["IndexName"] == index), table["KeySchema"]
    )
    return found


def _projected(paths: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Paths with a stand-in for each name, as names may be reserved words, and what these stand for."""
    stand_ins: dict[str, str] = {}
    for name in (name for path in paths for name in path.split(".")):
        stand_ins.setdefault(name, f"#etl{len(stand_ins)}")
    written = [".".join(stand_ins[name] for name in path.split(".")) for path in paths]
    return written, {stand_in: name for name, stand_in in stand_ins.items()}


def pages(client: DynamoDBClient, request: Request, asked: DynamoDbExtractor) -> Iterator[Mapping[str, Any]]:
    """Yield the replies, of at most 1 MB each. One that was lost is asked for again, from the same key on."""
    is_query = "KeyConditionExpression" in request
    ask: Callable[..., Any] = client.query if is_query else client.scan
    action, target = f"dynamodb:{'Query' if is_query else 'Scan'}", asked.address
    while True:
        page = patiently(partial(_page, ask, request, f"{action} on {target}"), action, target, asked.patience_s)
        yield page
        end = page.get("LastEvaluatedKey")
        if not end:
            return
        if end == request.get("ExclusiveStartKey"):
            raise SourceError(f"{asked.address}: a page ended where it began, so the rest cannot be reached")
        request = {**request, "ExclusiveStartKey": end}


def _page(ask: Callable[..., Any], request: Request, what: str) -> Mapping[str, Any]:
    page: Mapping[str, Any] = ask(**request)
    if len(page.get("Items", ())) != page.get("Count"):
        raise Unanswered(f"{what}: a page did not have as many items as it said")
    return page


def described(client: DynamoDBClient, asked: DynamoDbExtractor) -> Mapping[str, Any]:
    """What DynamoDB says about a table: its key, its size, its state."""
    ask = partial(client.describe_table, TableName=asked.table)
    table: Mapping[str, Any] = patiently(ask, "dynamodb:DescribeTable", asked.address, asked.patience_s)["Table"]
    return table
