"""LocalLoader against a real folder: whole or not at all, also when it is killed at any point."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pandas import DataFrame
from pydantic import ValidationError

from etl.base import Loader
from etl.errors import AccessError, ConfigError, EtlError, RetryLater, StorageError
from etl.loaders.local import LocalLoader
from main import Pipeline
from samples.make_sample import make_sample
from tests.conftest import PROJECT
from tests.contracts import LoaderContract, published
from tests.processes import exit_code_of
from tests.web import WebServer

READERS: dict[str, Any] = {
    "parquet": pd.read_parquet,
    "csv": pd.read_csv,
    "csv.gz": pd.read_csv,
    "jsonl": lambda path: pd.read_json(path, lines=True),
    "jsonl.gz": lambda path: pd.read_json(path, lines=True),
}


class LocalContract(LoaderContract):
    ending = "parquet"

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.file = tmp_path / "new" / "folder" / f"table.{self.ending}"

    def make(self) -> Loader:
        return LocalLoader(path=self.file)

    def read(self) -> DataFrame | None:
        frame: DataFrame | None = READERS[self.ending](self.file) if self.file.exists() else None
        return frame


class TestParquet(LocalContract):
    pass


class TestCsv(LocalContract):
    ending = "csv"


class TestCsvGz(LocalContract):
    ending = "csv.gz"


class TestJsonLines(LocalContract):
    ending = "jsonl"


class TestJsonLinesGz(LocalContract):
    ending = "jsonl.gz"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "table.csv"


def publish(file: Path, *numbers: int, **facts: Any) -> bool:
    """Whether the file changed."""
    return published(LocalLoader(path=file), LoaderContract.batches(*numbers), **facts).changed


def numbers(file: Path) -> list[int] | None:
    return pd.read_csv(file)["number"].tolist() if file.exists() else None


def drafts(file: Path) -> list[Path]:
    return list(file.parent.glob(".*.tmp"))


def live_recipe(file: Path) -> str | None:
    live = LocalLoader(path=file).live()
    return live.recipe if live else None


# -- what is live --------------------------------------------------------------------------------------------------


def test_equal_content_leaves_the_file_alone_and_remembers_the_recipe(file: Path) -> None:
    publish(file, 1, recipe="r1")
    before = file.stat()
    assert not publish(file, 1, recipe="r2")
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert live_recipe(file) == "r2"
    assert drafts(file) == []


def test_an_edited_file_is_not_what_was_published(file: Path) -> None:
    publish(file, 1)
    original = file.read_bytes()
    file.write_bytes(original.replace(b"1", b"7"))
    assert live_recipe(file) is None
    assert publish(file, 1)
    assert file.read_bytes() == original


def test_a_copied_folder_still_counts(file: Path, tmp_path: Path) -> None:
    publish(file, 1, recipe="r1")
    shutil.copytree(file.parent, tmp_path / "copy")
    assert live_recipe(tmp_path / "copy" / file.name) == "r1"


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b"{}", b"null", b"\xff"])
def test_a_damaged_sidecar_costs_a_run_and_no_new_file(file: Path, damage: bytes) -> None:
    publish(file, 1, recipe="r1")
    (file.parent / ".table.csv.meta.json").write_bytes(damage)
    assert live_recipe(file) is None
    assert not publish(file, 1, recipe="r1")
    assert live_recipe(file) == "r1"


def test_a_deleted_file_is_published_again(file: Path) -> None:
    publish(file, 1)
    file.unlink()
    assert live_recipe(file) is None
    assert publish(file, 1)


def test_permissions_of_the_file_are_kept(file: Path) -> None:
    publish(file, 1)
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask
    file.chmod(0o640)
    publish(file, 2)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_looking_at_what_is_live_loads_no_heavy_library(file: Path) -> None:
    publish(file, 1)
    code = f"""
import sys
from etl.loaders.local import LocalLoader
assert LocalLoader(path={str(file)!r}).live()
print(sorted({{"pandas", "pyarrow", "numpy"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# -- errors --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"path": "table.xls"}, r"end the path in \.parquet"),
        ({"path": "table.csv", "csv": {"delimitre": ";"}}, "delimitre"),
        ({"path": "table.csv", "format": "xls"}, "format"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        LocalLoader.model_validate(options)


def test_options_of_the_format_are_used(tmp_path: Path) -> None:
    loader = LocalLoader.model_validate(
        {"path": tmp_path / "table.txt", "format": "csv", "csv": {"delimiter": ";", "quoting": "none"}}
    )
    published(loader, LoaderContract.batches(1))
    assert (tmp_path / "table.txt").read_text() == "number;text\n1;row 1\n"


def test_a_folder_in_the_place_of_the_file_is_a_configuration_error(tmp_path: Path) -> None:
    loader = LocalLoader(path=tmp_path / "table.csv")
    loader.file.mkdir()
    for attempt in (loader.check, lambda: loader.load(LoaderContract.batches(1), LoaderContract.a_run())):
        with pytest.raises(ConfigError, match=r"table\.csv is a folder; name a file in it"):
            attempt()


def test_a_file_in_the_place_of_the_folder_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    loader = LocalLoader(path=tmp_path / "data" / "table.csv")
    for attempt in (loader.live, loader.check, lambda: loader.load(LoaderContract.batches(1), LoaderContract.a_run())):
        with pytest.raises(ConfigError, match=r"table\.csv: a part of this path is a file"):
            attempt()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_permission_names_the_file(file: Path) -> None:
    file.parent.mkdir(mode=0o500)
    for attempt in (LocalLoader(path=file).check, lambda: publish(file, 1)):
        with pytest.raises(AccessError, match=r"table\.csv: this user may not read or write it"):
            attempt()


def test_a_tilde_need_not_mean_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    publish(Path("~out/table.csv"), 1)
    assert numbers(tmp_path / "~out" / "table.csv") == [1]


def test_check_leaves_no_trace(file: Path) -> None:
    assert "GB free" in LocalLoader(path=file).check()
    assert not file.parent.exists()


def test_a_cleared_draft_is_a_lost_race(file: Path) -> None:
    publish(file, 1)
    loader, run = LocalLoader(path=file), LoaderContract.a_run()
    receipt = loader.load(LoaderContract.batches(2), run)
    publish(file, 3)
    with pytest.raises(RetryLater, match="another run"):
        loader.commit([receipt], run)
    assert numbers(file) == [3]


def test_the_draft_of_a_neighbour_is_left_alone(file: Path) -> None:
    loader, run = LocalLoader(path=file.with_name("table.csv.gz")), LoaderContract.a_run()
    receipt = loader.load(LoaderContract.batches(1), run)
    publish(file, 2)
    assert loader.commit([receipt], run).changed


def test_a_draft_that_is_being_written_is_left_alone(file: Path) -> None:
    def meanwhile() -> Iterator[DataFrame]:
        yield from LoaderContract.batches(1)
        publish(file, 2)
        yield from LoaderContract.batches(3)

    published(LocalLoader(path=file), meanwhile())
    assert numbers(file) == [1, 3]


@pytest.mark.parametrize("failure", [EtlError("no more"), KeyboardInterrupt(), OSError("of the source")])
def test_failing_leaves_no_draft(file: Path, failure: BaseException) -> None:
    def failing() -> Iterator[DataFrame]:
        yield from LoaderContract.batches(1)
        raise failure

    expected = KeyboardInterrupt if isinstance(failure, KeyboardInterrupt) else EtlError
    with pytest.raises(expected):
        LocalLoader(path=file).load(failing(), LoaderContract.a_run())
    assert list(file.parent.iterdir()) == []


# -- in processes of their own: full disks and sudden ends ---------------------------------------------------------


def many_batches() -> Iterator[DataFrame]:
    for start in range(0, 400_000, 40_000):
        yield DataFrame({"number": range(start, start + 40_000), "text": "a text of some length"})


def fails_for_lack_of_space(file: Path, message: str) -> None:
    with pytest.raises(StorageError, match=message):
        LocalLoader(path=file).load(many_batches(), LoaderContract.a_run())
    assert drafts(file) == []
    assert numbers(file) == [1]


def fails_at_the_limit(file: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
    fails_for_lack_of_space(file, r"table\.csv: this system allows no file that large")


def test_a_file_that_gets_too_large_leaves_the_old_one(file: Path) -> None:
    publish(file, 1)
    assert exit_code_of(fails_at_the_limit, file) == 0


def test_a_full_disk_leaves_the_old_file(file: Path) -> None:
    file.parent.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(file.parent)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can be mounted by root only")
    try:
        publish(file, 1)
        fails_for_lack_of_space(file, r"table\.csv: no space is left on the disk")
    finally:
        subprocess.run(["umount", str(file.parent)], check=True)


def is_kept_out_by_the_sidecar(folder: Path) -> None:
    os.chdir(folder)
    os.setuid(65534)
    with pytest.raises(AccessError, match=r"^\.table\.csv\.meta\.json: this user may not read or write it"):
        publish(Path("table.csv"), 1)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a second user, whom only root can become")
def test_a_sidecar_of_another_user_is_named(file: Path) -> None:
    publish(file, 1)
    file.unlink()
    file.parent.chmod(0o1777)  # as /tmp is: anybody may add files, and replace only their own
    assert exit_code_of(is_kept_out_by_the_sidecar, file.parent) == 0


CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.listdir")


def publish_until(point: int, file: Path, recipe: str, rows: tuple[int, ...]) -> None:
    """Publish, but be killed at the given one of the moments at which something is about to change or has changed."""
    moments = count(1)

    def moment() -> None:
        if next(moments) == point:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES and any(str(file.parent) in str(argument) for argument in arguments):
            moment()

    def fsync(descriptor: int, *, flush: Callable[[int], None] = os.fsync) -> None:
        moment()
        flush(descriptor)
        moment()

    def batches() -> Iterator[DataFrame]:
        for batch in LoaderContract.batches(*rows):
            moment()
            yield batch

    os.fsync = fsync  # type: ignore[assignment]
    sys.addaudithook(audit)
    published(LocalLoader(path=file), batches(), recipe=recipe)


@pytest.mark.parametrize("old", [(), (1, 2), (3, 4)], ids=["nothing", "other-rows", "equal-rows"])
def test_killed_at_any_point(tmp_path: Path, old: tuple[int, ...]) -> None:
    new = (3, 4)
    for point in count(1):
        file = tmp_path / str(point) / "table.csv"
        if old:
            publish(file, *old, recipe="r1")
        code = exit_code_of(publish_until, point, file, "r2", new)
        assert numbers(file) in ([*old] or None, [*new])
        assert live_recipe(file) in ("r1", "r2", None)
        if live_recipe(file) == "r2":
            assert numbers(file) == [*new]
        if code == 0:
            break
        assert code == -signal.SIGKILL
        publish(file, *new, recipe="r2")
        assert numbers(file) == [*new]
        assert live_recipe(file) == "r2"
        assert drafts(file) == []
        assert not publish(file, *new, recipe="r2")
    assert point > 15


# -- the pipeline --------------------------------------------------------------------------------------------------


def test_the_lego_pipeline_without_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with WebServer() as web:
        web.serve("/lego.zip", make_sample(), etag='"1"')
        monkeypatch.setenv("LEGO_URL", web.url("/lego.zip"))
        monkeypatch.setenv("LEGO_FOLDER", str(tmp_path / "lego"))
        pipeline = Pipeline.from_file(PROJECT / "pipelines" / "lego-local.toml")
        first, again = pipeline.run(), pipeline.run()
    assert (first.status, again.status) == ("published", "unchanged")
    assert len(pd.read_parquet(tmp_path / "lego" / "lego_sets.parquet")) == 594
    report = json.loads((tmp_path / "lego" / "_runs" / f"{first.run_id}.json").read_text())
    assert report["published"]["uri"] == str(tmp_path / "lego" / "lego_sets.parquet")
    rejects = (tmp_path / "lego" / "_rejects" / f"{first.run_id}.jsonl").read_text().splitlines()
    assert len(rejects) == 5
