"""Incremental runs of MongoDB, DynamoDB and APIs: what each is asked for, and that no new row is lost or doubled."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

pymongo = pytest.importorskip("pymongo")
pytest.importorskip("mongomock")
pytest.importorskip("moto.dynamodb")

from bson import Decimal128, ObjectId  # noqa: E402

from etl.dynamodb.requests import Since, request_of, since_of  # noqa: E402
from etl.dynamodb.values import bound_of  # noqa: E402
from etl.extractors.dynamodb import DynamoDbExtractor  # noqa: E402
from etl.extractors.mongodb import MongoExtractor  # noqa: E402
from etl.extractors.rest import RestExtractor  # noqa: E402
from etl.incremental.options import Cursor, Incremental, incremental_of  # noqa: E402
from etl.mongodb.values import counterparts  # noqa: E402
from etl.paths import PROJECT  # noqa: E402
from etl.run import Live  # noqa: E402
from main import Pipeline  # noqa: E402
from tests.conftest import Bucket  # noqa: E402
from tests.dynamodb_front import create_table, front_of, key_schema  # noqa: E402
from tests.incremental_runs import NOON, IncrementalRuns, Order, next_run, outcome  # noqa: E402
from tests.mongo_server import mongo_server  # noqa: E402
from tests.rest_api import json_answer, query  # noqa: E402
from tests.web import Answer, Request, WebServer  # noqa: E402


def utc(time: str) -> datetime:
    return datetime.fromisoformat(time).replace(tzinfo=UTC)


def iso(time: str | None) -> str | None:
    return time and utc(time).isoformat().replace("+00:00", "Z")


# -- MongoDB ----------------------------------------------------------------------------------------------------------


class TestMongo(IncrementalRuns):
    @pytest.fixture
    def _database(self) -> Iterator[None]:
        with mongo_server() as self.server, pymongo.MongoClient(self.server.url) as client:
            self.server.batch_documents = 2
            self.orders: Any = client.shop.orders
            yield

    def extractor(self, **incremental: Any) -> MongoExtractor:
        return self.typed("timestamp[UTC]", **incremental)

    def typed(self, kind: str, **incremental: Any) -> MongoExtractor:
        columns = {"_id": "text", "id": "int64", "meta.at": "timestamp[UTC]", "updated_at": kind}
        return MongoExtractor.model_validate(
            {
                "uri": self.server.url,
                "database": "shop",
                "collection": "orders",
                "columns": columns,
                "filter": {"id": {"$lt": 100}},
                "incremental": {"key": ["id"], **incremental},
            }
        )

    def begin(self) -> None:
        self.orders.insert_one({"id": 100})  # or there is no collection

    def insert(self, *orders: Order) -> None:
        self.orders.insert_many([{"id": number, "updated_at": time and utc(time)} for number, time in orders])

    def clear(self) -> None:
        self.orders.drop()
        self.begin()

    def test_the_server_is_asked_for_what_is_new(self) -> None:
        self.added()
        self.insert((4, "2026-02-01 00:00:00"))
        report = self.pipeline().run()
        assert outcome(report) == ("published", 3, 1)
        asked = [command["filter"] for command in self.server.commands if "find" in command]
        noon = utc(NOON).replace(tzinfo=None)  # as it is decoded
        assert asked[-1] == {"$and": [{"id": {"$lt": 100}}, {"updated_at": {"$not": {"$lt": noon}}}]}

    def test_a_nested_field(self) -> None:
        options = {"column": "meta.at"}
        self.orders.insert_many([{"id": 10, "meta": {"at": utc(NOON)}}, {"id": 11, "meta": None}, {"id": 12}])
        rows, found, live = next_run(self.extractor(**options), None)
        assert found == [10]
        self.orders.insert_many([{"id": 13, "meta": {"at": utc(NOON)}}, {"id": 14, "meta": {"at": utc("2026-01-30")}}])
        rows, found, _ = next_run(self.extractor(**options), live)
        assert (rows, found) == (2 + 5, [13])  # those without a time are read, to be counted

    @pytest.mark.parametrize(
        ("kind", "values"),
        [
            ("int64", [9, 10, 100]),
            ("int64", [-5, 1 << 62, (1 << 62) + 1]),
            ("decimal(12,2)", [0.3, 0.6, 0.7]),
            ("text", ["B", "a", "é"]),
            ("text", [ObjectId(f"{number:024x}") for number in (9, 10, 1 << 90)]),
            ("timestamp[UTC]", [utc(NOON), utc(NOON) + timedelta(milliseconds=1), utc("2026-10-01")]),
        ],
    )
    def test_cursors_of_every_type(self, kind: str, values: list[Any]) -> None:
        self.clear()
        live: Live | None = None
        for place, value in enumerate(values):
            ids = [2 * place, 2 * place + 1]
            self.orders.insert_many([{"id": number, "updated_at": value} for number in ids])
            extractor = self.typed(kind, column="updated_at")
            rows, found, live = next_run(extractor, live)
            assert (rows, found) == (2 if place == 0 else 4, ids)
            rows, found, live = next_run(extractor, live)
            assert (rows, found) == (2, [])

    def test_a_value_of_another_type_is_rejected_in_every_run(self) -> None:
        self.added()
        self.orders.insert_many([{"id": 4, "updated_at": 7}, {"id": 5, "updated_at": "2026-02-01T00:00:00Z"}])
        for news in (1, 0):
            report = self.pipeline().run()
            assert outcome(report)[2] == news
            assert report.steps[0].rejected == {"updated_at: not a time": 1}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (7, [7]),
        (Decimal("0.50"), [Decimal128("0.50")]),
        (Decimal("0.3"), [0.3]),  # which is a little less
        (Decimal("0.1"), [Decimal128("0.1")]),
        (Decimal("18446744073709551616.000000000000000000"), [Decimal128("18446744073709551616.00000000000000")]),
        (date(2026, 2, 1), [utc("2026-02-01")]),
        ("a", ["a"]),
        ("0" * 24, ["0" * 24, ObjectId("0" * 24)]),
    ],
)
def test_what_mongodb_may_hold_for_a_value(value: Cursor, expected: list[Any]) -> None:
    assert counterparts(value) == expected


# -- DynamoDB ---------------------------------------------------------------------------------------------------------


class TestDynamoDb(IncrementalRuns):
    """A table by id, with an index of the times of a shop."""

    SCAN: ClassVar[dict[str, Any]] = {"filter": "shop = :shop", "projection": ["id", "updated_at"]}
    QUERY: ClassVar[dict[str, Any]] = {"key_condition": "shop = :shop", "index": "by_time"}

    @pytest.fixture
    def _database(self, bucket: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        import boto3

        with front_of(s3_url) as self.front:
            self.client = boto3.client("dynamodb")
            monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", self.front.url)
            self.table = bucket.name
            yield

    def extractor(self, **incremental: Any) -> DynamoDbExtractor:
        return self.reading(self.SCAN, **incremental)

    def reading(self, options: dict[str, Any], **incremental: Any) -> DynamoDbExtractor:
        columns = {"id": "int64", "updated_at": "timestamp[UTC]"}
        about = {"table": self.table, "columns": columns, "values": {":shop": "s"}, **options}
        return DynamoDbExtractor.model_validate({**about, "incremental": {"key": ["id"], **incremental}})

    def begin(self) -> None:
        kinds = {"id": "N", "shop": "S", "updated_at": "S"}
        create_table(self.client, self.table, kinds, ["id"], by_time=["shop", "updated_at"])

    def insert(self, *orders: Order) -> None:
        for number, time in orders:
            times = {"updated_at": {"S": iso(time)}} if time else {}
            self.put(number, **times)

    def put(self, number: int, **attributes: Any) -> None:
        item = {"id": {"N": str(number)}, "shop": {"S": "s"}, **attributes}
        self.client.put_item(TableName=self.table, Item=item)

    def clear(self) -> None:
        self.client.delete_table(TableName=self.table)
        self.begin()

    def asked(self, operation: str) -> dict[str, Any]:
        return [request for name, request in self.front.requests if name == operation][-1]

    def test_the_table_is_asked_for_what_is_new_of_what_the_filter_keeps(self) -> None:
        self.added()
        self.insert((4, "2026-02-03 00:00:00"), (5, "2026-02-04 00:00:00"))
        assert self.added() == 2
        self.insert((6, "2026-02-02 23:59:59"))
        report = self.pipeline().run()
        assert outcome(report) == ("unchanged", 2, 0)  # of 6: the later half of the days
        request = self.asked("Scan")
        assert request["FilterExpression"].startswith("(shop = :shop) AND (attribute_not_exists(#etl1) OR ")
        assert request["ExpressionAttributeNames"]["#etl1"] == "updated_at"
        assert request["ExpressionAttributeValues"][":etl_since"] == {"S": "2026-02-03"}

    def test_null_is_no_value(self) -> None:
        extractor = DynamoDbExtractor(
            table=self.table,
            columns={"id": "int64", "meta.seq": "int64"},
            incremental=Incremental(column="meta.seq", key=("id",)),
        )
        self.put(4, meta={"M": {"seq": {"NULL": True}}})
        self.put(5, meta={"M": {"seq": {"N": "9"}}})
        _, found, live = next_run(extractor, None)
        assert found == [5]
        for number, seq in ((6, "9"), (7, "10"), (8, "8")):
            self.put(number, meta={"M": {"seq": {"N": seq}}})
        rows, found, _ = next_run(extractor, live)
        assert (rows, found) == (7, [6, 7])  # 4 without a value, and all of 9 or more

    @pytest.mark.parametrize(
        ("kind", "letter", "values"),
        [
            ("int64", "N", ["9", "10", "100"]),
            ("decimal(38,18)", "N", ["0.3", "1.000000000000000001", "12345678901234567890"]),
            ("text", "S", ["2026-01-31T12:00:00Z", "2026-01-31T12:00:00ZZ", "é"]),
        ],
    )
    def test_cursors_of_every_type(self, kind: str, letter: str, values: list[str]) -> None:
        live: Live | None = None
        for place, value in enumerate(values):
            ids = [2 * place + 10, 2 * place + 11]
            for number in ids:
                self.put(number, c={letter: value})
            extractor = DynamoDbExtractor(
                table=self.table,
                columns={"id": "int64", "c": kind},
                filter="id >= :ten",
                values={":ten": 10},
                incremental=Incremental(column="c", key=("id",)),
            )
            rows, found, live = next_run(extractor, live)
            assert (rows, found) == (2 if place == 0 else 4, ids)

    def test_a_query_is_asked_by_the_key_of_its_index(self) -> None:
        extractor = self.reading(self.QUERY, column="updated_at")
        _, found, live = next_run(extractor, None)
        assert found == [1, 2, 3]
        self.insert((4, NOON), (5, None), (6, "2026-01-29 23:59:59"))
        rows, found, _ = next_run(extractor, live)
        assert (rows, found) == (4, [4])
        request = self.asked("Query")
        assert request["KeyConditionExpression"] == "shop = :shop AND #etl0 >= :etl_since"
        assert request["ExpressionAttributeValues"][":etl_since"] == {"S": "2026-01-30"}
        assert "FilterExpression" not in request

    def test_a_query_filters_by_what_is_no_key(self) -> None:
        extractor = self.reading(self.QUERY, column="id")
        _, _, live = next_run(extractor, None)
        self.insert((4, NOON))
        rows, found, _ = next_run(extractor, live)
        assert (rows, found) == (2, [4])


INDEXED: dict[str, Any] = {
    "KeySchema": key_schema("id", "day"),
    "LocalSecondaryIndexes": [{"IndexName": "by_time", "KeySchema": key_schema("id", "at")}],
}


@pytest.mark.parametrize(
    ("options", "column", "expected"),
    [
        ({}, "day", Since("day", 5, in_key=True)),
        ({"key_condition": "id = :day"}, "day", Since("day", 5, in_key=True)),
        ({}, "id", None),
        ({"key_condition": "id = :id AND day > :day"}, "day", None),
        ({"key_condition": "id = :id AND #d > :day", "names": {"#d": "day"}}, "day", None),
        ({}, "at", Since("at", 5)),
        ({"index": "by_time"}, "at", Since("at", 5, in_key=True)),
        ({"index": "by_time"}, "day", Since("day", 5)),
    ],
)
def test_a_query_is_asked_by_its_key_or_by_a_filter(options: dict[str, Any], column: str, expected: Since) -> None:
    extractor = DynamoDbExtractor.model_validate({"table": "t", "key_condition": "id = :id", **options})
    assert since_of(extractor, INDEXED, column, 5) == expected


def test_a_filter_of_a_query_is_kept() -> None:
    extractor = DynamoDbExtractor(table="t", key_condition="id = :id", filter="a > :a OR b > :a", values={":a": 1})
    request = request_of(extractor, None, Since("at", 5))
    assert request["FilterExpression"].startswith("(a > :a OR b > :a) AND (attribute_not_exists(#etl0) OR ")
    assert request["ExpressionAttributeValues"][":etl_kind"] == {"S": "N"}


@pytest.mark.parametrize(
    ("value", "bound"),
    [
        (7, {"N": "7"}),
        (Decimal("1.000000000000000001"), {"N": "1.000000000000000001"}),
        ("2026-01-31T12:00:00Z", {"S": "2026-01-31T12:00:00Z"}),
        (utc(NOON), {"S": "2026-01-30"}),
        (date(2026, 1, 31), {"S": "2026-01-30"}),
        (datetime.min.replace(tzinfo=UTC), {"S": "0001-01-01"}),
    ],
)
def test_what_dynamodb_is_asked_for(value: Cursor, bound: dict[str, str]) -> None:
    assert bound_of(value) == bound


# -- APIs -------------------------------------------------------------------------------------------------------------


class TestApi(IncrementalRuns):
    """Pages of two orders, with a total; ``updated_after`` means just that."""

    @pytest.fixture
    def _database(self) -> Iterator[None]:
        with WebServer() as self.web:
            yield

    def begin(self) -> None:
        self.orders: list[Order] = []
        self.url = self.web.script("/orders", self.answer)

    def insert(self, *orders: Order) -> None:
        self.orders += orders

    def clear(self) -> None:
        self.orders.clear()

    def answer(self, request: Request) -> Answer:
        asked = query(request)
        start, limit = int(asked["offset"]), int(asked["limit"])
        found = [
            {"id": number, "updated_at": iso(time), "note": None}
            for number, time in self.orders
            if time is None or str(iso(time)) > asked.get("updated_after", "")
        ]
        return json_answer({"items": found[start : start + limit], "total": len(found)})

    def extractor(self, **incremental: Any) -> RestExtractor:
        return RestExtractor.model_validate(
            {
                "url": self.url,
                "records": "items",
                "pagination": {"type": "offset", "limit": 2, "total": "total"},
                "columns": ["id", "updated_at", "note"],
                "types": {"id": "int64", "updated_at": "timestamp[UTC]", "note": "text"},
                "since_param": "updated_after",
                "incremental": incremental,
            }
        )

    def test_every_page_is_asked_for_what_is_new(self) -> None:
        self.added()
        assert all("updated_after" not in query(request) for request in self.web.requests)
        self.web.requests.clear()
        self.insert((4, "2026-02-01 00:00:00"))
        report = self.pipeline().run()
        assert outcome(report) == ("published", 3, 1)
        assert [query(request) for request in self.web.requests] == [
            {"limit": "2", "offset": offset, "updated_after": "2026-01-31T11:59:59Z"} for offset in ("0", "2")
        ]

    def test_lag_is_taken_from_what_is_asked(self) -> None:
        self.added(lag="1h")
        self.added(lag="1h")
        assert query(self.web.requests[-1])["updated_after"] == "2026-01-31T10:59:59Z"

    def test_times_are_compared_as_times(self) -> None:
        self.added()
        times = ["2026-01-31T13:00:00+01:00", "2026-01-31T13:00:01.5+01:00", "2026-01-31T12:30:00+01:00"]
        found = [{"id": number, "updated_at": time} for number, time in enumerate(times, 4)]
        self.web.script("/orders", lambda request: json_answer({"items": found, "total": 3}))
        assert self.added() == 2
        assert self.published() == [1, 2, 3, 4, 5]

    def test_without_a_parameter_what_is_known_is_left_out(self) -> None:
        extractor = self.extractor(column="updated_at", key=["id"]).model_copy(update={"since_param": None})
        pipeline = Pipeline("orders", extractor, [], self.loader())
        pipeline.run()
        self.insert((4, NOON))
        report = pipeline.run()
        assert outcome(report) == ("published", 4, 1)
        assert list(report.steps[1].dropped.values()) == [1, 2]  # before noon, and of noon


def test_every_body_of_a_post_says_what_is_new() -> None:
    """Also where the next page has an address, which nobody can write a body into."""

    def search(request: Request) -> Answer:
        more = "/orders?page=2" if "page" not in query(request) else None
        return json_answer({"items": [{"at": len(request.path)}], "next": more})

    with WebServer() as web:
        extractor = RestExtractor.model_validate(
            {
                "url": web.script("/orders", search),
                "method": "POST",
                "records": "items",
                "pagination": {"type": "next_url", "path": "next"},
                "columns": ["at"],
                "types": {"at": "int64"},
                "since_param": "since",
                "incremental": {"column": "at"},
            }
        )
        assert sum(map(len, extractor.since(7).extract())) == 2
        assert [json.loads(request.body) for request in web.requests] == [{"since": 6}, {"since": 6}]


def since_sent(value: Cursor, **options: Any) -> list[Any]:
    """What an API is asked for in a GET and in a POST, where it stands in the body."""
    kinds = {"id": "int64", "at": "text"}
    with WebServer() as web:
        url = web.script("/orders", lambda request: json_answer([]))
        for method in ("GET", "POST"):
            extractor = RestExtractor.model_validate(
                {
                    "url": f"{url}?since=0&a=b",
                    "method": method,
                    "columns": list(kinds),
                    "types": kinds,
                    "since_param": "since",
                    "incremental": {"column": "at"},
                    **options,
                }
            )
            assert sum(map(len, extractor.since(value).extract())) == 0
        get, post = web.requests
    assert query(get)["a"] == "b"
    return [query(get)["since"], json.loads(post.body)["since"]]


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [
        (7, {}, ["6", 6]),
        ("2026-01-31", {}, ["2026-01-31", "2026-01-31"]),
        (utc(NOON).replace(microsecond=1), {}, ["2026-01-31T11:59:59Z"] * 2),
        (utc(NOON), {"since_format": "unix"}, ["1769860799", 1769860799]),
        (date(2026, 2, 1), {}, ["2026-01-31T23:59:59Z"] * 2),
        (datetime.min.replace(tzinfo=UTC), {}, ["0001-01-01T00:00:00Z"] * 2),
    ],
)
def test_what_an_api_is_asked_for(value: Cursor, options: dict[str, Any], expected: list[Any]) -> None:
    assert since_sent(value, **options) == expected


# -- options ----------------------------------------------------------------------------------------------------------

MONGO = (MongoExtractor, {"uri": "mongodb://host", "database": "d", "collection": "c"})
DYNAMO = (DynamoDbExtractor, {"table": "t"})
API = (RestExtractor, {"url": "https://api.example.com/orders"})
TYPES = {"id": "int64", "updated_at": "text"}


@pytest.mark.parametrize("source", [MONGO, DYNAMO, API], ids=["mongo", "dynamo", "api"])
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "incremental needs columns: a run with few new rows, or none"),
        (
            {"columns": {"updatet_at": "text"}},
            "needs 'updated_at', which columns does not have; did you mean 'updatet_at'",
        ),
        ({"columns": {"updated_at": "text"}}, "needs 'id', which columns does not have"),
    ],
)
def test_columns_are_to_be_declared(source: Any, options: dict[str, Any], problem: str) -> None:
    kind, required = source
    if kind is RestExtractor and options:
        options = {"columns": list(options["columns"]), "types": options["columns"]}
    with pytest.raises(ValidationError, match=problem):
        kind.model_validate({**required, "incremental": {"column": "updated_at", "key": ["id"]}, **options})


@pytest.mark.parametrize(
    ("source", "options", "problem"),
    [
        (MONGO, {"columns": TYPES, "split_into": 2}, "incremental takes no splits"),
        (DYNAMO, {"columns": TYPES, "split_into": 2}, "incremental takes no splits"),
        (
            API,
            {"columns": ["id", "updated_at"], "types": {"id": "int64"}},
            "needs types for all .* that of 'updated_at'",
        ),
        (API, {"since_param": "since", "incremental": None}, r"since_param needs \[extract.incremental\]"),
        (API, {"since_format": "iso"}, "'iso8601' or 'unix'"),
    ],
)
def test_mistakes_are_found_without_a_server(source: Any, options: dict[str, Any], problem: str) -> None:
    kind, required = source
    with pytest.raises(ValidationError, match=problem):
        kind.model_validate({**required, "incremental": {"column": "updated_at"}, **options})


@pytest.mark.parametrize("name", ["mongodb", "dynamodb", "rest"])
def test_the_examples_can_be_made_incremental(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their lines for that, without the #, in the place of those that they replace."""
    monkeypatch.setenv("S3_BUCKET", "some-bucket")
    monkeypatch.setenv("MONGODB_URI", "mongodb://host")
    monkeypatch.setenv("API_TOKEN", "hush-hush")
    text = (PROJECT / "pipelines" / f"{name}.toml").read_text()
    for start in (r"\[extract.columns\]", r"\[extract.incremental\]", "prefix ="):
        text = re.sub(
            rf"^# {start}(.|\n)+?(\n\n|\Z)",
            lambda found: found[0].replace("# ", "", 1).replace("\n# ", "\n"),
            text,
            flags=re.MULTILINE,
        )
    text = re.sub("^# ((columns|types|since_param) =)", r"\1", text, flags=re.MULTILINE) if name == "rest" else text
    file = tmp_path / f"{name}.toml"
    file.write_text(re.sub(f'^key = "{name}/.*"', "", text, flags=re.MULTILINE))
    extractor = Pipeline.from_file(file).extractor
    options = incremental_of(extractor)
    assert options is not None
    assert options.key
    extractor.since(utc(NOON))
