"""Connections to MongoDB, and what its errors mean to a person."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from bson.errors import BSONError
from pymongo import MongoClient
from pymongo.errors import (
    AutoReconnect,
    ConfigurationError,
    InvalidName,
    NetworkTimeout,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.uri_parser import parse_uri

from etl.errors import AccessError, ConfigError, EtlError, RetryLater, SourceError
from etl.redact import redact
from etl.steps import did_you_mean

Client: TypeAlias = MongoClient[dict[str, Any]]

# A server that accepts a connection and then says nothing would otherwise be waited for without end.
_UNLESS_THE_URI_SAYS = {
    "appname": "lego-etl",
    "serverSelectionTimeoutMS": 10_000,
    "connectTimeoutMS": 10_000,
    "socketTimeoutMS": 600_000,  # a filter without an index may look at the whole collection before it finds anything
}
_MOST_CHARS = 300
_TRIES = 4

_URI = re.compile(r"mongodb(?:\+srv)?://(?:[^@/:]*(?::[^@/:]*)?@)?(?P<hosts>[^@/?]+)(?:/[^@?]*)?(?:\?(?P<options>.*))?")

LOST_CURSOR = frozenset((43, 136, 175, 237))
_CHANGING = frozenset((6, 7, 89, 91, 189, 262, 9001, 10107, 11600, 11602, 13435, 13436))  # server, or which is primary
_NOT_ACCEPTED = (ConfigError, "MongoDB does not accept filter or projection")
_STOPPED = (SourceError, "the server ended the query, for its time limit or by somebody's order")
_CODES: dict[int, tuple[type[EtlError], str]] = {
    13: (AccessError, "this user may not do that; ask for the role read on the database"),
    18: (AccessError, "user or password is wrong; check uri, and its authSource"),
    8000: (AccessError, "Atlas refused user or password; check uri"),
    2: _NOT_ACCEPTED,
    9: (ConfigError, "MongoDB does not understand filter or projection"),
    26: (ConfigError, "there is no such collection; check database and collection"),
    73: (ConfigError, "that is no valid name; check database and collection"),
    50: _STOPPED,
    11601: _STOPPED,
    **dict.fromkeys(LOST_CURSOR, (RetryLater, "the cursor was lost again and again; run again later")),
}
_DNS_IS_DOWN = ("LifetimeTimeout", "NoNameservers")  # of dnspython, which pymongo asks about mongodb+srv://


def check_uri(uri: str) -> None:
    """Raise ValueError for a uri that can be no good; nothing is asked of the network for it."""
    if not _URI.fullmatch(uri):
        raise ValueError(
            "should begin with mongodb:// or mongodb+srv:// and name a host; "
            "in user and password, write : / ? # [ ] @ % as %3A, %2F, ..."
        )
    if uri.startswith("mongodb://"):  # the options of the others are in the DNS
        try:
            parse_uri(uri)
        except (ConfigurationError, OSError) as error:  # it also opens the files that tlsCAFile and others name
            raise ValueError(_short(error)) from error


def hosts_of(uri: str) -> str:
    """The part of a uri that is no secret."""
    parts = _URI.fullmatch(uri)
    return parts["hosts"] if parts else ""


@contextmanager
def connected(uri: str, target: str) -> Iterator[Client]:
    """A client that has reached its server. ``target``: what errors call the source."""
    parts = _URI.fullmatch(uri)
    said = {name.lower() for name, _ in parse_qsl(parts["options"] or "")} if parts else set()
    defaults: dict[str, Any] = {name: at for name, at in _UNLESS_THE_URI_SAYS.items() if name.lower() not in said}
    with mongo_errors(target), _client(uri, defaults, target) as client:
        client.admin.command("ping")
        yield client


def _client(uri: str, defaults: dict[str, Any], target: str) -> Client:
    try:
        return MongoClient(uri, **defaults)
    except (OSError, ValueError) as error:  # the options of a mongodb+srv://, and the files that they name
        raise ConfigError(f"{target}: uri: {_short(error)}") from error


def kind_of(client: Client, database: str, collection: str, target: str) -> str:
    """``collection``, ``view`` or ``timeseries``. Raises ConfigError, with the nearest name, if there is none."""
    # What may be read is listed also for users who may not list everything.
    listed = client[database].list_collections(nameOnly=True, authorizedCollections=True)
    kinds = {info["name"]: info["type"] for info in listed}
    if not kinds:
        raise ConfigError(
            f"{target}: the database {database!r} is empty, does not exist, or may not be read by this user"
        )
    if collection not in kinds:
        raise ConfigError(f"{target}: there is no collection {collection!r}{did_you_mean(collection, kinds)}")
    return str(kinds[collection])


def tries_after(error: PyMongoError) -> int:
    """How often in a row to ask again, as the cursor, the connection or the primary was lost."""
    if isinstance(error, NetworkTimeout):
        return 1  # a query that is too slow stays so, and goes on in the server
    return _TRIES if isinstance(error, AutoReconnect) or getattr(error, "code", None) in LOST_CURSOR | _CHANGING else 0


@contextmanager
def mongo_errors(target: str) -> Iterator[None]:
    """Translate the errors of pymongo. ``target``: the source, without its secrets."""
    try:
        yield
    except OperationFailure as error:
        details = f"({error.code}: {_short(error.details['errmsg'] if error.details else error)})"
        code = error.code or 0
        mistaken = code >= 10_000 and code not in _CHANGING  # such codes tell of one mistake each
        kind, remedy = _CODES.get(code, _NOT_ACCEPTED if mistaken else (SourceError, "MongoDB refused"))
        raise kind(f"{target}: {remedy} {details}") from error
    except (ConfigurationError, InvalidName) as error:
        if type(error.__cause__).__name__ in _DNS_IS_DOWN:
            raise SourceError(f"{target}: the DNS does not answer; run again later ({_short(error)})") from error
        raise ConfigError(f"{target}: uri, database or collection: {_short(error)}") from error
    except ServerSelectionTimeoutError as error:
        raise SourceError(f"{target}: cannot reach MongoDB; check uri and the network ({_short(error)})") from error
    except NetworkTimeout as error:
        raise SourceError(
            f"{target}: no answer within socketTimeoutMS; give the fields of filter an index, or set it higher in uri "
            f"({_short(error)})"
        ) from error
    except AutoReconnect as error:
        raise SourceError(
            f"{target}: the connection broke again and again; run again later ({_short(error)})"
        ) from error
    except (PyMongoError, BSONError) as error:
        raise SourceError(f"{target}: {type(error).__name__}: {_short(error)}") from error


def _short(error: object) -> str:
    """An error's own words, without the state of the whole cluster that pymongo adds."""
    words = str(error).partition(", Timeout: ")[0].partition(" (configured timeouts:")[0]
    return redact(" ".join(words.split()))[:_MOST_CHARS]
