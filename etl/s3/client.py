"""The S3 client: how it is made, how long it tries, and what its errors mean to a person."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import botocore.exceptions as aws
from botocore.config import Config

from etl.aws import Meaning, aws_client, aws_errors
from etl.errors import AccessError, ConfigError, EtlError, RetryLater

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

# botocore's own default gives up a dead connection after 0.1 s.
_ATTEMPTS = 8
_CONNECT_TIMEOUT_S = 10
_READ_TIMEOUT_S = 60

_may_retry: ContextVar[Callable[[], bool]] = ContextVar("may_retry")
_shared: ContextVar[dict[object, S3Client] | None] = ContextVar("shared", default=None)


class Unavailable(RetryLater):
    """S3 answered badly or not at all; the same request may succeed in a moment."""


class Damaged(RetryLater):
    """What arrived was not what was sent."""


class LostRace(RetryLater):
    """The condition of a write did not hold: somebody else wrote first (or we did, and the reply was lost)."""


class UploadGone(RetryLater):
    """The multipart upload is no more: completed, or aborted by somebody."""


class Missing(ConfigError):
    """There is no such object or bucket."""


class Denied(AccessError):
    """The credentials are good, and may not do this."""


class Unexplained(AccessError):
    """A HEAD request was refused. Its reply has no body, so it cannot say why; a GET can."""


class NoConditions(ConfigError):
    """The store does not know conditional writes."""


_ASK = "these credentials may not do that; ask for the permission"
_REGION = "the bucket is in another region; set region in its table, or AWS_DEFAULT_REGION"
_NO_BUCKET = "the bucket does not exist; check its name, or let `python main.py bucket --create` make it"
_LATER = "run again later"

_CODES: dict[str, tuple[type[EtlError], str]] = {
    # who we are, and what we may
    "AccessDenied": (Denied, _ASK),
    "AllAccessDisabled": (AccessError, "access is disabled"),
    "InvalidAccessKeyId": (AccessError, "the access key does not exist; check AWS_ACCESS_KEY_ID"),
    "SignatureDoesNotMatch": (AccessError, "the secret key does not fit the access key; check AWS_SECRET_ACCESS_KEY"),
    "ExpiredToken": (AccessError, "the session has expired; renew the credentials and run again"),
    "InvalidToken": (AccessError, "the session token is not valid; renew the credentials"),
    "400": (Unexplained, "refused; the session may have expired, or the bucket be in another region"),
    "403": (Unexplained, _ASK),
    # the key that encrypts
    "KMS.NotFoundException": (ConfigError, "there is no such KMS key in the bucket's region; check kms_key_id"),
    "KMS.DisabledException": (AccessError, "the KMS key is disabled; have it enabled, or name another kms_key_id"),
    "KMS.KMSInvalidStateException": (AccessError, "the KMS key is about to be deleted; name another kms_key_id"),
    "KMS.InvalidStateException": (AccessError, "the KMS key is about to be deleted; name another kms_key_id"),
    "KMS.ThrottlingException": (Unavailable, f"KMS is throttling; {_LATER}"),
    # which bucket, which object, which options
    "NoSuchBucket": (Missing, _NO_BUCKET),
    "404": (Missing, _NO_BUCKET),
    "NoSuchKey": (Missing, "there is no such object"),
    "NoSuchVersion": (Missing, "there is no such version"),
    "InvalidBucketName": (ConfigError, "that is no valid bucket name"),
    "301": (ConfigError, _REGION),
    "307": (ConfigError, _REGION),
    "PermanentRedirect": (ConfigError, _REGION),
    "TemporaryRedirect": (ConfigError, _REGION),
    "AuthorizationHeaderMalformed": (ConfigError, _REGION),
    "IllegalLocationConstraintException": (ConfigError, _REGION),
    "AccessControlListNotSupported": (
        ConfigError,
        "the bucket does not allow ACLs (BucketOwnerEnforced); leave acl out, and grant reading in the bucket's policy",
    ),
    "InvalidStorageClass": (ConfigError, "this store does not know that storage_class"),
    "InvalidTag": (ConfigError, "S3 does not accept these tags"),
    "NotImplemented": (NoConditions, "this store does not implement what was asked, such as a conditional write"),
    # races
    "PreconditionFailed": (LostRace, "lost race: somebody else has written it meanwhile; run again"),
    "NoSuchUpload": (UploadGone, "the upload is gone, another run has ended it; run again"),
    "ConditionalRequestConflict": (Unavailable, f"another write of it is under way; {_LATER}"),
    "OperationAborted": (Unavailable, f"another write of it is under way; {_LATER}"),
    # the way there
    "BadDigest": (Damaged, "the bytes were damaged on the way, twice; check the network and any proxy"),
    "XAmzContentChecksumMismatch": (Damaged, "the bytes were damaged on the way, twice; check the network"),
    "XAmzContentSHA256Mismatch": (Damaged, "the bytes were damaged on the way, twice; check the network"),
    "IncompleteBody": (Unavailable, f"the connection broke; {_LATER}"),
    "RequestTimeout": (Unavailable, f"S3 timed out; {_LATER}"),
    "RequestTimeTooSkewed": (RetryLater, "this machine's clock is wrong; set it (NTP) and run again"),
    "SlowDown": (Unavailable, f"S3 is throttling; {_LATER}"),
    "InternalError": (Unavailable, f"S3 had an internal error; {_LATER}"),
}
# Other stores have codes of their own; some replies have none, and botocore calls them by the status.
_STATUSES: dict[int, tuple[type[EtlError], str]] = {
    **dict.fromkeys((401, 403), (AccessError, _ASK)),
    429: (Unavailable, f"S3 is throttling; {_LATER}"),
    **dict.fromkeys((500, 502, 503, 504), (Unavailable, f"S3 is unavailable; {_LATER}")),
}

_EXCEPTIONS: tuple[Meaning, ...] = (
    (aws.ParamValidationError, ConfigError, "S3 would not accept these options"),
    (aws.FlexibleChecksumError, Damaged, "the bytes were damaged on the way, twice; check the network"),
    (aws.SSLError, RetryLater, "TLS failed; check this machine's clock, the proxy and AWS_CA_BUNDLE"),
    (aws.EndpointConnectionError, Unavailable, "cannot reach S3; check the network and AWS_ENDPOINT_URL"),
    (aws.ConnectionError, Unavailable, "cannot connect to S3; check the network, the proxy and AWS_ENDPOINT_URL"),
    (aws.HTTPClientError, Unavailable, f"the connection to S3 failed; {_LATER}"),
    (aws.IncompleteReadError, Unavailable, f"the connection to S3 broke; {_LATER}"),
)


@contextmanager
def shared_clients() -> Iterator[None]:
    """Inside the block, and in blocks within it, equal clients are made once: that saves time and connections."""
    if _shared.get() is not None:
        yield
        return
    clients: dict[object, S3Client] = {}
    token = _shared.set(clients)
    try:
        yield
    finally:
        _shared.reset(token)
        for client in clients.values():
            client.close()


def make_client(region: str | None = None, *, attempts: int = _ATTEMPTS, timeout_s: int = _READ_TIMEOUT_S) -> S3Client:
    """A client that finds credentials, region and endpoint (``AWS_ENDPOINT_URL``) as boto3 and the AWS tools do."""
    clients, options = _shared.get(), (region, attempts, timeout_s)
    if clients is None:
        return _new_client(*options)
    return clients.get(options) or clients.setdefault(options, _new_client(*options))


def _new_client(region: str | None, attempts: int, timeout_s: int) -> S3Client:
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=min(_CONNECT_TIMEOUT_S, timeout_s),
        read_timeout=timeout_s,
        max_pool_connections=16,
    )
    with s3_errors("signing in", "S3"):
        client: S3Client = aws_client("s3", region, config)
    events: Any = client.meta.events  # the stubs do not know that a hook may answer
    events.register_first("needs-retry.s3", _no_more_retries)
    return client


@contextmanager
def retrying_while(may_retry: Callable[[], bool]) -> Iterator[None]:
    """Inside the block, clients retry by their own rules, but only while ``may_retry()``."""
    token = _may_retry.set(may_retry)
    try:
        yield
    finally:
        _may_retry.reset(token)


def _no_more_retries(**_: Any) -> Literal[False] | None:
    """Botocore's hook: False ends the retries, None leaves the question to botocore's own rules."""
    may_retry = _may_retry.get(None)
    return None if may_retry is None or may_retry() else False


def s3_errors(action: str, target: str, owner: str | None = None) -> AbstractContextManager[None]:
    """Translate botocore's errors. ``action``: the permission it takes, ``target``: the ``s3://`` URI.

    ``owner``: the account that the bucket was expected to belong to.
    """
    return aws_errors(action, target, partial(_explained, owner), _EXCEPTIONS)


def _explained(owner: str | None, response: Mapping[str, Any]) -> tuple[type[EtlError], str]:
    """The error's class, and what is wrong with what to do about it, in one line."""
    facts = response.get("Error", {})
    code, detail = str(facts.get("Code", "")), str(facts.get("Message", ""))
    reply = response.get("ResponseMetadata", {})
    status, headers = reply.get("HTTPStatusCode", 0), reply.get("HTTPHeaders", {})
    kind, remedy = _CODES.get(code) or _STATUSES.get(status, (EtlError, "S3 refused"))
    if remedy is _REGION and (region := facts.get("Region") or headers.get("x-amz-bucket-region")):
        remedy = f'the bucket is in {region}; set region = "{region}" in its table, or AWS_DEFAULT_REGION={region}'
    elif code == "RequestTimeTooSkewed" and (offset := _clock_offset(headers)):
        remedy = f"this machine's clock is {offset} that of S3; set it (NTP) and run again"
    elif kind is Denied and "kms:" in detail.lower():
        remedy = "the KMS key may not be used; ask for kms:GenerateDataKey and kms:Decrypt on it"
    elif kind is Denied and owner:
        remedy = f"{_ASK}, or the bucket does not belong to account {owner} (expected_bucket_owner)"
    return kind, f"{remedy} ({code}: {detail})"


def _clock_offset(headers: Mapping[str, str]) -> str | None:
    """Such as ``3,600 s ahead of``, told from the reply's date."""
    try:
        there = parsedate_to_datetime(headers.get("date", ""))
    except ValueError:
        return None
    seconds = (datetime.now(UTC) - there).total_seconds()
    return f"{abs(seconds):,.0f} s {'ahead of' if seconds > 0 else 'behind'}"
