"""DuckDB: the zip is unpacked to disk, one SQL query makes the Parquet file, boto3 uploads it.

DuckDB can write to S3 itself with an extension that it downloads when first used; here it needs no network.
"""

import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import boto3
import duckdb
import requests

QUERY = """
    COPY (
        SELECT DISTINCT ON (set_id)
            trim(set_id) AS set_id, trim(name) AS name, year, trim(theme) AS theme, trim(subtheme) AS subtheme,
            trim(themeGroup) AS themeGroup, trim(category) AS category, pieces, minifigs, agerange_min, US_retailPrice,
            trim(bricksetURL) AS bricksetURL, trim(thumbnailURL) AS thumbnailURL, trim(imageURL) AS imageURL
        FROM read_csv('{csv}', header = true, columns = {{
            'set_id': 'VARCHAR', 'name': 'VARCHAR', 'year': 'SMALLINT', 'theme': 'VARCHAR', 'subtheme': 'VARCHAR',
            'themeGroup': 'VARCHAR', 'category': 'VARCHAR', 'pieces': 'INTEGER', 'minifigs': 'INTEGER',
            'agerange_min': 'SMALLINT', 'US_retailPrice': 'DOUBLE', 'bricksetURL': 'VARCHAR',
            'thumbnailURL': 'VARCHAR', 'imageURL': 'VARCHAR'}})
    ) TO '{parquet}' (FORMAT parquet, COMPRESSION zstd)
"""

with tempfile.TemporaryDirectory() as folder:
    archive = Path(folder) / "sets.zip"
    with requests.get(os.environ["LEGO_URL"], stream=True, timeout=60) as response, archive.open("wb") as file:
        response.raise_for_status()
        shutil.copyfileobj(response.raw, file, 1 << 20)
    csv = zipfile.ZipFile(archive).extract("lego_sets.csv", folder)

    parquet = f"{folder}/sets.parquet"
    duckdb.sql("SET preserve_insertion_order = false")
    duckdb.sql(QUERY.format(csv=csv, parquet=parquet))
    boto3.client("s3").upload_file(parquet, os.environ["S3_BUCKET"], os.environ["S3_KEY"])
