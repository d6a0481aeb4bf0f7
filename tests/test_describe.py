"""The ``schema`` command's text, and the JSON Schema that editors check pipeline files with."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from etl import config
from etl.base import Extractor, Loader, Transformer
from etl.describe import described, pipeline_schema
from etl.errors import ConfigError
from etl.steps import available, load_class
from tests.conftest import PROJECT

PIPELINES = sorted(PROJECT.glob("pipelines/*.toml"))
GOOD = tomllib.loads("""
[extract]
type = "ZipUrlExtractor"
url = "https://example.com/a.zip"
csv.delimiter = ";"

[[transform]]
type = "Contract"
columns.year = { type = "int16", min = 1932 }

[load]
type = "S3Loader"
bucket = "${S3_BUCKET}"
key = "a.parquet"
""")


def mistakes(value: Any, schema: dict[str, Any], root: dict[str, Any], place: str = "$") -> list[str]:
    """What a JSON Schema validator finds, for the keywords that our schema uses."""
    if "$ref" in schema:
        target: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return mistakes(value, target, root, place)
    found = []
    if "anyOf" in schema and all(mistakes(value, choice, root, place) for choice in schema["anyOf"]):
        found.append(f"{place}: none of the choices")
    if "const" in schema and value != schema["const"]:
        found.append(f"{place}: not {schema['const']}")
    if "enum" in schema and value not in schema["enum"]:
        found.append(f"{place}: not one of {schema['enum']}")
    kinds: dict[str, Any] = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if "type" in schema and schema["type"] != "null" and not isinstance(value, kinds[schema["type"]]):
        return [*found, f"{place}: not {schema['type']}"]
    if isinstance(value, str) and "pattern" in schema and not re.search(schema["pattern"], value):
        found.append(f"{place}: does not match")
    if isinstance(value, list) and "items" in schema:
        for number, item in enumerate(value):
            found += mistakes(item, schema["items"], root, f"{place}.{number}")
    if isinstance(value, dict):
        found += [f"{place}: lacks {name}" for name in schema.get("required", ()) if name not in value]
        others = schema.get("additionalProperties", True)
        for name, item in value.items():
            inner = schema.get("properties", {}).get(name, others)
            if inner is False:
                found.append(f"{place}: unknown {name}")
            elif isinstance(inner, dict):
                found += mistakes(item, inner, root, f"{place}.{name}")
    return found


def found_in(pipeline: Any) -> list[str]:
    schema = pipeline_schema()
    return mistakes(json.loads(json.dumps(pipeline, default=str)), schema, schema)


@pytest.mark.parametrize("file", PIPELINES, ids=lambda file: str(file.name))
def test_our_pipeline_files_fit_the_schema(file: Path) -> None:
    assert found_in(tomllib.loads(file.read_text(encoding="utf-8"))) == []


def test_every_table_of_a_pipeline_file_has_a_schema() -> None:
    assert set(pipeline_schema()["properties"]) == set(config._TOP_LEVEL)


@pytest.mark.parametrize(
    "change",
    [
        {"nam": "x"},
        {"max_rejects": "many"},
        {"bucket": {"versoning": True}},
        {"load": {"type": "S3Loader", "bucket": "my-bucket", "kee": "a.parquet"}},
        {"load": {"type": "S3Loade", "bucket": "my-bucket", "key": "a.parquet"}},
        {"transform": [{"type": "FilterRows"}]},
        {"transform": [{"type": "CleanText", "case": "sideways"}]},
        {"transform": [{"type": "Contract", "columns": {"a": {"type": "strng"}}}]},
        {"transform": [{"type": "Contract", "columns": {"a": {"requierd": True}}}]},
        {"transform": [{"type": "LegoCleaner", "themes": 1}]},
    ],
)
def test_mistakes_do_not_fit_the_schema(change: dict[str, Any]) -> None:
    assert found_in(GOOD) == []
    assert found_in({**GOOD, **change}) != []


def test_variables_and_classes_of_ones_own_fit_the_schema() -> None:
    own = {"type": "my_steps:OnlyTheme", "theme": "City"}
    wide = {"type": "FillMissing", "values": "${VALUES}"}
    assert found_in({**GOOD, "transform": [own, wide]}) == []


def test_every_step_is_listed_with_its_first_sentence() -> None:
    text = described()
    for kind, base in (("extractors", Extractor), ("transformers", Transformer), ("loaders", Loader)):
        for name in available(kind):
            try:
                documented = (load_class(name, kind, base).__doc__ or "").split()[:3]
            except LookupError:
                continue
            assert re.search(rf"^  {name} +{' '.join(map(re.escape, documented))}", text, re.MULTILINE), name


def test_options_are_shown_with_type_default_and_description(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    lines = described("ParseNumbers").splitlines()
    assert lines[0] == "ParseNumbers"
    assert re.match(r"  columns +list of text +required +The columns to read\.$", lines[4])
    assert any(re.match(r'  decimal +"\." \| "," +"\." +The character before the fraction\.$', line) for line in lines)
    assert all(len(line) <= 120 for line in lines)


def test_options_of_options_are_shown_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert re.search(r'^  csv\.delimiter +text +"," ', described("ZipUrlExtractor"), re.MULTILINE)
    contract = described("Contract")
    assert re.search(r"^  columns\.NAME\.unique +true or false +false ", contract, re.MULTILINE)
    assert re.search(r"^  columns\.NAME\.refere", contract, re.MULTILINE)
    assert all(len(line) <= 80 for line in contract.splitlines()[10:])


def test_a_class_as_json_is_its_own_schema() -> None:
    schema = json.loads(described("FilterRows", as_json=True))
    assert schema["required"] == ["keep"]
    assert json.loads(described(as_json=True)) == pipeline_schema()


def test_secrets_have_no_default_in_any_text() -> None:
    assert re.search(r"^  key +secret ", described("MaskColumns"), re.MULTILINE)


def test_a_class_of_ones_own_can_be_described() -> None:
    assert described("tests.test_contract:Orders").startswith("Orders\n  Orders, as a Python class")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FilterRow", "there is no step 'FilterRow'; did you mean 'FilterRows'"),
        ("no_such_module:A", "no module 'no_such_module'"),
    ],
)
def test_unknown_classes_are_explained(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        described(name)
