"""One object on a real S3 server: nothing half-written, nothing written twice, nothing overwritten blindly."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Loader
from etl.errors import ConfigError, EtlError, RetryLater
from etl.loaders.s3 import S3Loader
from etl.repeats import recipe_of
from etl.run import Published, Receipt, Run
from etl.s3.options import MIB
from tests.conftest import Bucket
from tests.contracts import LoaderContract, published
from tests.s3_front import Call, Front

ARN = "arn:aws:kms:eu-west-1:111122223333:key/0d9f0b1c-1111-2222-3333-444455556666"

READERS: dict[str, Any] = {
    "parquet": pd.read_parquet,
    "csv.gz": partial(pd.read_csv, compression="gzip"),
    "jsonl": partial(pd.read_json, lines=True),
}


class S3Contract(LoaderContract):
    ending = "parquet"

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: Bucket) -> None:
        self.bucket = bucket

    @property
    def key(self) -> str:
        return f"folder/table.{self.ending}"

    def make(self) -> Loader:
        return S3Loader(bucket=self.bucket.name, key=self.key)

    def read(self) -> DataFrame | None:
        if self.key not in self.bucket.objects():
            return None
        frame: DataFrame = READERS[self.ending](io.BytesIO(self.bucket.body(self.key)))
        return frame


class TestParquet(S3Contract):
    pass


class TestCsvGz(S3Contract):
    ending = "csv.gz"


class TestJsonLines(S3Contract):
    ending = "jsonl"


def random_batches(count: int) -> Iterator[DataFrame]:
    """About 1 MiB of Parquet a batch, the same each time."""
    chance = np.random.default_rng(7)
    for _ in range(count):
        yield DataFrame({"number": chance.integers(0, 2**62, 65_536), "share": chance.random(65_536)})


class TestMultipart:
    """Content of several parts."""

    @pytest.fixture(autouse=True)
    def _loader(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.loader = S3Loader(bucket=bucket.name, key="big/table.parquet", part_bytes=5 * MIB)
        self.run = LoaderContract.a_run()

    def test_all_parts_arrive(self) -> None:
        receipt = self.loader.load(random_batches(20), self.run)
        assert len(receipt.detail["parts"]) > 2
        published = self.loader.commit([receipt], self.run)
        body = self.bucket.body("big/table.parquet")
        assert hashlib.sha256(body).hexdigest() == published.sha256
        pd.testing.assert_frame_equal(
            pd.read_parquet(io.BytesIO(body)), pd.concat(random_batches(20), ignore_index=True)
        )

    def test_parts_travel_before_the_last_batch(self) -> None:
        seen = []

        def watching() -> Iterator[DataFrame]:
            for batch in random_batches(20):
                seen.append(len(self.bucket.open_uploads()))
                yield batch

        self.loader.load(watching(), self.run)
        assert seen[0] == 0
        assert seen[-1] == 1

    def test_equal_content_is_told_from_the_report(self, tmp_path: Path) -> None:
        first = published(self.loader, random_batches(10), id=self.run.id)
        report = tmp_path / "report.json"
        report.write_text(f'{{"published": {{"sha256": "{first.sha256}"}}}}')
        self.loader.keep(f"_runs/{self.run.id}.json", report)
        assert not published(self.loader, random_batches(10)).changed
        assert len(self.bucket.versions("big/table.parquet")) == 1
        assert self.bucket.open_uploads() == []

    @pytest.mark.parametrize("failure", [EtlError("no more"), KeyboardInterrupt()])
    def test_failing_leaves_no_open_upload(self, failure: BaseException) -> None:
        def failing() -> Iterator[DataFrame]:
            yield from random_batches(15)
            assert len(self.bucket.open_uploads()) == 1
            raise failure

        with pytest.raises(type(failure)):
            self.loader.load(failing(), self.run)
        assert self.bucket.open_uploads() == []
        assert self.bucket.objects() == []

    def test_abort_leaves_no_open_upload(self) -> None:
        receipt = self.loader.load(random_batches(10), self.run)
        assert len(self.bucket.open_uploads()) == 1
        self.loader.abort([receipt])
        assert self.bucket.open_uploads() == []


def test_metadata_tells_where_the_object_came_from(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    run = LoaderContract.a_run()
    receipt = loader.load(LoaderContract.batches(1, 2), run)
    loader.commit([receipt], run)
    assert bucket.metadata("a.csv") == {
        "etl-run-id": run.id,
        "etl-recipe": "r1",
        "etl-source": "fingerprint",
        "etl-rows": "2",
        "etl-sha256": receipt.sha256,
    }


def test_equal_content_makes_no_new_version(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    for recipe in ("r1", "r2"):
        publish(loader, 1, recipe=recipe)
    assert len(bucket.versions("a.csv")) == 1


def test_null_and_empty_text_stay_apart_in_csv(bucket: Bucket) -> None:
    frame = DataFrame({"text": ["", None, 'say "hi", twice']})
    published(S3Loader(bucket=bucket.name, key="a.csv"), iter([frame]))
    assert bucket.body("a.csv").decode() == '"text"\n""\n\n"say ""hi"", twice"\n'


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bucket": "Not A Bucket", "key": "a.csv"}, "bucket"),
        ({"bucket": "bucket", "key": "/a.csv"}, "slash"),
        ({"bucket": "bucket", "key": "a.xls"}, r"end the key in \.parquet"),
        ({"bucket": "bucket", "key": "a.csv", "part_bytes": 1}, "part_bytes"),
        ({"bucket": "bucket"}, "either key .* or prefix"),
        ({"bucket": "bucket", "key": "a.csv", "prefix": "a/"}, "either key .* or prefix"),
        ({"bucket": "bucket", "key": "a.csv", "partition_by": ["year"]}, "partition_by: only with prefix"),
        ({"bucket": "bucket", "prefix": "a/", "part_bytes": 8 * MIB}, "part_bytes: only with key"),
        ({"bucket": "bucket", "prefix": "/a/"}, "without a slash before it"),
        ({"bucket": "bucket", "prefix": "a/", "partition_by": ["year", "year"]}, "a column twice"),
        ({"bucket": "bucket", "key": "a.csv", "expected_bucket_owner": "me"}, "expected_bucket_owner"),
        ({"bucket": "bucket", "key": "a.csv", "kms_key_id": ARN}, "only with encryption"),
        (
            {"bucket": "bucket", "key": "a.csv", "encryption": "aws:kms", "kms_key_id": "alias/mine"},
            "an alias can come",
        ),
        ({"bucket": "bucket", "key": "a.csv", "encryption": "aws:kms", "kms_key_id": "1234"}, "should be the ARN"),
        ({"bucket": "bucket", "key": "a.csv", "encryption": "aws:kms:dsse", "bucket_key": True}, "bucket_key: only"),
        ({"bucket": "bucket", "key": "a.csv", "tags": dict.fromkeys("abcdefghijk", "x")}, "at most 10 tags"),
        ({"bucket": "bucket", "key": "a.csv", "tags": {"team": "data & more"}}, "tags hold letters"),
        ({"bucket": "bucket", "key": "a.csv", "tags": {"aws:a": "x"}}, "do not begin with aws:"),
        ({"bucket": "bucket", "key": "a.csv", "metadata": {"etl-run-id": "x"}}, "program's own"),
        ({"bucket": "bucket", "key": "a.csv", "metadata": {"Owner": "x"}}, "lower-case"),
        ({"bucket": "bucket", "key": "a.csv", "metadata": {"owner": "Zoë"}}, "printable ASCII"),
        ({"bucket": "bucket", "key": "a.csv", "metadata": {"owner": "x" * 1600}}, "more than 1,500 bytes"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        S3Loader(**options)


def publish(loader: S3Loader, *numbers: int, **facts: Any) -> Published:
    return published(loader, LoaderContract.batches(*numbers), **facts)


def test_unchanged_run_costs_one_request(bucket: Bucket, front: Front) -> None:
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    publish(loader, 1)
    front.calls.clear()
    assert loader.live() is not None
    assert [call.method for call in front.calls] == ["HEAD"]


class TestOptions:
    """What each call carries."""

    @pytest.fixture(autouse=True)
    def _calls(self, bucket: Bucket, front: Front, tmp_path: Path) -> None:
        loader = S3Loader(
            bucket=bucket.name,
            key="a/table.parquet",
            part_bytes=5 * MIB,
            expected_bucket_owner="123456789012",
            encryption="aws:kms",
            kms_key_id=ARN,
            bucket_key=True,
            acl="bucket-owner-full-control",
            storage_class="STANDARD_IA",
            tags={"team": "data + more", "cost": "7"},
            metadata={"contact": "data@example.com"},
        )
        loader.check()
        loader.live()
        published(loader, LoaderContract.batches(1))
        published(loader, random_batches(10))
        note = tmp_path / "note.json"
        note.write_text("{}")
        loader.keep("_runs/note.json", note)
        self.calls = front.calls
        self.bucket = bucket

    def data_writes(self) -> list[Call]:
        """The PUT of the small content and the beginning of the upload of the large."""
        return [call for call in self.calls if "x-amz-meta-etl-run-id" in call.headers]

    def completions(self) -> list[Call]:
        return [call for call in self.calls if call.method == "POST" and "uploadId" in call.query]

    def test_every_call_names_the_owner_and_publishing_is_conditional(self) -> None:
        assert len(self.calls) > 10
        assert {call.headers.get("x-amz-expected-bucket-owner") for call in self.calls} == {"123456789012"}
        publishing = [call for call in self.data_writes() if call.method == "PUT"] + self.completions()
        assert len(publishing) == 2
        assert all(call.headers.keys() & {"If-None-Match", "If-Match"} for call in publishing)

    def test_every_object_is_encrypted_tagged_and_described(self) -> None:
        reports = [call for call in self.calls if call.method == "PUT" and call.key.endswith(".json")]
        assert (len(self.data_writes()), len(reports)) == (2, 1)
        for call in self.data_writes() + reports:
            assert call.headers["x-amz-server-side-encryption"] == "aws:kms"
            assert call.headers["x-amz-server-side-encryption-aws-kms-key-id"] == ARN
            assert call.headers["x-amz-server-side-encryption-bucket-key-enabled"] == "true"
            assert call.headers["x-amz-acl"] == "bucket-owner-full-control"
            assert call.headers["x-amz-tagging"] == "team=data+%2B+more&cost=7"
        for call in self.data_writes():
            assert call.headers["x-amz-storage-class"] == "STANDARD_IA"
            assert call.headers["x-amz-meta-contact"] == "data@example.com"

    def test_everything_sent_has_a_checksum_of_ours(self) -> None:
        bodies = [call for call in self.calls if call.method == "PUT"]
        assert len(bodies) > 3
        assert all("x-amz-checksum-crc32" in call.headers for call in bodies)
        (completion,) = self.completions()
        size = self.bucket.client.head_object(Bucket=self.bucket.name, Key="a/table.parquet")["ContentLength"]
        assert completion.headers["x-amz-checksum-type"] == "FULL_OBJECT"
        assert completion.headers["x-amz-mp-object-size"] == str(size)
        assert "x-amz-checksum-crc32" in completion.headers


def test_wish_for_encryption_is_followed_though_the_content_is_equal(bucket: Bucket) -> None:
    publish(S3Loader(bucket=bucket.name, key="a.csv"), 1)
    encrypting = S3Loader(bucket=bucket.name, key="a.csv", encryption="aws:kms", kms_key_id=ARN)
    assert publish(encrypting, 1).changed
    assert bucket.client.head_object(Bucket=bucket.name, Key="a.csv")["SSEKMSKeyId"] == ARN
    assert not publish(encrypting, 1).changed


class TestRaces:
    """Two runs at once, and replies that never came."""

    @pytest.fixture(autouse=True)
    def _loader(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.loader = S3Loader(bucket=bucket.name, key="a.parquet", part_bytes=5 * MIB)

    def write(self, batches: Iterator[DataFrame]) -> tuple[Receipt, Run]:
        run = LoaderContract.a_run()
        return self.loader.load(batches, run), run

    def commit(self, receipt: Receipt, run: Run) -> Published:
        return self.loader.commit([receipt], run)

    def numbers(self) -> list[int]:
        frame = pd.read_parquet(io.BytesIO(self.bucket.body("a.parquet")))
        numbers: list[int] = frame["number"].tolist()
        return numbers

    @pytest.mark.parametrize("before", [None, 7])
    def test_loser_stops_and_harms_nothing(self, before: int | None) -> None:
        if before is not None:
            publish(self.loader, before)
        slow, fast = self.write(LoaderContract.batches(1)), self.write(LoaderContract.batches(2))
        self.commit(*fast)
        with pytest.raises(RetryLater, match=r"a\.parquet: lost race"):
            self.commit(*slow)
        assert self.numbers() == [2]

    def test_losing_upload_stops_and_harms_nothing(self) -> None:
        slow, fast = self.write(random_batches(10)), self.write(LoaderContract.batches(2))
        self.commit(*fast)
        with pytest.raises(RetryLater):
            self.commit(*slow)
        self.loader.abort([slow[0]])
        assert self.numbers() == [2]
        assert self.bucket.open_uploads() == []

    @pytest.mark.parametrize("count", [1, 10])
    def test_commit_whose_reply_was_lost_is_recognised(self, count: int) -> None:
        """The second commit is what a client does that never heard of the first."""
        written = self.write(random_batches(count))
        first = self.commit(*written)
        again = self.commit(*written)
        assert (again.changed, again.version_id) == (True, first.version_id)
        assert len(self.bucket.versions("a.parquet")) == 1

    def test_object_that_somebody_deleted_meanwhile_is_a_lost_race(self) -> None:
        publish(self.loader, 1)
        written = self.write(LoaderContract.batches(2))
        self.bucket.client.delete_object(Bucket=self.bucket.name, Key="a.parquet")
        with pytest.raises(RetryLater, match=r"a\.parquet: lost race: somebody"):
            self.commit(*written)

    def test_upload_that_somebody_aborted_is_for_the_next_run(self, front: Front) -> None:
        receipt, run = self.write(random_batches(10))
        front.refuse("POST", "uploadId", 404, "NoSuchUpload")
        with pytest.raises(RetryLater, match="the upload is gone"):
            self.commit(receipt, run)
        assert self.bucket.objects() == []

    def test_conflict_that_ends_the_upload_is_for_the_next_run(self, front: Front) -> None:
        """As S3 documents 409 for the completion of an upload: what was sent is gone."""
        receipt, run = self.write(random_batches(10))
        first = iter([True])
        front.refuse_if(lambda call: call.method == "POST" and next(first, False), 409, "ConditionalRequestConflict")
        front.refuse("POST", "uploadId", 404, "NoSuchUpload")
        with pytest.raises(RetryLater, match="the upload is gone"):
            self.commit(receipt, run)
        assert self.bucket.objects() == []

    def test_commit_aborts_what_killed_runs_left(self) -> None:
        stray = self.bucket.client.create_multipart_upload(Bucket=self.bucket.name, Key="a.parquet")
        other = self.bucket.client.create_multipart_upload(Bucket=self.bucket.name, Key="a.parquet.old")
        receipt, run = self.write(LoaderContract.batches(1))
        self.loader.abort([receipt])  # as a dry run does: it must leave a run on another machine alone
        assert {upload["UploadId"] for upload in self.bucket.open_uploads()} == {stray["UploadId"], other["UploadId"]}
        self.commit(receipt, run)
        assert [upload["UploadId"] for upload in self.bucket.open_uploads()] == [other["UploadId"]]

    def test_run_that_publishes_nothing_ends_no_other(self) -> None:
        publish(self.loader, 1)
        receipt, run = self.write(random_batches(10))
        assert not publish(self.loader, 1).changed
        assert self.commit(receipt, run).changed


def test_store_that_knows_no_conditions_is_written_to_without(bucket: Bucket, front: Front) -> None:
    front.refuse_if(lambda call: "If-None-Match" in call.headers, 501, "NotImplemented")
    publish(S3Loader(bucket=bucket.name, key="a.csv"), 1)
    assert "a.csv" in bucket.objects()


@pytest.mark.parametrize("count", [1, 10])
def test_store_that_keeps_no_checksums_is_believed(bucket: Bucket, front: Front, count: int) -> None:
    front.hidden = {"x-amz-checksum-mode"}  # then the server tells none
    loader = S3Loader(bucket=bucket.name, key="a.parquet", part_bytes=5 * MIB)
    assert published(loader, random_batches(count)).changed


def test_damage_that_the_store_did_not_notice_is_told(bucket: Bucket, front: Front) -> None:
    def damage_it_first(call: Call) -> bool:
        if call.method == "HEAD" and call.key in bucket.objects():
            told = bucket.metadata(call.key)
            bucket.client.put_object(Bucket=bucket.name, Key=call.key, Body=b"something", Metadata=told)
        return False

    front.refuse_if(damage_it_first, 500, "never")
    with pytest.raises(EtlError, match="damaged on its way: roll back"):
        publish(S3Loader(bucket=bucket.name, key="a.csv"), 1)


def test_object_that_exists_but_may_not_be_seen(bucket: Bucket, front: Front) -> None:
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    publish(loader, 1)
    front.refuse_if(lambda call: call.method in ("HEAD", "GET"), 403, "AccessDenied")
    with pytest.raises(EtlError, match="ask for s3:GetObject") as failure:
        publish(loader, 2)
    assert failure.value.exit_code == 77


class TestHistory:
    """The versions of the bucket."""

    @pytest.fixture(autouse=True)
    def _published(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.loader = S3Loader(bucket=bucket.name, key="a.csv", metadata={"contact": "me"})
        for run_id, number in (("run-1", 1), ("run-2", 2), ("run-3", 3)):
            publish(self.loader, number, id=run_id)
        self.bucket.client.put_object(Bucket=bucket.name, Key="a.csv.other", Body=b"")

    def test_lists_the_newest_first(self) -> None:
        versions = self.loader.versions()
        assert [(each.run_id, each.rows, each.live) for each in versions] == [
            ("run-3", 1, True),
            ("run-2", 1, False),
            ("run-1", 1, False),
        ]

    def test_nothing_is_listed_where_nothing_is(self) -> None:
        assert S3Loader(bucket=self.bucket.name, key="b.csv").versions() == []

    def test_rollback_makes_a_version_live_again(self) -> None:
        version = self.loader.rollback("run-1")
        assert (version.run_id, version.live) == ("run-1", True)
        assert self.bucket.body("a.csv") == b'"number","text"\n1,"row 1"\n'
        assert self.bucket.metadata("a.csv")["contact"] == "me"
        live = self.loader.live()
        assert live is not None
        assert live.run_id == "run-1"
        assert len(self.bucket.versions("a.csv")) == 4

    def test_rollback_to_what_is_live_does_nothing(self) -> None:
        self.loader.rollback("run-3")
        assert len(self.bucket.versions("a.csv")) == 3

    def test_rollback_brings_back_what_was_deleted(self) -> None:
        self.bucket.client.delete_object(Bucket=self.bucket.name, Key="a.csv")
        assert [each.live for each in self.loader.versions()] == [False, False, False]
        self.loader.rollback("run-3")
        assert self.bucket.body("a.csv") == b'"number","text"\n3,"row 3"\n'
        assert [each.live for each in self.loader.versions()] == [True, False, False, False]

    def test_rollback_to_an_unknown_run(self) -> None:
        with pytest.raises(ConfigError, match="no version of run run-9"):
            self.loader.rollback("run-9")

    def test_large_versions_are_copied_in_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("etl.s3.copy._LARGEST_COPY", 6 * MIB)
        monkeypatch.setattr("etl.s3.copy._COPIED_PART", 5 * MIB)
        loader = S3Loader(bucket=self.bucket.name, key="big.parquet", part_bytes=5 * MIB)
        published(loader, random_batches(10), id="run-big")
        body = self.bucket.body("big.parquet")
        publish(loader, 2)
        loader.rollback("run-big")
        assert self.bucket.body("big.parquet") == body
        assert self.bucket.metadata("big.parquet")["etl-run-id"] == "run-big"

    def test_sweep_finds_unfinished_uploads(self) -> None:
        self.bucket.client.create_multipart_upload(Bucket=self.bucket.name, Key="a.csv")
        assert self.loader.sweep(timedelta(days=36500)) == []  # the server says that all uploads began in 2010
        assert len(self.loader.sweep(timedelta(0))) == 1
        assert len(self.bucket.open_uploads()) == 1
        self.loader.sweep(timedelta(0), apply=True)
        assert self.bucket.open_uploads() == []
        assert len(self.bucket.versions("a.csv")) == 3


def test_a_run_makes_one_client(bucket: Bucket) -> None:
    loader = S3Loader(bucket=bucket.name, key="a.csv")
    with loader.connected():
        client = loader.store().client
        assert loader.store().client is client
        assert loader.store(hurried=True).client is not client
        with loader.connected():
            assert loader.store().client is client
    assert loader.store().client is not client
    assert client not in vars(loader).values()


def test_options_that_change_no_result_are_no_part_of_the_recipe() -> None:
    plain = S3Loader(bucket="bucket", key="a.csv")
    hasty = S3Loader(bucket="bucket", key="a.csv", deadline_s=1, parts_in_flight=1, part_bytes=9 * MIB, region="x")
    source = LoaderContract.a_run().source
    assert recipe_of(source, [plain]) == recipe_of(source, [hasty])
    assert recipe_of(source, [plain]) != recipe_of(source, [S3Loader(bucket="bucket", key="b.csv")])


def test_account_ids_may_come_as_numbers() -> None:
    options: Any = {"bucket": "bucket", "key": "a.csv", "expected_bucket_owner": 123456789012}
    assert S3Loader(**options).expected_bucket_owner == "123456789012"
