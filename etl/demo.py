"""The demo: runs the LEGO pipeline for real, from and to an S3 server inside this process."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etl.errors import ConfigError
from etl.paths import PROJECT

if TYPE_CHECKING:
    from main import Pipeline

SAMPLE = PROJECT / "samples" / "lego_sets_sample.zip"
SOURCE_BUCKET = "demo-source"  # everybody may read it, as that of the real table
BUCKET = "demo-bucket"
OUTPUT = "demo-output"
_PREVIEW_COLUMNS = ["set_id", "name", "year", "theme", "pieces", "us_retail_price"]
_PREVIEW_ROWS = 5


def run_demo(load: Callable[[Path], Pipeline]) -> int:
    """Run the pipeline twice on the bundled sample and show what happened; gives back the exit code."""
    output = Path.cwd() / OUTPUT
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(exist_ok=True)
    with _s3_server() as s3_url, _environment(s3_url, output):
        pipeline = load(PROJECT / "pipelines" / "lego.toml")
        first = pipeline.run()
        for line in first.details():
            print(f"  {line}")
        print(first.summary())
        if first.error:
            return first.exit_code
        print("\nThe same again, as the next night would: nothing changed, so nothing is written.")
        again = pipeline.run()
        print(again.summary())
        files = _download_all(output)
    shutil.rmtree(output / ".cache", ignore_errors=True)
    _show(output, files)
    return again.exit_code


@contextmanager
def _s3_server() -> Iterator[str]:
    """moto's S3 server, over real HTTP."""
    try:
        from moto.server import ThreadedMotoServer
    except ImportError as error:
        raise ConfigError("the demo needs moto: python -m pip install -r requirements.txt") from error
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


@contextmanager
def _environment(s3_url: str, output: Path) -> Iterator[None]:
    """Point the pipeline at the server, away from any real account, and put the environment back afterwards."""
    before = dict(os.environ)
    for name in [name for name in os.environ if name.startswith(("AWS_", "S3_", "LEGO_"))]:
        del os.environ[name]
    os.environ.update(
        LEGO_URL=f"{s3_url}/{SOURCE_BUCKET}/{SAMPLE.name}",
        S3_BUCKET=BUCKET,
        AWS_ENDPOINT_URL=s3_url,
        AWS_ACCESS_KEY_ID="demo",
        AWS_SECRET_ACCESS_KEY="demo",  # noqa: S106  (of a server that ends with this process)
        AWS_DEFAULT_REGION="us-east-1",
        AWS_CONFIG_FILE=os.devnull,
        AWS_SHARED_CREDENTIALS_FILE=os.devnull,
        ETL_CACHE_DIR=str(output / ".cache"),
        NO_PROXY="127.0.0.1",
        no_proxy="127.0.0.1",
    )
    try:
        client = _client()
        client.create_bucket(Bucket=SOURCE_BUCKET)
        client.put_object(Bucket=SOURCE_BUCKET, Key=SAMPLE.name, Body=SAMPLE.read_bytes(), ACL="public-read")
        client.create_bucket(Bucket=BUCKET)
        client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _client() -> Any:
    from etl.s3.client import make_client

    return make_client()


def _download_all(output: Path) -> list[Path]:
    client = _client()
    files = []
    for entry in client.list_objects_v2(Bucket=BUCKET)["Contents"]:
        file = output / entry["Key"]
        file.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(BUCKET, entry["Key"], str(file))
        files.append(file)
    return files


def _show(output: Path, files: list[Path]) -> None:
    import pandas as pd

    table = pd.read_parquet(next(file for file in files if file.suffix == ".parquet"), dtype_backend="pyarrow")
    print(f"\nThe first rows of {len(table):,}:\n")
    print(table[_PREVIEW_COLUMNS].head(_PREVIEW_ROWS).to_string(index=False, na_rep=""))
    print(f"\nWhat was in the bucket is now in {output}:")
    for file in files:
        print(f"  {file.relative_to(output)}  ({file.stat().st_size:,} bytes)")
    print("\nTo use a bucket of your own: cp .env.example .env, edit it, and run python main.py")
