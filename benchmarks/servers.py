"""The servers of the benchmark, on the loopback, each a process of its own: a static web server and an S3 server."""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.processes import free_ports, running, wait_until
from benchmarks.seaweedfs import WEED, seaweedfs
from benchmarks.web import HOST

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "benchmark"
KEY = "benchmark"  # access key and secret of a server that ends with the benchmark
_WEB_SERVER = Path(__file__).parent / "web.py"
_WARM_BYTES = 8 << 20
_WARM_OBJECTS = 12


@contextmanager
def web_server(files: Path, folder: Path) -> Iterator[str]:
    """Serve what is in ``files``; yields the address."""
    port = free_ports(1)[0]
    with running([sys.executable, str(_WEB_SERVER), str(files), str(port)], folder / "web.log"):
        wait_until(lambda: socket.create_connection((HOST, port), timeout=1).close(), OSError)
        yield f"http://{HOST}:{port}"


@contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve an empty bucket from ``folder``; yields the kind of server and its address.

    SeaweedFS if it is installed, else moto, which is so slow that it blurs what is measured.
    """
    with ExitStack() as stack:
        if WEED.exists():
            kind, address = "SeaweedFS", stack.enter_context(seaweedfs(folder, KEY, KEY))
        else:
            port = free_ports(1)[0]
            command = [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(port)]
            stack.enter_context(running(command, folder / "s3.log"))
            kind, address = "moto", f"http://{HOST}:{port}"
        client = s3_client(address)
        wait_until(lambda: client.create_bucket(Bucket=BUCKET), (BotoCoreError, ClientError))
        _warm_up(client)
        yield kind, address


def s3_environment(address: str) -> dict[str, str]:
    """What a child process needs in its environment to use the S3 server, and no other."""
    nowhere = "/dev/null"
    return {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_CONFIG_FILE": nowhere,
        "AWS_SHARED_CREDENTIALS_FILE": nowhere,
        "AWS_EC2_METADATA_DISABLED": "true",
        "S3_BUCKET": BUCKET,
    }


def s3_client(address: str) -> S3Client:
    return boto3.session.Session().client(
        "s3", endpoint_url=address, region_name="us-east-1", aws_access_key_id=KEY, aws_secret_access_key=KEY
    )


def objects_under(client: S3Client, prefix: str) -> list[str]:
    """The keys that begin with ``prefix``."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
    return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


def _warm_up(client: S3Client) -> None:
    """Make the server create its files, which it does at the first writes and slowly."""
    for number in range(_WARM_OBJECTS):
        client.put_object(Bucket=BUCKET, Key=f"warm/{number}", Body=bytes(_WARM_BYTES))
    for key in objects_under(client, "warm/"):
        client.delete_object(Bucket=BUCKET, Key=key)
