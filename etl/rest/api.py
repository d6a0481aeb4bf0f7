"""Asks an API for its pages: signed, at its pace, and again where that makes sense."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue, PositiveFloat, PositiveInt, SecretStr, ValidationInfo, field_validator
from requests.utils import parse_header_links

from etl.errors import DataError, SourceError
from etl.files.json_records import json_document
from etl.http.addresses import WebUrl, accepted
from etl.http.body import read_body
from etl.http.request import Patience, RefusedError, TransientError, UnauthorizedError, WebOptions, WebSession, ask
from etl.redact import redact
from etl.rest.auth import Auth, OAuth2Auth, Signer
from etl.rest.pages import Page, PageRequest, Progress, check_unambiguous, elements_of, with_query
from etl.rest.pagination import OnePage, Pagination

if TYPE_CHECKING:
    from requests import Response

log = logging.getLogger(__name__)


class ApiOptions(WebOptions):
    """Where an API is, how it is asked, and where in its answers the records are."""

    url: WebUrl = Field(description="Address of the first page: https://, or http:// on this machine itself.")
    params: dict[str, SecretStr] = Field(default={}, description="Parameters of the query, such as a filter.")
    method: Literal["GET", "POST"] = Field(default="GET", description="How pages are asked for.")
    body: dict[str, JsonValue] = Field(
        default={},
        repr=False,
        description="JSON body of a POST. The parameters of the pagination are put into it, not into the query.",
    )
    records: str = Field(
        default="", description='Path in the body of the array of records, such as "data.items". Default: the body.'
    )
    pagination: Pagination | None = Field(default=None, description="How the next page is asked for. Default: not.")
    auth: Auth | None = Field(default=None, description="Who asks. Default: nobody.")
    since_param: str | None = Field(
        default=None,
        min_length=1,
        description="Parameter in which an incremental run says from where on it reads. Default: everything is read, "
        "and what is known is left out.",
    )
    since_format: Literal["iso8601", "unix"] = Field(
        default="iso8601", description="How a time is written there: 2026-01-31T12:00:00Z, or in seconds since 1970."
    )
    requests_per_second: float | None = Field(
        default=None,
        ge=0.01,
        description="Most requests in a second, such as 0.5. Default: as many as the API answers.",
    )
    max_pages: PositiveInt = Field(default=10_000, description="More pages than this are an error.")
    max_repeated_pages: int = Field(
        default=0,
        ge=0,
        description="Pages with just the records of an earlier page that are accepted. Their rows are rejected.",
    )
    max_page_bytes: PositiveInt = Field(
        default=32 << 20, le=1 << 30, description="Largest accepted page, in bytes; it is held in memory."
    )
    total_timeout_s: PositiveFloat = Field(
        default=600, description="Longest time for one page, in seconds, with all its tries."
    )

    @field_validator("params", mode="before")
    @classmethod
    def _params_as_text(cls, value: Any) -> Any:
        return {name: _query_text(item) for name, item in value.items()} if isinstance(value, dict) else value

    @field_validator("auth")
    @classmethod
    def _token_url_may_be_asked(cls, auth: Auth | None, info: ValidationInfo) -> Auth | None:
        if isinstance(auth, OAuth2Auth):
            accepted(auth.token_url, info)
        return auth

    @field_validator("body")
    @classmethod
    def _can_be_sent(cls, body: dict[str, JsonValue], info: ValidationInfo) -> dict[str, JsonValue]:
        if body and info.data.get("method") != "POST":
            raise ValueError('needs method = "POST"')
        return body


def _query_text(value: Any) -> Any:
    """Numbers and truths as most APIs read them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class UnreadableError(Exception):
    """What came is not JSON."""


class Api:
    """One reading of an API."""

    def __init__(self, options: ApiOptions, session: WebSession) -> None:
        self.options = options
        self._session = session
        self._signer = Signer(options.auth, session)
        self._next_request_at = time.monotonic()
        self.pagination = options.pagination or OnePage()
        self.progress = Progress()

    def pages(self) -> Iterator[Page]:
        """Yield all pages. Raises DataError if they do not end, or SourceError if records are missing."""
        seen: set[str] = set()
        request: PageRequest | None = self.first_request()
        total = None
        while request:
            page = self._page_if_any(request)
            if page is None:
                break
            self.progress.add(page)
            seen.add(_identity(request))
            stated = self.pagination.total_in(page)
            total = total if stated is None else stated
            request = self.pagination.next(page, self.progress)
            if request and _identity(request) in seen:
                if page.elements:
                    raise self._endless(f"page {self.progress.pages:,} leads back to a page that was read already")
                request = None  # nothing new, and no way on: so some APIs say that they have no more
            if request and self.progress.pages >= self.options.max_pages:
                limit = f"max_pages = {self.options.max_pages:,}"
                raise self._endless(f"there are more pages than {limit}", ", or raise the limit")
            yield page
            del page
        self._check_total(total)

    def first_request(self) -> PageRequest:
        params = {name: value.get_secret_value() for name, value in self.options.params.items()}
        return self.pagination.first(PageRequest(with_query(self.options.url, params)))

    def page(self, request: PageRequest) -> Page:
        """The page, after as many tries as the options allow. A refused token and a damaged body have one more each."""
        patience = Patience(self.options)
        renewed = misread = False
        while True:
            try:
                return self._try_once(request, patience)
            except TransientError as failure:
                patience.wait(request.url, failure)
            except UnauthorizedError:
                if renewed or not self._signer.renew():
                    raise
                renewed = True
                log.info("The token was refused; asking for a new one")
            except UnreadableError as failure:
                if misread:
                    raise SourceError(
                        f"{redact(request.url)}: {failure}, twice; check url, auth and headers"
                    ) from failure
                misread = True
                patience.wait(request.url, TransientError(str(failure)))

    def _page_if_any(self, request: PageRequest) -> Page | None:
        try:
            return self.page(request)
        except RefusedError as error:
            if error.status == 404 and self.progress.pages and self.pagination.absent_page_is_the_end:
                return None
            raise

    def _try_once(self, request: PageRequest, patience: Patience) -> Page:
        self._keep_pace()
        url = with_query(request.url, self._signer.params())
        body, headers = None, {"Accept-Encoding": "gzip"}
        if self.options.method == "POST":
            body = json.dumps({**self.options.body, **request.params}).encode()
            headers["Content-Type"] = "application/json"
        else:
            url = with_query(url, request.params)
        own = {"Accept": SecretStr("application/json"), **self.options.headers, **self._signer.headers(patience)}
        with closing(ask(self._session, url, patience, own, headers, body)) as response:
            content = read_body(response, url, patience, self.options.max_page_bytes)
        return self._page_of(request, response, content)

    def _keep_pace(self) -> None:
        if self.options.requests_per_second:
            time.sleep(max(self._next_request_at - time.monotonic(), 0))
            self._next_request_at = time.monotonic() + 1 / self.options.requests_per_second

    def _page_of(self, request: PageRequest, response: Response, content: bytes) -> Page:
        if response.status_code == 204:
            return Page(request, {}, [])
        document, doubtful = _parsed(content, response.headers.get("Content-Type"))
        try:
            elements = elements_of(document, self.options.records)
            if doubtful:
                check_unambiguous(document, elements)
        except DataError as error:
            raise DataError(f"{redact(request.url)}: page {self.progress.pages + 1:,}: {error.message}") from error
        return Page(request, document, elements, _next_link(response), doubtful)

    def _check_total(self, total: int | None) -> None:
        path, url = self.pagination.total, redact(self.options.url)
        if path and total is None and self.progress.rows:  # an answer without content (204) has no total either
            raise DataError(f"{url}: there is no {path!r} in any answer; correct pagination.total, or leave it out")
        if total is not None and self.progress.rows < total:
            raise SourceError(
                f"{url}: of {total:,} records that the API says it has, {self.progress.rows:,} came; "
                "try again later, or check pagination.total"
            )

    def _endless(self, problem: str, remedy: str = "") -> DataError:
        compare = "compare [extract.pagination] with the API's manual"
        return DataError(f"{redact(self.options.url)}: {problem}; {compare}{remedy}")


def _next_link(response: Response) -> str | None:
    """The address that the Link header calls next; a link may have several relations (RFC 8288, 3.3)."""
    links = parse_header_links(response.headers.get("Link", ""))
    return next((link["url"] for link in links if "next" in link.get("rel", "").lower().split()), None)


def _identity(request: PageRequest) -> str:
    return json.dumps([request.url, dict(request.params)], sort_keys=True)


def _parsed(content: bytes, content_type: str | None) -> tuple[Any, bool]:
    """What ``json_document`` makes of it.

    Raises UnreadableError. It quotes nothing, as a server may repeat in its answer what it was sent.
    """
    what = f"the server sent {content_type or 'something'} that is not JSON"
    try:
        return json_document(content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{what}: no UTF-8 at byte {error.start:,}") from error
    except json.JSONDecodeError as error:
        where = f"character {error.pos:,} of {len(error.doc):,}"
        raise UnreadableError(f"{what}: {error.msg} at {where}") from error
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"{what}: {error}") from error
