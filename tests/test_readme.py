"""What the README shows of a source of one's own, done as it says."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.conftest import PROJECT

LINE = '192.0.2.7 - - [10/Oct/2026:13:55:36 +0000] "GET /sets/{} HTTP/1.1" 404 -\n'
SECTION = "## Add a source of your own\n"
MAX_LINES = 40


def files_shown() -> dict[str, str]:
    """The blocks of the section that are whole files, by the name that stands last before each."""
    section = (PROJECT / "README.md").read_text().partition(SECTION)[2].partition("\n## ")[0]
    shown: dict[str, str] = {}
    for prose, block in re.findall(r"(.*?)```\w+\n(.*?)```", section, re.DOTALL):
        if names := re.findall(r"`([\w/-]+\.(?:py|toml))`", prose):
            shown.setdefault([name for name in names if name != "main.py"][-1], block)
    return shown


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project, with the files of the section in it."""
    shutil.copytree(PROJECT / "etl", tmp_path / "etl", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("main.py", "pyproject.toml", "tests/__init__.py", "tests/conftest.py", "tests/contracts.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    (tmp_path / "pipelines").mkdir()
    for name, content in files_shown().items():
        (tmp_path / name).write_text(content)
    return tmp_path


def python(checkout: Path, *arguments: str) -> str:
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_files_are_there_and_short() -> None:
    shown = files_shown()
    assert list(shown) == ["access_log.py", "pipelines/access-log.toml", "tests/test_access_log.py"]
    assert len(shown["access_log.py"].splitlines()) <= MAX_LINES


def test_the_source_runs(checkout: Path) -> None:
    lines = [LINE.format(number) for number in range(50)]
    (checkout / "access.log").write_text("".join([*lines[:20], "restarted\n", *lines[20:]]))
    said = python(checkout, "main.py", "run", "pipelines/access-log.toml")
    assert "read 51 = published 50 + rejected 1" in said
    table = pq.read_table(checkout / "output" / "access_log.parquet")
    assert table.num_rows == 50
    assert table.column("request")[49].as_py() == "GET /sets/49 HTTP/1.1"
    assert set(table.column("status").to_pylist()) == {404}
    assert "unchanged" in python(checkout, "main.py", "run", "pipelines/access-log.toml")


def test_its_options_are_described(checkout: Path) -> None:
    assert "The log file." in python(checkout, "main.py", "schema", "access_log:AccessLogExtractor")


def test_its_test_passes(checkout: Path) -> None:
    said = python(checkout, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_access_log.py")
    assert re.search(r"1\d passed", said)
