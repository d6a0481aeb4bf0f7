"""The script that most people write first: requests, pandas.read_csv, to_parquet and put_object, all in memory."""

import io
import os
import zipfile

import boto3
import pandas as pd
import requests

TEXT = ["set_id", "name", "theme", "subtheme", "themeGroup", "category", "bricksetURL", "thumbnailURL", "imageURL"]
TYPES = {
    **dict.fromkeys(TEXT, "str"),
    "year": "int16",
    "pieces": "Int32",
    "minifigs": "Int32",
    "agerange_min": "Int16",
    "US_retailPrice": "float64",
}

response = requests.get(os.environ["LEGO_URL"], timeout=60)
response.raise_for_status()
with zipfile.ZipFile(io.BytesIO(response.content)) as archive, archive.open("lego_sets.csv") as file:
    sets = pd.read_csv(file, dtype=TYPES)

for column in TEXT:
    sets[column] = sets[column].str.strip()
sets = sets.drop_duplicates("set_id")

body = io.BytesIO()
key = os.environ["S3_KEY"]
if key.endswith(".csv.gz"):
    sets.to_csv(body, index=False, compression={"method": "gzip", "compresslevel": 6})
else:
    sets.to_parquet(body, index=False, compression="zstd")
boto3.client("s3").put_object(Bucket=os.environ["S3_BUCKET"], Key=key, Body=body.getvalue())
