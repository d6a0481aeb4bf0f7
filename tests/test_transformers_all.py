"""Every transformer of the library has been through the suite that cuts its rows into batches at random."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from etl.steps import available
from tests.any_split import AnySplitContract


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
