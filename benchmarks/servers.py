"""The servers of the benchmark, on the loopback, each a process of its own: a static web server and an S3 server."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from benchmarks.web import HOST

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

BUCKET = "benchmark"
KEY = "benchmark"  # access key and secret of a server that ends with the benchmark
_WEB_SERVER = Path(__file__).parent / "web.py"
_SOCKETS = Path("/tmp")  # noqa: S108  (where SeaweedFS puts them, whatever TMPDIR says)
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 3
_WARM_BYTES = 8 << 20
_WARM_OBJECTS = 12


@contextmanager
def web_server(files: Path, folder: Path) -> Iterator[str]:
    """Serve what is in ``files``; yields the address."""
    port = _free_ports(1)[0]
    with _process([sys.executable, str(_WEB_SERVER), str(files), str(port)], folder / "web.log"):
        _wait_until(lambda: socket.create_connection((HOST, port), timeout=1).close(), OSError)
        yield f"http://{HOST}:{port}"


@contextmanager
def s3_server(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve an empty bucket from ``folder``; yields the kind of server and its address.

    SeaweedFS if it is installed, else moto, which is so slow that it blurs what is measured.
    """
    weed = Path(sys.executable).with_name("weed")
    ports = _free_ports(8)
    address = f"http://{HOST}:{ports[0]}"
    if weed.exists():
        kind, command = "SeaweedFS", _seaweed_command(weed, folder, ports)
    else:
        kind, command = "moto", [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(ports[0])]
    with ExitStack() as stack:
        stack.callback(_remove_sockets, ports)
        stack.enter_context(_process(command, folder / "s3.log"))
        client = s3_client(address)
        _wait_until(lambda: client.create_bucket(Bucket=BUCKET), (BotoCoreError, ClientError))
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


def _seaweed_command(weed: Path, folder: Path, ports: Sequence[int]) -> list[str]:
    identity = {"name": KEY, "credentials": [{"accessKey": KEY, "secretKey": KEY}], "actions": ["Admin"]}
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}), encoding="utf-8")
    data = folder / "s3"
    data.mkdir()
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port", "volume.port.grpc")
    options = dict(zip((*names, "filer.port", "filer.port.grpc"), ports, strict=True))
    return [
        *(str(weed), "-logtostderr", "server", "-s3", f"-s3.config={config}", f"-dir={data}"),
        *(f"-ip={HOST}", f"-ip.bind={HOST}", "-s3.port.iceberg=0", "-s3.port.lance=0"),
        *("-master.telemetry=false", "-master.volumeSizeLimitMB=2048", "-volume.max=64", "-volume.preStopSeconds=0"),
        *(f"-{name}={port}" for name, port in options.items()),
    ]


def _remove_sockets(ports: Sequence[int]) -> None:
    """Remove what SeaweedFS leaves behind: sockets named after its ports. Another server's are not touched."""
    for port in ports:
        for socket_file in _SOCKETS.glob(f"seaweedfs-*-{port}.sock"):
            socket_file.unlink(missing_ok=True)


def _warm_up(client: S3Client) -> None:
    """Make the server create its files, which it does at the first writes and slowly."""
    for number in range(_WARM_OBJECTS):
        client.put_object(Bucket=BUCKET, Key=f"warm/{number}", Body=bytes(_WARM_BYTES))
    for key in objects_under(client, "warm/"):
        client.delete_object(Bucket=BUCKET, Key=key)


@contextmanager
def _process(command: Sequence[str], log: Path) -> Iterator[None]:
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((HOST, 0))
        return [listener.getsockname()[1] for listener in listeners]


def _wait_until(attempt: Any, failures: Any) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            attempt()
            return
        except failures:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
