"""One HTTP request, made with care: redirects, time limits, and what a failure means."""

from __future__ import annotations

import email.utils
import http.client
import logging
import random
import re
import ssl
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, NoReturn
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from pydantic import AfterValidator, Field, NonNegativeFloat, PositiveFloat, PositiveInt, SecretStr

from etl.engine import within
from etl.errors import AccessError, ConfigError, RetryLater, SourceError
from etl.http.addresses import check_redirect, is_loopback, url_problem
from etl.options import Options
from etl.redact import redact

MAX_REDIRECTS = 5
MAX_RETRY_AFTER_S = 300.0
_MAX_BACKOFF_S = 60.0
_RETRIED = {408, 425, 429}
_NETWORK_ERRORS = (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError)
# A handshake that ends early: by a reset, or by a close that TLS calls one or the other, as it happens to notice.
_BROKEN_OFF = (ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError)

log = logging.getLogger(__name__)


def sendable(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    """``headers``. Raises ValueError if no request can have them; the message does not hold their values."""
    for name, value in headers.items():
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{name!r} is not the name of a header")
        text = value.get_secret_value()
        if not (text and text.isascii() and text.isprintable() and text == text.strip()):
            raise ValueError(f"the value of {name} should be printable ASCII, without spaces at its ends")
    return headers


class WebOptions(Options):
    """How a step that reads over HTTP asks: what it may ask for, and how patiently."""

    allow_http: bool = Field(default=False, description="Accept http:// too; without it only from this machine itself.")
    headers: Annotated[dict[str, SecretStr], AfterValidator(sendable)] = Field(
        default_factory=dict,
        description="Request headers, such as Authorization. They go to the url's host, never to where it redirects.",
    )
    connect_timeout_s: PositiveFloat = Field(default=10, description="Longest wait for a connection, in seconds.")
    read_timeout_s: PositiveFloat = Field(default=30, description="Longest silence of the server, in seconds.")
    total_timeout_s: PositiveFloat = Field(default=1800, description="Longest time for everything, in seconds.")
    min_bytes_per_s: NonNegativeFloat = Field(
        default=1024, description="Slowest accepted transfer, in bytes per second, averaged over read_timeout_s."
    )
    attempts: PositiveInt = Field(default=8, description="Tries in all, when the connection or the server fails.")
    backoff_s: NonNegativeFloat = Field(default=0.5, description="Wait before the second try, in seconds; it doubles.")


class TransientError(Exception):
    """This attempt failed and the next may not. ``wait_s``: how long the server asks to wait."""

    def __init__(self, reason: str, *, wait_s: float = 0, throttled: bool = False) -> None:
        super().__init__(reason)
        self.wait_s = wait_s
        self.throttled = throttled


class RefusedError(SourceError):
    """The server answered with a ``status`` that asking again does not mend."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class UnauthorizedError(AccessError):
    """The server answered 401: it does not accept the credentials, or not any more."""


class Patience:
    """The tries and the time that one piece of work may take, as its ``options`` say."""

    def __init__(self, options: WebOptions) -> None:
        self.options = options
        self._tries = 1
        self._deadline = time.monotonic() + options.total_timeout_s

    def left_s(self) -> float:
        return self._deadline - time.monotonic()

    def wait(self, url: str, failure: TransientError) -> None:
        """Sleep before the next try. Raises SourceError (RetryLater if throttled) when there is none left."""
        backoff = min(self.options.backoff_s * 2 ** (self._tries - 1), _MAX_BACKOFF_S)
        pause = max(backoff * random.uniform(0.5, 1), failure.wait_s)  # noqa: S311  (jitter, not a secret)
        if self._tries >= self.options.attempts:
            _give_up(url, failure, f"gave up after {self._tries} attempts")
        if pause >= self.left_s():
            limit = f"total_timeout_s = {self.options.total_timeout_s:g}"
            _give_up(url, failure, f"gave up, since a next try in {pause:.1f} s would be beyond {limit}")
        self._tries += 1
        log.warning("Retrying in %.1f s (%d of %d): %s", pause, self._tries, self.options.attempts, failure)
        time.sleep(pause)


def _give_up(url: str, failure: TransientError, why: str) -> NoReturn:
    error = RetryLater if failure.throttled else SourceError
    raise error(f"{redact(url)}: {failure}; {why}; try again later") from failure


class WebSession(requests.Session):
    """Takes proxies and certificate authorities from the environment, but no passwords from ~/.netrc.

    It leaves bodies unread, and redirects alone: requests would first read the body of one to its end, however long.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stream = True
        self.auth = lambda request: request

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def ask(
    session: WebSession,
    url: str,
    patience: Patience,
    own: Mapping[str, SecretStr],
    headers: Mapping[str, str],
    body: bytes | None = None,
) -> requests.Response:
    """GET ``url``, following redirects, and return the answer (2xx, 304 or 416) with its body unread.

    With a ``body`` it is a POST, which follows none. ``own``: headers for the host of ``url``, and no other. Raises
    TransientError where trying again makes sense; ConfigError (the url, endless redirects), AccessError or SourceError.
    """
    problem = url_problem(url, allow_http=patience.options.allow_http)
    if problem:
        raise ConfigError(problem)
    here = url
    for _ in range(MAX_REDIRECTS + 1):
        response = _send(session, here, patience, _headers(url, here, own, headers), body)
        if not response.is_redirect:
            _check_status(response, url)
            return response
        response.close()
        if body is not None:
            raise SourceError(
                f"{redact(url)} redirects a POST: refused; set the url to where it leads, if that is right"
            )
        here = _redirect_target(response, here)
        check_redirect(url, here, allow_http=patience.options.allow_http)
    raise ConfigError(f"{redact(url)}: redirected more than {MAX_REDIRECTS} times; check the url")


def _headers(url: str, here: str, own: Mapping[str, SecretStr], others: Mapping[str, str]) -> dict[str, str]:
    """The headers of one request. Encoded bodies are not asked for: they can be neither resumed nor measured."""
    if urlsplit(here)[:2] != urlsplit(url)[:2]:
        own = {}
    sent = {name.title(): value.get_secret_value() for name, value in own.items()}
    return {**sent, "Accept-Encoding": "identity", **others}


def _send(
    session: WebSession, url: str, patience: Patience, headers: Mapping[str, str], body: bytes | None
) -> requests.Response:
    host = urlsplit(url).hostname or ""
    timeout = patience.options.connect_timeout_s, patience.options.read_timeout_s
    limit = min(sum(timeout), max(patience.left_s(), 0.001))
    proxies = {"no_proxy": host} if is_loopback(host) else None
    method = "GET" if body is None else "POST"
    send = partial(session.request, method, url, data=body, headers=headers, timeout=timeout, proxies=proxies)
    try:
        return within(limit, send)  # no timeout of requests covers name lookup, or headers that trickle in
    except requests.exceptions.SSLError as error:
        if isinstance(root_cause(error), _BROKEN_OFF):
            raise TransientError(reason(error)) from error
        raise SourceError(
            f"{redact(url)}: no secure connection: {reason(error)}; check the address, this machine's clock and "
            "the certificate authorities (REQUESTS_CA_BUNDLE)"
        ) from error
    except (requests.ConnectionError, requests.Timeout) as error:
        raise TransientError(reason(error)) from error
    except TimeoutError as error:
        raise TransientError(f"no answer within {limit:.3g} s") from error
    except (requests.RequestException, UnicodeError) as error:
        raise SourceError(f"{redact(url)}: {reason(error)}; check the url") from error


def _redirect_target(response: requests.Response, here: str) -> str:
    location = response.headers["Location"].encode("latin-1").decode("utf-8", errors="replace")
    try:
        return urljoin(here, location)
    except ValueError as error:
        raise SourceError(f"{redact(here)} redirects to an invalid address: {error}") from error


def _check_status(response: requests.Response, url: str) -> None:
    status = response.status_code
    if 200 <= status < 300 or status in (304, 416):
        return
    response.close()
    what = f"the server answered {status} {http.client.responses.get(status, '')}".rstrip()
    if status in _RETRIED or status >= 500:
        raise TransientError(what, wait_s=_retry_after_s(response), throttled=status == 429)
    if status in (401, 403):
        error = UnauthorizedError if status == 401 else AccessError
        raise error(f"{redact(url)}: {what}; check the url (a signed one may have expired) and the credentials")
    raise RefusedError(f"{redact(url)}: {what}; check the url", status)


def _retry_after_s(response: requests.Response) -> float:
    """The seconds that Retry-After asks for, as a number or as a date; at most MAX_RETRY_AFTER_S."""
    text = response.headers.get("Retry-After", "").strip()
    try:
        seconds = float(text) if text.isdecimal() else (parse_date(text) - datetime.now(UTC)).total_seconds()
    except ValueError:
        return 0
    return min(max(seconds, 0), MAX_RETRY_AFTER_S)


def parse_date(text: str) -> datetime:
    """An HTTP date. Raises ValueError."""
    parsed = email.utils.parsedate_to_datetime(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def root_cause(error: BaseException) -> BaseException:
    """The innermost network error of a chain: what the operating system or the protocol said."""
    while isinstance(inner := error.__cause__ or error.__context__, _NETWORK_ERRORS):
        error = inner
    return error


def reason(error: BaseException) -> str:
    """Why a request failed, in a few words and without secrets: ``Connection reset by peer``."""
    cause = root_cause(error)
    if isinstance(cause, TimeoutError):
        return "timed out"
    if isinstance(cause, http.client.IncompleteRead):
        return "the connection was closed early"
    words = getattr(cause, "verify_message", None) or getattr(cause, "strerror", None) or str(cause)
    return redact(words or type(cause).__name__)
