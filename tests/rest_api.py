"""An API of seven sets that gives its pages in each of the ways there are, and an extractor that reads it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

from etl.extractors.rest import RestExtractor
from tests.reading import frame_of
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
KINDS = {
    "one_page": Kind(all_at_once, {}, ["/items"]),
    "link_header": Kind(
        by_link, {"pagination": {"type": "link_header"}}, ["/items", "/items?start=3", "/items?start=6"]
    ),
    "next_url": Kind(
        by_next_url,
        {"records": "data.items", "pagination": {"type": "next_url", "path": "@odata.next"}},
        ["/items", "/items?start=3", "/items?start=6"],
    ),
    "cursor": CURSOR,
    "page_number": PAGE_NUMBER,
    "offset": Kind(
        by_offset,
        {"records": "items", "pagination": {"type": "offset", "limit": 3}},
        ["/items?limit=3&offset=0", "/items?limit=3&offset=3", "/items?limit=3&offset=6"],
    ),
}


def make(url: str, **options: Any) -> RestExtractor:
    return RestExtractor(url=url, **{"backoff_s": 0.01, **options})


def by_three_pages(web: WebServer) -> RestExtractor:
    return make(web.script("/items", by_cursor), **CURSOR.options)


def ids_of(extractor: RestExtractor) -> list[int]:
    ids: list[int] = frame_of(extractor)["id"].tolist()
    return ids
