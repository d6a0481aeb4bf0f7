"""How an API is asked for its next page: a class for each of the ways that there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from etl.errors import DataError, SourceError
from etl.http.addresses import url_problem
from etl.options import Options
from etl.redact import redact
from etl.rest.pages import MISSING, Page, PageRequest, Progress, value_at

_DEFAULT_PORTS = {"http": 80, "https": 443}


class _Pagination(Options, ABC):
    """MUST write ``next``. MAY write ``first`` (adds to the first request) and ``doubt`` (is one page really all?)."""

    total: str | None = Field(
        default=None,
        min_length=1,
        description='Path in the body of the number of all records, such as "meta.total": fewer are an error.',
    )

    absent_page_is_the_end: ClassVar[bool] = False

    def first(self, request: PageRequest) -> PageRequest:
        return request

    @abstractmethod
    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        """The request for the page after ``page``; None if that was the last. ``so_far``: with that page."""

    def doubt(self, page: Page) -> str | None:
        """What is odd about ``page``, as the only one of a reading."""
        return None

    def total_in(self, page: Page) -> int | None:
        """The number of all records, if the API tells it."""
        if self.total is None:
            return None
        total = value_at(page.document, self.total, MISSING)
        if total is MISSING or total is None:
            return None
        if isinstance(total, bool) or not str(total).isdecimal():
            raise DataError(f"total: {self.total!r} in the answer is no number")
        return int(total)


class LinkHeader(_Pagination):
    """The header ``Link: <...>; rel="next"`` has the address of the next page (RFC 8288)."""

    type: Literal["link_header"]

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        return _followed(page, page.next_link)


class NextUrl(_Pagination):
    """The body has the address of the next page."""

    type: Literal["next_url"]
    path: str = Field(min_length=1, description='Path in the body of the address of the next page, such as "next".')

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        return _followed(page, value_at(page.document, self.path))

    def doubt(self, page: Page) -> str | None:
        return _doubt(page, self.path)


class Cursor(_Pagination):
    """The body has a mark that is sent back as a parameter. Without one, or null, there is no next page."""

    type: Literal["cursor"]
    path: str = Field(
        min_length=1, description='Path in the body of the mark, such as "meta.next_cursor" or "items.-1.id".'
    )
    param: str = Field(min_length=1, description="Parameter that the mark is sent back in.")
    more: str | None = Field(
        default=None, min_length=1, description="Path in the body of a true or false: are there more pages?"
    )

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        mark = value_at(page.document, self.path)
        if _is_nothing(mark) or (self.more and not value_at(page.document, self.more)):
            return None
        if not isinstance(mark, str | int) or isinstance(mark, bool):
            raise DataError(f"pagination: {self.path!r} in the answer is neither text nor a whole number")
        return PageRequest(page.request.url, {**page.request.params, self.param: mark})

    def doubt(self, page: Page) -> str | None:
        return _doubt(page, self.path) or (_doubt(page, self.more, "more") if self.more else None)


class _Counted(_Pagination):
    """Pages that are counted here. They end with an empty page, at the total, or with one that is not full.

    A page is known to be full only by others as large as was asked for: many servers send fewer than that.
    """

    def is_last(self, page: Page, so_far: Progress, size: int | None) -> bool:
        total = self.total_in(page)
        if not page.elements or total is not None:
            return not page.elements or so_far.rows >= (total or 0)
        return size is not None and len(page.elements) < size <= so_far.fullest


class PageNumber(_Counted):
    """Pages have numbers."""

    type: Literal["page_number"]
    param: str = Field(default="page", min_length=1, description="Parameter that the number of the page is sent in.")
    start: NonNegativeInt = Field(default=1, description="Number of the first page.")
    size: PositiveInt | None = Field(default=None, description="Records in a page, to ask for. Default: the API's.")
    size_param: str | None = Field(default=None, min_length=1, description="Parameter that the size is sent in.")

    absent_page_is_the_end: ClassVar[bool] = True

    @model_validator(mode="after")
    def _size_is_sent(self) -> Self:
        if (self.size is None) != (self.size_param is None):
            raise ValueError("size and size_param belong together; set both or none")
        return self

    def first(self, request: PageRequest) -> PageRequest:
        params: dict[str, str | int] = {**request.params, self.param: self.start}
        if self.size_param and self.size:
            params[self.size_param] = self.size
        return PageRequest(request.url, params)

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        if self.is_last(page, so_far, self.size):
            return None
        return PageRequest(page.request.url, {**page.request.params, self.param: self.start + so_far.pages})


class Offset(_Counted):
    """A page is asked for by the number of records before it."""

    type: Literal["offset"]
    limit: PositiveInt = Field(description="Records in a page, to ask for.")
    limit_param: str = Field(default="limit", min_length=1, description="Parameter that the limit is sent in.")
    param: str = Field(default="offset", min_length=1, description="Parameter that the offset is sent in.")

    def first(self, request: PageRequest) -> PageRequest:
        return PageRequest(request.url, {**request.params, self.limit_param: self.limit, self.param: 0})

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        if self.is_last(page, so_far, self.limit):
            return None
        return PageRequest(page.request.url, {**page.request.params, self.param: so_far.rows})


class OnePage(_Pagination):
    """There is but one page."""

    def next(self, page: Page, so_far: Progress) -> PageRequest | None:
        return None

    def doubt(self, page: Page) -> str | None:
        if page.next_link is None:
            return None
        return 'the API offers a next page (header Link), which is not read; set pagination = { type = "link_header" }'


Pagination: TypeAlias = Annotated[
    LinkHeader | NextUrl | Cursor | PageNumber | Offset,
    Field(discriminator="type"),
]


def _is_nothing(value: Any) -> bool:
    return value is None or value is False or value == ""


def _doubt(page: Page, path: str, option: str = "path") -> str | None:
    if value_at(page.document, path, MISSING) is not MISSING:
        return None
    return (
        f"the first page has no {path!r}, so it was read as the only one; check pagination.{option} if there are more"
    )


def _followed(page: Page, target: Any) -> PageRequest | None:
    """The request for the address that an API gave. Raises SourceError if that is on another host."""
    if _is_nothing(target):
        return None
    here = urlsplit(page.request.url)
    try:
        there = urlsplit(urljoin(page.request.url, target))
    except (ValueError, TypeError, AttributeError) as error:
        raise SourceError(f"{redact(page.request.url)}: the address of the next page is invalid") from error
    if there.scheme == "http" and here.scheme == "https" and there.netloc == here.netloc:
        there = there._replace(scheme="https")  # as servers behind a proxy write their own address
    url = there._replace(fragment="").geturl()
    problem = url_problem(url, allow_http=True)
    if problem or _origin(there) != _origin(here):
        why = "which is no address to ask" if problem else "on another host"
        raise SourceError(
            f"{redact(page.request.url)}: the next page is said to be at {redact(url)}, {why}: refused; "
            "set url to that host, if that is right"
        )
    return PageRequest(url)


def _origin(parts: SplitResult) -> tuple[str, str | None, int | None]:
    return parts.scheme, parts.hostname, parts.port or _DEFAULT_PORTS.get(parts.scheme)
