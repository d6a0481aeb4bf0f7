"""DynamoDbExtractor: against moto's server over HTTP, and a front that throttles, breaks and loses what it sends."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

pytest.importorskip("moto.dynamodb")

from etl.dynamodb.values import attribute_of, plain
from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError
from etl.extractors.dynamodb import DynamoDbExtractor
from main import Pipeline
from tests.contracts import ExtractorContract
from tests.dynamodb_front import CUT, DAMAGED, HANG_UP, ITEM_LOST, Failure, Front, create_table, front_of, throttled
from tests.reading import frame_of, rejects_of, types_of

HUGE = "12345678901234567890123456789012345678"
ORDERS: list[dict[str, Any]] = [
    {
        "id": {"S": f"order {number}"},
        "day": {"N": str(20260100 + number)},
        "name": {"S": f"Order {number}"},
        "price": {"N": f"{number}.1"},
        "paid": {"BOOL": number % 2 == 0},
        "address": {"M": {"city": {"S": "Utrecht"}, "geo": {"M": {"lat": {"N": "52.1"}}}}},
        "tags": {"SS": ["b", "a"]},
        "sizes": {"NS": ["10", "9", "1.5"]},
        "parts": {"L": [{"N": "1.10"}, {"S": "a"}, {"NULL": True}, {"M": {"z": {"N": HUGE}, "b": {"B": b"\x01"}}}]},
        "thumb": {"B": b"\x00\xff"},
        "note": {"NULL": True},
    }
    for number in range(1, 8)
]
NewTable = Callable[[list[dict[str, Any]]], str]
_table_number = count(1)


@pytest.fixture(scope="module")
def front(s3_url: str) -> Iterator[Front]:
    """In front of moto's server, which has all services at one address."""
    with front_of(s3_url) as front:
        yield front


@pytest.fixture(autouse=True)
def _environment(front: Front, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    front.page_items = 2
    front.fail()
    front.requests.clear()
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", front.url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATESTTESTTESTTEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-the-tests")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture(scope="module")
def new_table(s3_url: str) -> NewTable:
    """Makes a table with these items. Its key is id and, as a number, day; it has an index of the names."""
    import boto3

    client = boto3.client(
        "dynamodb",
        endpoint_url=s3_url,
        region_name="us-east-1",
        aws_access_key_id="AKIATESTTESTTESTTEST",
        aws_secret_access_key="a-secret-of-the-tests",
    )

    def new_table(items: list[dict[str, Any]]) -> str:
        name = f"orders-{next(_table_number)}"
        create_table(client, name, {"id": "S", "day": "N", "name": "S"}, ["id", "day"], by_name=["name"])
        for item in items:
            client.put_item(TableName=name, Item=item)
        return name

    return new_table


@pytest.fixture(scope="module")
def table(new_table: NewTable) -> str:
    return new_table(ORDERS)


def extractor(table: str, **options: Any) -> DynamoDbExtractor:
    return DynamoDbExtractor.model_validate({"table": table, **options})


def ids_of(step: DynamoDbExtractor) -> list[str]:
    return sorted(frame_of(step)["id"])


def item(day: int, **attributes: Any) -> dict[str, Any]:
    return {"id": {"S": "x"}, "day": {"N": str(day)}, "name": {"S": "n"}, **attributes}


class TestContract(ExtractorContract):
    @pytest.fixture(autouse=True)
    def _filled(self, table: str) -> None:
        self.table = table

    def make(self, **options: Any) -> DynamoDbExtractor:
        return extractor(self.table, split_into=3, **options)

    def make_broken(self) -> DynamoDbExtractor:
        return extractor("no-such-table")


# -- columns ------------------------------------------------------------------------------------------------------


def test_values_keep_their_types_and_all_their_digits(table: str) -> None:
    frame = frame_of(extractor(table)).sort_values("id")
    assert types_of(frame) == {
        "id": "string",
        "day": "int64",
        "address.city": "string",
        "address.geo.lat": "decimal128(38, 18)",
        "name": "string",
        "note": "string",
        "paid": "bool",
        "parts": "string",
        "price": "decimal128(38, 18)",
        "sizes": "string",
        "tags": "string",
        "thumb": "binary",
    }
    assert list(frame.drop(columns="note").iloc[2]) == [
        "order 3",
        20260103,
        "Utrecht",
        Decimal("52.1"),
        "Order 3",
        False,
        f'[1.10,"a",null,{{"b":"AQ==","z":{HUGE}}}]',
        Decimal("3.1"),
        "[1.5,9,10]",
        '["a","b"]',
        b"\x00\xff",
    ]
    assert frame["note"].isna().all()


def test_declared_columns_are_all_there_is(table: str, front: Front) -> None:
    declared = {"price": "decimal(10,2)", "id": "text", "address": "json", "day": "int32", "sizes": "json"}
    frame = frame_of(extractor(table, columns=declared)).sort_values("id")
    assert list(frame.columns) == list(declared)
    assert frame["price"].iloc[0] == Decimal("1.10")
    assert str(frame["day"].dtype) == "int32[pyarrow]"
    assert frame["address"].iloc[0] == '{"city":"Utrecht","geo":{"lat":52.1}}'
    assert front.asked("DescribeTable") == 0


def test_numbers_that_do_not_fit_are_rejected_not_rounded(new_table: NewTable) -> None:
    numbers = ["1", HUGE, "0.1234567890123456789", "1E+3"]
    table = new_table([item(day, v={"N": number}) for day, number in enumerate(numbers)])
    frame, rejects = rejects_of(extractor(table, columns={"day": "int64", "v": "decimal(38,18)"}))
    assert dict(zip(frame["day"], frame["v"], strict=True)) == {0: Decimal(1), 3: Decimal(1000)}
    assert len(rejects) == 2
    frame = frame_of(extractor(table, columns={"day": "int64", "v": "text"}, filter="#d = :d", **number_of_day(1)))
    assert list(frame["v"]) == [HUGE]


def number_of_day(day: int) -> dict[str, Any]:
    return {"names": {"#d": "day"}, "values": {":d": day}}


def test_text_is_a_time_where_that_is_declared(new_table: NewTable) -> None:
    times = ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00.5+01:00", "2026-01-31", "at noon"]
    table = new_table([item(day, at={"S": time}) for day, time in enumerate(times)])
    frame, rejects = rejects_of(extractor(table, columns={"day": "int64", "at": "timestamp[UTC]"}))
    noon = pd.Timestamp("2026-01-31T12:00:00Z")
    assert dict(zip(frame["day"], frame["at"], strict=True)) == {
        0: noon,
        1: noon + pd.Timedelta("500ms"),
        2: noon.normalize(),
    }
    assert [reject.rule for reject in rejects] == ["at: not a time"]


def test_types_that_disagree_are_to_be_declared(new_table: NewTable) -> None:
    table = new_table([item(1, v={"N": "1"}), item(2, v={"S": "x"})])
    with pytest.raises(DataError, match=r"'v' has several types: .*declare one: types"):
        frame_of(extractor(table))
    assert sorted(frame_of(extractor(table, types={"v": "text"}))["v"]) == ["1", "x"]


@pytest.mark.parametrize(
    ("value", "attribute"),
    [
        ("a", {"S": "a"}),
        (1, {"N": "1"}),
        (0.1, {"N": "0.1"}),
        (True, {"BOOL": True}),
        (["a", 1], {"L": [{"S": "a"}, {"N": "1"}]}),
        ({"N": "1.50"}, {"N": "1.50"}),
    ],
)
def test_values_of_a_pipeline_file_are_attributes(value: Any, attribute: dict[str, Any]) -> None:
    assert attribute_of(value) == attribute


def test_numbers_are_whole_where_they_can_be() -> None:
    values = [plain({"N": text}) for text in ("7", "7.0", "-0.5", "9223372036854775807", "9223372036854775808")]
    assert values == [7, 7, Decimal("-0.5"), (1 << 63) - 1, Decimal(1 << 63)]
    assert [type(value) for value in values] == [int, int, Decimal, int, Decimal]


# -- scans and queries --------------------------------------------------------------------------------------------


def test_a_query_reads_its_part_in_order(new_table: NewTable, front: Front) -> None:
    table = new_table([item(day) for day in range(10)] + ORDERS)
    frame = frame_of(
        extractor(
            table,
            key_condition="id = :id AND #d > :d",
            filter="#d <> :no",
            names={"#d": "day"},
            values={":id": "x", ":d": 2, ":no": {"N": "5"}},
            consistent=True,
        )
    )
    assert list(frame["day"]) == [3, 4, 6, 7, 8, 9]
    assert front.asked("Scan") == 0
    assert all(request["ConsistentRead"] for name, request in front.requests if name == "Query")


def test_an_index_can_be_queried(table: str) -> None:
    step = extractor(table, index="by_name", key_condition="#n = :n", names={"#n": "name"}, values={":n": "Order 3"})
    assert ids_of(step) == ["order 3"]
    assert "by_name" in step.check()


def test_projection_takes_reserved_words_and_paths(table: str) -> None:
    frame = frame_of(extractor(table, projection=["name", "address.geo.lat", "id"]))
    assert list(frame.columns) == ["id", "address.geo.lat", "name"]
    assert len(frame) == 7


def test_segments_share_the_items_and_the_columns(table: str, front: Front) -> None:
    splits = extractor(table, split_into=3).splits()
    frames = [pd.concat(split.extract()) for split in splits]
    assert sorted(id_ for frame in frames for id_ in frame["id"]) == [f"order {number}" for number in range(1, 8)]
    assert len({tuple(frame.dtypes.astype(str)) for frame in frames}) == 1
    assert {request.get("TotalSegments") for name, request in front.requests if name == "Scan"} == {None, 3}


def test_pages_without_items_are_not_the_end(table: str) -> None:
    step = extractor(table, filter="id = :id", values={":id": "order 5"})
    assert ids_of(step) == ["order 5"]


# -- throttling, and what is lost on the way ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "failure",
    [
        throttled(),
        throttled("ThrottlingException"),
        Failure("InternalServerError", 500),
        Failure("ServiceUnavailable", 503),
        HANG_UP,
        CUT,
        DAMAGED,
        ITEM_LOST,
    ],
    ids=lambda failure: failure.code or failure.way,
)
def test_no_page_is_missing_or_twice_whatever_fails(table: str, front: Front, failure: Failure) -> None:
    whole = ids_of(extractor(table))
    assert len(whole) == 7
    for after in (0, 1, 3):
        front.fail(failure, failure, after=after)
        assert ids_of(extractor(table)) == whole


def test_a_connection_that_breaks_while_dynamodb_throttles_is_tried_again(table: str, front: Front) -> None:
    front.fail(*[throttled()] * 5, HANG_UP)
    assert len(ids_of(extractor(table))) == 7


def test_throttling_without_end_is_for_another_time(table: str, front: Front) -> None:
    front.fail(*[throttled()] * 1000, after=2)
    with pytest.raises(RetryLater, match=rf"dynamodb:Scan on dynamodb://{table}: DynamoDB is throttling"):
        frame_of(extractor(table, patience_s=0.3))


def test_a_server_that_always_fails_is_a_source_that_is_down(table: str, front: Front) -> None:
    front.fail(*[HANG_UP] * 1000)
    with pytest.raises(SourceError, match="the connection failed again and again"):
        frame_of(extractor(table))
    assert front.asked("Scan") == 6


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failure", "kind", "message"),
    [
        (Failure("AccessDeniedException"), AccessError, r"dynamodb:Scan on .*: .*ask for the permission"),
        (Failure("ExpiredTokenException"), AccessError, "the session has expired; renew the credentials"),
        (Failure("UnrecognizedClientException"), AccessError, "check the AWS_\\* keys"),
        (Failure("ResourceNotFoundException"), ConfigError, "there is no such table here; check table"),
        (Failure("ValidationException"), ConfigError, "check the expressions and index"),
        (Failure("Unheard"), SourceError, "DynamoDB refused"),
    ],
    ids=lambda value: getattr(value, "code", None),
)
def test_errors_say_what_to_do(table: str, front: Front, failure: Failure, kind: type[EtlError], message: str) -> None:
    front.fail(failure)
    with pytest.raises(kind, match=message):
        frame_of(extractor(table))
    assert front.asked("Scan") == 1


def test_an_unreachable_endpoint_is_a_source_that_is_down(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL_DYNAMODB", f"http://127.0.0.1:{port}")
    with pytest.raises(SourceError, match="cannot reach DynamoDB; check the network, region and AWS_ENDPOINT_URL"):
        extractor("orders").check()


def test_credentials_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(AccessError, match="no AWS credentials found"):
        extractor("orders").check()


def test_no_items_are_an_error_unless_allowed(new_table: NewTable) -> None:
    table = new_table([])
    with pytest.raises(DataError, match="no documents that tell the columns; declare them in columns"):
        frame_of(extractor(table, allow_empty=True))
    with pytest.raises(DataError, match="has no documents; set allow_empty"):
        frame_of(extractor(table, columns={"id": "text"}))
    assert frame_of(extractor(table, columns={"id": "text"}, allow_empty=True)).empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": {":a": {"a": 1}}}, "should be text, a number"),
        ({"key_condition": "id = :id", "split_into": 2}, "a query .* is not split"),
        ({"columns": {"a": "int65"}}, "unknown type 'int65'"),
    ],
)
def test_mistakes_are_found_without_a_server(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        extractor("orders", **options)


# -- a whole run --------------------------------------------------------------------------------------------------


def test_a_run_as_a_person_would_start_it(table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "orders.toml"
    file.write_text(f"""
        [extract]
        type = "DynamoDbExtractor"
        table = "{table}"
        filter = "#d > :least"
        names = {{ "#d" = "day" }}
        values = {{ ":least" = 20260102 }}

        [load]
        type = "LocalLoader"
        path = "orders.parquet"
    """)
    report = Pipeline.from_file(file).run()
    assert report.status == "published", report.error
    frame = pd.read_parquet(tmp_path / "orders.parquet")
    assert sorted(frame["id"]) == [f"order {number}" for number in range(3, 8)]
    assert Pipeline.from_file(file).run().status == "unchanged"
