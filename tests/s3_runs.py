"""A real pipeline to break on purpose: small enough to run a thousand times, in each of the layouts in S3."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

import etl
from etl.errors import ConfigError
from etl.report import RunReport
from etl.s3.options import MIB
from main import Pipeline, main
from tests.conftest import Bucket

PIPELINE = """
name = "proof"
max_rejects = 1

[guard]
more_rows = "100000000%"
columns = "allow"

[extract]
type = "FilesExtractor"
path = "set on the command line"

[[transform]]
type = "CastTypes"
types = { number = "int64" }

[load]
type = "S3Loader"
bucket = "set on the command line"
"""
# All but the multipart upload reject a row, so that it is kept beside the data.
OLD_ROWS = "number,text\n1,old\n2,old\nthree,old\n"
NEW_ROWS = "number,text\n" + "".join(f"{number},new\n" for number in range(10, 16)) + "many,new\n"

LAYOUTS: Mapping[str, Sequence[str]] = {
    "object": ["load.key={place}/table.csv"],
    "multipart": [
        "load.key={place}/table.parquet",
        f"load.part_bytes={5 * MIB}",
        "load.parquet.compression=none",
    ],
    "dataset": ["load.prefix={place}/", "load.max_file_rows=3", "load.format=csv"],
}


@dataclass(frozen=True)
class Proof:
    """One pipeline in one layout, with its files. A ``place`` is a folder of the bucket; each has its own data."""

    folder: Path
    bucket: Bucket
    layout: str

    def __post_init__(self) -> None:
        (self.folder / "proof.toml").write_text(PIPELINE, encoding="utf-8")
        (self.folder / "old.csv").write_text(OLD_ROWS, encoding="utf-8")
        (self.folder / "new.csv").write_text(NEW_ROWS, encoding="utf-8")
        if self.layout == "multipart":
            numbers = pa.array(np.random.default_rng(7).integers(0, 2**62, 6 * MIB // 8))
            pa.parquet.write_table(pa.table({"number": numbers}), self.folder / "new.parquet")

    def options(self, place: str, rows: str = "new", more: Sequence[str] = ()) -> list[str]:
        """What changes for this run, as for ``--set``. ``rows``: the old ones or the new."""
        ending = "parquet" if (self.layout, rows) == ("multipart", "new") else "csv"
        layout = [option.format(place=place) for option in LAYOUTS[self.layout]]
        return [f"extract.path={self.folder / rows}.{ending}", f"load.bucket={self.bucket.name}", *layout, *more]

    def run(self, place: str, rows: str = "new", more: Sequence[str] = ()) -> RunReport:
        return Pipeline.from_file(self.folder / "proof.toml", self.options(place, rows, more)).run()

    def command(self, place: str, rows: str = "new", more: Sequence[str] = ()) -> list[str]:
        """The arguments of ``python main.py`` for the same."""
        options = [f"--set={option}" for option in self.options(place, rows, more)]
        return ["run", str(self.folder / "proof.toml"), "--env-file", os.devnull, *options]

    def seen(self, place: str) -> str | None:
        """What readers see, as a hash; None if nothing is published."""
        if self.layout == "dataset":
            try:
                return etl.read_dataset(f"s3://{self.bucket.name}/{place}/").to_json()
            except ConfigError:
                return None
        (key,) = [option.format(place=place).partition("=")[2] for option in LAYOUTS[self.layout][:1]]
        try:
            return hashlib.sha256(self.bucket.body(key)).hexdigest()
        except self.bucket.client.exceptions.NoSuchKey:
            return None

    def data_files(self, place: str) -> set[str]:
        """The data files of a dataset that are in the bucket, live or not."""
        found = self.bucket.client.list_objects_v2(Bucket=self.bucket.name, Prefix=f"{place}/data/")
        return {entry["Key"] for entry in found.get("Contents", [])}


def exit_code_of_command(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """``python main.py``, for a process of its own."""
    os.environ.update(environment)
    return main(arguments)


def run_command(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    sys.exit(exit_code_of_command(arguments, environment))
