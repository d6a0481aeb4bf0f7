"""The examples of README.md and docs/*.md, done as they say: pipeline files are built, steps and pipelines are run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from etl.errors import ConfigError
from etl.learned.file import read_schema
from main import Pipeline
from samples.make_sample import make_sample
from tests.conftest import PAGES, PROJECT
from tests.web import WebServer

LINE = '192.0.2.7 - - [10/Oct/2026:13:55:36 +0000] "GET /sets/{} HTTP/1.1" 404 -\n'
LEGO_ZIP = "https://maven-datasets.s3.amazonaws.com/LEGO+Sets/LEGO+Sets.zip"
MAX_LINES = 40

VALUES = {"DATABASE_URL": "sqlite:///file.db", "MONGODB_URI": "mongodb://host"}

# What an example leaves out that is about something else.
REST_OF_A_PIPELINE = {
    "extract": '[extract]\ntype = "FilesExtractor"\npath = "table.csv"\n',
    "extract.columns": '[extract]\ntype = "MongoExtractor"\nuri = "mongodb://host"\ndatabase = "a"\ncollection = "b"\n',
    "load": '[load]\ntype = "S3Loader"\nbucket = "my-bucket"\nkey = "table.parquet"\n',
}

_EXAMPLE = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> Iterator[tuple[str, str, str]]:
    """Each example in this language: what stands before it, since the one before, its text, and a name for it."""
    for page in PAGES:
        parts = _EXAMPLE.split(page.read_text(encoding="utf-8"))
        found = zip(parts[:-1:3], parts[1::3], parts[2::3], strict=True)
        for number, (prose, of_language, block) in enumerate(found, start=1):
            if of_language == language:
                yield prose, block, f"{page.name}-{number}"


def files_shown() -> dict[str, str]:
    """The examples that are whole files, by the name that stands last before each."""
    shown: dict[str, str] = {}
    for language in ("python", "toml"):
        for prose, block, _ in blocks(language):
            introduction = prose.rstrip().rpartition("\n\n")[2].replace("`main.py`", "")
            if names := re.findall(r"`([\w/-]+\.(?:py|toml))`", introduction):
                shown.setdefault(names[-1], block)
    return shown


def toml_examples() -> list[object]:
    return [pytest.param(block, id=name) for _, block, name in blocks("toml")]


# -- pipeline files ---------------------------------------------------------------------------------------------------


@pytest.fixture
def modules_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The modules of the examples can be imported, and are forgotten afterwards."""
    monkeypatch.syspath_prepend(tmp_path)
    shown = {name: content for name, content in files_shown().items() if "/" not in name}
    for name, content in shown.items():
        (tmp_path / name).write_text(content)
    yield
    for name in shown:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("modules_shown")
@pytest.mark.parametrize("uncommented", [False, True])
@pytest.mark.parametrize("block", toml_examples())
def test_toml_is_valid(block: str, uncommented: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if uncommented:
        block = re.sub(r"^# (?=\w+ = )", "", block, flags=re.MULTILINE)
    if block.startswith("[columns."):
        file = tmp_path / "table.schema.toml"
        file.write_text(block)
        assert read_schema(file).columns
        return
    for name in re.findall(r"\$\{(\w+)\}", block):
        monkeypatch.setenv(name, VALUES.get(name, "a-value"))
    missing = [rest for table, rest in REST_OF_A_PIPELINE.items() if is_needed(table, block)]
    file = tmp_path / "table.toml"
    file.write_text("\n".join([block, *missing]))
    try:
        assert Pipeline.from_file(file).loader
    except ConfigError as error:
        if "pip install" in str(error):
            pytest.skip(str(error))
        raise


def is_needed(table: str, block: str) -> bool:
    if f"[{table}]" in block:
        return table == "extract.columns" and "[extract]" not in block
    return table != "extract.columns" and not (table == "extract" and "[extract.columns]" in block)


# -- steps of one's own -----------------------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the project, with the files of the examples in it."""
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
    assert list(shown) == ["my_steps.py", "access_log.py", "tests/test_access_log.py", "pipelines/access-log.toml"]
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


def test_the_transformer_runs(checkout: Path) -> None:
    (step,) = [block for _, block, _ in blocks("toml") if "my_steps:" in block]
    (checkout / "sets.csv").write_text("set_id,theme\n1-1,Space\n2-1,Town\n3-1,\n4-1,Space\n")
    pipeline = f'{step}[extract]\ntype="FilesExtractor"\npath="sets.csv"\n[load]\ntype="LocalLoader"\npath="out.csv"\n'
    (checkout / "pipelines" / "sets.toml").write_text(pipeline)
    said = python(checkout, "main.py", "run", "pipelines/sets.toml")
    assert "read 4 = published 3 + rejected 0 + dropped 1" in said
    assert "theme is not Space" in said


# -- from Python ------------------------------------------------------------------------------------------------------


def test_a_pipeline_from_python_runs(tmp_path: Path) -> None:
    (code,) = [block for _, block, _ in blocks("python") if "from main import Pipeline" in block]
    names: dict[str, object] = {}
    with WebServer() as server:
        server.serve("/lego.zip", make_sample())
        code = code.replace(LEGO_ZIP, server.url("/lego.zip")).replace("output/", f"{tmp_path}/")
        exec(compile(code, "extending.md", "exec"), names)
    assert getattr(names["report"], "status", None) == "published"
    assert pq.read_table(tmp_path / "lego_sets.parquet").num_rows > 0
