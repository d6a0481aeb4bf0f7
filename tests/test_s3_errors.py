"""What goes wrong with S3 reaches a person with its remedy: over the wire where a server can be made to fail so."""

from __future__ import annotations

import email.utils
import re
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from etl.errors import AccessError, ConfigError, EtlError, RetryLater
from etl.loaders.s3 import S3Loader
from etl.s3.client import s3_errors
from etl.s3.store import Store
from tests.conftest import Bucket
from tests.contracts import LoaderContract, live_recipe, published
from tests.s3_front import Front
from tests.web import WebServer


def explained(
    code: str, message: str = "", *, status: int = 400, owner: str | None = None, headers: Any = None, **facts: str
) -> EtlError:
    """What becomes of an error reply of S3."""
    metadata: Any = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    reply: Any = {"Error": {"Code": code, "Message": message, **facts}, "ResponseMetadata": metadata}
    with pytest.raises(EtlError) as failure, s3_errors("s3:PutObject", "s3://b/k", owner):
        raise ClientError(reply, "PutObject")
    assert str(failure.value).startswith("s3:PutObject on s3://b/k: ")
    assert "\n" not in str(failure.value)
    return failure.value


@pytest.mark.parametrize(
    ("code", "exit_code", "remedy"),
    [
        ("AccessDenied", 77, "ask for the permission"),
        ("ExpiredToken", 77, "renew the credentials"),
        ("InvalidAccessKeyId", 77, "check AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 77, "check AWS_SECRET_ACCESS_KEY"),
        ("KMS.DisabledException", 77, "the KMS key is disabled"),
        ("KMS.NotFoundException", 78, "check kms_key_id"),
        ("NoSuchBucket", 78, "check its name, or let `python main.py bucket --create` make it"),
        ("PermanentRedirect", 78, "set region in"),
        ("AccessControlListNotSupported", 78, "leave acl out"),
        ("NotImplemented", 78, "does not implement"),
        ("SlowDown", 75, "throttling"),
        ("InternalError", 75, "run again later"),
        ("PreconditionFailed", 75, "lost race"),
        ("ConditionalRequestConflict", 75, "another write"),
        ("NoSuchUpload", 75, "the upload is gone"),
        ("BadDigest", 75, "damaged on the way"),
        ("SomethingNew", 70, "S3 refused"),
    ],
)
def test_codes_become_errors_with_a_remedy(code: str, exit_code: int, remedy: str) -> None:
    error = explained(code, "in S3's words")
    assert error.exit_code == exit_code
    assert remedy in error.message
    assert f"({code}: in S3's words)" in error.message


@pytest.mark.parametrize(
    ("code", "status", "exit_code"),
    [
        ("503", 503, 75),  # without a body
        ("SlowDownWrite", 503, 75),
        ("ServerNotInitialized", 503, 75),
        ("TooManyRequests", 429, 75),
        ("AccountProblem", 403, 77),
        ("NotSignedUp", 403, 77),
    ],
)
def test_other_codes_are_told_by_their_status(code: str, status: int, exit_code: int) -> None:
    assert explained(code, status=status).exit_code == exit_code


def test_denied_key_names_what_it_takes() -> None:
    error = explained("AccessDenied", "User: x is not authorized to perform: kms:GenerateDataKey on resource: arn")
    assert isinstance(error, AccessError)
    assert "ask for kms:GenerateDataKey and kms:Decrypt" in error.message


def test_denied_with_an_expected_owner_says_that_it_may_be_that() -> None:
    assert "does not belong to account 123456789012" in explained("AccessDenied", owner="123456789012").message


@pytest.mark.parametrize("where", [{"Region": "eu-west-1"}, {"headers": {"x-amz-bucket-region": "eu-west-1"}}])
def test_wrong_region_names_the_right_one(where: dict[str, Any]) -> None:
    assert 'set region = "eu-west-1"' in explained("PermanentRedirect", **where).message


def test_wrong_clock_tells_by_how_much() -> None:
    there = email.utils.format_datetime(datetime.now(UTC) - timedelta(hours=1))
    assert re.search(
        r"3,60\d s ahead of that of S3", explained("RequestTimeTooSkewed", headers={"date": there}).message
    )
    assert "clock is wrong" in explained("RequestTimeTooSkewed").message


# -- over the wire ---------------------------------------------------------------------------------------------------


def test_missing_bucket_is_a_configuration_error(bucket: Bucket) -> None:
    for layout in ({"key": "a.csv"}, {"prefix": "a/"}):
        loader = S3Loader.model_validate({"bucket": "there-is-no-such-bucket", **layout})
        for attempt in (loader.live, loader.check, loader.versions):
            with pytest.raises(ConfigError, match=r"there-is-no-such-bucket.*: the bucket does not exist"):
                attempt()


def test_missing_credentials_are_named(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(AccessError, match="no AWS credentials found"):
        S3Loader(bucket=bucket.name, key="a.csv").check()


@pytest.mark.parametrize(
    ("profile", "exit_code", "news"),
    [
        (
            "sso_start_url = https://a\nsso_region = eu-west-1\nsso_account_id = 111122223333\nsso_role_name = r",
            77,
            "run `aws sso login`",
        ),
        ("login_session = arn:aws:iam::111122223333:user/u", 78, r"a library is missing .*pip install"),
        ("role_arn = arn:aws:iam::111122223333:role/r\nsource_profile = nobody", 78, "the AWS config file is wrong"),
        ("no setting", 78, "the AWS config file cannot be read"),
    ],
)
def test_profiles_that_give_no_credentials(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: str, exit_code: int, news: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    config = tmp_path / "config"
    config.write_text(f"[profile me]\n{profile}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    monkeypatch.setenv("AWS_PROFILE", "me")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(EtlError, match=news) as failure:
        S3Loader(bucket=bucket.name, key="a.csv").live()
    assert failure.value.exit_code == exit_code


@pytest.mark.parametrize(
    ("name", "value", "news"),
    [
        ("AWS_PROFILE", "nobody", "check AWS_PROFILE"),
        ("AWS_ENDPOINT_URL", "localhost", "check AWS_ENDPOINT_URL"),
    ],
)
def test_wrong_settings_are_named(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch, name: str, value: str, news: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=news):
        S3Loader(bucket=bucket.name, key="a.csv").live()


def test_denied_write_names_action_and_object(bucket: Bucket) -> None:
    bucket.deny("s3:PutObject")
    loader, run = S3Loader(bucket=bucket.name, key="a.csv"), LoaderContract.a_run()
    receipt = loader.load(LoaderContract.batches(1), run)
    with pytest.raises(AccessError, match=rf"s3:PutObject on s3://{bucket.name}/a.csv: .*permission"):
        loader.commit([receipt], run)


@pytest.mark.parametrize(
    ("code", "status", "error", "news"),
    [
        ("ExpiredToken", 400, AccessError, "the session has expired"),
        ("RequestTimeTooSkewed", 403, RetryLater, "clock is wrong"),
        ("InvalidAccessKeyId", 403, AccessError, "check AWS_ACCESS_KEY_ID"),
    ],
)
def test_head_is_explained_by_a_get(
    bucket: Bucket, front: Front, code: str, status: int, error: type[EtlError], news: str
) -> None:
    """A refused HEAD has no body that could say why."""
    front.refuse_if(lambda _: True, status, code)
    with pytest.raises(error, match=rf"s3:GetObject on s3://{bucket.name}/a.csv: .*{news}"):
        S3Loader(bucket=bucket.name, key="a.csv").live()


def test_head_that_is_refused_once_is_tried_again(bucket: Bucket, front: Front) -> None:
    """Whoever may GET may HEAD, too: it was something that has passed."""
    published(S3Loader(bucket=bucket.name, key="a.csv"), LoaderContract.batches(1))
    refusals = iter(range(1))
    front.refuse_if(lambda call: call.method == "HEAD" and next(refusals, None) is not None, 400, "RequestTimeout")
    assert live_recipe(S3Loader(bucket=bucket.name, key="a.csv")) == "r1"


def test_object_that_may_not_be_looked_at_counts_as_missing(
    bucket: Bucket, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    front.refuse_if(lambda call: call.method in ("HEAD", "GET"), 403, "AccessDenied")
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    assert loader.live() is None
    assert "as if nothing were there yet" in caplog.text
    published(loader, LoaderContract.batches(1))
    assert bucket.objects() == ["a.csv"]


def test_unreachable_server_is_for_later(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(RetryLater, match="cannot reach S3"):
        S3Loader(bucket=bucket.name, key="a.csv", deadline_s=0).live()


def test_a_web_server_is_no_s3(bucket: Bucket, web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the console of a store, which shows its page at any address."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url(""))
    for key, place in (("a.csv", {"key": "a.csv"}), ("a/_current.json", {"prefix": "a/"})):
        web.serve(f"/{bucket.name}/{key}", b"<html></html>")
        with pytest.raises(ConfigError, match=r"answers, and not as S3 does; check AWS_ENDPOINT_URL"):
            S3Loader.model_validate({"bucket": bucket.name, **place}).live()


def test_silent_server_is_given_up_at_the_deadline(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hurried client waits 3 seconds for a reply and has 5 for all of it: time for two attempts."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with pytest.raises(RetryLater, match="the connection to S3 failed"):
            Store(bucket.name, hurried=True).head("a.csv")
        silent.setblocking(False)
        assert len(list(iter(lambda: accepted(silent), False))) <= 2


def accepted(server: socket.socket) -> bool:
    try:
        server.accept()
    except BlockingIOError:
        return False
    return True


def test_failing_call_is_tried_until_it_works(bucket: Bucket, front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """Longer than botocore's own retries, which give up a failing server after some three seconds."""
    failures = iter(range(10))
    front.refuse_if(lambda call: call.method == "PUT" and next(failures, None) is not None, 500, "InternalError")
    Store(bucket.name).put("a.csv", b"content")
    assert bucket.body("a.csv") == b"content"
    assert "Trying again" in caplog.text


def test_damaged_body_is_sent_once_more(bucket: Bucket, front: Front, tmp_path: Path) -> None:
    failures = iter(range(1))
    front.refuse_if(lambda call: call.method == "PUT" and next(failures, None) is not None, 400, "BadDigest")
    file = tmp_path / "file"
    file.write_bytes(b"content")
    Store(bucket.name).put("a.csv", file)
    assert bucket.body("a.csv") == b"content"
    front.refuse_if(lambda call: call.method == "PUT", 400, "BadDigest")
    with pytest.raises(RetryLater, match="damaged on the way, twice"):
        Store(bucket.name).put("b.csv", file)
    assert sum(call.key == "b.csv" for call in front.calls) == 2


def test_stopped_store_sends_nothing_more(bucket: Bucket, front: Front) -> None:
    front.refuse_if(lambda _: True, 500, "InternalError")
    store = Store(bucket.name)
    store.stop()
    with pytest.raises(RetryLater, match="internal error"):
        store.put("a.csv", b"content")
    assert len(front.calls) == 1
