"""MongoExtractor: on mongod where there is one, and over the wire on a server that can be told to fail."""

from __future__ import annotations

import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

pymongo = pytest.importorskip("pymongo")
pytest.importorskip("mongomock")

from bson import Binary, DBRef, Decimal128, Int64, ObjectId, Regex, encode  # noqa: E402
from dns.resolver import NXDOMAIN, NoNameservers  # noqa: E402
from pymongo.errors import ConfigurationError  # noqa: E402

from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError  # noqa: E402
from etl.extractors.mongodb import MongoExtractor  # noqa: E402
from etl.ledger import Account  # noqa: E402
from etl.mongodb.client import mongo_errors  # noqa: E402
from etl.mongodb.reading import after, before, from_on  # noqa: E402
from main import Pipeline  # noqa: E402
from tests.contracts import ExtractorContract  # noqa: E402
from tests.mongo_server import HANG_UP, SILENCE, MongoServer, mongo_server  # noqa: E402
from tests.reading import frame_of, rejects_of, types_of  # noqa: E402

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
ORDERS: list[dict[str, Any]] = [
    {
        "_id": ObjectId(f"{number:024x}"),
        "name": f"order {number}",
        "pieces": number,
        "views": Int64(number << 40),
        "price": Decimal128(f"{number}.10"),
        "weight": number / 2,
        "at": NOON,
        "paid": number % 2 == 0,
        "address": {"city": "Utrecht", "geo": {"lat": 52.1}},
        "tags": [number, "a", {"b": ObjectId(f"{number:024x}")}],
        "thumb": b"\x00\xff",
    }
    for number in range(1, 8)
]
MIXED: list[Any] = [
    None,
    -1,
    0.5,
    Int64(7),
    1 << 40,
    "a",
    "b",
    {"a": 1},
    {"a": 2},
    b"\x00",
    b"\x01",
    ObjectId("0" * 24),
    ObjectId("1" * 24),
    datetime(2026, 1, 1, tzinfo=UTC),
    datetime(2026, 1, 2, tzinfo=UTC),
]


@pytest.fixture
def server() -> Iterator[MongoServer]:
    with mongo_server() as server:
        yield server


@pytest.fixture(scope="module")
def mongod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    program = shutil.which("mongod")
    if program is None:
        pytest.skip("there is no mongod on PATH")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    folder = tmp_path_factory.mktemp("mongod")
    command = [program, "--dbpath", str(folder), "--port", str(port), "--bind_ip", "127.0.0.1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    yield f"mongodb://127.0.0.1:{port}"
    process.terminate()
    process.wait()


@pytest.fixture(params=["mongod", "mongomock"])
def url(request: pytest.FixtureRequest) -> str:
    """Of each server there is."""
    if request.param == "mongod":
        return str(request.getfixturevalue("mongod"))
    server: MongoServer = request.getfixturevalue("server")
    server.batch_documents = 2
    return server.url


def put(url: str, documents: list[dict[str, Any]], collection: str = "orders") -> None:
    """Make these the only documents of a collection."""
    client: Any
    with pymongo.MongoClient(url, uuidRepresentation="standard", tz_aware=True) as client:
        client.shop.drop_collection(collection)
        client.shop[collection].insert_many(documents)


def extractor(url: str, **options: Any) -> MongoExtractor:
    return MongoExtractor.model_validate({"uri": url, "database": "shop", "collection": "orders", **options})


def column_of(step: MongoExtractor, name: str) -> list[Any]:
    found = frame_of(step)[name]
    return list(found.astype(object).where(found.notna(), None))


class TestContract(ExtractorContract):
    @pytest.fixture(autouse=True)
    def _filled(self, url: str) -> None:
        self.url = url
        put(url, ORDERS)

    def make(self, **options: Any) -> MongoExtractor:
        return extractor(self.url, split_into=3, **options)

    def make_broken(self) -> MongoExtractor:
        return extractor(self.url, collection="ordesr")


# -- columns ------------------------------------------------------------------------------------------------------


def test_values_keep_their_types(url: str) -> None:
    put(url, ORDERS)
    frame = frame_of(extractor(url))
    assert types_of(frame) == {
        "_id": "string",
        "name": "string",
        "pieces": "int64",
        "views": "int64",
        "price": "decimal128(38, 18)",
        "weight": "double",
        "at": "timestamp[us, tz=UTC]",
        "paid": "bool",
        "address.city": "string",
        "address.geo.lat": "double",
        "tags": "string",
        "thumb": "binary",
    }
    assert list(frame.iloc[2]) == [
        "000000000000000000000003",
        "order 3",
        3,
        3 << 40,
        Decimal("3.10"),
        1.5,
        pd.Timestamp(NOON),
        False,
        "Utrecht",
        52.1,
        '[3,"a",{"b":"000000000000000000000003"}]',
        b"\x00\xff",
    ]


def test_declared_columns_are_all_there_is(url: str) -> None:
    put(url, [*ORDERS, {"_id": 8, "pieces": 3.0, "price": 0.1, "at": NOON, "name": 7}])
    account = Account("test")
    declared = {
        "price": "decimal(10,2)",
        "pieces": "int32",
        "name": "text",
        "address": "json",
        "at": "timestamp[Europe/Amsterdam]",
        "weight": "float64",
        "never": "bool",
    }
    frame = frame_of(extractor(url, columns=declared), account)
    assert list(frame.columns) == list(declared)
    assert str(frame["pieces"].dtype) == "int32[pyarrow]"
    first = frame.iloc[0]  # numbers come before ObjectIds
    assert (first["price"], first["pieces"], first["name"]) == (Decimal("0.10"), 3, "7")
    assert frame["address"].iloc[1] == '{"city":"Utrecht","geo":{"lat":52.1}}'
    assert first["at"] == pd.Timestamp(NOON)
    assert frame["never"].isna().all()
    assert [warning for warning in account.warnings if "_id, paid, tags, thumb, views" in warning]


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int64", [1, 2.0, Decimal128("3")], [1.5, "1", True, Decimal128("NaN"), float("inf")]),
        ("int16", [7], [40_000]),
        ("decimal(4,2)", [1, 1.25, Decimal128("12.34")], [Decimal128("1.234"), 123, "1"]),
        ("float64", [1, 0.5, Decimal128("0.25"), float("inf")], ["1", True]),
        ("text", ["a", 1, True, NOON, Decimal128("1.10"), ObjectId("0" * 24)], [b"a", [1]]),
        ("timestamp[UTC]", [NOON, "2026-01-31T13:00:00+01:00"], ["at noon", 7]),
        ("binary", [b"a", Binary(b"b", 5)], ["a"]),
        ("bool", [True], [1, "true"]),
        ("json", ["a", 1, None, {"a": [NOON, b"a", Decimal128("1.10")]}], [[float("nan")]]),
    ],
)
def test_what_does_not_fit_a_declared_type_is_rejected(
    server: MongoServer, kind: str, good: list[Any], bad: list[Any]
) -> None:
    put(server.url, [{"_id": number, "v": value} for number, value in enumerate([*good, *bad])])
    frame, rejects = rejects_of(extractor(server.url, columns={"_id": "int64", "v": kind}, filter={}))
    assert list(frame["_id"]) == list(range(len(good)))
    assert [reject.row for reject in rejects] == list(range(len(good) + 1, len(good) + len(bad) + 1))


def test_nested_values_have_one_form_as_json(server: MongoServer) -> None:
    value = [NOON, b"\x01", Decimal128("1.10"), ObjectId("0" * 24), 1 << 40, Regex("^a"), DBRef("c", 7), None]
    put(server.url, [{"_id": 1, "v": value}])
    assert column_of(extractor(server.url), "v") == [
        '["2026-01-31T12:00:00+00:00","AQ==",1.10,"000000000000000000000000",1099511627776,'
        '"{\\"$regularExpression\\": {\\"pattern\\": \\"^a\\", \\"options\\": \\"\\"}}",{"$ref":"c","$id":7},null]'
    ]


def test_drift_after_the_first_documents_is_reported(server: MongoServer) -> None:
    many = [{"_id": number, "v": number} for number in range(10_000)]
    put(server.url, [*many, {"_id": 10_000, "v": "x"}, {"_id": 10_001, "v": 1, "new": 1}, {"_id": 10_002, "v": None}])
    frame, rejects = rejects_of(extractor(server.url))
    assert len(frame) == 10_001
    assert [(reject.row, reject.rule, reject.raw) for reject in rejects] == [
        (10_001, "v: not an int64", '{"_id":10000,"v":"x"}'),
        (10_002, "new: a field that the first records do not have", '{"_id":10001,"v":1,"new":1}'),
    ]


def test_types_that_disagree_are_to_be_declared(server: MongoServer) -> None:
    put(server.url, [{"_id": 1, "v": 1}, {"_id": 2, "v": "x"}])
    with pytest.raises(DataError, match="'v' has several types: record 1 has 1, record 2 has 'x'; declare one"):
        frame_of(extractor(server.url))
    assert list(frame_of(extractor(server.url, types={"v": "text"})).columns) == ["_id", "v"]


def test_damaged_text_and_times_beyond_the_calendar_cost_one_document(server: MongoServer) -> None:
    damaged = encode({"_id": 2, "v": "xyz", "at": NOON}).replace(b"xyz", b"x\xffz")
    far = encode({"_id": 3, "v": "c", "at": NOON}).replace(
        int(NOON.timestamp() * 1000).to_bytes(8, "little"), (1 << 60).to_bytes(8, "little")
    )
    put(server.url, [{"_id": 0}])
    server.put_raw("orders", encode({"_id": 1, "v": "a", "at": NOON}), damaged, far)
    frame, rejects = rejects_of(extractor(server.url, types={"at": "timestamp[UTC]"}))
    assert list(frame["_id"]) == [1]
    assert [reject.row for reject in rejects] == [2, 3]
    assert "not valid BSON" in rejects[0].rule
    assert rejects[1].rule == "at: not a time"


# -- filters and projections --------------------------------------------------------------------------------------


def test_filter_speaks_the_query_language_and_extended_json(url: str) -> None:
    put(url, ORDERS)
    above = extractor(url, filter={"pieces": {"$gt": 2}, "at": {"$gte": NOON}})
    assert column_of(above, "pieces") == [3, 4, 5, 6, 7]
    one = extractor(url, filter={"_id": {"$oid": "000000000000000000000004"}})
    assert column_of(one, "pieces") == [4]


@pytest.mark.parametrize(
    ("projection", "columns"),
    [
        ({"name": 1, "address.city": 1}, ["_id", "name", "address.city"]),
        ({"name": True, "_id": False}, ["name"]),
        ({"_id": 0, "address": 0, "tags": 0, "thumb": 0, "at": 0, "views": 0, "price": 0}, None),
    ],
)
def test_projection(url: str, projection: dict[str, Any], columns: list[str] | None) -> None:
    put(url, ORDERS)
    frame = frame_of(extractor(url, projection=projection))
    assert list(frame.columns) == (columns or ["name", "pieces", "weight", "paid"])
    assert len(frame) == 7


# -- lost cursors and connections ---------------------------------------------------------------------------------


@pytest.mark.parametrize("documents", [ORDERS, [{"_id": id_, "v": 1} for id_ in MIXED]], ids=["ObjectIds", "mixed"])
@pytest.mark.parametrize(
    ("failure", "lost_after"),
    [*(({"code": 43, "errmsg": "cursor not found"}, after) for after in range(8)), (HANG_UP, 0), (HANG_UP, 3)],
)
def test_reading_goes_on_after_the_last_id(
    server: MongoServer, documents: list[dict[str, Any]], failure: Any, lost_after: int
) -> None:
    put(server.url, documents)
    server.batch_documents = 2
    step = extractor(server.url, types={"_id": "json"})
    whole = column_of(step, "_id")
    assert len(whole) == len(documents)
    server.fail("getMore", failure, after=lost_after)
    assert column_of(step, "_id") == whole


def test_every_batch_may_be_lost_once(server: MongoServer) -> None:
    put(server.url, ORDERS)
    server.batch_documents = 1
    server.fail("getMore", {"code": 43, "errmsg": "cursor not found"}, times=100)
    assert column_of(extractor(server.url), "pieces") == [1, 2, 3, 4, 5, 6, 7]


def test_cursors_that_are_lost_without_progress_end_the_run(server: MongoServer) -> None:
    put(server.url, ORDERS)
    server.batch_documents = 2
    server.fail("find", {"code": 43, "errmsg": "cursor not found"}, times=100, after=1)
    server.fail("getMore", {"code": 43, "errmsg": "cursor not found"}, times=100)
    with pytest.raises(RetryLater, match=r"shop\.orders: the cursor was lost again and again; run again later"):
        frame_of(extractor(server.url))


def test_a_server_that_takes_too_long_is_told_from_one_that_is_gone(server: MongoServer) -> None:
    put(server.url, ORDERS)
    server.fail("find", SILENCE, times=100)
    with pytest.raises(SourceError, match=r"no answer within socketTimeoutMS; .* an index, or set it higher in uri"):
        frame_of(extractor(f"{server.url}/?socketTimeoutMS=50"))
    assert server.asked("find") == 4  # pymongo asks twice, too


def test_a_view_is_not_taken_up_again_as_its_ids_may_repeat(server: MongoServer) -> None:
    put(server.url, ORDERS)
    server.views.add("orders")
    server.batch_documents = 2
    server.fail("getMore", {"code": 43, "errmsg": "cursor not found"})
    with pytest.raises(RetryLater):
        frame_of(extractor(server.url))
    assert len(frame_of(extractor(server.url))) == 7


@pytest.mark.parametrize("edge", MIXED)
def test_every_id_is_on_one_side_of_an_edge(url: str, edge: Any) -> None:
    put(url, [{"_id": id_} for id_ in [*MIXED, float("nan")]])
    with pymongo.MongoClient(url) as client:
        collection: Any = client.shop.orders
        first, rest, later = (
            [repr(each["_id"]) for each in collection.find(condition)]
            for condition in (before(edge), from_on(edge), after(edge))
        )
    assert len(first) + len(rest) == len(MIXED) + 1
    assert not set(first) & set(rest)
    assert len(later) == len(rest) - 1


def test_what_comes_after_nan_are_the_other_numbers(url: str) -> None:
    put(url, [{"_id": id_} for id_ in (float("nan"), float("-inf"), 1, "a")])
    with pymongo.MongoClient(url) as client:
        collection: Any = client.shop.orders
        found = {each["_id"] for each in collection.find(after(float("nan")))}
    assert found == {float("-inf"), 1, "a"}


def test_splits_share_the_documents_and_the_columns(url: str) -> None:
    put(url, [{"_id": id_, "n": number} for number, id_ in enumerate(MIXED)])
    splits = extractor(url, split_into=4, types={"_id": "json"}).splits()
    frames = [pd.concat(split.extract()) for split in splits]
    assert len(frames) > 1
    assert sorted(n for frame in frames for n in frame["n"]) == list(range(len(MIXED)))
    assert len({tuple(frame.dtypes.astype(str)) for frame in frames}) == 1


# -- errors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "failure", "kind", "message"),
    [
        ("saslStart", {"code": 18, "errmsg": "Authentication failed."}, AccessError, "user or password is wrong"),
        ("listCollections", {"code": 13, "errmsg": "not authorized"}, AccessError, "ask for the role read"),
        ("find", {"code": 13, "errmsg": "not authorized on shop"}, AccessError, "ask for the role read"),
        ("find", {"code": 2, "errmsg": "unknown operator: $gtt"}, ConfigError, "does not accept filter or projection"),
        ("find", {"code": 31249, "errmsg": "Path collision"}, ConfigError, "does not accept filter or projection"),
        ("find", {"code": 11601, "errmsg": "operation was interrupted"}, SourceError, "the server ended the query"),
        ("find", {"code": 8, "errmsg": "something"}, SourceError, r"MongoDB refused \(8: something\)"),
    ],
)
def test_errors_say_what_to_do(
    server: MongoServer, command: str, failure: dict[str, Any], kind: type[EtlError], message: str
) -> None:
    put(server.url, ORDERS)
    server.fail(command, failure, times=100)
    url = server.url.replace("//", "//reader:hush-hush@") if command == "saslStart" else server.url
    with pytest.raises(kind, match=message) as failed:
        frame_of(extractor(url))
    assert "hush" not in str(failed.value)


def test_unknown_names_are_explained(server: MongoServer) -> None:
    put(server.url, ORDERS)
    with pytest.raises(ConfigError, match="there is no collection 'order'; did you mean 'orders'"):
        extractor(server.url, collection="order").check()
    with pytest.raises(ConfigError, match="the database 'shp' is empty, does not exist"):
        extractor(server.url, database="shp").check()


def test_an_unreachable_server_is_a_source_that_is_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    step = extractor(f"mongodb://me:hush-hush@127.0.0.1:{port}/?serverSelectionTimeoutMS=50")
    with pytest.raises(
        SourceError, match=rf"mongodb://127\.0\.0\.1:{port}/shop\.orders: cannot reach MongoDB"
    ) as failed:
        frame_of(step)
    assert "hush" not in f"{failed.value} {step!r} {step.inspect()}"
    assert "Topology" not in str(failed.value)


def test_a_file_that_a_srv_uri_names_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"mongodb://host\.invalid/.*: uri: .*No such file.*'/no/such\.pem'"):
        extractor("mongodb+srv://host.invalid/?tlsCAFile=/no/such.pem").check()


@pytest.mark.parametrize(("cause", "kind"), [(NoNameservers, SourceError), (NXDOMAIN, ConfigError)])
def test_a_name_service_that_is_down_is_no_mistake(cause: type[Exception], kind: type[EtlError]) -> None:
    with pytest.raises(kind), mongo_errors("mongodb://host"):
        raise ConfigurationError("no host") from cause()


def test_no_documents_are_an_error_unless_allowed(server: MongoServer) -> None:
    put(server.url, ORDERS)
    nothing = {"pieces": 99}
    with pytest.raises(DataError, match="declare them in columns"):
        frame_of(extractor(server.url, filter=nothing))
    with pytest.raises(DataError, match="has no documents; set allow_empty"):
        frame_of(extractor(server.url, filter=nothing, columns={"name": "text"}))
    frame = frame_of(extractor(server.url, filter=nothing, columns={"name": "text"}, allow_empty=True))
    assert list(frame.columns) == ["name"]
    assert frame.empty


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uri": "http://localhost"}, "should begin with mongodb://"),
        ({"uri": "mongodb://me:a/b@host"}, "write : / "),
        ({"uri": "mongodb://host/?readPreference=nonsense"}, "nonsense is not a valid read preference"),
        ({"uri": "mongodb://host/?tls=true&tlsCAFile=/no/such.pem"}, "No such file or directory: '/no/such.pem'"),
        ({"uri": "mongodb://host/?raedPreference=primary"}, "Unknown option: raedpreference"),
        ({"filter": {"_id": {"$oid": "xyz"}}}, "should be extended JSON"),
        ({"projection": {"a": 1, "b": 0}}, "fields to read"),
        ({"columns": {"a": "int65"}}, "unknown type 'int65'; did you mean 'int64'"),
        ({"columns": {"a": "text"}, "types": {"b": "text"}}, "leave types out"),
    ],
)
def test_mistakes_are_found_without_a_server(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        extractor("mongodb://localhost", **options)


# -- a whole run --------------------------------------------------------------------------------------------------


def test_a_run_as_a_person_would_start_it(server: MongoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(server.url, [{**order, "key": uuid.UUID(int=7)} for order in ORDERS])
    monkeypatch.setenv("MONGODB_URI", server.url.replace("//", "//me:hush-hush@"))
    monkeypatch.chdir(tmp_path)
    server.fail("saslStart", {"code": 18, "errmsg": "no"})
    file = tmp_path / "orders.toml"
    file.write_text("""
        [extract]
        type = "MongoExtractor"
        uri = "${MONGODB_URI}"
        database = "shop"
        collection = "orders"
        split_into = 2

        [load]
        type = "LocalLoader"
        path = "orders.parquet"
    """)
    report = Pipeline.from_file(file).run()
    assert report.error is not None
    assert report.exit_code == 77
    assert "hush" not in report.to_json()
    report = Pipeline.from_file(file, [f"extract.uri={server.url}"]).run()
    assert report.status == "published", report.error
    frame = pd.read_parquet(tmp_path / "orders.parquet")
    assert list(frame["pieces"]) == [1, 2, 3, 4, 5, 6, 7]
    assert set(frame["key"]) == {str(uuid.UUID(int=7))}
    assert Pipeline.from_file(file, [f"extract.uri={server.url}"]).run().status == "unchanged"
