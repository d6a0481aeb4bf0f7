"""The DynamoDB client: how long it tries, and what its errors mean to a person."""

from __future__ import annotations

import json
import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import botocore.exceptions as aws
from botocore.config import Config
from botocore.parsers import ResponseParserError

from etl.aws import Meaning, aws_client, aws_errors
from etl.errors import AccessError, ConfigError, EtlError, RetryLater, SourceError

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60
_ATTEMPTS = 6  # of a request that is not answered
_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 20

log = logging.getLogger(__name__)


class Throttled(RetryLater):
    """DynamoDB gives no more for now; the same request will be answered later."""


class Unanswered(SourceError):
    """DynamoDB answered badly or not at all; the same request may be answered in a moment."""


_EXPIRED = (AccessError, "the session has expired; renew the credentials and run again")
_SLOWER = (Throttled, "DynamoDB is throttling; run again later, or give the table more read capacity")
_BROKE = "the connection failed again and again; run again later"

_CODES: dict[str, tuple[type[EtlError], str]] = {
    "AccessDeniedException": (AccessError, "these credentials may not do that; ask for the permission"),
    **dict.fromkeys(("ExpiredTokenException", "ExpiredToken"), _EXPIRED),
    "UnrecognizedClientException": (AccessError, "the access key or session token is not valid; check the AWS_* keys"),
    "InvalidSignatureException": (
        AccessError,
        "the secret key does not fit; check AWS_SECRET_ACCESS_KEY and the clock",
    ),
    "MissingAuthenticationTokenException": (AccessError, "the request was not signed; check the AWS_* keys"),
    "ResourceNotFoundException": (ConfigError, "there is no such table here; check table, and AWS_DEFAULT_REGION"),
    "ValidationException": (ConfigError, "DynamoDB does not accept the options; check the expressions and index"),
    **dict.fromkeys(("ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded"), _SLOWER),
    **dict.fromkeys(("InternalServerError", "InternalFailure"), (Unanswered, "DynamoDB had an internal error")),
    **dict.fromkeys(("ServiceUnavailable", "500", "502", "503", "504"), (Unanswered, "DynamoDB is unavailable")),
}
_EXCEPTIONS: tuple[Meaning, ...] = (
    (aws.ParamValidationError, ConfigError, "DynamoDB would not accept these options"),
    (aws.SSLError, SourceError, "TLS failed; check this machine's clock, the proxy and AWS_CA_BUNDLE"),
    (aws.EndpointConnectionError, Unanswered, "cannot reach DynamoDB; check the network, region and AWS_ENDPOINT_URL"),
    (aws.ChecksumError, Unanswered, "what arrived was damaged on the way, again and again; check the network"),
    (aws.HTTPClientError, Unanswered, _BROKE),
    (aws.ConnectionError, Unanswered, _BROKE),
    (aws.IncompleteReadError, Unanswered, _BROKE),
    (ResponseParserError, Unanswered, "DynamoDB sent no valid reply again and again; check AWS_ENDPOINT_URL"),
)


def make_client(region: str | None) -> DynamoDBClient:
    """A client that asks once: ``patiently`` asks again. The endpoint is found as the AWS tools do
    (``AWS_ENDPOINT_URL_DYNAMODB``, ``AWS_ENDPOINT_URL``)."""
    config = Config(
        # Of botocore's retry modes, only this one compares a reply with the checksum that DynamoDB sends with it.
        retries={"mode": "legacy", "total_max_attempts": 1},
        connect_timeout=_CONNECT_TIMEOUT_S,
        read_timeout=_READ_TIMEOUT_S,
    )
    with aws_errors("signing in", "DynamoDB", _explained, _EXCEPTIONS):
        client: DynamoDBClient = aws_client("dynamodb", region, config)
    for operation in ("Scan", "Query"):
        client.meta.events.register(f"before-parse.dynamodb.{operation}", _leave_items_as_they_are)
    return client


def _leave_items_as_they_are(response_dict: Any, customized_response_dict: dict[str, Any], **_: Any) -> None:
    """Botocore's hook: it would compare each value with its model, which takes twice the time of all else here."""
    try:
        page = json.loads(response_dict["body"])
    except ValueError:
        return  # botocore says what is wrong with it
    if isinstance(page, dict) and "Items" in page:
        customized_response_dict["Items"] = page.pop("Items")
        response_dict["body"] = json.dumps(page).encode()


def patiently(ask: Callable[[], Any], action: str, target: str, patience_s: float) -> Any:
    """The reply to a request, which is made again while DynamoDB throttles or is not reached.

    ``action``: the permission it takes; ``target``: the table; ``patience_s``: how long throttling is endured.
    """
    deadline = time.monotonic() + patience_s
    attempt = failures = 0
    while True:
        attempt += 1
        pause_s = min(_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S) * random.uniform(0.5, 1)  # noqa: S311  (jitter)
        try:
            with aws_errors(action, target, _explained, _EXCEPTIONS):
                return ask()
        except Throttled:
            if time.monotonic() + pause_s > deadline:
                raise
        except Unanswered as error:
            failures += 1
            if failures >= _ATTEMPTS:
                raise
            log.warning("Asking again: %s", error)
        time.sleep(pause_s)


def _explained(response: Mapping[str, Any]) -> tuple[type[EtlError], str]:
    facts = response.get("Error", {})
    status = str(response.get("ResponseMetadata", {}).get("HTTPStatusCode", ""))
    code, detail = str(facts.get("Code", "")), str(facts.get("Message", ""))
    kind, remedy = _CODES.get(code) or _CODES.get(status) or (SourceError, "DynamoDB refused")
    return kind, f"{remedy} ({code}: {detail})"
