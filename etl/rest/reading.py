"""From the pages of an API to numbered records; pages that came before are noticed."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any

from etl.errors import DataError
from etl.files.json_records import Record, problem_within
from etl.files.json_types import json_text
from etl.ledger import Account
from etl.redact import redact
from etl.rest.api import Api, ApiOptions
from etl.rest.pages import Page

log = logging.getLogger(__name__)


def records_of(api: Api, account: Account) -> Iterator[Record]:
    """Yield the records of all pages, numbered through from 1. Those of a page that came before have a problem."""
    number = 0
    doubt = None
    repeats = _Repeats(api.options, account)
    for page in api.pages():
        doubt = api.pagination.doubt(page) if number == 0 else None
        raws = [_raw(element) for element in page.elements]
        came_before = repeats.see(api.progress.pages, raws)
        for raw, element in zip(raws, page.elements, strict=True):
            number += 1
            problem = _problem(element, page, came_before)
            yield Record(number, raw, None if problem else element, problem)
        del page, raws  # before the next page comes
    log.info("Read %s records, %s pages", f"{number:,}", f"{api.progress.pages:,}")
    if doubt:
        account.warn(f"{redact(api.options.url)}: {doubt}")


class _Repeats:
    """Counts pages with just the records of an earlier one."""

    def __init__(self, options: ApiOptions, account: Account) -> None:
        self._options = options
        self._account = account
        self._seen: dict[bytes, int] = {}
        self._count = 0

    def see(self, number: int, raws: list[str]) -> bool:
        """Whether these records came before. Raises DataError if that happened too often."""
        digest = hashlib.blake2b("\n".join(raws).encode(), digest_size=16).digest()
        first = self._seen.setdefault(digest, number)
        if first == number or not raws:
            return False
        self._count += 1
        what = f"page {number:,} holds just the records of page {first:,}"
        if self._count > self._options.max_repeated_pages:
            raise DataError(
                f"{redact(self._options.url)}: {what} (repeated pages: {self._count:,}); does the API know the "
                "parameters of [extract.pagination]? If that is how it is, set max_repeated_pages"
            )
        self._account.warn(f"{what}; its rows are rejected")
        return True


def _problem(element: Any, page: Page, came_before: bool) -> str:
    """Why an element is no record; empty if it is one."""
    if came_before:
        return "on a page that came before"
    if not isinstance(element, dict):
        return "not a JSON object"
    return problem_within(element) if page.doubtful else ""


def _raw(element: Any) -> str:
    """The element as JSON, if that is possible; a half of a surrogate pair, which no UTF-8 can hold, is escaped."""
    try:
        text = json_text(element)
    except (RecursionError, ValueError):  # nested deeply around a long number; a number beyond all limits
        text = str(element)
    return text.encode("utf-8", "backslashreplace").decode()
