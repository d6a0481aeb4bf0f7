"""Tables of DynamoDB, and a server in front of moto's: it cuts results into pages, and fails when it is told to.

with front_of(moto_url) as front:
    front.page_items = 2
    front.fail(throttled(), HANG_UP, after=1)
    DynamoDbExtractor(...)  # with AWS_ENDPOINT_URL_DYNAMODB = front.url
    assert front.asked("Scan") == 6
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.proxy import ProxyHandler, Reply, serving


def create_table(
    client: Any, name: str, kinds: Mapping[str, str], key: Sequence[str], **indexes: Sequence[str]
) -> None:
    """``kinds``: of the attributes in keys. ``indexes``: the key of each, by its name."""
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=key_schema(*key),
        AttributeDefinitions=[{"AttributeName": name, "AttributeType": kind} for name, kind in kinds.items()],
        GlobalSecondaryIndexes=[
            {"IndexName": index, "KeySchema": key_schema(*key), "Projection": {"ProjectionType": "ALL"}}
            for index, key in indexes.items()
        ],
    )


def key_schema(*names: str) -> list[dict[str, str]]:
    """As DynamoDB describes a key: what it is hashed by, and what it is sorted by, if anything."""
    return [{"AttributeName": name, "KeyType": kind} for name, kind in zip(names, ("HASH", "RANGE"), strict=False)]


@dataclass(frozen=True)
class Failure:
    """``code``: of an error, that is sent in place of the reply. Else the reply is lost, cut, or damaged."""

    code: str = ""
    status: int = 400
    way: str = "error"


HANG_UP = Failure(way="hang up")
CUT = Failure(way="cut")
DAMAGED = Failure(way="damaged")
ITEM_LOST = Failure(way="item lost")


def throttled(code: str = "ProvisionedThroughputExceededException") -> Failure:
    return Failure(code)


class Front:
    """``page_items``: the most in a page. ``requests``: (operation, what was asked), in order."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.page_items: int | None = None
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self._failures: list[Failure | None] = []

    def fail(self, *failures: Failure, after: int = 0) -> None:
        """Of the scans and queries to come, the first ``after`` go well, then so many fail in these ways."""
        self._failures = [*[None] * after, *failures]

    def asked(self, operation: str) -> int:
        return sum(name == operation for name, _ in self.requests)

    def next_failure(self, operation: str) -> Failure | None:
        return self._failures.pop(0) if operation in ("Scan", "Query") and self._failures else None


@contextmanager
def front_of(moto_url: str) -> Iterator[Front]:
    class Handler(ProxyHandler):
        def handle_call(self, body: bytes) -> None:
            asked = json.loads(body)
            operation = self.headers["X-Amz-Target"].partition(".")[2]
            front.requests.append((operation, dict(asked)))
            failure = front.next_failure(operation) or Failure(way="none")
            if failure.way == "error":
                problem = {"__type": f"com.amazonaws.dynamodb.v20120810#{failure.code}", "message": "by the test"}
                self.answer(_reply(failure.status, json.dumps(problem).encode()))
                return
            if operation in ("Scan", "Query") and front.page_items:
                asked["Limit"] = min(front.page_items, asked.get("Limit", front.page_items))
            reply = self.pass_on(moto_url, json.dumps(asked).encode())
            if failure.way == "hang up":
                self.hang_up()
                return
            content = _without_an_item(reply.body) if failure.way == "item lost" else reply.body
            reply = _reply(reply.status, content)
            if failure.way == "damaged":
                reply = reply._replace(body=content.replace(b"order ", b"odrer "))
            self.answer(reply, sent=len(content) // 2 if failure.way == "cut" else None)

    with serving(Handler) as url:
        front = Front(url)
        yield front


def _reply(status: int, content: bytes) -> Reply:
    headers = {"Content-Type": "application/x-amz-json-1.0", "x-amz-crc32": str(zlib.crc32(content))}
    return Reply(status, headers, content)


def _without_an_item(content: bytes) -> bytes:
    page = json.loads(content)
    return json.dumps({**page, "Items": page["Items"][1:]}).encode()
