"""IcebergLoader: one snapshot a run, and none for a run that is repeated; in a folder, on S3 and with Glue."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib.abc import MetaPathFinder
from itertools import count
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from pandas import DataFrame
from pydantic import ValidationError

pytest.importorskip("pyiceberg", reason='IcebergLoader needs pyiceberg: pip install "pyiceberg[sql-sqlite,glue]"')

import pyarrow as pa
import pyarrow.parquet as pq
from pyiceberg.catalog.sql import SqlCatalog
from pyiceberg.io.pyarrow import PyArrowFile, PyArrowFileIO
from pyiceberg.partitioning import PartitionField, PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.transforms import IdentityTransform
from pyiceberg.types import LongType, NestedField, StringType

from etl.base import Loader
from etl.errors import AccessError, ConfigError, DataError, EtlError, RetryLater
from etl.formats.options import ParquetOptions
from etl.iceberg.catalog import IcebergCatalog, iceberg_errors
from etl.iceberg.files import DataFiles
from etl.ledger import PART_BITS
from etl.loaders.iceberg import IcebergLoader
from etl.steps import load_class
from main import Pipeline
from samples.make_sample import make_sample
from tests.conftest import PROJECT, Bucket
from tests.contracts import LoaderContract, live_recipe, published
from tests.processes import exit_code_of
from tests.web import WebServer

TABLE = "lego.sets"


def sql_catalog(folder: Path, warehouse: str | None = None) -> IcebergCatalog:
    place = warehouse or f"file://{folder}/warehouse"
    return IcebergCatalog.model_validate({"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": place})


def loaded(loader: IcebergLoader) -> Table:
    return loader.catalog.open().load_table(loader.table)


def rows_of(loader: IcebergLoader) -> DataFrame | None:
    """What a reader sees, in the order of the first column."""
    catalog = loader.catalog.open()
    if not catalog.table_exists(loader.table):
        return None
    frame: DataFrame = catalog.load_table(loader.table).scan().to_pandas()
    return frame.sort_values(next(iter(frame.columns)), ignore_index=True)


class IcebergContract(LoaderContract):
    loader: IcebergLoader

    def make(self) -> Loader:
        return self.loader

    def read(self) -> DataFrame | None:
        return rows_of(self.loader)


class TestInAFolder(IcebergContract):
    @pytest.fixture(autouse=True)
    def _catalog(self, tmp_path: Path) -> None:
        self.loader = IcebergLoader(catalog=sql_catalog(tmp_path), table=TABLE)


class Iceberg:
    """A table in a folder, and short ways to write to it and look into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.options: dict[str, Any] = {}

    @property
    def loader(self) -> IcebergLoader:
        return IcebergLoader(catalog=sql_catalog(self.folder), table=TABLE, **self.options)

    def publish(self, *frames: DataFrame, **facts: Any) -> bool:
        """Whether the table changed."""
        return published(self.loader, iter(frames), **facts).changed

    @property
    def table(self) -> Table:
        return loaded(self.loader)

    def rows(self) -> list[tuple[Any, ...]] | None:
        frame = rows_of(self.loader)
        return (
            None
            if frame is None
            else list(frame.astype(object).where(frame.notna(), None).itertuples(index=False, name=None))
        )

    def summaries(self) -> list[dict[str, str]]:
        return [snapshot.summary.additional_properties for snapshot in self.table.snapshots() if snapshot.summary]

    def files(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "warehouse").rglob("*.parquet"))


@pytest.fixture
def iceberg(tmp_path: Path) -> Iceberg:
    return Iceberg(tmp_path)


def frame(*numbers: int, text: str = "row") -> DataFrame:
    return DataFrame({"number": [*numbers], "text": [f"{text} {number}" for number in numbers]})


def source(fingerprint: str) -> Any:
    from etl.run import Source

    return Source("test:", fingerprint)


# -- snapshots -----------------------------------------------------------------------------------------------------


def test_a_snapshot_tells_where_it_came_from(iceberg: Iceberg) -> None:
    run = LoaderContract.a_run()
    receipt = iceberg.loader.load(iter([frame(1, 2)]), run)
    published = iceberg.loader.commit([receipt], run)
    (told,) = iceberg.summaries()
    ours = {name: value for name, value in told.items() if name.startswith("etl.")}
    assert ours == {
        "etl.run-id": run.id,
        "etl.pipeline": "test",
        "etl.recipe": "r1",
        "etl.source": "fingerprint",
        "etl.sha256": receipt.sha256,
    }
    assert told["total-records"] == "2"
    snapshot = iceberg.table.current_snapshot()
    assert snapshot is not None
    assert published.version_id == str(snapshot.snapshot_id)


def test_replacing_keeps_the_old_rows_in_the_history(iceberg: Iceberg) -> None:
    iceberg.publish(frame(1, 2))
    old = iceberg.table.current_snapshot()
    iceberg.publish(frame(3))
    assert old is not None
    assert iceberg.table.scan(snapshot_id=old.snapshot_id).to_arrow().num_rows == 2
    assert [told["total-records"] for told in iceberg.summaries()] == ["2", "1"]


def test_readers_find_columns_by_id_and_files_are_cut(iceberg: Iceberg) -> None:
    iceberg.options = {"max_file_bytes": 1, "parquet": ParquetOptions(row_group_rows=2)}
    iceberg.publish(frame(1, 2, 3), frame(4, 5))
    assert len(iceberg.files()) == 3
    assert [row[0] for row in iceberg.rows() or []] == [1, 2, 3, 4, 5]
    (path, *_) = (iceberg.folder / "warehouse").rglob("*-00000.parquet")
    ids = [(field.metadata or {}).get(b"PARQUET:field_id") for field in pq.read_schema(path)]
    assert ids == [b"1", b"2"]


def test_no_rows_are_a_snapshot_too(iceberg: Iceberg) -> None:
    nothing = frame(1).iloc[:0]
    assert iceberg.publish(nothing)
    assert iceberg.rows() == []
    iceberg.publish(frame(1))
    assert iceberg.publish(nothing, recipe="r2")
    assert iceberg.rows() == []
    assert live_recipe(iceberg.loader) == "r2"


def test_somebody_elses_rows_are_replaced_though_the_recipe_is_the_same(iceberg: Iceberg) -> None:
    iceberg.publish(frame(1))
    iceberg.table.append(pa.table({"number": pa.array([7], pa.int64()), "text": pa.array(["theirs"])}))
    assert iceberg.loader.live() is None
    assert iceberg.publish(frame(1))
    assert iceberg.rows() == [(1, "row 1")]


# -- append --------------------------------------------------------------------------------------------------------


def test_append_adds_each_source_once(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "append"}
    assert iceberg.publish(frame(1), source=source("monday"))
    assert iceberg.publish(frame(2), source=source("tuesday"))
    assert not iceberg.publish(frame(1), source=source("monday"))
    assert iceberg.publish(frame(2), source=source("wednesday"))
    assert [row[0] for row in iceberg.rows() or []] == [1, 2, 2]
    assert iceberg.publish(frame(1), source=source("monday"), force=True)
    assert len(iceberg.rows() or []) == 4


def test_append_sees_its_own_past_somebody_elses_snapshot(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "append"}
    iceberg.publish(frame(1), recipe="r1")
    iceberg.table.append(pa.table({"number": pa.array([7], pa.int64()), "text": pa.array(["theirs"])}))
    assert live_recipe(iceberg.loader) == "r1"
    assert not iceberg.publish(frame(1), recipe="r2", source=source("fingerprint"))


def test_two_appends_at_once_both_arrive(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "append"}
    iceberg.publish(frame(1), source=source("a"))
    run = LoaderContract.a_run(source=source("b"))
    receipt = iceberg.loader.load(iter([frame(2)]), run)
    iceberg.publish(frame(3), source=source("c"))
    iceberg.loader.commit([receipt], run)
    assert [row[0] for row in iceberg.rows() or []] == [1, 2, 3]


# -- upsert --------------------------------------------------------------------------------------------------------


def test_upsert_replaces_by_key_and_leaves_other_files_alone(iceberg: Iceberg) -> None:
    iceberg.options = {
        "mode": "upsert",
        "keys": ("number",),
        "max_file_bytes": 1,
        "parquet": ParquetOptions(row_group_rows=2),
    }
    iceberg.publish(frame(1, 2, 3, 4, 5, 6))
    before = set(iceberg.files())
    assert iceberg.publish(frame(4, 7, text="new"))
    assert iceberg.rows() == [
        *[(number, f"row {number}") for number in (1, 2, 3)],
        (4, "new 4"),
        *[(number, f"row {number}") for number in (5, 6)],
        (7, "new 7"),
    ]
    live = {task.file.file_path.rpartition("/")[2] for task in iceberg.table.scan().plan_files()}
    assert len(live & before) == 2
    assert not iceberg.publish(frame(4, 7, text="new"))
    assert iceberg.publish(frame(4))
    assert (iceberg.rows() or [])[3] == (4, "row 4")


def test_upsert_by_several_keys(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "upsert", "keys": ("number", "text")}
    iceberg.publish(frame(1, 2).assign(value=1))
    iceberg.publish(DataFrame({"number": [1, 1], "text": ["row 1", "row 2"], "value": [5, 6]}))
    assert iceberg.rows() == [(1, "row 1", 5), (1, "row 2", 6), (2, "row 2", 1)]


def test_upsert_of_every_row_leaves_no_old_file(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "upsert", "keys": ("number",)}
    iceberg.publish(frame(1, 2))
    iceberg.publish(frame(1, 2, text="new"))
    assert iceberg.rows() == [(1, "new 1"), (2, "new 2")]
    assert len(list(iceberg.table.scan().plan_files())) == 1


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ([frame(1, 2), frame(1)], r"row 0: number = 1 is null or came before"),
        ([frame(1, 2), frame(1, text="other")], r"number = 1 is null or came before"),
        ([DataFrame({"number": pd.array([1, None], "Int64")})], r"row 1: number = <NA> is null"),
        ([frame(1, 1).set_axis([7, (1 << PART_BITS) + 7])], r"row 7: number = 1"),  # two parts of one row
    ],
)
def test_upsert_refuses_keys_that_are_not_unique(iceberg: Iceberg, frames: list[DataFrame], message: str) -> None:
    iceberg.options = {"mode": "upsert", "keys": ("number",)}
    with pytest.raises(DataError, match=message):
        iceberg.publish(*frames)
    assert iceberg.files() == []


@pytest.mark.parametrize("options", [{}, {"mode": "upsert", "keys": ("number",)}], ids=["replace", "upsert"])
def test_a_change_meanwhile_is_a_lost_race(iceberg: Iceberg, options: dict[str, Any]) -> None:
    iceberg.options = options
    iceberg.publish(frame(1))
    loader, run = iceberg.loader, LoaderContract.a_run()
    receipt = loader.load(iter([frame(2)]), run)
    staged = loader._begin(loader.catalog.open(), receipt.detail["incoming"])
    loader._stage(staged, DataFiles(staged, "kept", loader.parquet, loader.max_file_bytes), receipt, run)
    iceberg.publish(frame(3))
    with pytest.raises(RetryLater, match="lost race"), iceberg_errors(loader.uri):
        staged.commit_transaction()
    assert 3 in [row[0] for row in iceberg.rows() or []]
    assert 2 not in [row[0] for row in iceberg.rows() or []]


# -- schemas -------------------------------------------------------------------------------------------------------


def test_other_columns_are_refused(iceberg: Iceberg) -> None:
    iceberg.publish(frame(1))
    with pytest.raises(DataError, match=r'no column extra; the rows have no column text.*schema_changes = "add"'):
        iceberg.publish(DataFrame({"number": [1], "extra": [2]}))
    with pytest.raises(DataError, match="text is int64, and large_string in the table"):
        iceberg.publish(DataFrame({"number": [1], "text": [2]}))
    assert iceberg.rows() == [(1, "row 1")]
    assert len(iceberg.files()) == 1


def test_other_columns_are_added_when_asked(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "append"}
    narrow = pa.table({"number": pa.array([1], pa.int32()), "text": ["a"]}).to_pandas(types_mapper=pd.ArrowDtype)
    iceberg.publish(narrow, source=source("a"))
    iceberg.options["schema_changes"] = "add"
    iceberg.publish(DataFrame({"extra": [1.5], "number": [2**40]}), source=source("b"))
    assert iceberg.rows() == [(1, "a", None), (2**40, None, 1.5)]


def test_a_tables_own_types_win(iceberg: Iceberg) -> None:
    narrow = pa.table({"number": pa.array([1], pa.int32())}).to_pandas(types_mapper=pd.ArrowDtype)
    iceberg.publish(narrow)
    iceberg.publish(DataFrame({"number": [2]}))
    assert str(iceberg.table.schema().find_type("number")) == "int"
    with pytest.raises(DataError, match="a value does not fit"):
        iceberg.publish(DataFrame({"number": [2**40]}))
    assert iceberg.rows() == [(2,)]


def test_columns_that_changed_meanwhile_are_for_later(iceberg: Iceberg) -> None:
    iceberg.options = {"schema_changes": "add"}
    iceberg.publish(frame(1))
    run = LoaderContract.a_run()
    receipt = iceberg.loader.load(iter([frame(2)]), run)
    with iceberg.table.update_schema() as update:
        update.add_column("theirs", LongType())
    with pytest.raises(RetryLater, match=r"columns .* were changed"):
        iceberg.loader.commit([receipt], run)


def test_times_are_stored_in_microseconds_and_utc(iceberg: Iceberg) -> None:
    moment = datetime(2026, 7, 1, 12, tzinfo=UTC)
    columns: dict[str, Any] = {
        "at": pa.array([moment], pa.timestamp("ns", "Europe/Brussels")),
        "day": pa.array([moment], pa.date64()),
    }
    iceberg.publish(pa.table(columns).to_pandas(types_mapper=pd.ArrowDtype))
    stored = iceberg.table.scan().to_arrow().to_pylist()
    assert stored == [{"at": moment, "day": moment.date()}]


def test_columns_are_documented(iceberg: Iceberg) -> None:
    """Those of a new table, and those that are added to one."""
    meanings = {"number": {"description": "How many", "unit": "bricks"}, "price": {"description": "At launch"}}
    iceberg.options = {"schema_changes": "add"}
    for columns in (frame(1), frame(2).assign(price=1.5)):
        iceberg.publish(columns, descriptions=meanings)
    documented = {field.name: field.doc for field in iceberg.table.schema().fields}
    assert documented == {"number": "How many (bricks)", "text": None, "price": "At launch"}


@pytest.mark.parametrize("values", [[timedelta(days=1)], [None]])
def test_types_that_iceberg_lacks_are_refused(iceberg: Iceberg, values: list[Any]) -> None:
    with pytest.raises(DataError, match=r"value.* Declare another type"):
        iceberg.publish(pa.table({"value": values}).to_pandas(types_mapper=pd.ArrowDtype))


def test_partitioned_tables_are_refused(iceberg: Iceberg) -> None:
    catalog = iceberg.loader.catalog.open()
    catalog.create_namespace("lego")
    schema = Schema(NestedField(1, "number", LongType()), NestedField(2, "text", StringType()))
    spec = PartitionSpec(PartitionField(1, 1000, IdentityTransform(), "number"))
    catalog.create_table(TABLE, schema, partition_spec=spec)
    for attempt in (iceberg.loader.check, lambda: iceberg.publish(frame(1))):
        with pytest.raises(ConfigError, match="partitioned"):
            attempt()


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", [EtlError("no more"), KeyboardInterrupt()])
def test_failing_leaves_no_files(iceberg: Iceberg, failure: BaseException) -> None:
    iceberg.options = {"max_file_bytes": 1, "parquet": ParquetOptions(row_group_rows=1)}

    def failing() -> Iterator[DataFrame]:
        yield frame(1, 2)
        raise failure

    with pytest.raises(type(failure)):
        iceberg.loader.load(failing(), LoaderContract.a_run())
    assert iceberg.files() == []


def test_abort_removes_the_files_unless_they_were_committed(iceberg: Iceberg) -> None:
    run = LoaderContract.a_run()
    receipt = iceberg.loader.load(iter([frame(1)]), run)
    iceberg.loader.abort([receipt])
    assert iceberg.files() == []
    receipt = iceberg.loader.load(iter([frame(1)]), run)
    iceberg.loader.commit([receipt], run)
    iceberg.loader.abort([receipt])
    assert not iceberg.loader.commit([receipt], run).changed
    assert iceberg.rows() == [(1, "row 1")]


def test_equal_content_leaves_no_files(iceberg: Iceberg) -> None:
    iceberg.publish(frame(1))
    assert not iceberg.publish(frame(1), recipe="r2")
    assert len(iceberg.files()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"table": "sets"}, "table"),
        ({"mode": "upsert"}, "keys"),
        ({"keys": ("number",)}, "keys"),
        ({"catalog": {"type": "sql", "warehouse": "file:///x"}}, "needs a uri"),
        ({"catalog": {"type": "sql", "uri": "sqlite://", "warehouse": "x"}}, "warehouse must be the URI"),
        ({"catalog": {"type": "glue"}}, "warehouse must be the URI"),
        ({"catalog": {"type": "hive"}}, "type"),
    ],
)
def test_bad_options_are_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    good = {"catalog": sql_catalog(tmp_path), "table": TABLE}
    with pytest.raises(ValidationError, match=message):
        IcebergLoader.model_validate({**good, **options})


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    catalog = {"type": "rest", "uri": "https://me:sesame@catalog", "properties": {"token": "sesame"}}
    loader = IcebergLoader.model_validate({"catalog": catalog, "table": TABLE})
    assert "sesame" not in repr(loader) + str(loader.model_dump(mode="json")) + loader.uri


def test_a_catalog_that_cannot_be_opened(tmp_path: Path) -> None:
    loader = IcebergLoader(catalog=sql_catalog(tmp_path / "nowhere"), table=TABLE)
    for attempt in (loader.live, loader.check):
        with pytest.raises(RetryLater, match=r"sql:lego\.sets: the catalog's database cannot be used; check"):
            attempt()


def test_an_unreachable_rest_catalog() -> None:
    catalog = {"type": "rest", "uri": "http://127.0.0.1:9"}
    with pytest.raises(RetryLater, match=r"rest:lego\.sets: the catalog cannot be reached"):
        IcebergLoader.model_validate({"catalog": catalog, "table": TABLE}).live()


def test_a_missing_bucket(bucket: Bucket, tmp_path: Path) -> None:
    loader = IcebergLoader(catalog=sql_catalog(tmp_path, "s3://no-such-bucket-of-ours/x"), table=TABLE)
    with pytest.raises(ConfigError, match="the bucket of the warehouse does not exist"):
        loader.load(iter([frame(1)]), LoaderContract.a_run())


def test_denied_write(bucket: Bucket, tmp_path: Path) -> None:
    bucket.deny("s3:PutObject")
    loader = IcebergLoader(catalog=sql_catalog(tmp_path, f"s3://{bucket.name}/x"), table=TABLE)
    with pytest.raises(AccessError, match="ask for the permission"):
        loader.load(iter([frame(1)]), LoaderContract.a_run())


def test_without_pyiceberg_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    class Uninstalled(MetaPathFinder):
        def find_spec(self, name: str, *_: Any) -> None:
            if name.partition(".")[0] == "pyiceberg":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    for name in [name for name in sys.modules if name.startswith(("etl.loaders.iceberg", "pyiceberg"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Uninstalled(), *sys.meta_path])
    with pytest.raises(LookupError, match=r"IcebergLoader needs pyiceberg: pip install pyiceberg$"):
        load_class("IcebergLoader", "loaders", Loader)


# -- on S3, and with Glue ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sql", "glue"])
def test_a_table_on_s3(kind: str, bucket: Bucket, tmp_path: Path) -> None:
    warehouse = f"s3://{bucket.name}/warehouse"
    catalog = sql_catalog(tmp_path, warehouse) if kind == "sql" else IcebergCatalog(type="glue", warehouse=warehouse)
    loader = IcebergLoader(catalog=catalog, table=f"{bucket.name.replace('-', '_')}.sets")
    assert loader.live() is None
    assert "will be created" in loader.check()

    def publish(*numbers: int, **options: Any) -> bool:
        return published(loader.model_copy(update=options), iter([frame(*numbers)])).changed

    assert publish(1, 2)
    assert not publish(1, 2)
    assert publish(3)
    assert publish(4, mode="append")
    assert publish(4, 5, mode="upsert", keys=("number",))
    assert rows_of(loader)["number"].tolist() == [3, 4, 5]  # type: ignore[index]
    assert f"at s3://{bucket.name}/warehouse/" in loader.check()
    report = tmp_path / "report.json"
    report.write_text("{}")
    uri = loader.keep("_runs/report.json", report)
    assert uri is not None
    assert bucket.body(uri.removeprefix(f"s3://{bucket.name}/")) == b"{}"


@pytest.mark.parametrize("parameters", [{}, {"table_type": "delta"}])
def test_a_table_of_another_kind_is_left_alone(bucket: Bucket, parameters: dict[str, str]) -> None:
    """Such as one that Athena has made for the files of S3Loader."""
    database = bucket.name.replace("-", "_")
    glue = boto3.client("glue")
    glue.create_database(DatabaseInput={"Name": database})
    glue.create_table(DatabaseName=database, TableInput={"Name": "sets", "Parameters": parameters})
    catalog = IcebergCatalog(type="glue", warehouse=f"s3://{bucket.name}/warehouse")
    loader = IcebergLoader(catalog=catalog, table=f"{database}.sets")
    for attempt in (loader.live, loader.check, lambda: loader.load(iter([frame(1)]), LoaderContract.a_run())):
        with pytest.raises(ConfigError, match="that is no Iceberg table; choose another name"):
            attempt()


def test_glue_that_cannot_be_reached_is_for_later(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    catalog = IcebergCatalog(type="glue", warehouse=f"s3://{bucket.name}/warehouse")
    with pytest.raises(RetryLater, match="AWS is unavailable"):
        IcebergLoader(catalog=catalog, table=TABLE).live()


def test_a_lost_reply_of_the_catalog_is_recognised(iceberg: Iceberg, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = SqlCatalog.commit_table

    def losing(self: Any, *arguments: Any) -> None:
        commit(self, *arguments)
        raise ConnectionError("the reply was lost")

    monkeypatch.setattr(SqlCatalog, "commit_table", losing)
    assert iceberg.publish(frame(1))
    monkeypatch.undo()
    assert iceberg.rows() == [(1, "row 1")]
    assert len(iceberg.files()) == 1


def test_after_a_commit_of_unknown_outcome_no_file_is_removed(
    iceberg: Iceberg, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any) -> None:
        raise ConnectionError("no reply")

    loader, run = iceberg.loader, LoaderContract.a_run()
    receipt = loader.load(iter([frame(1)]), run)
    monkeypatch.setattr(SqlCatalog, "commit_table", failing)
    with pytest.raises(ConnectionError):
        loader.commit([receipt], run)
    loader.abort([receipt])
    assert len(iceberg.files()) == 1


def test_an_upsert_of_no_rows_changes_no_row(iceberg: Iceberg) -> None:
    iceberg.options = {"mode": "upsert", "keys": ("number",)}
    iceberg.publish(frame(1))
    iceberg.publish(frame(1).iloc[:0], recipe="r2")
    assert iceberg.rows() == [(1, "row 1")]
    assert live_recipe(iceberg.loader) == "r2"


# -- killed at any point -------------------------------------------------------------------------------------------


def publish_until(point: int, folder: Path, options: dict[str, Any], published: DataFrame) -> None:
    """Publish, but be killed at the given one of the moments: before each write or removal, and after the commit."""
    moments = count(1)

    def moment() -> None:
        if next(moments) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def watched(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watching(*arguments: Any, **named: Any) -> Any:
            moment()
            return original(*arguments, **named)

        setattr(owner, name, watching)

    def commit(*arguments: Any, original: Any = SqlCatalog.commit_table) -> Any:
        moment()
        result = original(*arguments)
        moment()
        return result

    watched(PyArrowFile, "create")
    watched(PyArrowFileIO, "delete")
    watched(SqlCatalog, "create_namespace")
    SqlCatalog.commit_table = commit  # type: ignore[assignment,method-assign]
    iceberg = Iceberg(folder)
    iceberg.options = options
    iceberg.publish(published, recipe="r2", source=source("new"))


@pytest.mark.parametrize(
    ("options", "old", "expected"),
    [
        ({}, None, [(2, "new 2"), (3, "new 3")]),
        ({"mode": "append"}, frame(1), [(1, "row 1"), (2, "new 2"), (3, "new 3")]),
        ({"mode": "upsert", "keys": ("number",)}, frame(1, 2), [(1, "row 1"), (2, "new 2"), (3, "new 3")]),
    ],
    ids=["create", "append", "upsert"],
)
def test_killed_at_any_point(
    tmp_path: Path, options: dict[str, Any], old: DataFrame | None, expected: list[Any]
) -> None:
    new = frame(2, 3, text="new")
    for point in count(1):
        iceberg = Iceberg(tmp_path / str(point))
        iceberg.folder.mkdir()
        iceberg.options = options
        if old is not None:
            iceberg.publish(old, source=source("old"))
        before = iceberg.rows()
        code = exit_code_of(publish_until, point, iceberg.folder, options, new)
        assert iceberg.rows() in (before, expected)
        if code == 0:
            break
        assert code == -signal.SIGKILL
        finished_by_killed = iceberg.rows() == expected
        assert iceberg.publish(new, recipe="r2", source=source("new")) != finished_by_killed
        assert iceberg.rows() == expected
        assert not iceberg.publish(new, recipe="r2", source=source("new"))
        assert live_recipe(iceberg.loader) == "r2"
    assert point > 6


# -- the pipeline --------------------------------------------------------------------------------------------------


def test_the_lego_pipeline_into_glue(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", bucket.name)
    with WebServer() as web:
        web.serve("/lego.zip", make_sample(), etag='"1"')
        monkeypatch.setenv("LEGO_URL", web.url("/lego.zip"))
        pipeline = Pipeline.from_file(PROJECT / "pipelines" / "lego-iceberg.toml")
        first, again = pipeline.run(), pipeline.run()
    assert (first.status, again.status) == ("published", "unchanged"), first.summary()
    assert isinstance(pipeline.loader, IcebergLoader)
    assert len(rows_of(pipeline.loader)) == 594  # type: ignore[arg-type]
    assert f"iceberg/lego.db/_runs/{first.run_id}.json" in bucket.objects()
