"""dlt: a resource yields cleaned Arrow batches, a pipeline writes them as a Parquet dataset on S3."""

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator

import dlt
import pyarrow as pa
import pyarrow.compute as pc
import requests
from dlt.destinations import filesystem
from pyarrow import csv

TEXT = ["set_id", "name", "theme", "subtheme", "themeGroup", "category", "bricksetURL", "thumbnailURL", "imageURL"]
TYPES = {
    **dict.fromkeys(TEXT, pa.string()),
    "year": pa.int16(),
    "pieces": pa.int32(),
    "minifigs": pa.int32(),
    "agerange_min": pa.int16(),
    "US_retailPrice": pa.float64(),
}


@dlt.resource(name="lego_sets", write_disposition="replace")
def lego_sets() -> Iterator[pa.Table]:
    response = requests.get(os.environ["LEGO_URL"], timeout=60)
    response.raise_for_status()
    seen: set[str] = set()
    with zipfile.ZipFile(io.BytesIO(response.content)) as archive, archive.open("lego_sets.csv") as file:
        reader = csv.open_csv(
            file,
            read_options=csv.ReadOptions(block_size=16 << 20),
            convert_options=csv.ConvertOptions(column_types=TYPES, strings_can_be_null=True),
        )
        for batch in reader:
            table = pa.Table.from_batches([batch])
            for column in TEXT:
                place = table.schema.get_field_index(column)
                table = table.set_column(place, column, pc.utf8_trim_whitespace(table[column]))
            yield table.filter(pa.array(first_times(table["set_id"].to_pylist(), seen)))


def first_times(ids: list[str], seen: set[str]) -> Iterator[bool]:
    for set_id in ids:
        yield set_id not in seen
        seen.add(set_id)


os.environ["NORMALIZE__PARQUET_NORMALIZER__ADD_DLT_LOAD_ID"] = "false"
os.environ["DATA_WRITER__COMPRESSION"] = "zstd"
os.environ["RUNTIME__DLTHUB_TELEMETRY"] = "false"
with tempfile.TemporaryDirectory() as folder:
    destination = filesystem(
        f"s3://{os.environ['S3_BUCKET']}/{os.environ['S3_KEY']}",
        credentials={
            "aws_access_key_id": os.environ["AWS_ACCESS_KEY_ID"],
            "aws_secret_access_key": os.environ["AWS_SECRET_ACCESS_KEY"],
            "endpoint_url": os.environ["AWS_ENDPOINT_URL"],
        },
    )
    pipeline = dlt.pipeline("lego", destination=destination, dataset_name="lego", pipelines_dir=folder)
    pipeline.run(lego_sets(), loader_file_format="parquet")
