"""Shows what a bucket is beside what it should be, one line for each wish, and changes what differs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import botocore.exceptions as aws

from etl.bucket.lifecycle import Lifecycle
from etl.bucket.place import Place
from etl.bucket.policy import BucketPolicy
from etl.bucket.posture import BucketPosture
from etl.bucket.settings import (
    DefaultEncryption,
    Document,
    Line,
    NotSupported,
    Ownership,
    PublicAccess,
    Setting,
    Versioning,
)
from etl.errors import AccessError, ConfigError, EtlError, RetryLater
from etl.s3.client import make_client, s3_errors

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from etl.loaders.s3 import S3Loader

SETTINGS: tuple[type[Setting], ...] = (
    Versioning,
    DefaultEncryption,
    PublicAccess,
    Ownership,
    BucketPolicy,
    Lifecycle,
)

_NOT_SUPPORTED = "not supported by this store"
_UNKNOWN_CALLS = {"NotImplemented", "XNotImplemented", "NotSupported", "UnsupportedOperation", "MalformedXML"}
_NO_WORDS_OF_S3 = {"", "400", "404"}  # the reply was some other text
_UNKNOWN_STATUS = {405, 501}
_AMAZON = re.compile(r"(^|\.)amazonaws\.com(\.cn)?$")
_MARKS = {True: "ok", False: "FAIL", None: "n/a"}
_WIDEST_COLUMN = 40
# A run looks in passing: it must not wait long for an answer that it can do without.
_PASSING_ATTEMPTS = 2
_PASSING_TIMEOUT_S = 5


def bucket_command(
    loader: S3Loader,
    posture: BucketPosture,
    *,
    apply: bool = False,
    create: bool = False,
    out: Callable[[str], Any] = print,
) -> int:
    """Show every wish and, with ``apply`` or ``create``, change what differs and show that again.

    Gives back 0 if the bucket is all that is wished for, else 77, or 75 if S3 is to be asked again later. A wish that
    the store cannot fulfil counts only if the pipeline file names it; a default is shown as ``n/a``.
    Raises ConfigError if there is no such bucket, AccessError if it may not be seen.
    """
    client = make_client(loader.region)
    return show_and_mend(client, Place.of(loader, client), posture, apply=apply, create=create, out=out)


def show_and_mend(
    client: S3Client, place: Place, posture: BucketPosture, *, apply: bool, create: bool, out: Callable[[str], Any]
) -> int:
    """What ``bucket_command`` does, of any place in a bucket."""
    out(f"{place.uri}, for {place.scope}")
    if create:
        out(_create(client, place))
    with s3_errors("s3:ListBucket", place.uri, place.owner):
        client.head_bucket(**place.request)

    views = _look_at_all(client, place, posture)
    _show(views, out)
    differing = [view for view in views if not view.ok]
    if differing and (apply or create):
        out("changing what differs")
        differing = [_mend(client, view) for view in differing]
        _show(differing, out)
    elif differing:
        out("`python main.py bucket --apply` changes what differs, and loosens nothing that is stricter")
    return _exit_code(differing)


def shortfalls(loader: S3Loader, posture: BucketPosture) -> list[str]:
    """What the bucket lacks, a sentence each, for a run to warn of or to stop at. Never raises for what S3 answers.

    Costs six small requests, sent at once. Not being allowed to look is a shortfall, too.
    """
    client = make_client(loader.region, attempts=_PASSING_ATTEMPTS, timeout_s=_PASSING_TIMEOUT_S)
    place = Place.of(loader, client)
    views = [view for view in _look_at_all(client, place, posture) if not view.ok]
    lacking = [
        f"{place.uri}: {line.wish}: wanted {line.wanted}, found {line.actual}"
        for view in views
        if view.error is None
        for line in view.lines
        if line.ok is False
    ]
    denied = [view for view in views if isinstance(view.error, AccessError)]
    if denied:
        takes = ", ".join(view.setting.look for view in denied)
        lacking.append(f"{place.uri}: cannot tell about {_wishes(denied)}: looking takes {takes}")
    others = [view for view in views if view.error is not None and view not in denied]
    return lacking + [f"{place.uri}: cannot tell about {_wishes([view])}: {view.error}" for view in others]


@dataclass(frozen=True)
class View:
    """What was seen of one setting. ``document``: None if it could not be seen, for the reason ``error``."""

    setting: Setting
    lines: list[Line]
    document: Document | None = None
    error: EtlError | None = None

    @property
    def ok(self) -> bool:
        return all(line.ok is not False for line in self.lines)


def _look_at_all(client: S3Client, place: Place, posture: BucketPosture) -> list[View]:
    settings = [setting(place, posture) for setting in SETTINGS]
    with ThreadPoolExecutor(max_workers=len(settings), thread_name_prefix="bucket") as pool:
        return list(pool.map(partial(_look, client), settings))


def _look(client: S3Client, setting: Setting) -> View:
    try:
        with _store_errors(client, setting.look, setting.place):
            document = _read(client, setting)
    except EtlError as error:
        return View(setting, _lines_in_the_dark(setting, error), error=error)
    return View(setting, setting.compare(document), document)


def _read(client: S3Client, setting: Setting) -> Document:
    try:
        return setting.read(client)
    except aws.ClientError as error:
        if error.response["Error"]["Code"] == setting.absent:
            return {}
        raise


def _lines_in_the_dark(setting: Setting, error: EtlError) -> list[Line]:
    """The wishes of a setting that could not be looked at."""
    lines = setting.compare({})
    if isinstance(error, NotSupported):
        return [
            replace(line, actual=_NOT_SUPPORTED, ok=False if setting.posture.asked_for(line.wish) else None)
            for line in lines
        ]
    reason = f"may not look; that takes {setting.look}" if isinstance(error, AccessError) else str(error)
    return [line if line.ok is None else replace(line, actual=reason, ok=False) for line in lines]


def _mend(client: S3Client, view: View) -> View:
    """Bring one setting to what is wished for, and look again. What was not seen is not changed."""
    if view.document is None:
        return view
    merged = view.setting.merged(view.document)
    if merged == view.document:
        return view
    try:
        with _store_errors(client, view.setting.change[0], view.setting.place):
            view.setting.write(client, merged)
    except EtlError as error:
        reason = _NOT_SUPPORTED if isinstance(error, NotSupported) else str(error)
        lines = [replace(line, actual=reason) if line.ok is False else line for line in view.lines]
        return replace(view, lines=lines, error=error)
    seen = _look(client, view.setting)
    shown = {line.wish for line in seen.lines}
    undone = [replace(line, actual=line.wanted, ok=True) for line in view.lines if line.wish not in shown]
    return replace(seen, lines=seen.lines + undone)


def _create(client: S3Client, place: Place) -> str:
    """Create the bucket in the client's region, if it is not there yet."""
    with s3_errors("s3:ListBucket", place.uri, place.owner):
        try:
            client.head_bucket(**place.request)
            return "it is there already"
        except aws.ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] != 404:
                raise
    request: dict[str, Any] = {"Bucket": place.bucket}
    if place.region != "us-east-1":
        request["CreateBucketConfiguration"] = {"LocationConstraint": place.region}
    with s3_errors("s3:CreateBucket", place.uri):
        try:
            client.create_bucket(**request)
        except client.exceptions.BucketAlreadyExists as error:
            raise ConfigError(f"{place.uri}: another account has a bucket of this name; choose another name") from error
        client.get_waiter("bucket_exists").wait(**place.request)
    return f"created in {place.region}"


@contextmanager
def _store_errors(client: S3Client, action: str, place: Place) -> Iterator[None]:
    """Like ``s3_errors``, with NotSupported where a store that is not Amazon's does not know the call."""
    with s3_errors(action, place.uri, place.owner):
        try:
            yield
        except aws.ClientError as error:
            if not is_amazon(client) and _is_unknown_call(error):
                raise NotSupported(f"{action} on {place.uri}: {_NOT_SUPPORTED}") from error
            raise


def is_amazon(client: S3Client) -> bool:
    """Amazon knows every call. There, 405 means that these credentials are of another account than the bucket."""
    return _AMAZON.search(urlsplit(client.meta.endpoint_url).hostname or "") is not None


def _is_unknown_call(error: aws.ClientError) -> bool:
    status = error.response["ResponseMetadata"]["HTTPStatusCode"]
    return status in _UNKNOWN_STATUS or error.response["Error"]["Code"] in _UNKNOWN_CALLS | _NO_WORDS_OF_S3


def _show(views: Sequence[View], out: Callable[[str], Any]) -> None:
    rows = [("", "", "wanted", "actual")]
    rows += [(_MARKS[line.ok], line.wish, line.wanted, line.actual) for view in views for line in view.lines]
    wish_width = max(len(row[1]) for row in rows)
    wanted_width = min(max(len(row[2]) for row in rows), _WIDEST_COLUMN)
    for mark, wish, wanted, actual in rows:
        out(f"{mark:<5} {wish:<{wish_width}}  {wanted:<{wanted_width}}  {actual}")


def _wishes(views: Sequence[View]) -> str:
    return ", ".join(line.wish for view in views for line in view.lines if line.ok is False)


def _exit_code(views: Sequence[View]) -> int:
    failing = [view for view in views if not view.ok]
    if any(isinstance(view.error, RetryLater) for view in failing):
        return RetryLater.exit_code
    return AccessError.exit_code if failing else 0
