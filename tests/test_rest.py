"""RestExtractor: its options, what it asks an API for, and what becomes of the records."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from etl.config import load_pipeline
from etl.errors import ConfigError, DataError, SourceError
from etl.extractors.rest import RestExtractor
from etl.redact import redact
from etl.rest.pages import value_at, with_query
from main import Pipeline
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.reading import frame_of, rejects_of, said_by
from tests.rest_api import (
    CURSOR,
    IDS,
    KINDS,
    PAGE_ROWS,
    ROWS,
    all_at_once,
    by_three_pages,
    ids_of,
    json_answer,
    make,
    query,
)
from tests.web import Answer, Request, WebServer


class TestRestExtractor(ExtractorContract):
    @pytest.fixture(autouse=True, params=KINDS)
    def _server(self, request: pytest.FixtureRequest) -> Iterator[None]:
        self.kind = KINDS[request.param]
        with WebServer() as self.web:
            self.web.script("/items", self.kind.script)
            yield

    def make(self, **options: Any) -> RestExtractor:
        return make(options.pop("url", self.web.url("/items")), **{**self.kind.options, **options})

    def make_broken(self) -> RestExtractor:
        return self.make(url=self.web.url("/missing"))

    def test_reads_all_pages_in_order(self) -> None:
        frame = frame_of(self.make(batch_rows=2))
        assert frame["id"].tolist() == IDS
        assert list(frame.columns) == ["id", "name", "size.w", "size.h", "tags"]
        assert frame["tags"].tolist()[0] == '["a",1]'
        assert [request.path for request in self.web.requests] == self.kind.asked

    def test_other_parameters_stay(self) -> None:
        ids_of(self.make(url=self.web.url("/items?old=1%20"), params={"new": True, "n": 2}))
        first = self.web.requests[0]
        assert first.path.startswith("/items?old=1%20&new=true&n=2")


def test_no_heavy_library_is_loaded_until_it_reads(web: WebServer) -> None:
    cursor = by_three_pages(web)
    said_by(f"""
        import sys
        from etl.extractors.rest import RestExtractor
        extractor = RestExtractor(url={cursor.url!r}, **{CURSOR.options!r})
        extractor.inspect(), extractor.check()
        assert not {{"pandas", "pyarrow"}} & set(sys.modules)
    """)


# -- what is in a page --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "records", "message"),
    [
        (
            {"id": 1, "data": {"items": [{"id": 1}]}},
            "",
            "the answer is one object, not an array of records; set records to",
        ),
        ({"data": {"items": [{"id": 1}], "more": []}}, "", "path of the array: 'data.items' or 'data.more'$"),
        (
            {"error": "no", "code": 7},
            "items",
            "there is no 'items' in the answer, which has 'error', 'code'; set records",
        ),
        ([{"id": 1}], "items", "there is no 'items' in the answer, which has an array instead; .* the array: \"\""),
        ({"items": {"id": 1}}, "items", "'items' in the answer is one object"),
        ("hello", "", "the answer is a text"),
        (None, "", "the answer is null"),
        (b'{"items": [], "next": 1, "next": 2}', "items", "the answer names 'next' twice"),
    ],
)
def test_answers_without_records(web: WebServer, document: Any, records: str, message: str) -> None:
    url = web.script("/items", lambda request: json_answer(document))
    with pytest.raises(DataError, match=f"/items: page 1: .*{message}"):
        frame_of(make(url, records=records))


def test_a_null_in_the_place_of_records_is_an_empty_page(web: WebServer) -> None:
    url = web.script("/items", lambda request: json_answer({"items": None}))
    assert len(frame_of(make(url, records="items", types={"id": "int64"}, allow_empty=True))) == 0


def test_records_that_are_none_are_rejected(web: WebServer) -> None:
    body = rb"""[{"id": 1}, 5, null, {"id": 2, "id": 3}, {"id": 4, "a": {"b": 1, "b": 2}}, {"a.b": 1, "a": {"b": 2}},
                 {"id": 6, "a": {"b": 3}}, {"id": 7, "name": "\ud800"}]"""
    frame, rejects = rejects_of(make(web.script("/items", lambda request: json_answer(body))))
    assert frame["id"].tolist() == [1, 6]
    assert frame.index.tolist() == [1, 7]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (2, "not a JSON object"),
        (3, "not a JSON object"),
        (4, "names 'id' twice"),
        (5, "names 'b' twice"),
        (6, "has two values for 'a.b'"),
        (8, "name: not text"),
    ]
    assert rejects[5].raw == r'{"id":7,"name":"\ud800"}'


def test_what_is_json_and_fits_nowhere_costs_its_record_alone(web: WebServer) -> None:
    deep = b"[" * 700 + b"0.1234567890123456789" + b"]" * 700
    body = (
        b'[{"id": 1, "v": [1]}, {"id": 2, "v": %b}, {"id": 3, "v": [1e99999999999999999999]}, {"id": 4, "\\ud83d": 5}]'
    )
    frame, rejects = rejects_of(make(web.script("/items", lambda request: json_answer(body % deep))))
    assert frame["id"].tolist() == [1]
    rules = [(2, "v: not JSON"), (3, "v: not JSON"), (4, r"\ud83d: a name that is no text")]
    assert [(reject.row, reject.rule) for reject in rejects] == rules


def test_numbers_are_exact(web: WebServer) -> None:
    body = b"""[{"big": 9007199254740993, "huge": 123456789012345678901234567890, "price": 0.1234567890123456789,
                 "list": [1.000000000000000000001, 12345678901234567890], "plain": 0.1}]"""
    url = web.script("/items", lambda request: json_answer(body))
    with pytest.raises(
        DataError, match=r"'huge' holds numbers beyond int64; declare it: types = \{ .huge. = .text. \}"
    ):
        frame_of(make(url))
    with pytest.raises(DataError, match="'price' holds numbers with more digits than a float64 keeps; declare it"):
        frame_of(make(url, types={"huge": "text"}))
    row = frame_of(make(url, types={"huge": "text", "price": "text"})).iloc[0].tolist()
    assert row == [
        9007199254740993,
        "123456789012345678901234567890",
        "0.1234567890123456789",
        "[1.000000000000000000001,12345678901234567890]",
        0.1,
    ]
    assert frame_of(make(url, types={"huge": "text", "price": "float64"}))["price"].tolist() == [0.12345678901234568]


def test_text_is_a_time_where_that_is_declared(web: WebServer) -> None:
    times = ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00.5+01:00", "2026-01-31", None, "at noon", 7]
    url = web.script("/items", lambda request: json_answer([{"at": time} for time in times]))
    frame, rejects = rejects_of(make(url, types={"at": "timestamp[UTC]"}))
    noon = pd.Timestamp("2026-01-31T12:00:00Z")
    assert frame["at"].dropna().tolist() == [noon, noon + pd.Timedelta("500ms"), noon.normalize()]
    assert [(reject.row, reject.rule) for reject in rejects] == [(5, "at: not a time"), (6, "at: not a time")]


def test_columns_do_not_depend_on_pages_or_batches(web: WebServer) -> None:
    def growing(request: Request) -> Answer:
        pages: list[list[Any]] = [
            [{"id": 1}],
            [{"id": 2, "late": "x"}],
            [{"id": 3, "late": None, "more": {"deep": [1]}}],
            [],
        ]
        return json_answer(pages[int(query(request)["page"]) - 1])

    extractor = make(web.script("/items", growing), pagination={"type": "page_number"})
    frames = list(extractor.model_copy(update={"batch_rows": 1}).extract())
    assert [list(frame.columns) for frame in frames] == [["id", "late", "more.deep"]] * 3
    chosen = extractor.model_copy(update={"columns": ("more.deep", "id")})
    assert frame_of(chosen).values.tolist() == [[pd.NA, 1], [pd.NA, 2], ["[1]", 3]]


# -- asking ---------------------------------------------------------------------------------------------------------


def test_a_post_holds_the_pagination_in_its_body(web: WebServer) -> None:
    def search(request: Request) -> Answer:
        asked = json.loads(request.body)
        assert asked["filter"] == {"theme": "City"}
        return json_answer(ROWS[asked["offset"] :][: asked["limit"]])

    extractor = make(
        web.script("/search", search),
        method="POST",
        body={"filter": {"theme": "City"}},
        pagination={"type": "offset", "limit": 4},
    )
    assert ids_of(extractor) == IDS
    assert [request.headers["Content-Type"] for request in web.requests] == ["application/json"] * 2
    assert [urlsplit(request.path).query for request in web.requests] == ["", ""]


def test_json_is_asked_for_unless_told_otherwise(web: WebServer) -> None:
    url = web.script("/items", all_at_once)
    frame_of(make(url))
    frame_of(make(url, headers={"accept": "application/vnd.api+json"}))
    assert [request.headers["Accept"] for request in web.requests] == ["application/json", "application/vnd.api+json"]


def test_check_asks_for_the_first_page_once(web: WebServer) -> None:
    cursor = by_three_pages(web)
    assert cursor.check() == (f"reachable: {cursor.url}, 3 records in the first page, fields: id, name, size, tags")
    web.once("/items", status=503)
    with pytest.raises(SourceError, match="answered 503"):
        cursor.check()
    assert len(web.requests) == 2


def test_with_query_replaces_only_what_it_is_given() -> None:
    assert with_query("https://x/a?p=1&q=%2F&p=2#f", {"p": "n&"}) == "https://x/a?q=%2F&p=n%26#f"
    assert with_query("https://x/a", {}) == "https://x/a"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b.0.c", 1),
        ("a.b.-1.c", None),
        ("a.b.2.c", "missing"),
        ("a.x", "missing"),
        ("@odata.nextLink", "x"),
        ("d.e.f", 2),
        ("d.e", "missing"),
    ],
)
def test_values_are_found_by_path(path: str, value: Any) -> None:
    document = {"a": {"b": [{"c": 1}, {"c": None}]}, "@odata.nextLink": "x", "d": {"e.f": 2}}
    assert value_at(document, path, "missing") == value


# -- options --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"url": "http://example.com/items"}, "url"),
        ({"url": "file:///etc/passwd"}, "url"),
        ({"body": {"a": 1}}, "body"),
        ({"pagination": {"type": "offest"}}, "pagination"),
        ({"pagination": {"type": "cursor", "path": "next"}}, "pagination.cursor.param"),
        ({"pagination": {"type": "page_number", "size": 3}}, "pagination.page_number"),
        ({"auth": {"type": "bearer", "token": "a\nb"}}, "auth.bearer"),
        ({"auth": {"type": "bearer", "token": ""}}, "auth.bearer"),
        ({"auth": {"type": "api_key", "key": "k"}}, "auth.api_key"),
        ({"auth": {"type": "api_key", "key": "k", "header": "A", "param": "b"}}, "auth.api_key"),
        ({"auth": {"type": "oauth2", "token_url": "http://x/", "client_id": "a", "client_secret": "b"}}, "auth"),
        ({"requests_per_second": 0}, "requests_per_second"),
        ({"columns": ("a", "a")}, "columns"),
    ],
)
def test_mistakes_are_found_without_asking_anybody(options: dict[str, Any], place: str) -> None:
    with pytest.raises(ValidationError) as failure:
        RestExtractor.model_validate({"url": "https://api.example.com/items", **options})
    assert [".".join(map(str, error["loc"])) for error in failure.value.errors()] == [place]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        (
            'pagination = { type = "curser", path = "n" }',
            "extract.pagination.type: unknown type 'curser'; did you mean 'cursor'?",
        ),
        ('pagination = { path = "n" }', "extract.pagination.type: missing; it says which kind is meant"),
        (
            'pagination = { type = "cursor", path = "n", parm = "c" }',
            "extract.pagination.parm: unknown; did you mean 'param'?",
        ),
        ('pagination = { type = "next_url" }', "extract.pagination.path: missing; RestExtractor needs it"),
        ('auth = { type = "bearer" }', "extract.auth.token: missing; RestExtractor needs it"),
        (
            'auth = { type = "bearer", token = "${NO_SUCH}" }',
            "extract.auth.token: the environment variable NO_SUCH is not set",
        ),
        (
            'auth = { type = "api_key", key = "k" }',
            "extract.auth: name the header or the param that the key is sent in",
        ),
        ('pagination = { type = "offset", limit = 0 }', "extract.pagination.limit: input should be greater than 0"),
    ],
)
def test_mistakes_in_a_pipeline_file_are_told_in_its_words(tmp_path: Path, table: str, problem: str) -> None:
    file = tmp_path / "api.toml"
    file.write_text(f"""
        [extract]
        type = "RestExtractor"
        url = "https://api.example.com/items"
        {table}
        [load]
        type = "LocalLoader"
        path = "a.parquet"
    """)
    with pytest.raises(ConfigError) as failure:
        load_pipeline(file)
    assert problem in redact(str(failure.value))


# -- a whole run ----------------------------------------------------------------------------------------------------


def test_the_pipeline_of_the_example(
    bucket: Bucket, web: WebServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """pipelines/rest.toml as it is: published once, rejects kept beside the data, and the token nowhere."""

    def items(request: Request) -> Answer:
        start = int(query(request).get("cursor", 0))
        rows = [*ROWS[start : start + PAGE_ROWS], "no record"] if start == 0 else ROWS[start : start + PAGE_ROWS]
        return json_answer({"data": {"items": rows}, "meta": {"next_cursor": start + PAGE_ROWS if start < 6 else None}})

    monkeypatch.setenv("API_URL", web.script("/items", items))
    monkeypatch.setenv("API_TOKEN", "hush-hush")
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    pipeline = Pipeline.from_file("pipelines/rest.toml", ["max_rejects=1"])
    report = pipeline.run()
    assert (report.status, report.rows_rejected) == ("published", 1)
    assert pq.read_table(io.BytesIO(bucket.body("rest/items.parquet"))).column("id").to_pylist() == IDS
    assert {request.headers["Authorization"] for request in web.requests} == {"Bearer hush-hush"}

    assert pipeline.run().status == "unchanged"  # read again, found equal
    assert len(bucket.versions("rest/items.parquet")) == 1
    kept = [bucket.body(key).decode("latin-1") for key in bucket.objects()]
    assert any('"rule": "not a JSON object"' in content for content in kept)
    assert "hush" not in " ".join([*kept, caplog.text, report.to_json(), repr(pipeline)])
