"""Finds step classes by name without importing them: nothing to register, and nothing loaded that is not used."""

from __future__ import annotations

import difflib
import importlib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeVar

from etl.base import Step

S = TypeVar("S", bound=Step)

_CLASS = re.compile(r"^class ([A-Z]\w*)\(", re.MULTILINE)


@cache
def available(kind: str) -> dict[str, str]:
    """Class name -> module, of every step in ``etl/<kind>/``, read from the files' text."""
    found: dict[str, str] = {}
    for file in sorted((Path(__file__).parent / kind).glob("*.py")):
        text = file.read_text(encoding="utf-8")
        if "from etl.base import" in text:  # the other files help those that hold steps
            found.update(dict.fromkeys(_CLASS.findall(text), f"etl.{kind}.{file.stem}"))
    return found


def load_class(type_name: str, kind: str, base: type[S]) -> type[S]:
    """Import the class that a pipeline file names: ``ZipUrlExtractor``, or ``my_module:MyExtractor``.

    Raises LookupError with the nearest valid name, or with the package to install.
    """
    module_name, colon, class_name = type_name.rpartition(":")
    if not colon:
        modules = available(kind)
        if type_name not in modules:
            raise LookupError(f"unknown type {type_name!r}{did_you_mean(type_name, modules)}")
        module_name = modules[type_name]
    try:
        found = getattr(importlib.import_module(module_name), class_name, None)
    except ModuleNotFoundError as error:
        missing = error.name or module_name
        if missing == module_name:
            raise LookupError(f"no module {module_name!r} in the folder where main.py is run") from error
        raise LookupError(f"{class_name} needs {missing}: pip install {missing}") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise LookupError(f"{type_name!r} is not a subclass of {base.__name__}")
    return found


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'table'?``, or the list of valid names when nothing is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1) or [n for n in names if n.lower() == name.lower()]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""
