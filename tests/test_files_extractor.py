"""FilesExtractor: every format, one file or many, and which files those are."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pandas.testing import assert_frame_equal
from pydantic import ValidationError

from etl.errors import ConfigError, DataError, RetryLater, SourceError
from etl.extractors.files import FilesExtractor
from etl.ledger import Account
from etl.loaders.local import LocalLoader
from etl.paths import PROJECT
from etl.quarantine import read_rejects
from main import Pipeline
from tests.conftest import Bucket
from tests.contracts import ExtractorContract
from tests.files import (
    CSV,
    GZIPPED,
    JSON_ARRAY,
    JSON_LINES,
    PARQUET,
    ROWS,
    TYPED,
    WORKBOOK,
    Put,
    lines,
    needs_openpyxl,
    parquet,
    zip_of,
)
from tests.reading import frame_of, peak_of_reading, rows_of, said_by, types_of

# -- the contract, for each kind of file --------------------------------------------------------------------------


class OneFile(ExtractorContract):
    """One file in the test's folder."""

    name: str
    content: bytes

    def make(self, **options: Any) -> FilesExtractor:
        path = self.folder / self.name
        if not path.exists():
            path.write_bytes(self.content)
        return FilesExtractor(path=str(path), **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=str(self.folder / f"missing-{self.name}"))


class TestCsv(OneFile):
    name, content = "sets.csv", CSV

    def test_reads_text(self) -> None:
        assert rows_of(self.make()) == ROWS


class TestCompressedCsv(OneFile):
    name, content = "sets.csv.gz", GZIPPED


class TestJsonLines(OneFile):
    name, content = "sets.jsonl", JSON_LINES


class TestJsonArray(OneFile):
    name, content = "sets.json", JSON_ARRAY


class TestParquet(OneFile):
    name, content = "sets.parquet", PARQUET


@needs_openpyxl
class TestExcel(OneFile):
    name, content = "sets.xlsx", WORKBOOK

    def test_reads_text(self) -> None:
        assert rows_of(self.make()) == ROWS


class TestSeveralFiles(ExtractorContract):
    def make(self, **options: Any) -> FilesExtractor:
        (self.folder / "a.csv").write_bytes(CSV)
        (self.folder / "b.csv").write_bytes(CSV)
        os.utime(self.folder / "a.csv", (1, 1))
        os.utime(self.folder / "b.csv", (1, 1))
        return FilesExtractor(path=str(self.folder / "?.csv"), **options)

    def make_broken(self) -> FilesExtractor:
        return FilesExtractor(path=str(self.folder / "*.tsv"))

    def test_rows_are_numbered_from_one(self) -> None:
        for split in self.make(batch_rows=2).splits():
            assert [number for batch in split.extract() for number in batch.index] == [1, 2, 3, 4, 5]

    def test_a_batch_names_its_file(self) -> None:
        assert [Path(str(batch.attrs["source"])).name for batch in self.make().extract()] == ["a.csv", "b.csv"]


# -- which files --------------------------------------------------------------------------------------------------


def test_files_come_in_the_order_of_the_patterns_and_of_their_names(put: Put, tmp_path: Path) -> None:
    for name in ("2.csv", "10.csv", "z.csv"):
        put(name, CSV)
    extractor = FilesExtractor(path=(str(tmp_path / "z.csv"), str(tmp_path / "*.csv")), file_column="file")
    assert list(dict.fromkeys(Path(name).name for name in frame_of(extractor)["file"])) == ["z.csv", "10.csv", "2.csv"]


def test_names_with_wildcards_in_them(put: Put, tmp_path: Path) -> None:
    for name in ("a[1].csv", "a1.csv"):
        put(name, CSV)
    splits = FilesExtractor(path=str(tmp_path / "*.csv"), file_column="file").splits()
    assert [len(rows_of(pickle.loads(pickle.dumps(split)))) for split in splits] == [5, 5]
    fresh = FilesExtractor(path=splits[1].path)
    assert fresh.inspect().uri == str(tmp_path / "a[1].csv")


def test_a_tilde_need_not_mean_a_home(put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("~sets.csv", CSV)
    monkeypatch.chdir(tmp_path)
    assert rows_of(FilesExtractor(path="~sets.csv")) == ROWS
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rows_of(FilesExtractor(path="~/~sets.csv")) == ROWS


NO_TEXT = "caf\udce9"  # as Python has the byte E9 in a name


@pytest.mark.parametrize(
    ("ending", "content"),
    [("csv", CSV), ("csv.gz", GZIPPED), ("zip", zip_of(("a.csv", CSV))), ("jsonl", JSON_LINES), ("parquet", PARQUET)],
    ids=["csv", "gzip", "zip", "jsonl", "parquet"],
)
def test_a_file_whose_name_is_no_text_is_read_and_shown(tmp_path: Path, ending: str, content: bytes) -> None:
    (tmp_path / f"{NO_TEXT}.{ending}").write_bytes(content)
    (tmp_path / f"caf\\xe9.{ending}").write_bytes(content)
    shown = f"{tmp_path}/caf\\xe9.{ending}"
    options = {"format": "csv"} if ending == "zip" else {}
    extractor = FilesExtractor.model_validate({"path": f"{tmp_path}/*", "file_column": "file", **options})
    splits = [pickle.loads(pickle.dumps(split)) for split in extractor.splits()]
    assert [split.inspect().uri for split in splits] == [shown] * 2
    assert [set(frame_of(split)["file"]) for split in splits] == [{shown}] * 2
    assert len(frame_of(extractor)) == 10
    patterns = (f"{tmp_path}/{NO_TEXT}*", f"{tmp_path}/*")
    assert FilesExtractor(path=patterns).inspect().uri == f"{tmp_path}/caf\\xe9*, {tmp_path}/*"
    with pytest.raises(SourceError, match=r"there is no file /caf\\xe9\*"):
        FilesExtractor(path=f"/{NO_TEXT}*").inspect()


def test_rows_of_such_a_file_are_kept_when_they_are_rejected(tmp_path: Path) -> None:
    (tmp_path / f"{NO_TEXT}.csv").write_bytes(CSV + b"6,six\n")
    loader = LocalLoader(path=tmp_path / "sets.parquet")
    report = Pipeline("names", FilesExtractor(path=f"{tmp_path}/*.csv"), [], loader, max_rejects=1).run()
    assert (report.status, report.rows_rejected) == ("published", 1), report.error
    (entry,) = read_rejects(loader.kept(f"_rejects/{report.run_id}.jsonl") or b"")
    assert entry["source"] == f"{tmp_path}/caf\\xe9.csv"
    assert loader.kept(f"_runs/{report.run_id}.json") is not None


def test_a_link_to_another_of_the_files_adds_no_rows(
    put: Put, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("in/11/22.csv", "in/11/23.csv", "elsewhere.csv"):
        put(name, CSV)
    (tmp_path / "in" / "11" / "latest.csv").symlink_to("23.csv")
    (tmp_path / "in" / "this_month").symlink_to("11")
    (tmp_path / "in" / "more.csv").symlink_to("../elsewhere.csv")
    found = FilesExtractor(path=f"{tmp_path}/in/11/*.csv", file_column="file")
    assert set(frame_of(found)["file"]) == {f"{tmp_path}/in/11/22.csv", f"{tmp_path}/in/11/23.csv"}
    assert caplog.messages == [
        f"{tmp_path}/in/11/latest.csv leads to {tmp_path}/in/11/23.csv, which is read too, and is left out"
    ]
    everywhere = FilesExtractor(path=f"{tmp_path}/in/**/*.csv", file_column="file")
    names = frame_of(everywhere)["file"].tolist()
    assert list(dict.fromkeys(names)) == [f"{tmp_path}/in/{name}.csv" for name in ("11/22", "11/23", "more")]
    assert len(names) == 15


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as name:  # tmp_path is of this user alone
        Path(name).chmod(0o755)
        for part in ("open", "closed"):
            (Path(name) / part).mkdir()
            (Path(name) / part / "a.csv").write_bytes(CSV)
        (Path(name) / "closed").chmod(0)
        with unprivileged():
            found = [
                FilesExtractor(path=f"{name}/{pattern}").inspect().uri for pattern in ("**/*.csv", "*/a.csv", "open/*")
            ]
        (Path(name) / "closed").chmod(0o700)
        assert found == [f"{name}/open/a.csv"] * 3
        assert caplog.messages == [f"{name}/closed: this user may not look into it, so its files are left out"] * 2


def test_a_folder_that_can_be_listed_but_not_entered_is_named(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for part in ("open", "listed"):
            (Path(name) / part).mkdir()
            (Path(name) / part / "a.csv").write_bytes(CSV)
        (Path(name) / "listed").chmod(0o444)
        with unprivileged():
            found = FilesExtractor(path=f"{name}/**/a.csv").inspect().uri
        (Path(name) / "listed").chmod(0o700)
        assert found == f"{name}/open/a.csv"
        assert caplog.messages == [f"{name}/listed: this user may not look into it, so its files are left out"]


@contextmanager
def unprivileged() -> Iterator[None]:
    """Root may look everywhere."""
    user = os.geteuid()
    os.seteuid(user or 65_534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_what_cannot_be_a_source(tmp_path: Path, put: Put) -> None:
    with pytest.raises(ConfigError, match="is a folder; name the files in it"):
        FilesExtractor(path=str(tmp_path)).inspect()
    with pytest.raises(SourceError, match=r"there is no file nowhere/\*\.csv in /"):
        FilesExtractor(path="nowhere/*.csv").inspect()
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ConfigError, match="not a file but a device, pipe or socket"):
        FilesExtractor(path=str(tmp_path / "pipe.csv")).inspect()
    (tmp_path / "dangling.csv").symlink_to(tmp_path / "gone")
    with pytest.raises(SourceError, match=r"dangling\.csv: No such file"):
        FilesExtractor(path=str(tmp_path / "dangling.csv")).inspect()
    with pytest.raises(ConfigError, match="cannot tell what it holds from its name; set format, such"):
        rows_of(FilesExtractor(path=put("a.dat", CSV)))
    assert rows_of(FilesExtractor(path=put("a.dat", CSV), format="csv")) == ROWS
    put("b.json", b"[]")
    with pytest.raises(ConfigError, match="read one format at a time"):
        FilesExtractor(path=(str(tmp_path / "a.csv"), str(tmp_path / "b.json"), put("a.csv", CSV))).check()


# -- several files, one table -------------------------------------------------------------------------------------


def test_columns_are_matched_by_name(put: Put, tmp_path: Path) -> None:
    put("1.csv", b"a,b\n1,2\n")
    put("2.csv", b"b,a\n4,3\n")
    extractor = FilesExtractor(path=str(tmp_path / "*.csv"))
    assert rows_of(extractor) == [("1", "2"), ("3", "4")]
    put("3.csv", b"a,c\n5,6\n")
    with pytest.raises(DataError, match=r"3\.csv: lacks 'b' and also has 'c', unlike the first file; set columns"):
        rows_of(extractor)
    assert rows_of(FilesExtractor(path=str(tmp_path / "*.csv"), columns=("a",))) == [("1",), ("3",), ("5",)]
    with pytest.raises(ConfigError, match="there is no column 'aa'; did you mean 'a'"):
        rows_of(FilesExtractor(path=str(tmp_path / "*.csv"), columns=("aa",)))


def test_splits_have_the_types_of_the_first_file(put: Put, tmp_path: Path) -> None:
    put("1.jsonl", lines({"id": 1, "v": 1}))
    put("2.jsonl", lines({"id": 2, "v": "one"}, {"id": 3, "v": 3}))
    account = Account("test")
    splits = FilesExtractor(path=str(tmp_path / "*.jsonl")).splits()
    frames = [pd.concat(split.extract(account)) for split in splits]
    assert_frame_equal(frames[0].iloc[:0], frames[1].iloc[:0], check_index_type=False)
    assert frames[1]["v"].tolist() == [3]
    assert account.balances()


def test_empty_files(put: Put, tmp_path: Path) -> None:
    for name, content in {"1.jsonl": b"", "2.jsonl": lines({"id": 1}), "3.jsonl": b"\n"}.items():
        put(name, content)
    with pytest.raises(DataError, match=r"1\.jsonl: has no rows; set allow_empty = true"):
        rows_of(FilesExtractor(path=str(tmp_path / "*.jsonl")))
    assert rows_of(FilesExtractor(path=str(tmp_path / "*.jsonl"), allow_empty=True)) == [(1,)]
    with pytest.raises(DataError, match="has no fields"):
        rows_of(FilesExtractor(path=str(tmp_path / "1.jsonl"), allow_empty=True))
    assert rows_of(FilesExtractor(path=put("a.csv", b"id\n"), allow_empty=True)) == []
    with pytest.raises(DataError, match="has no rows"):
        rows_of(FilesExtractor(path=put("a.csv", b"id\n")))
    empty = put("a.parquet", parquet(TYPED.slice(0, 0)))
    with pytest.raises(DataError, match="has no rows"):
        rows_of(FilesExtractor(path=empty))
    assert types_of(frame_of(FilesExtractor(path=empty, allow_empty=True)))["id"] == "int16"


def test_the_file_may_become_a_column(put: Put) -> None:
    path = put("a.csv", CSV)
    frame = frame_of(FilesExtractor(path=path, file_column="file"))
    assert list(frame.columns) == ["id", "name", "pieces", "file"]
    assert set(frame["file"]) == {path}
    with pytest.raises(ConfigError, match="has a column 'name' itself"):
        rows_of(FilesExtractor(path=path, file_column="name"))


def test_tsv_and_options_for_csv(put: Put) -> None:
    assert rows_of(FilesExtractor(path=put("a.tsv", CSV.replace(b",", b"\t")))) == ROWS
    assert rows_of(FilesExtractor(path=put("b.csv", CSV.replace(b",", b";")), csv={"delimiter": ";"})) == ROWS  # type: ignore[arg-type]


# -- what was inspected is what is read ---------------------------------------------------------------------------


def test_the_fingerprint_tells_of_names_and_content(put: Put, tmp_path: Path) -> None:
    put("a.csv", CSV)
    pattern = str(tmp_path / "*.csv")

    def fingerprint() -> str | None:
        return FilesExtractor(path=pattern).inspect().fingerprint

    first = fingerprint()
    os.utime(tmp_path / "a.csv", (1, 1))
    assert fingerprint() == first
    put("a.csv", CSV.replace(b"7", b"8"))
    os.utime(tmp_path / "a.csv", (1, 1))
    changed = fingerprint()
    assert changed != first
    put("b.csv", CSV)
    assert fingerprint() not in (first, changed)


def test_a_file_that_changes_meanwhile_is_noticed(put: Put) -> None:
    path = put("a.csv", CSV)
    extractor = FilesExtractor(path=path)
    extractor.inspect()
    put("a.csv", CSV.replace(b"7", b"8"))
    with pytest.raises(RetryLater, match=r"a\.csv changed after this run began; run again"):
        rows_of(extractor)
    Path(path).unlink()
    with pytest.raises(RetryLater, match="vanished after this run began"):
        rows_of(extractor)


@pytest.mark.parametrize("name", ["sets.csv", "sets.parquet"])
def test_a_file_that_changes_while_it_is_read_is_noticed(put: Put, name: str) -> None:
    path = put(name, CSV if name == "sets.csv" else PARQUET)
    batches = FilesExtractor(path=path, batch_rows=1).extract()
    next(batches)
    with Path(path).open("ab") as file:
        file.write(b"6,six,6\n")
    with pytest.raises(RetryLater, match="changed after this run began"):
        list(batches)


def test_a_file_that_is_written_over_is_not_called_damaged(put: Put) -> None:
    rows = b"".join(b"%d,%d\n" % (number, number * 7919 % 104729) for number in range(500_000))
    path = put("a.csv.gz", gzip.compress(b"id,number\n" + rows, 1))
    batches = FilesExtractor(path=path).extract()
    next(batches)
    with Path(path).open("r+b") as file:
        file.seek(-100_000, os.SEEK_END)
        file.write(bytes(1000))
    with pytest.raises(RetryLater, match="changed after this run began"):
        list(batches)


def test_an_unchanged_run_loads_no_heavy_library(put: Put) -> None:
    code = f"""
        import sys
        from etl.extractors.files import FilesExtractor
        extractor = FilesExtractor(path={put("a.csv.zst", pa.compress(CSV, "zstd", asbytes=True))!r})
        extractor.inspect()
        extractor.check()
        print([name for name in ("pandas", "pyarrow", "numpy", "boto3", "openpyxl") if name in sys.modules])
    """
    assert said_by(code) == "[]\n"


# -- options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"path": []}, "path"),
        ({"path": ""}, "path"),
        ({"path": "folder/"}, "path"),
        ({"path": "s3://bucket"}, "path"),
        ({"path": "s3:///key"}, "path"),
        ({"path": "a.csv", "columns": ["a", "a"]}, "columns"),
        ({"path": "a.csv", "types": {"a": "integer"}}, "types"),
        ({"path": "a.csv", "format": "xml"}, "format"),
        ({"path": "a.csv", "max_ratio": 0}, "max_ratio"),
        ({"path": "a.csv", "csv": {"quote": "no"}}, "csv"),
    ],
)
def test_mistakes_are_found_without_looking_at_any_file(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as failure:
        FilesExtractor.model_validate(options)
    assert [error["loc"][0] for error in failure.value.errors()] == [field]


def test_check_opens_the_first_file(put: Put, tmp_path: Path) -> None:
    put("a.csv", CSV)
    put("b.csv", CSV)
    assert (
        FilesExtractor(path=str(tmp_path / "*.csv")).check() == f"{tmp_path}/*.csv: 2 files, {2 * len(CSV)} bytes, csv"
    )


# -- the whole way ------------------------------------------------------------------------------------------------


def test_a_pipeline_of_ten_lines(put: Put, tmp_path: Path, bucket: Bucket) -> None:
    put("in/1.jsonl.gz", gzip.compress(lines({"id": 1, "size": {"w": 0.5}}, {"id": 2, "size": {"w": 1}})))
    put("in/2.jsonl.gz", gzip.compress(lines({"id": 3}, {"id": "four"})))
    pipeline = put(
        "files.toml",
        f"""
        max_rejects = 1
        [extract]
        type = "FilesExtractor"
        path = "{tmp_path}/in/*.jsonl.gz"
        file_column = "file"
        [load]
        type = "S3Loader"
        bucket = "{bucket.name}"
        key = "sets.parquet"
        """.encode(),
    )
    report = Pipeline.from_file(pipeline).run()
    assert (report.status, report.rows_rejected) == ("published", 1), report.error
    found = pq.read_table(io.BytesIO(bucket.body("sets.parquet")))
    assert found.column("id").to_pylist() == [1, 2, 3]
    assert [Path(str(name)).name for name in found.column("file").to_pylist()] == ["1.jsonl.gz"] * 2 + ["2.jsonl.gz"]
    assert Pipeline.from_file(pipeline).run().status == "unchanged"


def test_the_example_can_be_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "some-bucket")
    assert Pipeline.from_file(PROJECT / "pipelines" / "files.toml").extractor == FilesExtractor(
        path="exports/**/*.csv", file_column="file"
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """The peak of a process that reads ten times as many rows is the same, give or take the allocator's slack."""
    rows = {"csv": 1_000_000, "jsonl": 100_000, "parquet": 1_000_000}[kind]
    peaks = [
        peak_of_reading(FilesExtractor, count, path=str(sample_file(tmp_path, kind, count)), batch_rows=16_384)
        for count in (rows // 10, rows)
    ]
    assert peaks[1] - peaks[0] < 64 << 20


def sample_file(folder: Path, kind: str, rows: int) -> Path:
    path = folder / f"{rows}.{kind}"
    if kind == "parquet":
        numbers = pa.array(range(rows))
        pq.write_table(pa.table({"id": numbers, "name": numbers.cast(pa.string())}), path, row_group_size=1 << 20)
        return path
    with path.open("w") as file:
        if kind == "csv":
            file.write("id,name,text\n")
            file.writelines(f"{number},name {number},{'x' * 40}\n" for number in range(rows))
        else:
            file.writelines(
                f'{{"id": {number}, "name": "name {number}", "in": {{"a": 1}}}}\n' for number in range(rows)
            )
    return path
