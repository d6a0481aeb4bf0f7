"""AWS SDK for pandas: chunks of the CSV are cleaned and appended to a Parquet dataset on S3."""

import io
import os
import zipfile

import awswrangler as wr
import pandas as pd
import requests

CHUNK_ROWS = 200_000
TEXT = ["set_id", "name", "theme", "subtheme", "themeGroup", "category", "bricksetURL", "thumbnailURL", "imageURL"]
TYPES = {
    **dict.fromkeys(TEXT, "str"),
    "year": "int16",
    "pieces": "Int32",
    "minifigs": "Int32",
    "agerange_min": "Int16",
    "US_retailPrice": "float64",
}

wr.config.s3_endpoint_url = os.environ["AWS_ENDPOINT_URL"]
response = requests.get(os.environ["LEGO_URL"], timeout=60)
response.raise_for_status()

seen: set[str] = set()
mode = "overwrite"
with zipfile.ZipFile(io.BytesIO(response.content)) as archive, archive.open("lego_sets.csv") as file:
    for chunk in pd.read_csv(file, dtype=TYPES, chunksize=CHUNK_ROWS):
        for column in TEXT:
            chunk[column] = chunk[column].str.strip()
        chunk = chunk.drop_duplicates("set_id")
        chunk = chunk[[set_id not in seen for set_id in chunk["set_id"]]]
        seen.update(chunk["set_id"])
        wr.s3.to_parquet(
            chunk,
            path=f"s3://{os.environ['S3_BUCKET']}/{os.environ['S3_KEY']}/",
            dataset=True,
            mode=mode,
            compression="zstd",
        )
        mode = "append"
