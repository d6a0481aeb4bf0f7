"""RestExtractor: from page to page, until the last one; where pages end, lead back, never end, or lead elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import pytest

from etl.errors import DataError, SourceError
from etl.ledger import Account
from tests.reading import frame_of
from tests.rest_api import (
    IDS,
    PAGE_NUMBER,
    PAGE_ROWS,
    ROWS,
    Script,
    all_at_once,
    by_cursor,
    by_link,
    by_offset,
    by_page_number,
    ids_of,
    json_answer,
    make,
    page_from,
    query,
)
from tests.web import Answer, Request, WebServer

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


@pytest.mark.parametrize("relations", ["next last", "Next", "last next"])
def test_a_link_may_have_several_relations_in_any_case(web: WebServer, relations: str) -> None:
    def linked(request: Request) -> Answer:
        rows, more = page_from(int(query(request).get("start", 0)))
        return json_answer(rows, headers={"Link": f'</items?start={more}>; rel="{relations}"'} if more else {})

    assert ids_of(make(web.script("/items", linked), pagination={"type": "link_header"})) == IDS


@pytest.mark.parametrize("mark", [True, {"after": 3}, [3], 1.5])
def test_a_mark_that_cannot_be_sent_back(web: WebServer, mark: Any) -> None:
    web.script("/items", lambda request: json_answer({"items": ROWS, "next": mark}))
    with pytest.raises(DataError, match="'next' in the answer is neither text nor a whole number"):
        frame_of(make(web.url("/items"), records="items", pagination={"type": "cursor", "path": "next", "param": "c"}))


@pytest.mark.parametrize(
    ("script", "records", "pagination", "warning"),
    [
        (by_link, "", None, "offers a next page (header Link), which is not read"),
        (by_link, "", {"type": "next_url", "path": "nxt"}, "the first page has no 'nxt', so it was read as the only"),
        (by_link, "", {"type": "cursor", "path": "meta.nxt", "param": "c"}, "the first page has no 'meta.nxt'"),
        (
            by_cursor,
            "items",
            {"type": "cursor", "path": "meta.next", "param": "after", "more": "meta.mor"},
            "the first page has no 'meta.mor', so it was read as the only one; check pagination.more",
        ),
    ],
)
def test_a_single_page_that_may_not_be_all_is_doubted(
    web: WebServer, script: Script, records: str, pagination: Any, warning: str
) -> None:
    account = Account("test")
    frame_of(make(web.script("/items", script), records=records, pagination=pagination), account)
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
    account = Account("test")
    assert frame_of(extractor, account)["id"].tolist() == [1, 2, 3, 4]
    assert [(reject.row, reject.rule) for reject in account.take_rejects()] == [
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


# -- pages elsewhere --------------------------------------------------------------------------------------------------


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
