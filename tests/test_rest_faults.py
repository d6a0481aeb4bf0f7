"""RestExtractor: an API in bad moods, which pass or stay; time limits, pace and memory."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import AccessError, DataError, RetryLater, SourceError
from etl.extractors.rest import RestExtractor
from tests.reading import frame_of, peak_of_reading
from tests.rest_api import IDS, KINDS, Kind, by_three_pages, ids_of, json_answer, make, query
from tests.web import Answer, Request, WebServer


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
def test_a_bad_mood_passes(web: WebServer, mood: dict[str, Any]) -> None:
    cursor = by_three_pages(web)
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
def test_a_mood_that_stays_bad(web: WebServer, mood: dict[str, Any], error: type[Exception], message: str) -> None:
    cursor = by_three_pages(web)
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
@given(st.sampled_from([*KINDS.values()]), st.lists(MOODS, max_size=6))
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

    def peak(pages: int) -> int:
        def numbered(request: Request) -> Answer:
            number = int(query(request)["page"])
            return json_answer([{"page": number, **row} for row in rows] if number <= pages else [])

        url = web.script("/items", numbered)
        return peak_of_reading(RestExtractor, pages * len(rows), url=url, pagination={"type": "page_number"})

    assert peak(160) - peak(20) < 64 << 20


@pytest.mark.parametrize("retry_after", ["1", "100000"])
def test_retry_after_is_obeyed_and_capped(web: WebServer, retry_after: str, caplog: pytest.LogCaptureFixture) -> None:
    cursor = by_three_pages(web)
    web.once("/items", status=429, headers={"Retry-After": retry_after})
    if retry_after == "1":
        assert ids_of(cursor) == IDS
        assert "Retrying in 1.0 s (2 of 8): the server answered 429" in caplog.text
    else:
        with pytest.raises(RetryLater, match=r"a next try in 300\.0 s would be beyond total_timeout_s = 100"):
            frame_of(cursor.model_copy(update={"total_timeout_s": 100}))


def test_a_page_has_a_deadline(web: WebServer) -> None:
    cursor = by_three_pages(web)
    web.once("/items", trickle=(1, 0.05))
    with pytest.raises(SourceError, match=r"total_timeout_s = 0\.5"):
        frame_of(cursor.model_copy(update={"total_timeout_s": 0.5, "backoff_s": 1}))


def test_requests_keep_their_pace(web: WebServer) -> None:
    cursor = by_three_pages(web)
    started = time.monotonic()
    assert ids_of(cursor.model_copy(update={"requests_per_second": 10})) == IDS
    assert time.monotonic() - started >= 0.2


def test_a_huge_page_is_refused(web: WebServer) -> None:
    url = web.script("/items", lambda request: json_answer([{"text": "x" * 1_000_000}], gzipped=True))
    with pytest.raises(DataError, match=r"larger than max_page_bytes = 100,000; ask for smaller pages, or raise"):
        frame_of(make(url, max_page_bytes=100_000))
    assert len(frame_of(make(url))) == 1
    assert web.requests[0].headers["Accept-Encoding"] == "gzip"
