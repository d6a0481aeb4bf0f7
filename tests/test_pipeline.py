"""The pipeline from end to end: a real web server, the real steps, a real S3 server, and the command line."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests
from pandas import DataFrame

from etl.base import Extractor, Transformer
from etl.errors import AccessError, DataError, SourceError, Stopped, StorageError
from etl.extractors.zip_url import ZipUrlExtractor
from etl.ledger import Account
from etl.loaders.local import LocalLoader
from etl.loaders.s3 import S3Loader
from etl.lock import locked
from etl.report import RunReport
from etl.run import Source
from etl.s3.options import MIB
from etl.signals import signals_put_off, stopped_by_signals
from etl.steps import load_class
from etl.transformers.lego import LegoCleaner
from main import Pipeline, main
from samples.make_sample import make_sample
from tests.conftest import PROJECT, Bucket
from tests.files import local_pipeline
from tests.s3_front import Call, Front
from tests.web import WebServer

KEY = "lego/lego_sets.parquet"
MAIN = [sys.executable, str(PROJECT / "main.py")]
SUMMARY = "read 600 = published 594 + rejected 5 + dropped 1"


def reports(bucket: Bucket) -> list[dict[str, Any]]:
    return [json.loads(bucket.body(key)) for key in bucket.objects() if key.startswith("lego/_runs/")]


class TestARun:
    @pytest.fixture(autouse=True)
    def _run(self, lego: Pipeline, bucket: Bucket) -> None:
        self.bucket = bucket
        self.report = lego.run()

    def test_publishes_the_good_rows(self) -> None:
        table = pd.read_parquet(io.BytesIO(self.bucket.body(KEY)), dtype_backend="pyarrow")
        assert self.report.status == "published"
        assert len(table) == 594
        assert table["set_id"].is_unique
        assert str(table["pieces"].dtype) == "int32[pyarrow]"

    def test_accounts_for_every_row(self) -> None:
        assert SUMMARY in self.report.summary()
        assert all(account.balances() for account in self.report.steps)

    def test_keeps_rejected_rows_with_their_reason(self) -> None:
        assert self.report.rejects is not None
        key = f"lego/_rejects/{self.report.run_id}.jsonl"
        assert self.report.rejects == {"uri": f"s3://{self.bucket.name}/{key}", "rows": 5}
        rejects = [json.loads(line) for line in self.bucket.body(key).splitlines()]
        assert {reject["rule"] for reject in rejects} == {
            "ragged: 3 fields instead of 14",
            "missing",
            "not a number (int16)",
            "below 0",
            "the same id came before with other facts",
        }
        bad_year = next(reject for reject in rejects if reject["column"] == "year")
        assert (bad_year["row"], bad_year["step"], bad_year["value"]) == (101, "LegoCleaner", "unknown")
        assert bad_year["raw"]["bricksetURL"].endswith("1707-1")
        assert bad_year["run"] == self.report.run_id

    def test_stores_the_report_beside_the_data(self) -> None:
        (stored,) = reports(self.bucket)
        assert stored == json.loads(self.report.to_json())
        assert stored["published"]["sha256"] == self.bucket.metadata(KEY)["etl-sha256"]
        assert stored["published"]["schema"]["year"] == "int16"
        assert stored["source"]["etag"] == '"1"'
        assert stored["source"]["uri"].endswith("lego.zip#lego_sets.csv")
        cleaner = stored["steps"][1]
        assert cleaner["repaired"]["set_id: taken from bricksetURL"]["count"] == 3
        assert cleaner["repaired"]["set_id: taken from bricksetURL"]["samples"][0] == {
            "row": 11,
            "before": "01-Aug",
            "after": "1-8",
        }


def test_running_again_costs_nothing(lego: Pipeline, bucket: Bucket, web: WebServer) -> None:
    lego.run()
    before = bucket.objects()
    web.requests.clear()
    again = lego.run()
    assert (again.status, again.exit_code) == ("unchanged", 0)
    assert bucket.objects() == before
    assert len(bucket.versions(KEY)) == 1
    assert [request.headers["If-None-Match"] for request in web.requests] == ['"1"']


def test_a_lost_cache_costs_a_download_but_no_new_version(
    lego: Pipeline, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lego.run()
    monkeypatch.setenv("ETL_CACHE_DIR", str(tmp_path / "elsewhere"))
    assert Pipeline.from_file("pipelines/lego.toml").run().status == "unchanged"
    assert len(bucket.versions(KEY)) == 1


def test_a_new_source_with_the_same_rows_writes_no_new_version(lego: Pipeline, bucket: Bucket, web: WebServer) -> None:
    lego.run()
    web.serve("/lego.zip", make_sample() + b"", etag='"2"')
    assert lego.run().status == "unchanged"  # same bytes under another ETag
    import zipfile

    repacked = io.BytesIO(make_sample())
    with zipfile.ZipFile(repacked, "a") as archive:
        archive.writestr("readme.txt", "hello")
    web.serve("/lego.zip", repacked.getvalue(), etag='"3"')
    report = lego.run()
    assert report.status == "unchanged"
    assert report.published is not None
    assert len(bucket.versions(KEY)) == 1


def test_changed_options_publish_again(lego: Pipeline, bucket: Bucket) -> None:
    lego.run()
    changed = Pipeline.from_file("pipelines/lego.toml", ['transform.0.themes={"City" = "Town"}'])
    assert changed.run().status == "published"
    assert len(bucket.versions(KEY)) == 2


def test_force_publishes_again(lego: Pipeline, bucket: Bucket) -> None:
    lego.run()
    assert lego.run(force=True).status == "published"
    assert len(bucket.versions(KEY)) == 2


def test_dry_run_publishes_nothing(lego: Pipeline, bucket: Bucket) -> None:
    report = lego.run(dry_run=True)
    assert report.status == "dry-run"
    assert report.steps[-1].rows_out == 594
    assert bucket.objects() == []
    assert bucket.open_uploads() == []


def test_batch_size_does_not_change_the_bytes(lego: Pipeline) -> None:
    first = lego.run()
    again = Pipeline.from_file("pipelines/lego.toml", ["extract.batch_rows=7"]).run()
    assert first.published is not None
    assert again.published is not None
    assert again.published.sha256 == first.published.sha256


def test_too_many_rejects_stop_the_run_and_the_old_data_stays(lego: Pipeline, bucket: Bucket) -> None:
    lego.run()
    old = bucket.body(KEY)
    strict = Pipeline.from_file("pipelines/lego.toml", ["max_rejects=4"])
    report = strict.run(force=True)
    assert report.exit_code == DataError.exit_code
    assert "5 of 600 rows were rejected, more than max_rejects = 4 allows" in report.summary()
    assert bucket.body(KEY) == old
    assert f"lego/_rejects/{report.run_id}.jsonl" in bucket.objects()
    assert [stored["status"] for stored in reports(bucket)] == ["published", "failed"]


def test_a_source_that_is_down_leaves_the_old_data(lego: Pipeline, bucket: Bucket, web: WebServer) -> None:
    lego.run()
    web.serve("/lego.zip", b"", status=404)
    report = lego.run()
    assert report.exit_code == SourceError.exit_code
    assert report.error is not None
    assert report.error["step"] == "ZipUrlExtractor"
    assert len(bucket.versions(KEY)) == 1


def test_a_damaged_member_publishes_nothing(lego: Pipeline, bucket: Bucket, web: WebServer) -> None:
    damaged = bytearray(make_sample())
    damaged[3000] ^= 0xFF
    web.serve("/lego.zip", bytes(damaged), etag='"bad"')
    assert lego.run().exit_code == DataError.exit_code
    assert KEY not in bucket.objects()
    assert bucket.open_uploads() == []


def test_denied_write_is_a_permission_error(lego: Pipeline, bucket: Bucket) -> None:
    bucket.deny("s3:PutObject")
    report = lego.run()
    assert report.exit_code == AccessError.exit_code
    assert report.error is not None
    assert report.error["step"] == "S3Loader"


def test_a_second_run_on_this_machine_waits_for_another_day(lego: Pipeline) -> None:
    with locked(lego.name):
        report = lego.run()
    assert report.exit_code == 75
    assert f"process {os.getpid()}" in report.summary()
    assert lego.run().exit_code == 0


def test_without_a_place_for_its_lock_a_run_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("ETL_CACHE_DIR", "~/file")
    with pytest.raises(StorageError, match=f"{tmp_path}/file.*; set ETL_CACHE_DIR"), locked("lego"):
        pass


def test_an_extractor_that_cannot_be_split_is_blamed_itself(bucket: Bucket) -> None:
    class Unsplittable(Endless):
        def splits(self) -> list[Extractor]:
            raise SourceError("the catalogue is down")

    report = Pipeline("split", Unsplittable(), [], S3Loader(bucket=bucket.name, key="a/split.parquet")).run()
    assert "Unsplittable: the catalogue is down" in report.summary()
    assert [key for key in bucket.objects() if "_runs/" in key] == [f"a/_runs/{report.run_id}.json"]


def test_rows_that_the_loader_refuses_leave_a_report(bucket: Bucket) -> None:
    class Changing(Extractor):
        def read(self, account: Account) -> Iterator[DataFrame]:
            yield DataFrame({"number": [1]})
            yield DataFrame({"number": ["two"]})

    report = Pipeline("changing", Changing(), [], S3Loader(bucket=bucket.name, key="a/changing.parquet")).run()
    assert (report.exit_code, report.error and report.error["step"]) == (DataError.exit_code, "S3Loader")
    assert bucket.objects() == [f"a/_runs/{report.run_id}.json"]


def test_without_a_temporary_folder_a_run_fails_like_any_other(
    lego: Pipeline, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    report = lego.run()
    assert (report.exit_code, report.status) == (StorageError.exit_code, "failed")
    assert f"No such file or directory: {tmp_path}/gone" in report.summary()
    assert bucket.open_uploads() == []


def test_a_bug_outside_of_a_step_has_an_exit_code_too(lego: Pipeline) -> None:
    class Careless(Transformer):
        def describes(self) -> dict[str, dict[str, str]]:
            raise KeyError("nothing")

        def apply(self, batch: DataFrame, account: Account) -> DataFrame:
            return batch

    report = Pipeline("careless", lego.extractor, (Careless(),), lego.loader).run()
    assert report.exit_code == 70
    assert "KeyError: 'nothing' (LOG_LEVEL=DEBUG shows where)" in report.summary()


def test_a_cleaner_that_loses_rows_publishes_nothing(lego: Pipeline, bucket: Bucket) -> None:
    class Careless(Transformer):
        def apply(self, batch: DataFrame, account: Account) -> DataFrame:
            return batch.iloc[1:]

    pipeline = Pipeline("careless", lego.extractor, (Careless(), LegoCleaner()), lego.loader)
    report = pipeline.run()
    assert "Careless: lost 1 rows without giving a reason" in report.summary()
    assert KEY not in bucket.objects()


def test_two_steps_of_one_class_have_accounts_of_their_own(lego: Pipeline) -> None:
    pipeline = Pipeline(lego.name, lego.extractor, (LegoCleaner(), LegoCleaner()), lego.loader)
    report = pipeline.run()
    assert [account.step for account in report.steps] == ["ZipUrlExtractor", "LegoCleaner", "LegoCleaner-2", "S3Loader"]
    assert SUMMARY in report.summary()


class Endless(Extractor):
    """Numbers without end, slowly enough to be stopped and fast enough for several parts."""

    def read(self, account: Account) -> Iterator[DataFrame]:
        import numpy as np

        chance = np.random.default_rng(1)
        while True:
            yield DataFrame({"number": chance.integers(0, 2**62, 100_000)})
            time.sleep(0.01)

    def inspect(self) -> Source:
        return Source("endless:")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_stop_cleanly(bucket: Bucket, number: signal.Signals, tmp_path: Path) -> None:
    pipeline_file = tmp_path / "endless.toml"
    pipeline_file.write_text(f"""
        [extract]
        type = "tests.test_pipeline:Endless"
        [load]
        type = "S3Loader"
        bucket = "{bucket.name}"
        key = "a/endless.parquet"
        part_bytes = {5 * MIB}
    """)
    process = subprocess.Popen(
        [sys.executable, "main.py", "run", str(pipeline_file)], cwd=PROJECT, stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 90
        while not bucket.open_uploads():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, shown = process.communicate(timeout=60)
    finally:
        process.kill()  # else it would fill the disk
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; nothing was published" in shown
    assert bucket.open_uploads() == []
    (key,) = bucket.objects()
    report = json.loads(bucket.body(key))
    assert key == f"a/_runs/{report['run_id']}.json"
    assert (report["status"], report["error"]["exit_code"]) == ("failed", 128 + number)


def test_a_stop_during_a_request_is_no_broken_connection(lego: Pipeline, front: Front) -> None:
    """Else botocore would ask again, and nothing but SIGKILL could stop the run."""
    arrived, over = threading.Event(), threading.Event()

    def gets_no_answer(_call: Call) -> bool:
        arrived.set()
        return over.wait(50)

    front.reset_if(gets_no_answer)
    command = [sys.executable, "main.py", "--env-file", os.devnull]
    process = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.PIPE, text=True)
    try:
        assert arrived.wait(60)
        process.send_signal(signal.SIGTERM)
        _, shown = process.communicate(timeout=20)
    finally:
        process.kill()
        over.set()
    assert process.returncode == 128 + signal.SIGTERM
    assert "S3Loader: stopped by SIGTERM; nothing was published" in shown


def test_a_stop_waits_for_the_answer_that_tells_what_to_clean_up() -> None:
    reached = []

    def work() -> None:
        with stopped_by_signals():
            with signals_put_off():
                signal.raise_signal(signal.SIGTERM)
                reached.append("end of the block")
            reached.append("behind it")

    with pytest.raises(Stopped) as stopped:
        work()
    assert (reached, stopped.value.exit_code) == (["end of the block"], 143)
    assert str(stopped.value) == "stopped by SIGTERM"  # whether anything was published, the report knows


def test_a_stop_is_not_a_finding_of_check(bucket: Bucket) -> None:
    class Stopping(Endless):
        def check(self) -> str:
            signal.raise_signal(signal.SIGINT)
            return "reachable"

    found = Pipeline("stopped", Stopping(), [], S3Loader(bucket=bucket.name, key="a.csv")).check()
    with pytest.raises(Stopped), stopped_by_signals():
        next(found)


def test_a_stop_while_a_module_is_imported_is_not_its_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "takes_long.py").write_text("import signal\nsignal.raise_signal(signal.SIGTERM)")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Stopped), stopped_by_signals():
        load_class("takes_long:Anything", "extractors", Extractor)


def test_a_signal_that_is_to_be_ignored_still_is() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def run_main(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """main.py as cron would run it: no terminal, no HOME, another working folder."""
    bare = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    ours = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "ETL_", "LEGO_", "S3_"))}
    return subprocess.run(
        [*MAIN, "--env-file", os.devnull, *arguments],
        env={**bare, **ours, **environment},
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_under_cron(lego: Pipeline, bucket: Bucket) -> None:
    done = run_main()
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    *_, last = done.stderr.splitlines()
    assert f"{SUMMARY} -> s3://{bucket.name}/{KEY}" in last
    assert " INFO run=" in last
    again = run_main()
    assert "unchanged" in again.stderr
    assert len(bucket.versions(KEY)) == 1


def test_an_unchanged_run_imports_neither_pandas_nor_pyarrow(lego: Pipeline) -> None:
    lego.run()
    code = """
import sys
from main import main
sys.argv[1:] = ["--env-file", "/dev/null"]
code = main()
print(sorted({"pandas", "pyarrow", "numpy", "rich"} & set(sys.modules)))
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "unchanged" in done.stderr
    assert done.stdout.strip() == "[]"


def test_help_imports_next_to_nothing() -> None:
    code = """
import sys
from main import main
try:
    main(["--help"])
finally:
    print(sorted({"pandas", "pyarrow", "numpy", "rich", "pydantic", "boto3", "requests"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert "examples:" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_who_has_seen_enough_is_no_error() -> None:
    command = [*MAIN, "schema", "LegoCleaner", "--env-file", os.devnull]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(command, env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_run_that_failed_has_failed_whether_or_not_somebody_reads_that(tmp_path: Path, unbuffered: str) -> None:
    command = [*MAIN, "run", str(local_pipeline(tmp_path)), "--json", "--env-file", os.devnull]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout
        process.stdout.close()
    assert process.returncode == SourceError.exit_code


def test_a_stdout_that_was_closed_before_is_no_error() -> None:
    command = [*MAIN, "schema", "LegoCleaner", "--env-file", os.devnull]
    done = subprocess.run(["sh", "-c", '"$@" >&-', "sh", *command], stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_json_is_all_there_is_on_stdout(lego: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--env-file", os.devnull, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["status"] == "published"
    assert report["steps"][0]["rows_in"] == 600


def test_check_says_what_works(lego: Pipeline, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--env-file", os.devnull]) == 0
    shown = capsys.readouterr().out
    assert "ok    config       lego-sets: ZipUrlExtractor -> LegoCleaner -> S3Loader" in shown
    assert f"ok    destination  may write to s3://{bucket.name}/{KEY}" in shown
    assert bucket.objects() == []


def test_check_says_what_does_not(lego: Pipeline, web: WebServer, capsys: pytest.CaptureFixture[str]) -> None:
    web.serve("/lego.zip", b"", status=404)
    assert main(["check", "--env-file", os.devnull, "--set", "load.bucket=no-such-bucket"]) == 69
    shown = capsys.readouterr().out
    assert "FAIL  source" in shown
    assert "FAIL  destination" in shown
    assert "the bucket does not exist" in shown


def test_check_masks_what_an_error_tells(tmp_path: Path) -> None:
    class Web(Extractor):
        def inspect(self) -> Source:
            raise requests.ConnectionError("no way to https://host/a?key=abcdef")

        def read(self, account: Account) -> Iterator[DataFrame]:
            yield DataFrame({"a": [1]})

    (_, news, code), *_ = Pipeline("web", Web(), [], LocalLoader(path=tmp_path / "a.csv")).check()
    assert code == SourceError.exit_code
    assert "https://host/a?***" in news
    assert "abcdef" not in news


def test_check_looks_for_a_place_for_the_lock(
    lego: Pipeline, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ETL_CACHE_DIR", __file__)
    assert main(["check", "--env-file", os.devnull]) == StorageError.exit_code
    assert "set ETL_CACHE_DIR to a folder" in capsys.readouterr().out


def test_check_looks_for_the_files_of_the_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "orders.csv").write_text("id,country\n1,DE\n")
    lookup = f"""
        [[transform]]
        type = "Lookup"
        file = "{tmp_path}/countries.csv"
        on = {{ country = "code" }}
        take = ["name"]
    """
    file = local_pipeline(tmp_path, lookup)
    assert main(["check", str(file), "--env-file", os.devnull]) == 78
    assert "FAIL  steps        Lookup: there is no file" in capsys.readouterr().out
    (tmp_path / "countries.csv").write_text("code,name\nDE,Germany\n")
    assert main(["check", str(file), "--env-file", os.devnull]) == 0


def test_no_bucket_tells_what_to_do() -> None:
    done = run_main()
    assert done.returncode == 78
    assert "load.bucket: the environment variable S3_BUCKET is not set" in done.stderr


def test_secrets_are_in_no_log_at_debug(lego: Pipeline, web: WebServer, bucket: Bucket) -> None:
    url = f"{web.url('/lego.zip')}?X-Amz-Signature=sesame-open"
    done = run_main("--force", "--json", LOG_LEVEL="DEBUG", LEGO_URL=url)
    assert done.returncode == 0, done.stderr
    stored = json.dumps(reports(bucket))
    for secret in ("sesame-open", os.environ["AWS_SECRET_ACCESS_KEY"], os.environ["AWS_ACCESS_KEY_ID"]):
        for text in (done.stderr, done.stdout, stored):
            assert secret not in text


def test_python_is_enough(web: WebServer, bucket: Bucket) -> None:
    """As a library, without a file."""
    report: RunReport = Pipeline(
        "lego",
        ZipUrlExtractor(url=web.serve("/lego.zip", make_sample()), member="*sets.csv"),
        [LegoCleaner()],
        S3Loader(bucket=bucket.name, key="a.csv.gz"),
    ).run()
    assert report.status == "published"
    assert len(pd.read_csv(io.BytesIO(bucket.body("a.csv.gz")), compression="gzip")) == 594


def test_bucket_is_made_and_mended_by_one_command(lego: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--env-file", os.devnull, "--set", "load.bucket=a-new-bucket-of-ours"]
    assert main(["bucket", *options, "--create"]) == 0
    assert main(["bucket", *options]) == 0
    shown = capsys.readouterr().out
    assert "created in us-east-1" in shown
    assert "FAIL" not in shown.split("changing what differs")[1]


def test_iam_prints_policies(lego: Pipeline, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["iam", "--env-file", os.devnull]) == 0
    assert f"arn:aws:s3:::{bucket.name}/{KEY}" in json.dumps(json.loads(capsys.readouterr().out))


def test_a_run_warns_of_a_bucket_that_falls_short(
    lego: Pipeline, bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    assert Pipeline.from_file("pipelines/lego.toml", ["bucket.versioning=true"]).run().status == "published"
    assert f"s3://{bucket.name}: block_public_access: wanted on, found off" in caplog.text


def test_a_run_stops_at_a_bucket_that_falls_short_if_told_so(lego: Pipeline, bucket: Bucket) -> None:
    report = Pipeline.from_file("pipelines/lego.toml", ["bucket.require_posture=true"]).run()
    assert report.exit_code == AccessError.exit_code
    assert KEY not in bucket.objects()


def test_versions_and_rollback(lego: Pipeline, bucket: Bucket, capsys: pytest.CaptureFixture[str]) -> None:
    first = lego.run()
    old = bucket.body(KEY)
    Pipeline.from_file("pipelines/lego.toml", ['transform.0.themes={"City" = "Town"}']).run()
    assert bucket.body(KEY) != old
    assert main(["rollback", first.run_id, "--env-file", os.devnull]) == 0
    assert bucket.body(KEY) == old
    assert main(["versions", "--env-file", os.devnull]) == 0
    assert capsys.readouterr().out.count(first.run_id) >= 2


@pytest.mark.parametrize("command", ["bucket", "iam"])
def test_bucket_commands_need_a_bucket(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, str(local_pipeline(tmp_path)), "--env-file", os.devnull]) == 78
    assert "publishes with LocalLoader, which has no bucket" in capsys.readouterr().err


@pytest.mark.slow
def test_demo(tmp_path: Path) -> None:
    proxy = {"HTTP_PROXY": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}  # which leads nowhere
    done = subprocess.run(
        [*MAIN, "demo"], cwd=tmp_path, env={**os.environ, **proxy}, capture_output=True, text=True, check=True
    )
    assert SUMMARY in done.stdout
    assert "unchanged" in done.stdout
    assert len(pd.read_parquet(tmp_path / "demo-output" / KEY)) == 594
