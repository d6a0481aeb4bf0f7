"""Datasets on a real S3 server: whole versions, appended, partitioned, repeated, rolled back and swept."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pytest
from pandas import DataFrame
from pandas.testing import assert_frame_equal

import etl
from etl.base import Loader
from etl.errors import ConfigError, DataError, EtlError, RetryLater
from etl.history import roll_back, show_versions, sweep
from etl.loaders.s3 import S3Loader
from etl.run import Published, Receipt, Run
from etl.s3.options import KIB, MIB
from etl.s3.parts import NULL_FOLDER
from tests.conftest import PROJECT, Bucket
from tests.contracts import LoaderContract, live_recipe, published
from tests.s3_front import Front

LONG_AGO = timedelta(days=1)
NOW = timedelta(0)


class DatasetContract(LoaderContract):
    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture(autouse=True)
    def _bucket(self, bucket: Bucket) -> None:
        self.bucket = bucket

    def make(self) -> Loader:
        return S3Loader.model_validate({"bucket": self.bucket.name, "prefix": "sales", **self.options})

    def read(self) -> DataFrame | None:
        try:
            return etl.read_dataset(f"s3://{self.bucket.name}/sales/")
        except ConfigError:
            return None


class TestParquetFiles(DatasetContract):
    pass


class TestCsvGzFiles(DatasetContract):
    options: ClassVar[dict[str, object]] = {"format": "csv.gz"}


class TestSmallJsonFiles(DatasetContract):
    options: ClassVar[dict[str, object]] = {"format": "jsonl", "max_file_rows": 2}


class TestPartitions(DatasetContract):
    options: ClassVar[dict[str, object]] = {"partition_by": ["text"]}


class TestAppending(DatasetContract):
    options: ClassVar[dict[str, object]] = {"mode": "append"}

    def test_equal_content_is_not_published_again(self) -> None:
        self.publish(1, 2)
        assert not self.publish(1, 2).changed  # the same recipe
        assert not self.publish(1, 2, recipe="r2").changed  # the same content, though the code has changed
        assert self.publish(3, recipe="r3").changed
        assert not self.publish(1, 2).changed  # a run of long ago, repeated
        assert self.numbers() == [1, 2, 3]

    def test_force_publishes_equal_content(self) -> None:
        """In the place of what the run had published before: forcing doubles no rows."""
        self.publish(1, 2)
        self.publish(3, recipe="r3")
        assert self.publish(1, 2, force=True).changed
        assert self.numbers() == [3, 1, 2]

    def test_rows_without_a_recipe_are_told_by_their_content(self) -> None:
        for numbers, changed in (((1, 2), True), ((1, 2), False), ((3,), True)):
            assert self.publish(*numbers, recipe=None).changed == changed
        assert self.numbers() == [1, 2, 3]

    def test_nothing_to_append_is_a_version_without_files(self) -> None:
        self.publish(1)
        loader = self.make()
        assert published(loader, iter([next(self.batches(1)).iloc[:0]]), recipe="r2").changed
        assert live_recipe(loader) == "r2"
        assert self.numbers() == [1]

    @pytest.mark.parametrize(
        ("frame", "difference"),
        [
            (DataFrame({"number": [1.5], "text": ["a"]}), "number is double, was int64"),
            (DataFrame({"number": [1]}), "text is missing"),
            (DataFrame({"number": [1], "text": ["a"], "more": [1]}), "more is new"),
            (DataFrame({"text": ["a"], "number": [1]}), "another order"),
        ],
    )
    def test_rows_that_do_not_fit_are_refused(self, frame: DataFrame, difference: str) -> None:
        self.publish(1)
        with pytest.raises(DataError, match=difference):
            self.make().load(iter([frame]), self.a_run(recipe="r2"))
        assert self.numbers() == [1]

    @pytest.mark.parametrize(
        ("options", "difference"),
        [({"partition_by": ["text"]}, "partition_by"), ({"format": "csv"}, "file_format")],
    )
    def test_files_that_do_not_fit_are_refused(self, options: dict[str, Any], difference: str) -> None:
        self.publish(1)
        loader = S3Loader(bucket=self.bucket.name, prefix="sales/", mode="append", **options)
        with pytest.raises(ConfigError, match=f"was written with {difference} = "):
            loader.load(self.batches(2), self.a_run(recipe="r2"))


class Dataset:
    """A dataset in a bucket, published and read in short words."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self.uri = f"s3://{bucket.name}/sales/"

    def loader(self, **options: Any) -> S3Loader:
        return S3Loader(bucket=self.bucket.name, prefix="sales/", **options)

    def write(self, frame: DataFrame, options: dict[str, Any] | None = None, **facts: Any) -> tuple[Receipt, Run]:
        run = LoaderContract.a_run(**facts)
        return self.loader(**options or {}).load(iter([frame]), run), run

    def publish(self, frame: DataFrame, options: dict[str, Any] | None = None, **facts: Any) -> Published:
        return published(self.loader(**options or {}), iter([frame]), **facts)

    def read(self, *columns: str) -> DataFrame:
        return etl.read_dataset(self.uri, columns or None)

    def numbers(self) -> list[int]:
        numbers: list[int] = self.read("number")["number"].tolist()
        return numbers

    def files(self) -> list[str]:
        """The live ones, below data/ and the folder of the run, without the hash at the end."""
        return [uri.removeprefix(f"{self.uri}data/").split("/", 1)[1] for uri in etl.dataset_files(self.uri)]

    def data(self) -> list[str]:
        """All data files, live or not."""
        return [key for key in self.bucket.objects() if key.startswith("sales/data/")]


@pytest.fixture
def dataset(bucket: Bucket) -> Dataset:
    return Dataset(bucket)


def frame(*numbers: int) -> DataFrame:
    return DataFrame({"number": list(numbers), "half": [number % 2 for number in numbers]})


def sent(front: Front) -> list[str]:
    """The data files that were sent since the calls were last cleared."""
    return [call.key for call in front.calls if call.method == "PUT" and call.key.startswith("sales/data/")]


def test_unchanged_run_costs_one_request(dataset: Dataset, front: Front) -> None:
    dataset.publish(frame(1))
    front.calls.clear()
    assert live_recipe(dataset.loader()) == "r1"
    assert [(call.method, call.key) for call in front.calls] == [("GET", "sales/_current.json")]


def test_manifest_and_pointer_can_be_read_by_anybody(dataset: Dataset) -> None:
    options = {"partition_by": ["half"], "format": "csv"}
    dataset.publish(frame(1, 2, 3), options, id="run-1", pipeline="sales")
    pointer = json.loads(dataset.bucket.body("sales/_current.json"))
    assert (pointer["run_id"], pointer["recipe"]) == ("run-1", "r1")
    manifest = json.loads(dataset.bucket.body("sales/" + pointer["manifest"]))
    assert manifest["schema"] == {"number": "int64", "half": "int64"}
    assert (manifest["pipeline"], manifest["rows"], manifest["partition_by"]) == ("sales", 3, ["half"])
    assert [(file["partition"], file["rows"]) for file in manifest["files"]] == [({"half": "0"}, 1), ({"half": "1"}, 2)]
    assert dataset.bucket.body("sales/" + manifest["files"][1]["path"]) == b'"number"\n1\n3\n'


def test_data_says_where_it_came_from(dataset: Dataset) -> None:
    dataset.publish(frame(1), {"metadata": {"contact": "me"}}, id="run-1")
    metadata = dataset.bucket.metadata(dataset.data()[0])
    assert metadata["contact"] == "me"
    assert (metadata["etl-run-id"], metadata["etl-recipe"], metadata["etl-rows"]) == ("run-1", "r1", "1")


def test_import_of_the_package_stays_cheap() -> None:
    code = "import sys, etl; assert etl.__all__; sys.exit(any(name in sys.modules for name in ('pandas', 'pyarrow')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=PROJECT, check=False).returncode == 0


class TestFiles:
    """How rows become files."""

    def test_files_are_closed_at_the_number_of_rows(self, dataset: Dataset) -> None:
        dataset.publish(frame(*range(10)), {"max_file_rows": 4, "format": "jsonl"})
        rows = [len(dataset.bucket.body(key).splitlines()) for key in sorted(dataset.data(), key=lambda key: key[-40:])]
        assert sorted(rows) == [2, 4, 4]
        assert [name[:11] for name in dataset.files()] == ["part-00000-", "part-00001-", "part-00002-"]
        assert dataset.numbers() == list(range(10))

    def test_files_are_closed_at_their_size(self, dataset: Dataset) -> None:
        numbers = np.random.default_rng(7).integers(0, 2**62, 100_000)
        dataset.publish(DataFrame({"number": numbers}), {"max_file_bytes": 500 * KIB, "format": "csv"})
        sizes = [
            dataset.bucket.client.head_object(Bucket=dataset.bucket.name, Key=key)["ContentLength"]
            for key in dataset.data()
        ]
        assert len(sizes) == 4
        assert sum(size >= 500 * KIB for size in sizes) == 3
        assert max(sizes) < 900 * KIB
        assert dataset.numbers() == numbers.tolist()

    def test_row_groups_fill_files_evenly(self, dataset: Dataset) -> None:
        options = {"max_file_rows": 100, "parquet": {"row_group_rows": 30}}
        dataset.publish(frame(*range(250)), options)
        tables = [pa.BufferReader(dataset.bucket.body(uri.split("/", 3)[3])) for uri in etl.dataset_files(dataset.uri)]
        groups = [
            [meta.row_group(number).num_rows for number in range(meta.num_row_groups)]
            for meta in map(pa.parquet.read_metadata, tables)
        ]
        assert groups == [[25] * 4, [25] * 4, [25] * 2]

    @pytest.mark.parametrize("options", [{}, {"partition_by": ["key"], "spool_bytes": 1 * MIB}])
    def test_batches_and_spool_change_no_byte(self, dataset: Dataset, options: dict[str, Any]) -> None:
        """Enough rows for several groups, files and fillings of the spool."""
        chance = np.random.default_rng(7)
        rows = DataFrame({"number": chance.integers(0, 2**62, 300_000), "key": chance.integers(0, 3, 300_000)})
        loader = dataset.loader(max_file_rows=40_000, **options)
        whole = loader.load(iter([rows]), LoaderContract.a_run())
        pieces = (rows.iloc[start : start + 7_001] for start in range(0, len(rows), 7_001))
        parts = loader.load(pieces, LoaderContract.a_run(recipe="r2"))
        assert whole.rows == parts.rows == 300_000
        assert whole.sha256 == parts.sha256
        assert len(whole.detail["files"]) >= 8
        assert {file.crc32 for file in whole.detail["files"]} == {file.crc32 for file in parts.detail["files"]}

    def test_files_say_what_their_columns_mean(self, dataset: Dataset) -> None:
        for recipe, meaning in (("r1", "how many"), ("r2", "how much")):
            told = {"number": {"description": meaning, "unit": "bricks"}}
            dataset.publish(frame(len(dataset.data())), {"mode": "append"}, recipe=recipe, descriptions=told)
        (file,) = [key for key in dataset.data() if key.startswith("sales/data/r2/")]
        schema = pa.parquet.read_schema(pa.BufferReader(dataset.bucket.body(file)))
        assert schema.field("number").metadata == {b"description": b"how much", b"unit": b"bricks"}
        assert dataset.numbers() == [0, 1]

    def test_no_rows_still_tell_their_columns(self, dataset: Dataset) -> None:
        dataset.publish(frame().astype("int64"))
        assert (len(dataset.files()), len(dataset.read())) == (1, 0)
        dataset.publish(frame(1), recipe="r2")
        dataset.publish(frame().astype("int64"), {"partition_by": ["half"]}, recipe="r3")
        assert dataset.files() == []
        assert list(dataset.read().columns) == ["number", "half"]

    def test_several_writers_share_one_commit(self, dataset: Dataset) -> None:
        run, loader = LoaderContract.a_run(), dataset.loader()
        receipts = [loader.load(iter([frame(*numbers)]), run) for numbers in ((1, 2), (3,))]
        published = loader.commit(receipts, run)
        assert (published.rows, dataset.numbers()) == (3, [1, 2, 3])

    def test_writers_must_agree(self, dataset: Dataset) -> None:
        run, loader = LoaderContract.a_run(), dataset.loader()
        receipts = [loader.load(iter([frame(1).astype({"half": kind})]), run) for kind in ("int64", "float64")]
        with pytest.raises(DataError, match="half is double, was int64"):
            loader.commit(receipts, run)


class TestPartitioning:
    def test_each_value_has_its_folder_and_null_has_one(self, dataset: Dataset) -> None:
        texts = ["plain", None, "", "a/b=c%", "naïve", NULL_FOLDER]
        dataset.publish(DataFrame({"number": range(6), "text": texts}), {"partition_by": ["text"]})
        folders = {name.split("/")[0] for name in dataset.files()}
        assert f"text={NULL_FOLDER}" in folders
        assert {"text=plain", "text=", "text=a%2Fb%3Dc%25", "text=na%C3%AFve"} < folders
        read = dataset.read().sort_values("number")
        assert [None if pd.isna(text) else text for text in read["text"]] == texts

    def test_columns_come_back_with_their_types_and_order(self, dataset: Dataset) -> None:
        types: dict[str, pa.DataType] = {
            "day": pa.date32(),
            "number": pa.int64(),
            "year": pa.int16(),
            "good": pa.bool_(),
            "text": pa.string(),
            "none": pa.null(),
        }
        rows = DataFrame(
            {
                "day": [date(2026, 11, 23), None],
                "number": [1, 2],
                "year": [2026, None],
                "good": [True, None],
                "text": ["a", "b"],
                "none": [None, None],
            }
        ).astype({name: pd.ArrowDtype(types[name]) for name in types})
        dataset.publish(rows, {"partition_by": ["year", "day", "good", "none"]})
        folder = f"year=2026/day=2026-11-23/good=true/none={NULL_FOLDER}"
        assert dataset.files()[0].startswith(f"{folder}/part-00000-")
        assert_frame_equal(dataset.read(), rows)
        assert_frame_equal(dataset.read("year", "number"), rows[["year", "number"]])
        assert_frame_equal(dataset.read("good"), rows[["good"]])

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"partition_by": ["no"]}, "there is no column 'no'"),
            ({"partition_by": ["share"]}, "share is double"),
            ({"partition_by": ["number", "share", "text"]}, "names every column|share is double"),
        ],
    )
    def test_columns_that_cannot_be_folders(self, dataset: Dataset, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            dataset.write(DataFrame({"number": [1], "share": [0.5], "text": ["a"]}), options)

    def test_too_long_and_too_many_values(self, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(DataError, match="too long for the name of a partition: text=xxx"):
            dataset.write(DataFrame({"number": [1], "text": ["x" * 500]}), {"partition_by": ["text"]})
        monkeypatch.setattr("etl.s3.parts._MOST_PARTITIONS", 3)
        with pytest.raises(DataError, match="more than 3 partitions"):
            dataset.write(frame(1, 2, 3, 4), {"partition_by": ["number"]})

    def test_only_changed_partitions_are_sent(self, dataset: Dataset, front: Front) -> None:
        options = {"partition_by": ["half"]}
        dataset.publish(frame(1, 2, 3, 4), options)
        front.calls.clear()
        dataset.publish(frame(1, 2, 3, 4, 5), options, recipe="r2")
        assert [key.split("/")[3] for key in sent(front)] == ["half=1"]
        assert sorted(dataset.numbers()) == [1, 2, 3, 4, 5]

    def test_others_read_it_as_hive_does(self, dataset: Dataset, s3_url: str) -> None:
        rows = DataFrame({"number": [1, 2, 3], "text": ["a b", None, "a b"]})
        dataset.publish(rows, {"partition_by": ["text"]})
        storage = pa.fs.S3FileSystem(
            access_key="AKIATESTTESTTESTTEST",
            secret_key="a-secret-of-the-tests",
            endpoint_override=s3_url,
            region="us-east-1",
        )
        files = [uri.removeprefix("s3://") for uri in etl.dataset_files(dataset.uri)]
        partitions = pyarrow.dataset.partitioning(pa.schema([("text", pa.string())]), flavor="hive")
        read = pyarrow.dataset.dataset(files, filesystem=storage, format="parquet", partitioning=partitions).to_table()
        found = read.sort_by("number").to_pylist()
        assert found == [{"number": n, "text": text} for n, text in zip((1, 2, 3), ("a b", None, "a b"), strict=True)]


class TestReading:
    @pytest.mark.parametrize("file_format", ["parquet", "csv", "csv.gz", "jsonl", "jsonl.gz"])
    def test_types_survive_every_format(self, dataset: Dataset, file_format: str) -> None:
        columns: dict[str, pa.Array[Any]] = {
            "text": pa.array(['say "hi",\n=1', "", None]),
            "whole": pa.array([2**53 + 1, None, -1], pa.int64()),
            "share": pa.array([0.1, None, float("inf")]),
            "good": pa.array([True, None, False]),
            "price": pa.array([Decimal("1.50"), None, Decimal("-2.00")], pa.decimal128(9, 2)),
            "day": pa.array([date(2026, 11, 23), None, date(1932, 1, 1)]),
            "moment": pa.array([1, None, 1_700_000_000_000_000], pa.timestamp("us", "UTC")),
            "bytes": pa.array([b"\x00\xff", None, b""]),
            "nothing": pa.nulls(3, pa.int32()),
        }
        rows = pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype)
        dataset.publish(rows, {"format": file_format, "csv": {"delimiter": ";", "null_word": "NULL"}})
        assert_frame_equal(dataset.read(), rows)
        assert_frame_equal(dataset.read("day", "text"), rows[["day", "text"]])

    def test_csv_without_a_header(self, dataset: Dataset) -> None:
        dataset.publish(frame(1, 2), {"format": "csv", "csv": {"header": False}})
        assert dataset.numbers() == [1, 2]

    def test_unknown_columns_and_places(self, dataset: Dataset) -> None:
        with pytest.raises(ConfigError, match=r"no dataset at .*/sales/: it has no _current\.json"):
            dataset.read()
        dataset.publish(frame(1))
        with pytest.raises(ConfigError, match="no column 'numbr'; there are number, half"):
            dataset.read("numbr")
        for uri in ("/local/path", "s3://bucket", "https://bucket/prefix"):
            with pytest.raises(ConfigError, match="should be like s3://bucket/prefix/"):
                etl.read_dataset(uri)

    def test_damage_is_noticed(self, dataset: Dataset) -> None:
        dataset.publish(frame(1))
        bucket, client = dataset.bucket, dataset.bucket.client
        pointer = json.loads(bucket.body("sales/_current.json"))
        (file,), manifest = dataset.data(), "sales/" + pointer["manifest"]
        for key, damaged, news in (
            (file, bucket.body(file)[::-1], "is not what was published"),
            (manifest, bucket.body(manifest) + b" ", "does not fit its name"),
            ("sales/_current.json", b"{}", "is not what this program writes there"),
            ("sales/_current.json", json.dumps({**pointer, "format_version": 2}).encode(), "later version of this"),
        ):
            client.put_object(Bucket=bucket.name, Key=key, Body=damaged)
            with pytest.raises(DataError, match=news):
                dataset.read()

    def test_lost_files_are_named(self, dataset: Dataset) -> None:
        dataset.publish(frame(1))
        dataset.bucket.client.delete_object(Bucket=dataset.bucket.name, Key=dataset.data()[0])
        with pytest.raises(RetryLater, match=r"part-00000-\w+\.parquet is gone"):
            dataset.read()


class TestRacing:
    def test_loser_stops_and_harms_nothing(self, dataset: Dataset) -> None:
        for before in (None, 7):
            if before is not None:
                dataset.publish(frame(before), recipe="r0")
            slow, fast = dataset.write(frame(1), recipe="r1"), dataset.write(frame(2), recipe="r2")
            dataset.loader().commit([fast[0]], fast[1])
            with pytest.raises(RetryLater, match="lost race"):
                dataset.loader().commit([slow[0]], slow[1])
            assert dataset.numbers() == [2]

    def test_one_wins_each_round_and_readers_see_whole_versions(self, dataset: Dataset, front: Front) -> None:
        writers, rounds, rows = 4, 3, 5
        torn: list[list[int]] = []
        over = threading.Event()

        def watch() -> None:
            while not over.is_set():
                numbers = dataset.numbers()
                if numbers != [numbers[0]] * rows:
                    torn.append(numbers)

        def attempt(number: int) -> int | None:
            receipt, run = dataset.write(frame(*[number] * rows), recipe=f"r{number}")
            start.wait()
            try:
                dataset.loader().commit([receipt], run)
            except RetryLater:
                return None
            return number

        dataset.publish(frame(*[0] * rows), recipe="r0")
        reader = threading.Thread(target=watch)
        reader.start()
        try:
            for round_number in range(rounds):
                start = threading.Barrier(writers)
                with ThreadPoolExecutor(writers) as pool:
                    attempts = pool.map(attempt, range(10 * round_number + 1, 10 * round_number + 1 + writers))
                    (winner,) = [number for number in attempts if number is not None]
                assert dataset.numbers() == [winner] * rows
        finally:
            over.set()
            reader.join()
        assert torn == []
        assert len(dataset.loader().versions()) == 1 + rounds

    def test_commit_whose_reply_was_lost_is_recognised(self, dataset: Dataset) -> None:
        receipt, run = dataset.write(frame(1))
        for _ in range(2):
            assert dataset.loader().commit([receipt], run).changed
        assert len(dataset.loader().versions()) == 1

    def test_pointer_whose_reply_was_lost_is_recognised(
        self, dataset: Dataset, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The pointer is written behind the loader's back, just before its own request."""
        receipt, run = dataset.write(frame(1))

        def write_it_first(call: Any) -> bool:
            if call.method == "PUT" and call.key == "sales/_current.json":
                dataset.bucket.client.put_object(Bucket=dataset.bucket.name, Key=call.key, Body=call.body)
            return False

        front.refuse_if(write_it_first, 500, "never")
        assert dataset.loader().commit([receipt], run).changed
        assert dataset.numbers() == [1]

    def test_pointer_that_somebody_deletes_before_the_commit(self, dataset: Dataset, front: Front) -> None:
        dataset.publish(frame(1))

        def delete_it_first(call: Any) -> bool:
            if call.method == "PUT" and call.key == "sales/_current.json":
                dataset.bucket.client.delete_object(Bucket=dataset.bucket.name, Key=call.key)
            return False

        front.refuse_if(delete_it_first, 500, "never")
        with pytest.raises(RetryLater, match=r"_current\.json: lost race: somebody"):
            dataset.publish(frame(2), recipe="r2")

    def test_pointer_that_may_not_be_read(self, dataset: Dataset, front: Front) -> None:
        dataset.publish(frame(1))
        front.refuse_if(lambda call: call.method == "GET" and call.key.endswith(".json"), 403, "AccessDenied")
        with pytest.raises(EtlError, match="may not be read: ask for s3:GetObject") as failure:
            dataset.publish(frame(2), recipe="r2")
        assert failure.value.exit_code == 77

    def test_pointer_that_may_not_be_read_any_more(self, dataset: Dataset, front: Front) -> None:
        """At the commit, when it could be read before: that is no lost race."""
        dataset.publish(frame(1))
        receipt, run = dataset.write(frame(2), recipe="r2")
        front.refuse_if(lambda call: call.method == "GET" and call.key.endswith("_current.json"), 403, "AccessDenied")
        with pytest.raises(EtlError, match="ask for the permission") as failure:
            dataset.loader().commit([receipt], run)
        assert failure.value.exit_code == 77


class TestRepeating:
    """The same run again, after a success and after a failure."""

    def test_equal_content_sends_nothing_though_the_recipe_differs(self, dataset: Dataset, front: Front) -> None:
        dataset.publish(frame(1, 2))
        before = dataset.bucket.objects()
        front.calls.clear()
        assert not dataset.publish(frame(1, 2), recipe="r2").changed
        assert not any(call.writes for call in front.calls)
        assert dataset.bucket.objects() == before

    @pytest.mark.parametrize("options", [{"force": True}, {"recipe": "r2"}])
    def test_live_file_that_somebody_deleted_is_sent_again(
        self, dataset: Dataset, front: Front, options: dict[str, Any]
    ) -> None:
        dataset.publish(frame(1, 2), {"max_file_rows": 1})
        lost, *_ = dataset.data()
        dataset.bucket.client.delete_object(Bucket=dataset.bucket.name, Key=lost)
        front.calls.clear()
        dataset.publish(frame(1, 2), {"max_file_rows": 1}, **options)
        assert dataset.numbers() == [1, 2]
        assert len(sent(front)) == 1

    def test_run_after_a_failure_sends_only_what_is_missing(self, dataset: Dataset, front: Front) -> None:
        options = {"max_file_rows": 1}

        def failing() -> Iterator[DataFrame]:
            yield frame(1, 2, 3)
            while not dataset.data():
                time.sleep(0.01)
            raise EtlError("no more")

        loader = dataset.loader(**options, parquet={"row_group_rows": 1})
        with pytest.raises(EtlError, match="no more"):
            loader.load(failing(), LoaderContract.a_run())
        arrived = len(dataset.data())
        assert arrived > 0
        front.calls.clear()
        receipt = loader.load(iter([frame(1, 2, 3)]), LoaderContract.a_run())
        assert len(sent(front)) == 3 - arrived
        assert receipt.rows == 3

    def test_run_killed_before_its_commit_is_finished_by_the_next(self, dataset: Dataset, front: Front) -> None:
        dataset.publish(frame(1), recipe="r0")
        front.refuse_if(lambda call: call.method == "PUT" and call.key == "sales/_current.json", 500, "InternalError")
        with pytest.raises(RetryLater):
            dataset.publish(frame(2), {"deadline_s": 0})
        assert dataset.numbers() == [1]
        front.forget_refusals()
        front.calls.clear()
        assert dataset.publish(frame(2)).changed
        assert sent(front) == []
        assert dataset.numbers() == [2]
        assert [version.rows for version in dataset.loader().versions()] == [1, 1]

    def test_old_leftovers_are_sent_again(
        self, dataset: Dataset, front: Front, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """They might be swept at any moment."""
        monkeypatch.setattr("etl.s3.sending._REUSABLE", timedelta(0))
        dataset.write(frame(1))
        front.calls.clear()
        dataset.publish(frame(1))
        (key,) = sent(front)
        (call,) = [call for call in front.calls if call.method == "PUT" and call.key == key]
        assert "If-Match" in call.headers
        assert dataset.numbers() == [1]

    def test_other_encryption_is_other_content(self, dataset: Dataset, front: Front) -> None:
        dataset.publish(frame(1))
        front.calls.clear()
        assert dataset.publish(frame(1), {"encryption": "aws:kms"}, recipe="r2").changed
        assert len(sent(front)) == 1

    def test_failing_upload_stops_the_run(self, dataset: Dataset, front: Front) -> None:
        front.refuse_if(lambda call: call.method == "PUT", 403, "AccessDenied")
        with pytest.raises(EtlError, match=r"s3:PutObject on .*/sales/data/.* ask for the permission"):
            dataset.write(frame(*range(100)), {"max_file_rows": 1})


class TestStores:
    """Stores that do not keep the conditions of writes."""

    def test_check_leaves_nothing_behind(self, dataset: Dataset) -> None:
        assert dataset.loader().check() == f"may publish to {dataset.uri}"
        assert dataset.bucket.objects() == []

    def test_store_that_ignores_conditions_is_refused(self, dataset: Dataset, front: Front) -> None:
        front.hidden = {"if-match", "if-none-match"}
        for attempt in (dataset.loader().check, lambda: dataset.publish(frame(1))):
            with pytest.raises(ConfigError, match="set single_writer = true"):
                attempt()
        assert "sales/_current.json" not in dataset.bucket.objects()

    def test_store_that_refuses_conditions_is_refused(self, dataset: Dataset, front: Front) -> None:
        front.refuse_if(lambda call: "If-None-Match" in call.headers, 501, "NotImplemented")
        for attempt in (dataset.loader().check, lambda: dataset.publish(frame(1))):
            with pytest.raises(ConfigError, match=r"does not keep the conditions of writes.*set single_writer"):
                attempt()

    def test_single_writer_does_without(self, dataset: Dataset, front: Front) -> None:
        conditional = {"If-None-Match", "If-Match"}
        front.refuse_if(lambda call: bool(call.headers.keys() & conditional), 501, "NotImplemented")
        loader = dataset.loader(single_writer=True)
        assert loader.check()
        for number in (1, 2):
            dataset.publish(frame(number), {"single_writer": True}, recipe=f"r{number}")
            assert dataset.numbers() == [number]


class TestHistory:
    @pytest.fixture(autouse=True)
    def _published(self, dataset: Dataset) -> None:
        self.dataset = dataset
        for number in (1, 2, 3):
            dataset.publish(frame(*range(number)), id=f"run-{number}", recipe=f"r{number}")

    def objects(self) -> int:
        return len(self.dataset.bucket.objects())

    def test_lists_the_newest_first(self) -> None:
        versions = [(each.run_id, each.rows, each.live) for each in self.dataset.loader().versions()]
        assert versions == [("run-3", 3, True), ("run-2", 2, False), ("run-1", 1, False)]

    def test_what_never_went_live_is_not_listed(self) -> None:
        slow, run = self.dataset.write(frame(7), recipe="r7")
        self.dataset.publish(frame(8), id="run-8", recipe="r8")
        with pytest.raises(RetryLater):
            self.dataset.loader().commit([slow], run)
        assert [each.run_id for each in self.dataset.loader().versions()] == ["run-8", "run-3", "run-2", "run-1"]

    def test_rollback_points_back(self) -> None:
        loader = self.dataset.loader()
        assert loader.rollback("run-1").live
        assert self.dataset.numbers() == [0]
        assert [each.live for each in loader.versions()] == [False, False, True]
        live = loader.live()
        assert live is not None
        assert (live.run_id, live.recipe) == ("run-1", "r1")
        self.dataset.publish(frame(9), id="run-9", recipe="r9")
        assert [each.run_id for each in loader.versions()] == ["run-9", "run-3", "run-2", "run-1"]

    def test_rollback_that_a_run_overtakes(self) -> None:
        """A run that saw the version before loses to the rollback, as to any other writer."""
        receipt, run = self.dataset.write(frame(7), recipe="r7")
        self.dataset.loader().rollback("run-1")
        with pytest.raises(RetryLater, match="lost race"):
            self.dataset.loader().commit([receipt], run)

    def test_rollback_to_what_is_not_there(self) -> None:
        with pytest.raises(ConfigError, match="no version of run run-9"):
            self.dataset.loader().rollback("run-9")
        file = next(key for key in self.dataset.data() if self.dataset.bucket.metadata(key)["etl-run-id"] == "run-1")
        self.dataset.bucket.client.delete_object(Bucket=self.dataset.bucket.name, Key=file)
        with pytest.raises(DataError, match="1 files of run run-1 are gone"):
            self.dataset.loader().rollback("run-1")
        assert self.dataset.numbers() == [0, 1, 2]

    def test_sweep_keeps_what_a_version_needs_and_what_is_not_ours(self) -> None:
        self.dataset.write(frame(7), recipe="r7")  # as a killed run leaves it
        client, name = self.dataset.bucket.client, self.dataset.bucket.name
        for key in ("sales/data/notes.txt", "sales/_runs/x.json", "sales/part-00000-0123456789abcdef.parquet"):
            client.put_object(Bucket=name, Key=key, Body=b"")
        before = self.objects()
        loader = self.dataset.loader()
        assert loader.sweep(LONG_AGO) == []
        (garbage,) = loader.sweep(NOW)
        assert "/sales/data/r7/part-00000-" in garbage.uri
        assert self.objects() == before
        assert loader.sweep(NOW, apply=True) == [garbage]
        assert self.objects() == before - 1
        assert loader.sweep(NOW) == []
        for run_id, rows in (("run-1", 1), ("run-2", 2), ("run-3", 3)):
            loader.rollback(run_id)
            assert len(self.dataset.numbers()) == rows

    def test_only_so_many_versions_are_kept(self) -> None:
        self.dataset.publish(frame(9), {"keep_versions": 2}, id="run-9", recipe="r9")
        loader = self.dataset.loader()
        assert [each.run_id for each in loader.versions()] == ["run-9", "run-3"]
        assert len(loader.sweep(NOW, apply=True)) == 4  # two files, two manifests
        assert self.dataset.numbers() == [9]
        assert loader.rollback("run-3").rows == 3

    def test_sweep_touches_nothing_without_a_pointer(self) -> None:
        self.dataset.bucket.client.delete_object(Bucket=self.dataset.bucket.name, Key="sales/_current.json")
        with pytest.raises(ConfigError, match="so nothing is touched"):
            self.dataset.loader().sweep(NOW, apply=True)
        assert len(self.dataset.data()) == 3

    def test_people_see_tables(self, capsys: pytest.CaptureFixture[str]) -> None:
        loader = self.dataset.loader()
        assert show_versions(loader) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == ["run", "published", "rows", "bytes"]
        assert lines[1].split()[:2] == ["live", "run-3"]
        assert roll_back(loader, "run-1") == 0
        assert "live again: run-1" in capsys.readouterr().out
        self.dataset.write(frame(7), recipe="r7")
        assert sweep(loader, LONG_AGO, apply=True) == 0
        assert "nothing to remove that is older than 1 days" in capsys.readouterr().out
        with pytest.raises(ConfigError, match="a day at least"):
            sweep(loader, NOW, apply=True)


def test_nothing_published_has_no_history(dataset: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    loader = dataset.loader()
    assert loader.versions() == []
    assert show_versions(loader) == 0
    assert "nothing has been published yet" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="nothing is published"):
        loader.rollback("run-1")
