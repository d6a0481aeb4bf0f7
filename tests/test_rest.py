"""RestExtractor: an API on a real web server, in good and in bad moods."""

from __future__ import annotations

import io
import json
import logging
import pickle
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pandas import DataFrame
from pydantic import ValidationError

from etl.config import load_pipeline
from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater, SourceError
from etl.extractors.rest import RestExtractor
from etl.ledger import Account, Reject
from etl.paths import PROJECT
from etl.redact import redact
from etl.rest.pages import value_at, with_query
from main import Pipeline
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.web import Answer, Request, WebServer

ROWS = [{"id": n, "name": f"Set {n}", "size": {"w": n + 0.5, "h": None}, "tags": ["a", n]} for n in range(1, 8)]
IDS = [row["id"] for row in ROWS]
PAGE_ROWS = 3

Script = Callable[[Request], Answer]


def json_answer(document: Any, **changes: Any) -> Answer:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return Answer(body, **{"content_type": "application/json", "last_modified": None, "ranges": False, **changes})


def query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(request.path).query))


def page_from(start: int) -> tuple[list[Any], int | None]:
    """Some rows, and where the next page starts, if there is one."""
    end = start + PAGE_ROWS
    return ROWS[start:end], end if end < len(ROWS) else None


def by_link(request: Request) -> Answer:
    rows, more = page_from(int(query(request).get("start", 0)))
    links = f'</items?start={more}>; rel="next", </items>; rel="first"' if more else '</items>; rel="first"'
    return json_answer(rows, headers={"Link": links})


def by_next_url(request: Request) -> Answer:
    rows, more = page_from(int(query(request).get("start", 0)))
    return json_answer({"@odata.next": f"/items?start={more}" if more else None, "data": {"items": rows}})


def by_cursor(request: Request) -> Answer:
    rows, more = page_from(int(query(request).get("after", 0)))
    return json_answer({"items": rows, "meta": {"next": more or ""}})


def by_page_number(request: Request) -> Answer:
    rows, _ = page_from((int(query(request)["page"]) - 1) * PAGE_ROWS)
    return json_answer({"items": rows, "total": len(ROWS)})


def by_offset(request: Request) -> Answer:
    asked = query(request)
    rows = ROWS[int(asked["offset"]) :][: min(int(asked["limit"]), PAGE_ROWS)]  # never more than that in a page
    return json_answer({"items": rows, "total": len(ROWS)})


def all_at_once(request: Request) -> Answer:
    return json_answer(ROWS)


class Kind(NamedTuple):
    """How an API answers, how it is asked for its pages, and which requests that takes."""

    script: Script
    options: dict[str, Any]
    asked: list[str]


ONE_PAGE = Kind(all_at_once, {}, ["/items"])
LINK_HEADER = Kind(by_link, {"pagination": {"type": "link_header"}}, ["/items", "/items?start=3", "/items?start=6"])
NEXT_URL = Kind(
    by_next_url,
    {"records": "data.items", "pagination": {"type": "next_url", "path": "@odata.next"}},
    ["/items", "/items?start=3", "/items?start=6"],
)
CURSOR = Kind(
    by_cursor,
    {"records": "items", "pagination": {"type": "cursor", "path": "meta.next", "param": "after"}},
    ["/items", "/items?after=3", "/items?after=6"],
)
PAGE_NUMBER = Kind(
    by_page_number,
    {"records": "items", "pagination": {"type": "page_number", "size": 3, "size_param": "per_page"}},
    ["/items?page=1&per_page=3", "/items?page=2&per_page=3", "/items?page=3&per_page=3"],
)
OFFSET = Kind(
    by_offset,
    {"records": "items", "pagination": {"type": "offset", "limit": 3}},
    ["/items?limit=3&offset=0", "/items?limit=3&offset=3", "/items?limit=3&offset=6"],
)


def make(url: str, **options: Any) -> RestExtractor:
    return RestExtractor(url=url, **{"backoff_s": 0.01, **options})


def frame_of(extractor: RestExtractor, account: Account | None = None) -> DataFrame:
    return pd.concat(extractor.extract(account))


def ids_of(extractor: RestExtractor) -> list[int]:
    ids: list[int] = frame_of(extractor)["id"].tolist()
    return ids


def rejects_of(extractor: RestExtractor) -> tuple[DataFrame, list[Reject], Account]:
    account = Account("test")
    frame = frame_of(extractor, account)
    return frame, account.take_rejects(), account


@pytest.fixture
def web() -> Iterator[WebServer]:
    with WebServer() as server:
        yield server


@pytest.fixture
def cursor(web: WebServer) -> RestExtractor:
    """Reads three pages."""
    return make(web.script("/items", by_cursor), **CURSOR.options)


class ApiContract(ExtractorContract):
    kind: Kind

    @pytest.fixture(autouse=True)
    def _server(self) -> Iterator[None]:
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


class TestOnePage(ApiContract):
    kind = ONE_PAGE


class TestLinkHeader(ApiContract):
    kind = LINK_HEADER


class TestNextUrl(ApiContract):
    kind = NEXT_URL


class TestCursor(ApiContract):
    kind = CURSOR


class TestPageNumber(ApiContract):
    kind = PAGE_NUMBER


class TestOffset(ApiContract):
    kind = OFFSET


def test_no_heavy_library_is_loaded_until_it_reads(cursor: RestExtractor) -> None:
    code = f"""
        import sys
        from etl.extractors.rest import RestExtractor
        extractor = RestExtractor(url={cursor.url!r}, **{CURSOR.options!r})
        extractor.inspect(), extractor.check()
        assert not {{"pandas", "pyarrow"}} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, check=True)


# -- where pages end ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "pagination", "requests"),
    [
        (by_page_number, {"type": "page_number"}, 4),  # an empty page
        (by_page_number, {"type": "page_number", "total": "total"}, 3),
        (
            by_page_number,
            {"type": "page_number", "size": 50, "size_param": "per_page"},
            4,
        ),  # 3 may be all it ever sends
        (by_offset, {"type": "offset", "limit": 50}, 4),
        (by_offset, {"type": "offset", "limit": 50, "total": "total"}, 3),
    ],
)
def test_counted_pages_end(web: WebServer, script: Script, pagination: dict[str, Any], requests: int) -> None:
    assert ids_of(make(web.script("/items", script), records="items", pagination=pagination)) == IDS
    assert len(web.requests) == requests


def test_pages_that_are_counted_from_zero_and_end_with_404(web: WebServer) -> None:
    def from_zero(request: Request) -> Answer:
        rows, _ = page_from(int(query(request)["p"]) * PAGE_ROWS)
        return json_answer(rows) if rows else json_answer({"detail": "Invalid page."}, status=404)

    pagination = {"type": "page_number", "param": "p", "start": 0}
    assert ids_of(make(web.script("/items", from_zero), pagination=pagination)) == IDS
    with pytest.raises(SourceError, match="answered 404 Not Found"):
        ids_of(make(web.url("/items"), pagination={**pagination, "start": 9}))


def test_an_empty_page_with_a_next_one_is_not_the_end(web: WebServer) -> None:
    def with_a_gap(request: Request) -> Answer:
        after = int(query(request).get("after", 0))
        return json_answer({"items": [ROWS[after]] if after != 1 else [], "next": after + 1 if after < 2 else None})

    pagination = {"type": "cursor", "path": "next", "param": "after"}
    assert ids_of(make(web.script("/items", with_a_gap), records="items", pagination=pagination)) == [1, 3]


def test_a_cursor_that_stands_still_at_an_empty_page_is_the_end(web: WebServer) -> None:
    def always_a_cursor(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("after", 0)))
        return json_answer({"items": rows, "next": more or 99})

    pagination = {"type": "cursor", "path": "next", "param": "after"}
    assert ids_of(make(web.script("/items", always_a_cursor), records="items", pagination=pagination)) == IDS
    assert len(web.requests) == 4


def test_the_last_record_as_cursor_and_a_flag(web: WebServer) -> None:
    def like_stripe(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("starting_after", 0)))
        return json_answer({"data": rows, "has_more": more is not None})

    pagination = {"type": "cursor", "path": "data.-1.id", "param": "starting_after", "more": "has_more"}
    assert ids_of(make(web.script("/items", like_stripe), records="data", pagination=pagination)) == IDS
    assert len(web.requests) == 3


@pytest.mark.parametrize("status", [200, 204])
def test_no_records_at_all(web: WebServer, status: int) -> None:
    url = web.script("/items", lambda request: json_answer(b"" if status == 204 else b"[]", status=status))
    with pytest.raises(DataError, match="no columns; declare them in types"):
        frame_of(make(url))
    with pytest.raises(DataError, match="set allow_empty = true"):
        frame_of(make(url, types={"id": "int64"}))
    frame = frame_of(make(url, types={"id": "int64"}, allow_empty=True))
    assert frame.dtypes.astype(str).to_dict() == {"id": "int64[pyarrow]"}


def test_no_content_needs_no_total(web: WebServer) -> None:
    """So some APIs answer an incremental run when nothing is new."""
    url = web.script("/items", lambda request: json_answer(b"", status=204))
    pagination = {"type": "page_number", "total": "meta.count"}
    assert frame_of(make(url, types={"id": "int64"}, allow_empty=True, records="items", pagination=pagination)).empty


def test_fewer_records_than_the_total_are_an_error(web: WebServer) -> None:
    url = web.script("/items", lambda request: json_answer({"items": ROWS[:5], "meta": {"count": "7"}, "next": None}))
    pagination = {"type": "next_url", "path": "next", "total": "meta.count"}
    with pytest.raises(SourceError, match="of 7 records that the API says it has, 5 came"):
        frame_of(make(url, records="items", pagination=pagination))
    with pytest.raises(DataError, match="'items' in the answer is no number"):
        frame_of(make(url, records="items", pagination={**pagination, "total": "items"}))
    with pytest.raises(DataError, match=r"no 'count' in any answer; correct pagination\.total, or leave it out"):
        frame_of(make(url, records="items", pagination={**pagination, "total": "count"}))


def test_the_total_may_be_on_some_pages_only(web: WebServer) -> None:
    def stated_at_first(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("after", 0)))
        return json_answer({"items": rows[:2], "next": more, **({} if request.path != "/items" else {"total": 7})})

    pagination = {"type": "cursor", "path": "next", "param": "after", "total": "total"}
    with pytest.raises(SourceError, match="of 7 records that the API says it has, 5 came"):
        frame_of(make(web.script("/items", stated_at_first), records="items", pagination=pagination))


@pytest.mark.parametrize("mark", [True, {"after": 3}, [3], 1.5])
def test_a_mark_that_cannot_be_sent_back(web: WebServer, mark: Any) -> None:
    web.script("/items", lambda request: json_answer({"items": ROWS, "next": mark}))
    with pytest.raises(DataError, match="'next' in the answer is neither text nor a whole number"):
        frame_of(make(web.url("/items"), records="items", pagination={"type": "cursor", "path": "next", "param": "c"}))


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        ({}, "offers a next page (header Link), which is not read"),
        (
            {"pagination": {"type": "next_url", "path": "nxt"}},
            "the first page has no 'nxt', so it was read as the only",
        ),
        ({"pagination": {"type": "cursor", "path": "meta.nxt", "param": "c"}}, "the first page has no 'meta.nxt'"),
    ],
)
def test_a_single_page_that_may_not_be_all_is_doubted(web: WebServer, options: dict[str, Any], warning: str) -> None:
    account = Account("test")
    frame_of(make(web.script("/items", by_link), **options), account)
    assert warning in account.warnings[0]


# -- pages that never end -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "pagination"),
    [
        (lambda n: ({"items": [{"id": n}], "next": f"/items?p={n % 2}"}, {}), {"type": "next_url", "path": "next"}),
        (lambda n: ({"items": [{"id": n}]}, {"Link": '</items>; rel="next"'}), {"type": "link_header"}),
        (lambda n: ({"items": [{"id": n}], "next": "x"}, {}), {"type": "cursor", "path": "next", "param": "c"}),
    ],
)
def test_loops_are_noticed(web: WebServer, answer: Callable[[int], tuple[Any, Any]], pagination: Any) -> None:
    def looping(request: Request) -> Answer:
        document, headers = answer(len(web.requests))
        return json_answer(document, headers=headers)

    with pytest.raises(DataError, match=r"leads back to a page .*; compare \[extract\.pagination\]"):
        frame_of(make(web.script("/items", looping), records="items", pagination=pagination))
    assert len(web.requests) <= 3


@pytest.mark.parametrize("pagination", [{"type": "page_number"}, {"type": "offset", "limit": 3}])
def test_an_api_that_ignores_the_parameters_is_noticed(web: WebServer, pagination: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"page 2 holds just the records of page 1 .*does the API know the parameters"):
        frame_of(make(web.script("/items", all_at_once), pagination=pagination))
    assert len(web.requests) == 2


def test_repeated_pages_may_be_accepted_and_are_counted(web: WebServer) -> None:
    def repeating(request: Request) -> Answer:
        number = int(query(request)["page"])
        return json_answer(ROWS[:2] if number in (1, 3) else ROWS[2:4] if number in (2, 4) else [])

    extractor = make(web.script("/items", repeating), pagination={"type": "page_number"}, max_repeated_pages=2)
    frame, rejects, account = rejects_of(extractor)
    assert frame["id"].tolist() == [1, 2, 3, 4]
    assert [(reject.row, reject.rule) for reject in rejects] == [
        (n, "on a page that came before") for n in (5, 6, 7, 8)
    ]
    assert account.rejected.total() == 4
    assert account.balances()
    assert account.warnings == [
        "page 3 holds just the records of page 1; its rows are rejected",
        "page 4 holds just the records of page 2; its rows are rejected",
    ]
    with pytest.raises(DataError, match=r"page 4 .* \(repeated pages: 2\)"):
        frame_of(make(web.url("/items"), pagination={"type": "page_number"}, max_repeated_pages=1))


def test_pages_without_end_are_capped(web: WebServer) -> None:
    url = web.script("/items", lambda request: json_answer([{"id": int(query(request)["page"])}]))
    with pytest.raises(DataError, match=r"more pages than max_pages = 5; compare .*, or raise the limit"):
        frame_of(make(url, pagination={"type": "page_number"}, max_pages=5))
    assert len(web.requests) == 5
    assert ids_of(make(web.script("/items", by_page_number), **PAGE_NUMBER.options, max_pages=3)) == IDS


# -- who asks -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("auth", "header", "value"),
    [
        ({"type": "bearer", "token": "hush-hush"}, "Authorization", "Bearer hush-hush"),
        ({"type": "basic", "username": "ann", "password": "hüsh"}, "Authorization", "Basic YW5uOmjDvHNo"),
        ({"type": "api_key", "key": "hush-hush", "header": "X-API-Key"}, "x-api-key", "hush-hush"),
    ],
)
def test_every_request_is_signed(cursor: RestExtractor, web: WebServer, auth: Any, header: str, value: str) -> None:
    assert ids_of(make(cursor.url, auth=auth, **CURSOR.options)) == IDS
    assert [request.headers[header] for request in web.requests] == [value] * 3


def test_a_key_in_the_query_is_sent_once_with_every_page(web: WebServer) -> None:
    def echoing(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("start", 0)))
        return json_answer({"items": rows, "next": f"/items?start={more}&key=k%26" if more else None})

    auth = {"type": "api_key", "key": "k&", "param": "key"}
    extractor = make(
        web.script("/items", echoing), auth=auth, records="items", pagination={"type": "next_url", "path": "next"}
    )
    assert ids_of(extractor) == IDS
    assert [request.path for request in web.requests] == [
        "/items?key=k%26",
        "/items?start=3&key=k%26",
        "/items?start=6&key=k%26",
    ]


class Tokens:
    """Gives tokens t1, t2, ..., and refuses all but those that are good."""

    def __init__(self, web: WebServer, **answer: Any) -> None:
        self.given = 0
        self.good: Callable[[str], bool] = lambda token: True
        self._answer = answer
        self.token_url = web.script("/token", self._give)
        self.url = web.script("/items", self._guarded)

    def extractor(self, **auth: Any) -> RestExtractor:
        client = {"type": "oauth2", "token_url": self.token_url, "client_id": "me", "client_secret": "hush-hush"}
        return make(self.url, auth={**client, **auth}, headers={"X-Mine": "1"}, **CURSOR.options)

    def _give(self, request: Request) -> Answer:
        self.given += 1
        return json_answer({"access_token": f"t{self.given}", "token_type": "Bearer", **self._answer})

    def _guarded(self, request: Request) -> Answer:
        kind, _, token = str(request.headers["Authorization"]).partition(" ")
        return by_cursor(request) if kind == "Bearer" and self.good(token) else json_answer({}, status=401)


class TestOAuth2:
    def test_one_token_serves_a_reading(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in=3600)
        assert ids_of(tokens.extractor(scope="read", parameters={"audience": "all of them"})) == IDS
        asked, *pages = web.requests
        assert (asked.method, asked.path) == ("POST", "/token")
        assert asked.body == b"grant_type=client_credentials&scope=read&audience=all+of+them"
        assert asked.headers["Authorization"] == "Basic bWU6aHVzaC1odXNo"
        assert asked.headers["X-Mine"] is None
        assert [page.headers["Authorization"] for page in pages] == ["Bearer t1"] * 3
        assert [page.headers["X-Mine"] for page in pages] == ["1"] * 3

    def test_the_client_may_be_told_in_the_body(self, web: WebServer) -> None:
        assert ids_of(Tokens(web).extractor(send_in="body")) == IDS
        assert web.requests[0].body == b"grant_type=client_credentials&client_id=me&client_secret=hush-hush"
        assert web.requests[0].headers["Authorization"] is None

    def test_a_token_is_renewed_before_it_expires(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in=0)
        assert ids_of(tokens.extractor()) == IDS
        assert tokens.given == 3

    def test_a_refused_token_is_renewed_once(self, web: WebServer) -> None:
        tokens = Tokens(web, expires_in="3600")
        tokens.good = lambda token: token == ("t1" if len(web.requests) < 4 else "t2")
        assert ids_of(tokens.extractor()) == IDS
        assert tokens.given == 2
        tokens.good = lambda token: False
        with pytest.raises(AccessError, match=r"/items: the server answered 401 Unauthorized"):
            ids_of(tokens.extractor())
        assert tokens.given == 4

    @pytest.mark.parametrize("status", [400, 401, 403])
    def test_a_refused_client(self, web: WebServer, status: int) -> None:
        extractor = Tokens(web).extractor()
        web.once("/token", status=status)
        with pytest.raises(AccessError, match=r"/token refuses the client; check client_id, client_secret, scope"):
            ids_of(extractor)
        assert len(web.requests) == 1

    def test_a_server_of_tokens_that_is_down(self, web: WebServer) -> None:
        extractor = Tokens(web).extractor()
        web.once("/token", status=503)
        web.once("/token", cut_after=5)
        assert ids_of(extractor) == IDS
        web.serve("/token", status=503)
        with pytest.raises(SourceError, match=r"no token from .*/token: the server answered 503"):
            ids_of(extractor.model_copy(update={"attempts": 2}))

    @pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"access_token": 5}', b'{"access_token": "a\\nb: c"}'])
    def test_an_answer_without_a_token(self, web: WebServer, body: bytes) -> None:
        extractor = Tokens(web).extractor()
        web.serve("/token", body)
        with pytest.raises(SourceError, match="no answer with an access_token; check token_url"):
            ids_of(extractor)

    def test_credentials_follow_no_redirect(self, web: WebServer) -> None:
        extractor = Tokens(web).extractor()
        web.redirect("/token", web.url("/elsewhere"), status=307)
        with pytest.raises(SourceError, match="redirects a POST: refused"):
            ids_of(extractor)
        assert len(web.requests) == 1


def test_a_refusal_is_not_asked_again(web: WebServer) -> None:
    with pytest.raises(AccessError, match="answered 401"):
        frame_of(make(web.serve("/items", status=401), auth={"type": "bearer", "token": "t"}))
    assert len(web.requests) == 1


# -- other hosts --------------------------------------------------------------------------------------------------


def test_credentials_do_not_go_where_a_redirect_leads(web: WebServer) -> None:
    with WebServer() as other:
        other.script("/items", all_at_once)
        url = web.redirect("/items", other.url("/items"))
        options = {"auth": {"type": "bearer", "token": "t"}, "headers": {"X-Key": "k"}}
        assert ids_of(make(url, **options)) == IDS
        assert (other.requests[0].headers["Authorization"], other.requests[0].headers["X-Key"]) == (None, None)
        assert web.requests[0].headers["Authorization"] == "Bearer t"


@pytest.mark.parametrize(
    "target",
    ["http://localhost:{port}/items", "http://127.0.0.1:9/items", "https://127.0.0.1:{port}/", "//evil.example/"],
)
@pytest.mark.parametrize("kind", ["link_header", "next_url"])
def test_next_pages_on_another_host_are_refused(web: WebServer, target: str, kind: str) -> None:
    address = target.format(port=urlsplit(web.url()).port)
    document = {"items": ROWS, "next": address}
    web.script("/items", lambda request: json_answer(document, headers={"Link": f'<{address}>; rel="next"'}))
    pagination = {"type": kind, **({"path": "next"} if kind == "next_url" else {})}
    with pytest.raises(SourceError, match=r"the next page is said to be at .*, on another host: refused"):
        frame_of(make(web.url("/items"), records="items", pagination=pagination))
    assert len(web.requests) == 1


@pytest.mark.parametrize("target", ["file:///etc/passwd", "http://[", 5, "http://u:p@127.0.0.1/"])
def test_next_pages_that_are_no_address_are_refused(web: WebServer, target: Any) -> None:
    web.script("/items", lambda request: json_answer({"items": ROWS, "next": target}))
    with pytest.raises(SourceError, match="the next page is"):
        frame_of(make(web.url("/items"), records="items", pagination={"type": "next_url", "path": "next"}))
    assert len(web.requests) == 1


# -- bad moods ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "mood",
    [
        {"status": 500},
        {"status": 503, "headers": {"Retry-After": "0"}},
        {"status": 429},
        {"cut_after": 10},
        {"cut_after": 10, "reset": True},
        {"cut_after": 10, "chunked": True},
        {"cut_after": 10, "length": False},  # which is noticed only as bad JSON
        {"cut_after": 40, "gzipped": True},
        {"body": b'{"items": ['},
        {"body": b"<!DOCTYPE html>", "content_type": "text/html"},
    ],
)
def test_a_bad_mood_passes(cursor: RestExtractor, web: WebServer, mood: dict[str, Any]) -> None:
    web.once("/items")
    web.once("/items", **mood)
    assert ids_of(cursor) == IDS
    assert len(web.requests) == 4


@pytest.mark.parametrize(
    ("mood", "error", "message"),
    [
        ({"status": 500}, SourceError, "answered 500 Internal Server Error; gave up after 3 attempts"),
        ({"status": 429}, RetryLater, "answered 429 Too Many Requests; gave up after 3 attempts"),
        ({"cut_after": 10}, SourceError, "closed early; gave up after 3 attempts"),
        ({"status": 404}, SourceError, "answered 404 Not Found; check the url"),
        ({"status": 403}, AccessError, "answered 403 Forbidden"),
        (
            {"body": b"<!DOCTYPE html>", "content_type": "text/html; charset=utf-8"},
            SourceError,
            "sent text/html; charset=utf-8 that is not JSON: Expecting value at character 0 of 15, twice; check url",
        ),
        ({"body": b'{"items": [1, 2,, 3]}'}, SourceError, "not JSON: Expecting value at character 16 of 21, twice"),
        ({"body": b'{"items": [NaN]}'}, SourceError, "not JSON: NaN is no JSON, twice"),
        ({"body": b'{"items": "\xff"}'}, SourceError, "not JSON: no UTF-8 at byte 11, twice"),
        ({"body": b"[" * 100_000}, SourceError, "not JSON: .*recursion.*, twice"),
        ({"headers": {"Content-Encoding": "br"}}, SourceError, "encoded the body with 'br'"),
    ],
)
def test_a_mood_that_stays_bad(
    cursor: RestExtractor, web: WebServer, mood: dict[str, Any], error: type[Exception], message: str
) -> None:
    for _ in range(3):
        web.once("/items", **mood)
    with pytest.raises(error, match=message):
        frame_of(cursor.model_copy(update={"attempts": 3}))


MOODS: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"status": st.sampled_from([408, 429, 500, 503])}),
    st.fixed_dictionaries(
        {"cut_after": st.integers(0, 300)},
        optional={"length": st.just(False), "chunked": st.booleans(), "gzipped": st.booleans(), "reset": st.just(True)},
    ),
    st.fixed_dictionaries({"body": st.sampled_from([b"", b"null", b"{}", b"<p>", b'{"items": []', b"[1, 2"])}),
)


@settings(max_examples=25)
@given(st.sampled_from([LINK_HEADER, NEXT_URL, CURSOR, PAGE_NUMBER, OFFSET]), st.lists(MOODS, max_size=6))
def test_whatever_the_moods_all_is_read_or_nothing(kind: Kind, moods: list[dict[str, Any]]) -> None:
    with WebServer() as web:
        extractor = make(web.script("/items", kind.script), **kind.options, attempts=3)
        for mood in moods:
            web.once("/items", **mood)
        try:
            found = ids_of(extractor)
        except (DataError, SourceError, RetryLater):
            return
        assert found == IDS


@pytest.mark.slow
def test_memory_does_not_grow_with_the_pages(web: WebServer) -> None:
    """The peak of a process that reads eight times as many pages is the same, give or take the allocator's slack."""
    rows = [{"name": "x" * 40, "size": {"w": number, "h": 1.5}, "tags": ["a"]} for number in range(2_000)]

    def peak_of_reading(pages: int) -> int:
        def numbered(request: Request) -> Answer:
            number = int(query(request)["page"])
            return json_answer([{"page": number, **row} for row in rows] if number <= pages else [])

        code = f"""
            import resource
            from etl.extractors.rest import RestExtractor
            extractor = RestExtractor(url={web.script("/items", numbered)!r}, pagination={{"type": "page_number"}})
            assert sum(len(batch) for batch in extractor.extract()) == {pages * len(rows)}
            print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
        """
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], cwd=PROJECT, capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert peak_of_reading(160) - peak_of_reading(20) < 64 << 20


@pytest.mark.parametrize("retry_after", ["1", "100000"])
def test_retry_after_is_obeyed_and_capped(
    cursor: RestExtractor, web: WebServer, retry_after: str, caplog: pytest.LogCaptureFixture
) -> None:
    web.once("/items", status=429, headers={"Retry-After": retry_after})
    if retry_after == "1":
        assert ids_of(cursor) == IDS
        assert "Retrying in 1.0 s (2 of 8): the server answered 429" in caplog.text
    else:
        with pytest.raises(RetryLater, match=r"a next try in 300\.0 s would be beyond total_timeout_s = 100"):
            frame_of(cursor.model_copy(update={"total_timeout_s": 100}))


def test_a_page_has_a_deadline(cursor: RestExtractor, web: WebServer) -> None:
    web.once("/items", trickle=(1, 0.05))
    with pytest.raises(SourceError, match=r"total_timeout_s = 0\.5"):
        frame_of(cursor.model_copy(update={"total_timeout_s": 0.5, "backoff_s": 1}))


def test_requests_keep_their_pace(cursor: RestExtractor) -> None:
    started = time.monotonic()
    assert ids_of(cursor.model_copy(update={"requests_per_second": 10})) == IDS
    assert time.monotonic() - started >= 0.2


def test_a_huge_page_is_refused(web: WebServer) -> None:
    url = web.script("/items", lambda request: json_answer([{"text": "x" * 1_000_000}], gzipped=True))
    with pytest.raises(DataError, match=r"larger than max_page_bytes = 100,000; ask for smaller pages, or raise"):
        frame_of(make(url, max_page_bytes=100_000))
    assert len(frame_of(make(url))) == 1
    assert web.requests[0].headers["Accept-Encoding"] == "gzip"


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
    frame, rejects, account = rejects_of(make(web.script("/items", lambda request: json_answer(body))))
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
    assert account.balances()


def test_what_is_json_and_fits_nowhere_costs_its_record_alone(web: WebServer) -> None:
    deep = b"[" * 700 + b"0.1234567890123456789" + b"]" * 700
    body = (
        b'[{"id": 1, "v": [1]}, {"id": 2, "v": %b}, {"id": 3, "v": [1e99999999999999999999]}, {"id": 4, "\\ud83d": 5}]'
    )
    frame, rejects, account = rejects_of(make(web.script("/items", lambda request: json_answer(body % deep))))
    assert frame["id"].tolist() == [1]
    rules = [(2, "v: not JSON"), (3, "v: not JSON"), (4, r"\ud83d: a name that is no text")]
    assert [(reject.row, reject.rule) for reject in rejects] == rules
    assert account.balances()


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
    frame, rejects, _ = rejects_of(make(url, types={"at": "timestamp[UTC]"}))
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


def test_check_asks_for_the_first_page_once(cursor: RestExtractor, web: WebServer) -> None:
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


# -- secrets --------------------------------------------------------------------------------------------------------


SECRETIVE: list[dict[str, Any]] = [
    {"auth": {"type": "bearer", "token": "hush-hush"}},
    {"auth": {"type": "basic", "username": "ann", "password": "hush-hush"}},
    {"auth": {"type": "api_key", "key": "hush-hush", "param": "k"}},
    {"auth": {"type": "api_key", "key": "hush-hush", "header": "X-K"}},
    {"headers": {"X-K": "hush-hush"}},
    {"params": {"k": "hush-hush"}},
    {"method": "POST", "body": {"k": "hush-hush"}},
]


@pytest.mark.parametrize("options", SECRETIVE)
@pytest.mark.parametrize(
    "mood",
    [
        {},
        {"status": 401},
        {"status": 500},
        {"status": 404},
        {"cut_after": 3},
        {"body": b"<p>hush-hush"},
        {"body": b'{"error": "hush-hush"}'},
        {"status": 302, "headers": {"Location": "ftp://x/?k=hush-hush"}},
    ],
)
def test_no_secret_is_shown(
    web: WebServer, options: dict[str, Any], mood: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="etl")
    web.script("/items", lambda request: json_answer(ROWS, **mood) if "body" not in mood else json_answer(mood["body"]))
    extractor = make(web.url("/items?signature=hush-hush"), attempts=2, **options)
    said = [repr(extractor), str(extractor), repr(extractor.inspect())]
    account = Account("test")
    for act in (extractor.check, lambda: frame_of(extractor, account)):
        try:
            said.append(str(act()))
        except EtlError as error:
            said.append(str(error))
    assert "hush" not in " ".join([*said, caplog.text, json.dumps(account.as_dict())])
    sent = web.requests[0]
    assert "hush" in f"{sent.path} {sent.headers} {sent.body!r}" or "aHVzaC" in str(sent.headers)
    assert pickle.loads(pickle.dumps(extractor)) == extractor


def test_no_secret_of_oauth2_is_shown(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="etl")
    tokens = Tokens(web)
    extractor = tokens.extractor(parameters={"audience": "hush-hush"})
    web.serve("/token", b'{"access_token": "hush-hush"}')
    tokens.good = lambda token: False
    with pytest.raises(AccessError) as failure:
        frame_of(extractor)
    assert "hush" not in f"{failure.value} {extractor!r} {caplog.text}"
    assert "asking for a new one" in caplog.text


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
