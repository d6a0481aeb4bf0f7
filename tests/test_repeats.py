"""A change that changes no row: one run finds that out, wherever it publishes, and the next ones are free again."""

from __future__ import annotations

import json
import logging
import py_compile
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from pandas import DataFrame
from pydantic import Field

import etl
from etl.base import Extractor, Loader, Transformer
from etl.guard import Guard
from etl.ledger import Account
from etl.loaders.local import LocalLoader
from etl.loaders.s3 import S3Loader
from etl.repeats import recipe_of
from etl.report import RunReport
from etl.run import Source
from etl.s3.client import shared_clients
from main import Pipeline
from tests.conftest import PROJECT, Bucket
from tests.s3_front import Call, Front

KEY = "a/table.parquet"


class Rows(Extractor):
    """As many as the test wants."""

    count: int
    knows: bool = True

    def read(self, account: Account) -> Iterator[DataFrame]:
        yield DataFrame({"number": pd.array(range(self.count), "int64[pyarrow]")})

    def inspect(self) -> Source:
        return Source("rows:", f"{self.count} rows" if self.knows else None)


class Option(Transformer):
    """Has an option that changes no row."""

    value: int = Field(description="Any.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        return batch


def run(loader: Loader, rows: int, option: int, name: str = "rows", **how: Any) -> RunReport:
    report = Pipeline(name, Rows(count=rows), [Option(value=option)], loader).run(**how)
    assert report.error is None, report.error
    return report


def is_free(report: RunReport) -> bool:
    """Whether no row was read. If one was, all of them were, and nothing was published."""
    assert report.status == "unchanged"
    return not report.steps


def in_bucket(bucket: Bucket, place: str) -> S3Loader:
    options: dict[str, dict[str, Any]] = {
        "object": {"key": KEY},
        "dataset": {"prefix": "a/"},
        "appending": {"prefix": "a/", "mode": "append"},
    }
    return S3Loader(bucket=bucket.name, **options[place])


def in_iceberg(folder: Path) -> Loader:
    pytest.importorskip("pyiceberg", reason='IcebergLoader needs pyiceberg: pip install "pyiceberg[sql-sqlite]"')
    from etl.loaders.iceberg import IcebergLoader

    catalog = {"type": "sql", "uri": f"sqlite:///{folder}/catalog.db", "warehouse": f"file://{folder}/warehouse"}
    return IcebergLoader.model_validate({"catalog": catalog, "table": "lego.sets"})


@pytest.fixture(params=["object", "dataset", "appending", "iceberg", "local"])
def loader(request: pytest.FixtureRequest, tmp_path: Path) -> Loader:
    if request.param == "local":
        return LocalLoader(path=tmp_path / "out" / "table.parquet")
    if request.param == "iceberg":
        return in_iceberg(tmp_path)
    return in_bucket(request.getfixturevalue("bucket"), request.param)


@pytest.fixture
def one_object(bucket: Bucket) -> S3Loader:
    return in_bucket(bucket, "object")


@pytest.fixture(autouse=True)
def _one_client(clean_environment: None) -> Iterator[None]:
    with shared_clients():
        yield


def published(bucket: Bucket, place: str) -> DataFrame:
    if place == "object":
        return pd.read_parquet(pa.BufferReader(bucket.body(KEY)))
    return etl.read_dataset(f"s3://{bucket.name}/a/")


def notes(bucket: Bucket) -> list[str]:
    return [key for key in bucket.objects() if "/_runs/_unchanged-" in key]


def is_about_a_note(call: Call) -> bool:
    return "/_runs/_unchanged-" in call.key


# -- wherever data is published -------------------------------------------------------------------------------------


def test_a_change_that_changes_no_row_costs_one_full_run(loader: Loader) -> None:
    run(loader, rows=30, option=1)
    assert not is_free(run(loader, rows=30, option=2))
    assert is_free(run(loader, rows=30, option=2))


def test_what_was_remembered_of_a_version_says_nothing_of_the_next(loader: Loader) -> None:
    run(loader, rows=30, option=1)
    run(loader, rows=30, option=2)
    assert run(loader, rows=31, option=2).status == "published"
    assert is_free(run(loader, rows=31, option=2))
    assert run(loader, rows=30, option=2).steps != []


def test_dry_runs_and_force(loader: Loader) -> None:
    run(loader, rows=30, option=1)
    assert run(loader, rows=30, option=2, dry_run=True).status == "dry-run"
    assert not is_free(run(loader, rows=30, option=2))
    assert run(loader, rows=30, option=2, dry_run=True).status == "dry-run"
    assert run(loader, rows=30, option=2, force=True).status == "published"
    assert is_free(run(loader, rows=30, option=2))


# -- what cannot tell whether it changed ----------------------------------------------------------------------------

_OWN_STEP = """
from pandas import DataFrame
from etl.base import Transformer
from etl.loaders.local import LocalLoader
from main import Pipeline
from tests.test_repeats import Rows

class Mine(Transformer):
    def apply(self, batch, account):
        return batch

for _ in range(2):
    report = Pipeline("own", Rows(count=3), [Mine()], LocalLoader(path="{folder}/table.parquet")).run()
    print(report.error, report.steps != [])
"""


@pytest.mark.parametrize("given_by", ["-c", "-"])
def test_a_step_that_is_in_no_file_is_run_each_time(tmp_path: Path, given_by: str) -> None:
    """As in a notebook."""
    code = _OWN_STEP.format(folder=tmp_path)
    command = [sys.executable, given_by, code]
    done = subprocess.run(command, input=code, cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["None True", "None True"]


def test_what_a_step_of_ones_own_imports_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_rules.py").write_text("LIMIT = 1")
    (tmp_path / "my_rows.py").write_text("import my_rules\nfrom tests.test_repeats import Rows\nclass Mine(Rows): ...")
    monkeypatch.syspath_prepend(tmp_path)
    from my_rows import Mine  # type: ignore[import-not-found]

    source = Source("rows:", "the same")
    recipe = recipe_of(source, [Mine(count=3)])
    assert recipe == recipe_of(source, [Mine(count=3)])
    (tmp_path / ".#my_rules.py").symlink_to("somebody@somewhere.1234")  # the lock of an Emacs that edits it
    assert recipe == recipe_of(source, [Mine(count=3)])
    (tmp_path / "my_rules.py").write_text("LIMIT = 2")
    assert recipe != recipe_of(source, [Mine(count=3)])


def test_a_step_that_is_compiled_may_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one by Cython: its file does not end in .py."""
    (tmp_path / "text").write_text("from tests.test_repeats import Rows\nclass Mine(Rows): ...")
    compiled = py_compile.compile(str(tmp_path / "text"), str(tmp_path / "my_compiled.pyc"))
    monkeypatch.syspath_prepend(tmp_path)
    from my_compiled import Mine  # type: ignore[import-not-found]

    source = Source("rows:", "the same")
    recipe = recipe_of(source, [Mine(count=3)])
    Path(str(compiled)).write_bytes(b"another")
    assert recipe != recipe_of(source, [Mine(count=3)])


# -- S3 -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["object", "dataset", "appending"])
def test_one_request_more(bucket: Bucket, front: Front, place: str) -> None:
    s3_loader = in_bucket(bucket, place)
    run(s3_loader, rows=30, option=1)
    front.calls.clear()
    run(s3_loader, rows=30, option=2)
    assert sum(map(is_about_a_note, front.calls)) == 2  # is there one; there is now
    front.calls.clear()
    assert is_free(run(s3_loader, rows=30, option=1))
    assert len(front.calls) == 1
    front.calls.clear()
    assert is_free(run(s3_loader, rows=30, option=2))
    assert [is_about_a_note(call) for call in front.calls] == [False, True]
    assert not any(call.writes for call in front.calls)


def test_a_bucket_without_versions(bucket: Bucket, one_object: S3Loader) -> None:
    bucket.client.put_bucket_versioning(Bucket=bucket.name, VersioningConfiguration={"Status": "Suspended"})
    run(one_object, rows=30, option=1)
    run(one_object, rows=30, option=2)
    assert is_free(run(one_object, rows=30, option=2))
    run(one_object, rows=30, option=3, force=True)
    assert not is_free(run(one_object, rows=30, option=2))  # the same bytes, and so the same ETag, but of another run


def test_several_are_remembered(one_object: S3Loader) -> None:
    """As where two machines take turns with other versions of a library."""
    for option in (1, 2, 3):
        run(one_object, rows=30, option=option)
    assert all(is_free(run(one_object, rows=30, option=option)) for option in (1, 2, 3))


def test_pipelines_in_one_folder_do_not_mix(bucket: Bucket) -> None:
    loaders = {name: S3Loader(bucket=bucket.name, key=f"a/{name}.parquet") for name in ("one", "two")}
    for name, loader in loaders.items():
        run(loader, rows=30, option=1, name=name)
    run(loaders["one"], rows=30, option=2, name="one")
    assert not is_free(run(loaders["two"], rows=30, option=2, name="two"))
    assert all(is_free(run(loader, rows=30, option=2, name=name)) for name, loader in loaders.items())
    assert len(notes(bucket)) == 2


@pytest.mark.parametrize(("place", "rows"), [("object", 31), ("dataset", 31), ("appending", 61)])
def test_after_a_rollback_the_source_is_read_again(bucket: Bucket, place: str, rows: int) -> None:
    s3_loader = in_bucket(bucket, place)
    first = run(s3_loader, rows=30, option=1)
    run(s3_loader, rows=31, option=1)
    assert not is_free(run(s3_loader, rows=31, option=2))
    assert is_free(run(s3_loader, rows=31, option=2))
    s3_loader.rollback(first.run_id)
    assert run(s3_loader, rows=31, option=2).status == "published"
    assert len(published(bucket, place)) == rows


def test_each_source_that_was_appended_is_remembered(bucket: Bucket) -> None:
    loader = in_bucket(bucket, "appending")
    for rows in (30, 31):
        run(loader, rows=rows, option=1)
    assert not is_free(run(loader, rows=30, option=1))  # what is live has the recipe of the last
    assert is_free(run(loader, rows=30, option=1))
    assert is_free(run(loader, rows=31, option=1))
    assert len(published(bucket, "appending")) == 61


@pytest.mark.parametrize("theirs", ["other bytes", "the same bytes", "the same bytes and metadata"])
def test_an_object_that_somebody_else_wrote_is_not_believed(bucket: Bucket, one_object: S3Loader, theirs: str) -> None:
    run(one_object, rows=30, option=1)
    run(one_object, rows=30, option=2)
    body = b"theirs" if theirs == "other bytes" else bucket.body(KEY)
    metadata = bucket.metadata(KEY) if theirs.endswith("metadata") else {}
    bucket.client.put_object(Bucket=bucket.name, Key=KEY, Body=body, Metadata=metadata)
    assert run(one_object, rows=30, option=2).steps != []
    assert len(published(bucket, "object")) == 30


@pytest.mark.parametrize("damage", [b"", b'{"recipe": "another", "gives": "another"}', None])
def test_a_damaged_note_is_ignored_and_mended(one_object: S3Loader, bucket: Bucket, damage: bytes | None) -> None:
    run(one_object, rows=30, option=1)
    run(one_object, rows=30, option=2)
    (note,) = notes(bucket)
    assert json.loads(bucket.body(note)).keys() == {"recipe", "gives"}
    if damage is None:
        bucket.client.delete_object(Bucket=bucket.name, Key=note)
    else:
        bucket.client.put_object(Bucket=bucket.name, Key=note, Body=damage)
    assert not is_free(run(one_object, rows=30, option=2))
    assert is_free(run(one_object, rows=30, option=2))


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidObjectState"])  # the latter: it was archived
def test_a_note_that_cannot_be_read_is_ignored(one_object: S3Loader, front: Front, code: str) -> None:
    run(one_object, rows=30, option=1)
    run(one_object, rows=30, option=2)
    front.refuse_if(lambda call: call.method == "GET" and is_about_a_note(call), 403, code)
    assert not is_free(run(one_object, rows=30, option=2))


def test_a_note_that_cannot_be_stored_is_worth_a_warning(
    one_object: S3Loader, front: Front, caplog: pytest.LogCaptureFixture
) -> None:
    run(one_object, rows=30, option=1)
    front.refuse_if(lambda call: call.method == "PUT" and is_about_a_note(call), 403, "AccessDenied")
    with caplog.at_level(logging.WARNING):
        assert not is_free(run(one_object, rows=30, option=2))
    (warning,) = caplog.messages
    assert warning.startswith("The note that spares the next run this work could not be stored: S3Loader: s3:PutObject")
    front.forget_refusals()
    assert not is_free(run(one_object, rows=30, option=2))


def test_a_store_out_of_reach_is_for_later(one_object: S3Loader, front: Front) -> None:
    hasty = one_object.model_copy(update={"deadline_s": 0})
    run(hasty, rows=30, option=1)
    front.refuse_if(is_about_a_note, 503, "SlowDown")
    report = Pipeline("rows", Rows(count=30), [Option(value=2)], hasty).run()
    assert (report.exit_code, report.steps) == (75, [])


def test_nothing_is_remembered_where_nothing_was_found_out(bucket: Bucket) -> None:
    loader = in_bucket(bucket, "dataset")
    run(loader, rows=30, option=1)
    run(loader, rows=30, option=2, dry_run=True)
    run(loader, rows=31, option=2)
    cannot_tell = Pipeline("rows", Rows(count=31, knows=False), [], loader)
    assert not is_free(cannot_tell.run())
    assert not is_free(cannot_tell.run())
    assert notes(bucket) == []


def test_a_replay_remembers_nothing(bucket: Bucket) -> None:
    """Who asks for one wants to see what is still rejected."""
    loader = in_bucket(bucket, "dataset")
    first = run(loader, rows=30, option=1)
    for _ in range(2):
        replaying = Pipeline("rows", Rows(count=0), [], loader, guard=Guard(enabled=False))
        assert not is_free(replaying.run(replays=first.run_id))
    assert notes(bucket) == []


# -- Iceberg --------------------------------------------------------------------------------------------------------


def test_rows_that_somebody_else_adds_to_a_table(tmp_path: Path) -> None:
    loader: Any = in_iceberg(tmp_path)
    run(loader, rows=30, option=1)
    run(loader, rows=30, option=2)
    table = loader.catalog.open().load_table(loader.table)
    table.append(pa.table({"number": pa.array([7], pa.int64())}))
    assert run(loader, rows=30, option=2).status == "published"
    assert len(table.refresh().scan().to_arrow()) == 30


def test_a_table_that_was_rolled_back(tmp_path: Path) -> None:
    loader: Any = in_iceberg(tmp_path)
    run(loader, rows=30, option=1)
    table = loader.catalog.open().load_table(loader.table)
    first = table.current_snapshot().snapshot_id
    run(loader, rows=31, option=1)
    run(loader, rows=31, option=2)
    assert is_free(run(loader, rows=31, option=2))
    table.refresh().manage_snapshots().rollback_to_snapshot(first).commit()
    assert run(loader, rows=31, option=2).status == "published"
    assert len(table.refresh().scan().to_arrow()) == 31
