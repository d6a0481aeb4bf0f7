"""Polars: the zip is unpacked to disk, then one lazy query streams the CSV into Parquet on S3."""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import polars as pl
import requests

TEXT = ["set_id", "name", "theme", "subtheme", "themeGroup", "category", "bricksetURL", "thumbnailURL", "imageURL"]
TYPES = {
    **dict.fromkeys(TEXT, pl.String),
    "year": pl.Int16,
    "pieces": pl.Int32,
    "minifigs": pl.Int32,
    "agerange_min": pl.Int16,
    "US_retailPrice": pl.Float64,
}

with tempfile.TemporaryDirectory() as folder:
    archive = Path(folder) / "sets.zip"
    with requests.get(os.environ["LEGO_URL"], stream=True, timeout=60) as response, archive.open("wb") as file:
        response.raise_for_status()
        shutil.copyfileobj(response.raw, file, 1 << 20)
    csv = zipfile.ZipFile(archive).extract("lego_sets.csv", folder)

    (
        pl.scan_csv(csv, schema_overrides=TYPES)
        .with_columns(pl.col(TEXT).str.strip_chars())
        .unique("set_id", keep="any")
        .sink_parquet(
            f"s3://{os.environ['S3_BUCKET']}/{os.environ['S3_KEY']}",
            compression="zstd",
            storage_options={"aws_endpoint_url": os.environ["AWS_ENDPOINT_URL"], "aws_allow_http": "true"},
        )
    )
