"""What all transformers of the library share: they never mind how rows arrive, and say which column is missing."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from etl.base import Transformer
from etl.errors import DataError
from etl.steps import available, load_class
from tests.any_split import AnySplitContract, table


def suites(kind: type[Any]) -> list[type[Any]]:
    return [each for sub in kind.__subclasses__() for each in (sub, *suites(sub))]


@pytest.fixture(scope="module")
def tested() -> str:
    """The source text of all such suites."""
    for file in Path(__file__).parent.glob("test_*.py"):
        if "AnySplitContract" in file.read_text(encoding="utf-8") and file.name != Path(__file__).name:
            importlib.import_module(f"tests.{file.stem}")
    return "\n".join(map(inspect.getsource, suites(AnySplitContract)))


@pytest.mark.parametrize("name", [*available("transformers"), "Unpublished"])
def test_any_split_was_tried(name: str, tested: str) -> None:
    assert re.search(rf"\b{name}[.(]", tested)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("CastTypes", {"types": {"nam": "text"}}),
        ("CleanText", {"columns": ["nam"]}),
        ("Contract", {"columns": {"nam": {}}}),
        ("DeriveColumns", {"columns": {"x": "nam + 'a'"}}),
        ("DropColumns", {"columns": ["nam"]}),
        ("DropDuplicates", {"keys": ["nam"]}),
        ("ExplodeJson", {"column": "nam", "take": {"x": "."}}),
        ("FillMissing", {"values": {"nam": 1}}),
        ("FilterRows", {"keep": "nam > 1"}),
        ("MaskColumns", {"columns": ["nam"], "method": "redact"}),
        ("ParseDates", {"columns": ["nam"], "formats": ["%Y"]}),
        ("ParseNumbers", {"columns": ["nam"]}),
        ("RenameColumns", {"names": {"nam": "x", "other": "y"}}),
        ("ReplaceValues", {"values": {"nam": {"a": "b"}}}),
        ("SelectColumns", {"columns": ["nam"]}),
        ("SplitColumn", {"column": "nam", "into": ["x", "y"], "separator": "-"}),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(name: str, options: dict[str, Any]) -> None:
    step = load_class(name, "transformers", Transformer).model_validate(options)
    with pytest.raises(DataError, match="there is no column 'nam'; did you mean 'name'") as failure:
        step.transform(table(name=["a"], other=["b"]))
    assert failure.value.step == name
