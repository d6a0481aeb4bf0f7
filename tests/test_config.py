"""Pipeline files: every mistake is reported at once, with its place and the nearest valid name."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from etl.env import load_env
from etl.errors import ConfigError
from main import Pipeline
from tests.conftest import PROJECT

GOOD = """
name = "test"

[extract]
type = "ZipUrlExtractor"
url = "https://example.com/${FILE:-a.zip}"

[[transform]]
type = "LegoCleaner"

[load]
type = "S3Loader"
bucket = "${S3_BUCKET}"
key = "a.parquet"
"""


GOOD_ENDS = """
[extract]
type = "ZipUrlExtractor"
url = "https://example.com/a.zip"
[load]
type = "S3Loader"
bucket = "my-bucket"
key = "a.parquet"
"""


@pytest.fixture(autouse=True)
def _bucket_name(clean_environment: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("S3_BUCKET", "my-bucket")


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as failure:
        Pipeline.from_file(pipeline_file(tmp_path, text), overrides)
    return [problem.strip() for problem in failure.value.problems[1:]]


def pipeline_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "test.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_builds_the_steps(tmp_path: Path) -> None:
    pipeline = Pipeline.from_file(pipeline_file(tmp_path, GOOD))
    assert pipeline.name == "test"
    steps = (pipeline.extractor, *pipeline.transformers, pipeline.loader)
    assert [step.name for step in steps] == ["ZipUrlExtractor", "LegoCleaner", "S3Loader"]
    assert pipeline.loader.model_dump()["bucket"] == "my-bucket"


def test_environment_fills_in_and_defaults_apply(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def url() -> str:
        return str(Pipeline.from_file(pipeline_file(tmp_path, GOOD)).extractor.model_dump()["url"])

    assert url() == "https://example.com/a.zip"
    monkeypatch.setenv("FILE", "b.zip")
    assert url() == "https://example.com/b.zip"
    monkeypatch.setenv("FILE", "")
    assert url() == "https://example.com/a.zip"


@pytest.mark.parametrize("state", ["unset", "empty"])
def test_missing_variable_is_named_with_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    monkeypatch.setenv("S3_BUCKET", "") if state == "empty" else monkeypatch.delenv("S3_BUCKET")
    assert problems(tmp_path, GOOD)[0] == (
        "load.bucket: the environment variable S3_BUCKET is not set (in .env or the environment)"
    )


def test_a_name_is_wrong_whatever_its_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_BUCKET")
    found = problems(tmp_path, GOOD.replace("bucket =", "buket ="))
    assert "load.buket: unknown; did you mean 'bucket'?" in found
    assert "load.buket: the environment variable S3_BUCKET is not set (in .env or the environment)" in found


def test_every_mistake_is_reported_at_once(tmp_path: Path) -> None:
    text = """
    nam = "test"
    max_rejects = "many"

    [extract]
    type = "ZipUrlExtractor"
    ulr = "https://example.com/a.zip"

    [extract.csv]
    delimeter = ";"

    [[transform]]
    type = "LegoCleanr"

    [load]
    type = "S3Loader"
    bucket = "my-bucket"
    key = "a.xls"
    part_bytes = "big"
    """
    found = "\n".join(problems(tmp_path, text))
    for expected in (
        "nam: unknown; did you mean 'name'?",
        "max_rejects: should be",
        "extract.url: missing",
        "extract.ulr: unknown; did you mean 'url'?",
        "extract.csv.delimeter: unknown; did you mean 'delimiter'?",
        "transform.0.type: unknown type 'LegoCleanr'; did you mean 'LegoCleaner'?",
        "load.part_bytes: ",
    ):
        assert expected in found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[extract", "not valid TOML"),
        ("", r"extract: the table \[extract\] is missing"),
        ("[extract]\n[load]", "extract.type: missing; name the class"),
        ('[extract]\ntype="S3Loader"\n[load]\ntype="S3Loader"', "unknown type 'S3Loader'"),
        ('[extract]\ntype="no_such_module:A"\n[load]\ntype="S3Loader"', "no module 'no_such_module'"),
        ('[extract]\ntype="json:JSONDecoder"\n[load]\ntype="S3Loader"', "not a subclass of Extractor"),
        ("transform = 1\n[extract]\n[load]", r"write each step as \[\[transform\]\]"),
        ('transform = ["LegoCleaner"]\n' + GOOD_ENDS, r"write each step as \[\[transform\]\]"),
        ("schema = true\n" + GOOD_ENDS, r"schema: should be a table, written \[schema\]"),
        ("guard = false\n" + GOOD_ENDS, r"guard: should be a table, written \[guard\]"),
        (GOOD_ENDS.replace("[extract]", "[[extract]]"), r"extract: should be a table, written \[extract\]"),
        (GOOD_ENDS.replace("[load]", "csv = ';'\n[load]"), "extract.csv: should be a table of options"),
        (GOOD_ENDS.replace("[load]", "batch_rows = 0\n[load]"), "extract.batch_rows: input should be greater than 0"),
        (GOOD_ENDS + "part_bytes = '8 MB'", "load.part_bytes: should be a whole number"),
        (GOOD_ENDS + "partition_by = 'year'", r'load.partition_by: should be a list, as in \["a", "b"\]'),
        (GOOD_ENDS + "max_rejects = 5", r"load.max_rejects: unknown here; write it above the first \[table\]"),
        (GOOD_ENDS.replace("my-bucket", "s3://my-bucket"), "load.bucket: .* without s3://"),
        (GOOD_ENDS.replace("ZipUrlExtractor", "my_steps.Mine"), "a class of your own is written my_module:MyClass"),
        (GOOD_ENDS.replace("ZipUrlExtractor", ":Mine"), "extract.type: "),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=expected):
        Pipeline.from_file(pipeline_file(tmp_path, text))


def test_a_variable_that_is_not_set_is_one_mistake(tmp_path: Path) -> None:
    """What stands in for its value is no address, and nobody needs to be told that."""
    text = GOOD.replace("https://example.com/${FILE:-a.zip}", "${ONE}/${TWO}")
    assert [problem.partition(" (in")[0] for problem in problems(tmp_path, text)[:2]] == [
        "extract.url: the environment variable ONE is not set",
        "extract.url: the environment variable TWO is not set",
    ]


@pytest.mark.parametrize(
    ("module", "problem"),
    [
        ("import no_such_library", "Mine needs no_such_library: pip install no_such_library"),
        ("from etl.base import Extracter", "mine.py, line 1: ImportError: cannot import name 'Extracter'"),
        ("class Mine(Extractor)", "mine.py: SyntaxError: expected ':' (mine.py, line 1)"),
        ("\nCODES = {}['a']", "mine.py, line 2: KeyError: 'a'"),
        ("class Mina: ...", "mine has no class 'Mine'"),
        ("class Mine: ...", "'mine:Mine' is not a subclass of Extractor"),
        ("from etl.base import Extractor as Mine", "'mine:Mine' is not finished: it lacks read"),
    ],
)
def test_what_is_wrong_with_a_class_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, problem: str
) -> None:
    (tmp_path / "mine.py").write_text(f"{module}\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)  # or the next one would be taken for this one
    sys.modules.pop("mine", None)
    assert problems(tmp_path, GOOD.replace("ZipUrlExtractor", "mine:Mine"))[0].startswith(f"extract.type: {problem}")


def test_own_class_is_found_in_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_steps.py").write_text(
        "from etl.base import Transformer\n"
        "class Nothing(Transformer):\n"
        "    def apply(self, batch, account):\n"
        "        return batch\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    pipeline = Pipeline.from_file(pipeline_file(tmp_path, GOOD.replace("LegoCleaner", "my_steps:Nothing")))
    assert pipeline.transformers[0].name == "Nothing"


def test_set_changes_options(tmp_path: Path) -> None:
    overrides = ["load.key=other/b.csv", "extract.batch_rows=10", "extract.csv.delimiter=;", "max_rejects=5"]
    pipeline = Pipeline.from_file(pipeline_file(tmp_path, GOOD), overrides)
    assert pipeline.loader.model_dump()["key"] == "other/b.csv"
    assert pipeline.extractor.batch_rows == 10
    assert pipeline.extractor.model_dump()["csv"]["delimiter"] == ";"
    assert pipeline.max_rejects == 5


@pytest.mark.parametrize("override", ["load.key", "transform.7.themes=1", "name.first=1"])
def test_set_mistakes_are_reported(tmp_path: Path, override: str) -> None:
    assert problems(tmp_path, GOOD, override)[0].startswith("--set: ")


@pytest.mark.parametrize("name", ["pipelines/legos.toml", "legos"])
def test_missing_file_suggests_one(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"no pipeline file {name}; did you mean 'lego'\?"):
        Pipeline.from_file(Path(name))


def test_env_file_does_not_override_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S3_KEY", raising=False)
    file = tmp_path / ".env"
    file.write_text("S3_BUCKET=from-file\nS3_KEY=from-file.csv  # a comment\n")
    file.chmod(0o600)
    assert load_env(file) is None
    assert os.environ["S3_BUCKET"] == "my-bucket"
    assert os.environ["S3_KEY"] == "from-file.csv"


def test_env_file_that_others_can_read_gets_a_warning(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("")
    file.chmod(0o644)
    assert "chmod 600" in (load_env(file) or "")


def test_an_env_file_that_is_asked_for_must_be_one(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes("S3_BUCKET=café".encode("latin-1"))
    for name, message in (("missing", "No such file"), (".", "Is a directory"), ("latin", "is not UTF-8 text")):
        with pytest.raises(ConfigError, match=message):
            load_env(tmp_path / name)
    assert load_env(Path(os.devnull)) is None


def test_a_virtual_environment_that_is_called_env_is_none_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env" / "bin").mkdir(parents=True)
    monkeypatch.setattr("etl.env.PROJECT", tmp_path)
    assert load_env() is None


def test_the_values_of_env_example_have_no_comments_behind_them() -> None:
    """Docker and systemd, which read such files too, would take those for a part of the value."""
    example = (PROJECT / ".env.example").read_text()
    assert re.findall(r"^#?[A-Z][A-Z0-9_]+=.*#.*$", example, re.MULTILINE) == []


def test_env_example_names_every_variable_that_is_read() -> None:
    example = (PROJECT / ".env.example").read_text()
    documented = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    sources = [*PROJECT.glob("etl/**/*.py"), *PROJECT.glob("pipelines/*.toml")]
    read = set()
    for file in sources:
        if file.name != "demo.py":
            read.update(re.findall(r'(?:environ(?:\.get)?[(\[]"|\$\{)([A-Z][A-Z0-9_]+)', file.read_text()))
    assert read - {"NAME"} <= documented  # the docs' ${NAME}


def test_unedited_env_example_is_valid_and_leads_to_the_missing_bucket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S3_BUCKET")
    file = tmp_path / ".env"
    file.write_text((PROJECT / ".env.example").read_text())
    load_env(file)
    with pytest.raises(ConfigError, match="S3_BUCKET is not set"):
        Pipeline.from_file(Path("pipelines/lego.toml"))
