"""Rejected rows: shown, replayed into a dataset, hidden where a step hides; and the journey of one row."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pandas import DataFrame
from pydantic import SecretStr

import etl
from etl.base import Transformer
from etl.errors import ConfigError, DataError, StorageError
from etl.extractors.files import FilesExtractor
from etl.files.csv_options import CsvOptions
from etl.history import Replays
from etl.ledger import Account, Reject
from etl.loaders.local import LocalLoader
from etl.loaders.s3 import S3Loader
from etl.privacy import Veil
from etl.quarantine import Quarantine, _schema_of
from etl.replay import RejectedRows, Unpublished, replay
from etl.report import RunReport
from etl.run import Run, Source
from etl.transformers.columns import DeriveColumns, RenameColumns, SplitColumn
from etl.transformers.contract import Contract
from etl.transformers.explode import ExplodeJson
from etl.transformers.lego import LegoCleaner
from etl.transformers.lookup import Lookup
from etl.transformers.mask import MaskColumns
from etl.transformers.rows import DropDuplicates, FilterRows
from etl.transformers.types import CastTypes
from etl.transformers.values import CleanText, ReplaceValues
from main import Pipeline, main
from tests.any_split import AnySplitContract, table
from tests.conftest import PROJECT, Bucket
from tests.files import local_pipeline

ORDERS = """\
Order No,E-Mail,Amount
1,ann@example.com,10
2, bob@example.com,twelve
3,cid@example.com,30
4,dan@example.com,forty
3,eve@example.com,31
ragged
"""
KEY = SecretStr("0123456789abcdef0123456789abcdef")
CASTS = CastTypes(types={"order_no": "int32", "amount": "int32"})
MASK = MaskColumns(columns=("e_mail",), method="redact")


@pytest.fixture
def orders(tmp_path: Path) -> Path:
    file = tmp_path / "orders.csv"
    file.write_text(ORDERS)
    return file


def pipeline(orders: Path, loader: Any, *steps: Transformer) -> Pipeline:
    """Order numbers and amounts are numbers; the first of each order number stays."""
    reader = FilesExtractor(path=(str(orders),))
    steps = (RenameColumns(style="snake_case"), *steps, CASTS, DropDuplicates(keys=("order_no",)))
    return Pipeline("orders", reader, steps, loader, max_rejects=10)


def mended(orders: Path, loader: Any) -> Pipeline:
    return pipeline(orders, loader, ReplaceValues(values={"amount": {"twelve": "12"}}))


def contract(columns: dict[str, Any], **options: Any) -> Contract:
    return Contract.model_validate({"columns": columns, **options})


def rejects_of(report: RunReport, loader: Any) -> list[dict[str, Any]]:
    content = loader.kept(f"_rejects/{report.run_id}.jsonl")
    return [json.loads(line) for line in content.splitlines()]


class TestShowing:
    @pytest.fixture(autouse=True)
    def _run(self, orders: Path, tmp_path: Path) -> None:
        self.file = local_pipeline(tmp_path, "[[transform]]\ntype = 'CastTypes'\ntypes.Amount = 'int32'")
        self.report = Pipeline.from_file(self.file).run()
        self.folder = tmp_path

    def shown(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        assert main(["rejects", *arguments, "--env-file", os.devnull]) == 0
        return capsys.readouterr().out

    @pytest.mark.parametrize("beginning", [6, 1000])
    def test_by_rule_with_samples(self, beginning: int, capsys: pytest.CaptureFixture[str]) -> None:
        shown = self.shown(capsys, self.report.run_id[:beginning], str(self.file)).splitlines()
        assert shown[0] == f"run {self.report.run_id}: 3 rejected rows of {self.folder}/orders.csv"
        assert [" ".join(line.split()) for line in shown[2:5]] == [
            "step column rule rows such as",
            "CastTypes Amount not a number (int32) 2 row 2: 'twelve', row 4: 'forty'",
            "FilesExtractor ragged: 1 field instead of 3 1 row 6: 'ragged'",
        ]

    def test_bytes_that_are_no_text_are_shown_as_they_are_kept(
        self, orders: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        orders.write_bytes(b"Order No,E-Mail,Amount\n1,Caf\xe9,10\n2,\x81,20\n")
        report = Pipeline.from_file(self.file).run()
        repaired = r"FilesExtractor: repaired 1 x not UTF-8, read as cp1252 (row 1: 'Caf\xe9' -> 'Café')"
        assert repaired in list(report.details())
        assert r"row 2: '2,\x81,20'" in self.shown(capsys, report.run_id, str(self.file))

    def test_as_json_there_is_all_of_it(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = [json.loads(line) for line in self.shown(capsys, "latest", str(self.file), "--json").splitlines()]
        assert [line["row"] for line in lines] == [6, 2, 4]
        assert {line["pipeline"] for line in lines} == {"orders"}
        assert lines[1]["raw"] == {"Order No": "2", "E-Mail": " bob@example.com", "Amount": "twelve"}

    def test_a_terminal_need_not_know_all_characters(self, orders: Path) -> None:
        orders.write_text("Order No,E-Mail,Amount\n1,a@example.com,5 €\n", encoding="utf-8")
        run_id = Pipeline.from_file(self.file).run(accept=True).run_id
        asked = [sys.executable, str(PROJECT / "main.py"), "rejects", run_id, str(self.file), "--env-file", os.devnull]
        environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
        shown, as_json = (
            subprocess.run([*asked, *more], env=environment, check=True, capture_output=True).stdout
            for more in ([], ["--json"])
        )
        assert rb"row 1: '5 \u20ac'" in shown
        assert json.loads(as_json)["value"] == "5 €"

    def test_latest_is_of_this_pipeline(self, capsys: pytest.CaptureFixture[str]) -> None:
        """Another one may publish into the same folder."""
        other = self.file.with_name("other.toml")
        other.write_text(self.file.read_text().replace("orders.parquet", "other.parquet"))
        later = Pipeline.from_file(other).run()
        assert later.run_id > self.report.run_id
        assert f"run {self.report.run_id}:" in self.shown(capsys, "latest", str(self.file))
        assert f"run {later.run_id}:" in self.shown(capsys, "latest", str(other))

    @pytest.mark.parametrize(
        ("wanted", "error"),
        [
            ("20010101T000000Z-000000", "no rejected rows of a run 20010101T000000Z-000000 are kept"),
            ("1999", "no rejected rows of a run 1999 are kept"),
        ],
    )
    def test_a_run_that_is_not_there(self, wanted: str, error: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["rejects", wanted, str(self.file), "--env-file", os.devnull]) == 78
        assert error in capsys.readouterr().err

    def test_a_run_without_rejects(self, capsys: pytest.CaptureFixture[str], orders: Path) -> None:
        orders.write_text("Order No,E-Mail,Amount\n1,a@example.com,10\n")
        report = Pipeline.from_file(self.file).run(accept=True)
        assert main(["rejects", report.run_id, str(self.file), "--env-file", os.devnull]) == 78
        assert f"run {report.run_id} rejected no rows" in capsys.readouterr().err


class TestReplay:
    """Into a dataset: what was mended joins the rows of its run, once."""

    @pytest.fixture(autouse=True)
    def _prepare(self, orders: Path, bucket: Bucket) -> None:
        self.orders = orders
        self.uri = f"s3://{bucket.name}/orders/"
        self.bucket = bucket

    def loader(self, **options: Any) -> S3Loader:
        return S3Loader(bucket=self.bucket.name, prefix="orders/", **options)

    def amounts(self) -> dict[int, int]:
        frame = etl.read_dataset(self.uri)
        assert frame["order_no"].is_unique
        return dict(zip(frame["order_no"].tolist(), frame["amount"].tolist(), strict=True))

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"mode": "append"},
            pytest.param({"partition_by": ("e_mail",)}, marks=pytest.mark.slow),
            pytest.param({"format": "csv"}, marks=pytest.mark.slow),
        ],
    )
    def test_adds_what_was_mended(self, options: dict[str, Any]) -> None:
        loader = self.loader(**options)
        first = pipeline(self.orders, loader).run()
        assert self.amounts() == {1: 10, 3: 30}
        self.orders.unlink()  # the source is not needed
        report = replay(mended(self.orders, loader), first.run_id)
        assert report is not None
        assert report.error is None
        assert "read 3 = published 1 + rejected 2 + dropped 0" in report.summary()
        assert self.amounts() == {1: 10, 3: 30, 2: 12}
        assert report.replays == first.run_id

    def test_what_is_still_bad_is_rejected_again_with_its_number_and_source(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        report = replay(mended(self.orders, loader), first.run_id)
        assert report is not None
        told = [(entry["row"], entry["rule"], entry["source"]) for entry in rejects_of(report, loader)]
        assert told == [
            (4, "not a number (int32)", str(self.orders)),
            (5, "published already", str(self.orders)),  # alone, the second order 3 would have passed
        ]

    def test_twice_is_once(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        done = replay(mended(self.orders, loader), first.run_id)
        before = self.bucket.objects()
        assert replay(mended(self.orders, loader), first.run_id) is None
        assert self.bucket.objects() == before
        assert done is not None
        assert done.run_id != first.run_id

    def test_a_replay_can_be_replayed(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        second = replay(mended(self.orders, loader), first.run_id)
        assert second is not None
        spelled = ReplaceValues(values={"amount": {"forty": "40"}})
        third = replay(pipeline(self.orders, loader, spelled), second.run_id)
        assert third is not None
        assert self.amounts() == {1: 10, 3: 30, 2: 12, 4: 40}

    def test_nothing_mended_publishes_nothing(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        report = replay(pipeline(self.orders, loader), first.run_id)
        assert report is not None
        assert (report.status, self.amounts()) == ("unchanged", {1: 10, 3: 30})
        assert replay(mended(self.orders, loader), first.run_id) is not None  # it can be tried again
        assert self.amounts() == {1: 10, 3: 30, 2: 12}

    def test_runs_that_were_appended_since_stay(self) -> None:
        loader = self.loader(mode="append")
        first = pipeline(self.orders, loader).run()
        later = self.orders.with_name("later.csv")
        later.write_text("Order No,E-Mail,Amount\n2,zoe@example.com,99\n")
        pipeline(later, loader).run()
        replay(mended(self.orders, loader), first.run_id)
        frame = etl.read_dataset(self.uri)  # uniqueness is of one run's rows, as before
        assert sorted(zip(frame["order_no"], frame["amount"], strict=True)) == [(1, 10), (2, 12), (2, 99), (3, 30)]

    def test_other_code_does_not_append_the_same_source_again(self) -> None:
        loader = self.loader(mode="append")
        first = pipeline(self.orders, loader).run()
        replay(mended(self.orders, loader), first.run_id)
        again = mended(self.orders, loader).run()
        assert again.exit_code == ConfigError.exit_code
        assert f"has the rows of this source already, as run {first.run_id} made them" in again.summary()
        assert self.amounts() == {1: 10, 3: 30, 2: 12}

    def test_rows_that_were_replaced_get_no_company(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        self.orders.write_text(ORDERS.replace("10", "11"))
        pipeline(self.orders, loader).run()
        with pytest.raises(
            ConfigError, match=rf"run {first.run_id} is no part of what is live .* reads the source again"
        ):
            replay(mended(self.orders, loader), first.run_id)

    def test_a_run_that_was_refused_has_nothing_to_add_to(self) -> None:
        loader = self.loader()
        strict = replace(pipeline(self.orders, loader), max_rejects=0).run()
        with pytest.raises(ConfigError, match="nothing is published"):
            replay(mended(self.orders, loader), strict.run_id)

    def test_rows_come_in_the_order_of_the_source(self) -> None:
        """Of two with one key the first stays, whichever rule each of them had broken."""
        self.orders.write_text("Order No,E-Mail,Amount\n1,a@b.c,10\n7,a@b.c,ten\nseven,a@b.c,70\n")
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        assert [reject["row"] for reject in rejects_of(first, loader)] == [3, 2]
        spelled = ReplaceValues(values={"amount": {"ten": "10"}, "order_no": {"seven": "7"}})
        replay(pipeline(self.orders, loader, spelled), first.run_id)
        assert self.amounts() == {1: 10, 7: 10}

    def test_rows_of_another_pipeline_are_refused(self) -> None:
        loader = self.loader(mode="append")
        first = pipeline(self.orders, loader).run()
        other = replace(mended(self.orders, loader), name="returns")
        with pytest.raises(ConfigError, match=f"run {first.run_id} is one of the pipeline 'orders'"):
            replay(other, first.run_id)

    def test_the_parts_of_a_row_may_share_their_key(self, tmp_path: Path) -> None:
        file = tmp_path / "baskets.csv"
        file.write_text("id;items;price\n1;[1];5\n2;[2, 3];five\n")
        reader = FilesExtractor(path=(str(file),), csv=CsvOptions(delimiter=";"))
        steps = (
            CastTypes(types={"price": "int32"}),
            DropDuplicates(keys=("id",)),
            ExplodeJson(column="items", take={"item": "."}),
        )
        first = Pipeline("baskets", reader, steps, self.loader(), max_rejects=10).run()
        words = ReplaceValues(values={"price": {"five": "5"}})
        report = replay(Pipeline("baskets", reader, (words, *steps), self.loader()), first.run_id)
        assert report is not None
        assert report.rows_rejected == 0
        assert sorted(etl.read_dataset(self.uri)["item"]) == ["1", "2", "3"]

    @pytest.mark.parametrize(
        ("step", "rejected"),
        [(contract({"order_no": {"unique": True}}, extra="keep"), 0), (DropDuplicates(keys=("order_no",)), 1)],
        ids=["no key to a contract", "a key to others"],
    )
    def test_null_may_be_a_key_or_none(self, step: Transformer, rejected: int) -> None:
        self.orders.write_text("order_no,amount\n,10\n7,70\n,ten\n")
        reader = FilesExtractor(path=(str(self.orders),))
        steps = (CastTypes(types={"amount": "int32"}), step)
        first = Pipeline("orders", reader, steps, self.loader(), max_rejects=10).run()
        spelled = ReplaceValues(values={"amount": {"ten": "10"}})
        report = replay(Pipeline("orders", reader, (spelled, *steps), self.loader()), first.run_id)
        assert report is not None
        assert report.error is None
        assert report.rows_rejected == rejected

    def test_lines_and_hidden_rows_are_counted_and_left(self, caplog: pytest.LogCaptureFixture) -> None:
        loader = self.loader()
        masked = pipeline(self.orders, loader, CASTS, MASK)
        first = masked.run()
        with pytest.raises(DataError, match=r"none of the 4 rejected rows .*: 4 have values that a step hides"):
            replay(masked, first.run_id)
        loader = S3Loader(bucket=self.bucket.name, prefix="others/")
        first = pipeline(self.orders, loader).run()
        replay(mended(self.orders, loader), first.run_id)
        assert "1 of the 4 rejected rows could not be read by the extractor and stay out" in caplog.text

    def test_a_row_of_which_a_part_was_published_is_left(self, tmp_path: Path) -> None:
        file = tmp_path / "baskets.csv"
        file.write_text('id;items\n1;[1, "two"]\n2;["three"]\n')
        reader = FilesExtractor(path=(str(file),), csv=CsvOptions(delimiter=";"))
        steps = (ExplodeJson(column="items", take={"item": "."}), CastTypes(types={"item": "int32"}))
        loader = self.loader()
        baskets = Pipeline("baskets", reader, steps, loader, max_rejects=10)
        first = baskets.run()
        words = ReplaceValues(values={"item": {"two": "2", "three": "3"}})
        replay(Pipeline("baskets", reader, (steps[0], words, steps[1]), loader), first.run_id)
        frame = etl.read_dataset(self.uri)
        assert sorted(zip(frame["id"], frame["item"], strict=True)) == [("1", 1), ("2", 3)]

    def test_types_of_the_source_come_back(self, tmp_path: Path) -> None:
        import datetime
        from decimal import Decimal

        columns: dict[str, list[Any]] = {
            "id": [1, 2],
            "price": [Decimal("1.50"), Decimal("-2.25")],
            "day": [datetime.date(2026, 1, 31), None],
            "at": [datetime.datetime(2026, 1, 31, 12, 30, tzinfo=datetime.UTC), None],
            "opens": [None, datetime.time(8, 30, 0, 500)],
        }
        file = tmp_path / "typed.parquet"
        frame = DataFrame(columns).convert_dtypes(dtype_backend="pyarrow")
        frame.to_parquet(file, index=False)
        reader = FilesExtractor(path=(str(file),))
        loader = self.loader()
        strict = contract({"id": {"type": "int64"}, "price": {"type": "decimal(10,2)", "min": 0}}, extra="keep")
        first = Pipeline("typed", reader, (strict,), loader, max_rejects=10).run()
        lax = contract({"id": {"type": "int64"}, "price": {"type": "decimal(10,2)"}}, extra="keep")
        report = replay(Pipeline("typed", reader, (lax,), loader), first.run_id)
        assert report is not None
        assert report.error is None
        found = etl.read_dataset(self.uri)
        assert found["price"].tolist() == columns["price"]
        assert found["opens"].iloc[1] == columns["opens"][1]

    def test_steps_that_compare_whole_rows_need_the_source(self) -> None:
        loader = self.loader()
        first = pipeline(self.orders, loader).run()
        careful = Pipeline("orders", FilesExtractor(path=(str(self.orders),)), (DropDuplicates(),), loader)
        with pytest.raises(ConfigError, match="DropDuplicates remembers whole rows, or several keys"):
            replay(careful, first.run_id)

    def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "orders.toml"
        file.write_text(f"""
            max_rejects = 10
            [extract]
            type = "FilesExtractor"
            path = "{self.orders}"
            [[transform]]
            type = "FillMissing"
            values = {{ Amount = "0" }}
            [[transform]]
            type = "CastTypes"
            types = {{ Amount = "int32" }}
            [load]
            type = "S3Loader"
            bucket = "{self.bucket.name}"
            prefix = "orders/"
        """)
        assert main(["run", str(file), "--env-file", os.devnull]) == 0
        file.write_text(
            file.read_text()
            .replace('"FillMissing"', '"ReplaceValues"')
            .replace('{ Amount = "0" }', '{ Amount = { twelve = "12" } }')
        )
        assert main(["replay", "latest", str(file), "--json", "--env-file", os.devnull]) == 0
        report = json.loads(capsys.readouterr().out)
        names = [step["name"] for step in report["steps"]]
        assert names == ["RejectedRows", "ReplaceValues", "CastTypes", "Unpublished", "S3Loader"]
        assert report["published"]["rows"] == 1
        assert len(etl.read_dataset(self.uri)) == 4


def test_a_column_of_nothing_but_nulls_comes_back() -> None:
    reader = RejectedRows(run_id="a")
    reader._rows = [{"source": "s", "row": 7, "raw": {"id": "1", "gone": None}}]
    reader._arrow_schema = _schema_of(table({"gone": pa.null()}, id=["1"], gone=[None]))
    (batch,) = reader.extract()
    assert {name: str(dtype) for name, dtype in batch.dtypes.items()} == {
        "id": "string[pyarrow]",
        "gone": "null[pyarrow]",
    }


@dataclass
class SomePublished(Replays):
    """The keys 1 and 3."""

    def check(self, run_id: str) -> str | None:
        return None

    def columns(self) -> list[str]:
        return ["id"]

    def rows(self, run_id: str, columns: Sequence[str]) -> Iterator[DataFrame]:
        yield table({"id": pa.int16()}, id=[1])
        yield table({"id": pa.int16()}, id=[3])


class TestUnpublished(AnySplitContract):
    """The step that a replay adds."""

    def make(self) -> Unpublished:
        step = Unpublished(run_id="a", keys={("id",): False})
        step._replays = SomePublished()
        return step

    def frame(self) -> DataFrame:
        return table({"id": pa.int32()}, id=[1, 2, 3, None, 5], name=["a", "b", "c", "d", "e"])


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_replay_of_what_is_replaced_whole_reads_the_source_again(
    kind: str, orders: Path, tmp_path: Path, bucket: Bucket
) -> None:
    loaders: dict[str, Callable[[], Any]] = {
        "folder": lambda: LocalLoader(path=tmp_path / "out" / "orders.parquet"),
        "bucket": lambda: S3Loader(bucket=bucket.name, key="orders.parquet"),
    }
    loader = loaders[kind]()
    first = pipeline(orders, loader).run()
    report = replay(mended(orders, loader), first.run_id)
    assert report is not None
    assert "read 6 = published 3 + rejected 3 + dropped 0" in report.summary()
    assert replay(mended(orders, loader), first.run_id) is None
    pipeline(orders, loader).run(force=True, accept=True)
    with pytest.raises(ConfigError, match=f"run {first.run_id} is not what is live"):
        replay(mended(orders, loader), first.run_id)


@pytest.mark.parametrize(("limit", "rejected", "rows"), [("29%", 29, 100), ("0.57%", 57, 10_000), (7, 7, 9)])
def test_as_many_may_be_rejected_as_the_limit_says(limit: int | str, rejected: int, rows: int) -> None:
    quarantine = Quarantine(Run("id", "test", Source("test:")), limit, Veil([], []))
    quarantine.check(rejected, rows)
    with pytest.raises(DataError, match=f"{rejected + 1} of {rows:,} rows were rejected"):
        quarantine.check(rejected + 1, rows)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_under_the_rejects_is_not_the_fault_of_a_step() -> None:
    quarantine = Quarantine(Run("id", "test", Source("test:")), "1%", Veil([Account("Step")], []))
    batch = DataFrame({"a": ["x"]}, index=[1])
    with quarantine:
        quarantine._file = Path("/dev/full").open("w")  # noqa: SIM115  (it is the quarantine that closes it)
        quarantine.add([Reject(1, "Step", "a", "x", "bad")], batch, batch)
        with pytest.raises(StorageError, match=r"^Quarantine: .*rejects\.jsonl: no space is left on the disk"):
            quarantine.close()


class TestHiding:
    """What MaskColumns masks is nowhere to be seen, whatever its column was called before."""

    def run(self, tmp_path: Path, orders: Path, *steps: Transformer) -> tuple[RunReport, list[dict[str, Any]]]:
        loader = LocalLoader(path=tmp_path / "out" / "orders.parquet")
        reader = FilesExtractor(path=(str(orders),))
        report = Pipeline("orders", reader, steps, loader, max_rejects=10).run()
        return report, rejects_of(report, loader)

    @pytest.mark.parametrize(
        "steps",
        [
            (RenameColumns(style="snake_case"), CleanText(), CASTS, MASK),
            (
                RenameColumns(names={"E-Mail": "mail"}, style="snake_case"),
                CASTS,
                MaskColumns(columns=("mail",), key=KEY),
            ),
            (
                RenameColumns(style="snake_case"),
                SplitColumn(column="e_mail", into=("who", "domain"), separator="@"),
                CleanText(),
                CASTS,
                MaskColumns(columns=("who",), method="truncate", length=0),
            ),
            (
                RenameColumns(style="snake_case"),
                DeriveColumns(columns={"a": "lower(e_mail)", "b": "upper(a)"}),
                CASTS,
                MaskColumns(columns=("b",), method="redact"),
            ),
        ],
    )
    def test_back_to_the_column_of_the_source(
        self, steps: tuple[Transformer, ...], orders: Path, tmp_path: Path
    ) -> None:
        report, rejects = self.run(tmp_path, orders, *steps)
        assert report.error is None
        assert "example.com" not in json.dumps(rejects)
        assert "ann" not in report.to_json()
        assert "bob@" not in report.to_json()
        for reject in rejects[1:]:
            assert reject["hidden"] == ["E-Mail"]
            assert reject["raw"]["E-Mail"] == "***"
            assert reject["raw"]["Order No"] == str(reject["row"])
        assert rejects[0]["raw"] == "***"

    def test_the_offending_value_too(self, orders: Path, tmp_path: Path) -> None:
        strict = contract({"E-Mail": {"max_length": 3}, "Amount": {"max_length": 2}})
        _, rejects = self.run(tmp_path, orders, strict, MaskColumns(columns=("E-Mail",), method="redact"))
        values = {(reject["column"], reject["value"]) for reject in rejects[1:]}
        assert values == {("E-Mail", "***"), ("Amount", "twelve"), ("Amount", "forty")}

    def test_a_step_that_does_not_tell_where_a_column_comes_from_hides_all(self, orders: Path, tmp_path: Path) -> None:
        class Mystery(Transformer):
            def apply(self, batch: DataFrame, account: Account) -> DataFrame:
                return batch.assign(secret=batch["Order No"] + batch["E-Mail"])

        cast = CastTypes(types={"Amount": "int32"})
        _, rejects = self.run(tmp_path, orders, Mystery(), cast, MaskColumns(columns=("secret",), method="redact"))
        assert all(set(reject["raw"].values()) == {"***"} for reject in rejects[1:])

    def test_in_the_report_of_a_run_that_fails_too(self, orders: Path, tmp_path: Path) -> None:
        """In its first batch, before anybody knows what the columns behind the failing step would be."""
        loader = LocalLoader(path=tmp_path / "out" / "orders.parquet")
        steps = (RenameColumns(style="snake_case"), CleanText(), CastTypes(types={"missing": "int32"}), MASK)
        report = Pipeline("orders", FilesExtractor(path=(str(orders),)), steps, loader).run()
        assert report.error is not None
        assert report.steps[2].repaired["e_mail: white space"].count == 1
        assert "bob@" not in report.to_json()

    def test_keep_raw_keeps_them(self, orders: Path, tmp_path: Path) -> None:
        mask = MaskColumns(columns=("e_mail",), method="redact", keep_raw=True)
        _, rejects = self.run(tmp_path, orders, RenameColumns(style="snake_case"), CASTS, mask)
        assert rejects[1]["raw"]["E-Mail"] == " bob@example.com"
        assert "hidden" not in rejects[1]

    def test_explain_hides_them(self, orders: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        from etl.explain import explain

        loader = LocalLoader(path=tmp_path / "out" / "orders.parquet")
        steps = (RenameColumns(style="snake_case"), CleanText(), CASTS, MASK)
        explain(Pipeline("orders", FilesExtractor(path=(str(orders),)), steps, loader), "2")
        shown = capsys.readouterr().out
        assert "bob" not in shown
        assert "repaired: e_mail: white space" in shown

    def test_a_looked_up_column_comes_from_no_other(self, tmp_path: Path) -> None:
        file = tmp_path / "names.csv"
        file.write_text("id,name\n1,x\n")
        lookup = Lookup(file=file, on={"id": "id"}, take={"name": "name"})
        assert list(lookup.made_from("name", ["id"])) == []
        assert list(lookup.made_from("id", ["id", "b"])) == ["id"]
        assert list(LegoCleaner().made_from("set_id", ["bricksetURL", "Set_ID", "name"])) == ["bricksetURL", "Set_ID"]


class TestExplaining:
    @pytest.fixture(autouse=True)
    def _pipeline(self, orders: Path, tmp_path: Path) -> None:
        steps = (
            CleanText(),
            FilterRows(keep='Amount != "30"'),
            CastTypes(types={"Amount": "int32"}),
            Doubled(),
        )
        loader = LocalLoader(path=tmp_path / "out" / "orders.parquet")
        self.pipeline = Pipeline("orders", FilesExtractor(path=(str(orders),)), steps, loader)
        self.out = tmp_path / "out"

    def shown(self, wanted: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
        from etl.explain import explain

        assert explain(self.pipeline, wanted) == 0
        assert not self.out.exists()
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    def test_of_a_row_that_is_published(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = self.shown("1", capsys)
        assert lines[0].startswith("row 1 of ")
        assert lines[1:5] == ["FilesExtractor, as read", "Order No '1'", "E-Mail 'ann@example.com'", "Amount '10'"]
        assert lines[-4:-1] == ["Amount '10' -> '20'", "repaired: Amount: doubled", "published"]
        assert lines[5:7] == ["CleanText", "nothing changes"]

    def test_of_a_row_that_is_rejected(self, capsys: pytest.CaptureFixture[str]) -> None:
        lines = self.shown("2", capsys)
        assert "E-Mail ' bob@example.com' -> 'bob@example.com'" in lines
        assert "repaired: E-Mail: white space" in lines
        assert lines[-2] == "rejected: Amount = 'twelve': not a number (int32)"

    def test_of_a_row_that_is_dropped(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.shown("3", capsys)[-2] == 'dropped: does not hold: Amount != "30"'

    def test_of_a_line_that_cannot_be_read(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert self.shown("6", capsys)[1:3] == ["FilesExtractor", "rejected: ragged: 1 field instead of 3: ragged"]

    def test_of_columns_that_are_renamed(self, orders: Path, capsys: pytest.CaptureFixture[str]) -> None:
        orders.write_text("Order No,E-Mail,Amount\n10,,10\n")
        steps = (RenameColumns(style="snake_case"),)
        self.pipeline = Pipeline("orders", FilesExtractor(path=(str(orders),)), steps, self.pipeline.loader)
        lines = self.shown("1", capsys)
        assert lines[4:9] == [
            "Amount '10'",
            "RenameColumns",
            "order_no was Order No",
            "e_mail was E-Mail",
            "amount was Amount",
        ]

    def test_found_by_a_value_before_or_after_any_step(self, capsys: pytest.CaptureFixture[str]) -> None:
        for wanted in ("E-Mail=bob@example.com", "E-Mail= bob@example.com", "Amount=twelve"):
            assert self.shown(wanted, capsys)[0].startswith("row 2 of ")
        both = [line for line in self.shown("Order No=3", capsys) if line.startswith("row ")]
        assert [line.split()[1] for line in both] == ["3", "5"]
        assert self.shown("Amount=20", capsys)[0].startswith("row 1 of ")

    def test_of_a_row_that_becomes_several(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file = tmp_path / "baskets.csv"
        file.write_text('id;items\n1;[1, "two"]\n')
        reader = FilesExtractor(path=(str(file),), csv=CsvOptions(delimiter=";"))
        steps = (ExplodeJson(column="items", take={"item": "."}), CastTypes(types={"item": "int32"}))
        self.pipeline = Pipeline("baskets", reader, steps, self.pipeline.loader)
        lines = self.shown("1", capsys)
        assert "one more row of it:" in lines
        assert "rejected: item = 'two': not a number (int32)" in lines
        assert lines[-2] == "published"

    @pytest.mark.parametrize("wanted", ["99", "Order No=nobody", "Order No=", "nothing=1"])
    def test_nothing_found(self, wanted: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(DataError, match="no row has"):
            self.shown(wanted, capsys)

    def test_neither_number_nor_value(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(ConfigError, match="should be a row number"):
            self.shown("first", capsys)

    def test_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["run", str(local_pipeline(tmp_path)), "--explain", "1", "--env-file", os.devnull]) == 0
        assert "published" in capsys.readouterr().out
        assert not self.out.exists()


class Doubled(Transformer):
    """A step of one's own."""

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        after = batch["Amount"] * 2
        account.repair("Amount: doubled", batch["Amount"], after)
        return batch.assign(Amount=after)


def test_where_rows_may_go() -> None:
    """The contract of ``keyed_by``: anywhere, by key, or all to one place."""
    unique = {"unique": True}
    assert CleanText().keyed_by() == ()
    assert DropDuplicates(keys=("a", "b")).keyed_by() == ("a", "b")
    assert DropDuplicates().keyed_by() is None
    assert contract({"a": {}}).keyed_by() == ()
    assert contract({"a": unique, "b": {}}).keyed_by() == ("a",)
    assert contract({"a": {}, "b": {}}, key=("a", "b")).keyed_by() == ("a", "b")
    assert contract({"a": unique, "b": unique}).keyed_by() is None
    assert contract({"a": unique, "b": {}}, key=("a", "b")).keyed_by() is None
