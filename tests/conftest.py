"""Fixtures: a clean environment, a real S3 server (moto's, over HTTP) with a fresh bucket for each test, databases."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

    from main import Pipeline
    from tests.databases import Server
    from tests.files import Put
    from tests.s3_front import Front
    from tests.web import WebServer

pytest.register_assert_rewrite("tests.contracts", "tests.incremental_runs", "tests.reading", "tests.sql_contract")
settings.register_profile("etl", deadline=None, derandomize=True)
settings.load_profile("etl")

PROJECT = Path(__file__).parent.parent
PAGES = [PROJECT / "README.md", *sorted(PROJECT.glob("docs/*.md"))]
ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET = "a-secret-of-the-tests"
_OURS = ("AWS_", "S3_", "LEGO_", "LOG_", "ETL_", "API_", "DATABASE_")


@pytest.fixture(autouse=True)
def clean_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees this machine's credentials, settings or cache."""
    for name in [
        name for name in os.environ if name.startswith(_OURS) and name not in ("LEGO_REAL_ZIP", "AWS_CA_BUNDLE")
    ]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("ETL_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file into the test's folder and tells its path."""

    def put(name: str, content: bytes) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return str(path)

    return put


@pytest.fixture(scope="session")
def s3_url() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@dataclass
class Bucket:
    """A versioned bucket, with a client and short ways to look into it."""

    name: str
    client: S3Client

    def objects(self) -> list[str]:
        return [entry["Key"] for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", [])]

    def body(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.name, Key=key)["Body"].read()

    def metadata(self, key: str) -> dict[str, str]:
        return self.client.head_object(Bucket=self.name, Key=key)["Metadata"]

    def versions(self, key: str) -> list[str]:
        found = self.client.list_object_versions(Bucket=self.name, Prefix=key).get("Versions", [])
        return [version["VersionId"] for version in found if version["Key"] == key]

    def open_uploads(self) -> list[Any]:
        return list(self.client.list_multipart_uploads(Bucket=self.name).get("Uploads", []))

    def deny(self, action: str) -> None:
        """To everybody, for every object."""
        denial = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": f"arn:aws:s3:::{self.name}/*"}
        policy = {"Version": "2012-10-17", "Statement": [denial]}
        self.client.put_bucket_policy(Bucket=self.name, Policy=json.dumps(policy))


_bucket_number = iter(range(1, 1_000_000))


@pytest.fixture
def bucket(s3_url: str, clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    import boto3

    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    client = boto3.client("s3")
    name = f"test-bucket-{next(_bucket_number)}"
    client.create_bucket(Bucket=name)
    client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    return Bucket(name, client)


@pytest.fixture
def web() -> Iterator[WebServer]:
    from tests.web import WebServer

    with WebServer() as server:
        yield server


@pytest.fixture
def lego(web: WebServer, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    """The LEGO pipeline, as its file describes it, from the sample at ``/lego.zip`` of ``web`` to the bucket."""
    from main import Pipeline
    from samples.make_sample import make_sample

    monkeypatch.setenv("LEGO_URL", web.serve("/lego.zip", make_sample(), etag='"1"'))
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    return Pipeline.from_file("pipelines/lego.toml")


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    from tests.databases import NoServerError, postgres_server

    try:
        with postgres_server() as server:
            yield server
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Server]:
    from tests.databases import NoServerError, mariadb_server

    try:
        with mariadb_server() as server:
            yield server
    except NoServerError as error:
        pytest.skip(str(error))


@pytest.fixture
def front(bucket: Bucket, s3_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """Between the code under test and the S3 server; the bucket's own client goes past it."""
    from tests.s3_front import front_of

    with front_of(s3_url) as front:
        monkeypatch.setenv("AWS_ENDPOINT_URL", front.url)
        yield front
