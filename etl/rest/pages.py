"""One page of an API: what is asked for, what came, and where in it the records are."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote_plus, urlencode, urlsplit

from etl.errors import DataError
from etl.files.json_records import problem_within

MISSING = object()

_SHOWN_NAMES = 8
_DEEPEST_CANDIDATE = 3


@dataclass(frozen=True)
class PageRequest:
    """What is asked for: an address, and the parameters that choose a page of it."""

    url: str
    params: Mapping[str, str | int] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """What came. ``document``: the body, parsed. ``elements``: the records in it. ``next_link``: of the Link header.

    ``doubtful``: objects in it name fields twice.
    """

    request: PageRequest
    document: Any
    elements: list[Any]
    next_link: str | None = None
    doubtful: bool = False


@dataclass
class Progress:
    """What was read so far. ``fullest``: the number of records in the largest page."""

    pages: int = 0
    rows: int = 0
    fullest: int = 0

    def add(self, page: Page) -> None:
        self.pages += 1
        self.rows += len(page.elements)
        self.fullest = max(self.fullest, len(page.elements))


def with_query(url: str, params: Mapping[str, str | int]) -> str:
    """The url with these parameters in its query, in the place of those of the same names; the others stay as is."""
    if not params:
        return url
    parts = urlsplit(url)
    kept = [pair for pair in parts.query.split("&") if pair and unquote_plus(pair.partition("=")[0]) not in params]
    return parts._replace(query="&".join([*kept, urlencode(params)])).geturl()


def value_at(document: Any, path: str, missing: Any = None) -> Any:
    """What is at ``path``, such as ``meta.next`` or ``items.-1.id``; a name may have dots in it, as @odata.nextLink."""
    if not path:
        return document
    head, _, rest = path.partition(".")
    if isinstance(document, list) and re.fullmatch(r"-?\d+", head):
        return value_at(document[int(head)], rest, missing) if -len(document) <= int(head) < len(document) else missing
    if not isinstance(document, dict):
        return missing
    if path in document:
        return document[path]
    return value_at(document[head], rest, missing) if rest and head in document else missing


def elements_of(document: Any, path: str) -> list[Any]:
    """The array at ``path``. Raises DataError if there is none, and says where one is."""
    found = value_at(document, path, MISSING)
    if isinstance(found, list):
        return found
    if found is None and path:
        return []  # as some servers write an empty list
    if found is MISSING:
        problem = f"there is no {path!r} in the answer, which has {_names(document)}"
    else:
        place = f"{path!r} in the answer" if path else "the answer"
        problem = f"{place} is {_kind(found)}, not an array of records"
    candidates = [repr(name) if name else '""' for name in _arrays_in(document)]
    raise DataError(
        f"{problem}; set records to the path of the array{': ' if candidates else ''}{' or '.join(candidates)}"
    )


def check_unambiguous(document: Any, elements: list[Any]) -> None:
    """Raises DataError if an object around the records names a field twice: it may be what tells the next page."""
    if document is elements:
        return
    if problem := problem_within(document, apart_from=elements):
        raise DataError(f"the answer {problem}; which value is meant nobody can tell")


def _names(document: Any) -> str:
    if not isinstance(document, dict):
        return f"{_kind(document)} instead"
    names = list(document)
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return ", ".join(repr(name)[:40] for name in names[:_SHOWN_NAMES]) + more or "no fields at all"


def _kind(value: Any) -> str:
    kinds = {dict: "one object", list: "an array", str: "a text", bool: "true or false", type(None): "null"}
    return kinds.get(type(value), "a number")


def _arrays_in(document: Any, path: str = "", depth: int = 0) -> Iterator[str]:
    """The paths of arrays of objects, or of empty ones."""
    if isinstance(document, list) and (not document or isinstance(document[0], dict)):
        yield path
    elif isinstance(document, dict) and depth < _DEEPEST_CANDIDATE:
        for name, value in document.items():
            yield from _arrays_in(value, f"{path}.{name}".lstrip("."), depth + 1)
