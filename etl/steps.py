"""Finds step classes by name without importing them: nothing to register, and nothing loaded that is not used."""

from __future__ import annotations

import difflib
import importlib
import re
import traceback
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from etl.base import Step

S = TypeVar("S", bound=Step)

_CLASS = re.compile(r"^class ([A-Z]\w*)\(", re.MULTILINE)


@cache
def available(kind: str) -> dict[str, str]:
    """Class name -> module, of every step in ``etl/<kind>/``, read from the files' text."""
    found: dict[str, str] = {}
    for file in sorted((Path(__file__).parent / kind).glob("*.py")):
        names = _CLASS.findall(file.read_text(encoding="utf-8"))
        found.update(dict.fromkeys(names, f"etl.{kind}.{file.stem}"))
    return found


def load_class(type_name: str, kind: str, base: type[S]) -> type[S]:
    """Import the class that a pipeline file names: ``ZipUrlExtractor``, or ``my_module:MyExtractor``.

    Raises LookupError with the nearest valid name, the package to install, or what is wrong with the class.
    """
    module_name, colon, class_name = type_name.rpartition(":")
    if not colon:
        modules = available(kind)
        if type_name not in modules:
            own = "; a class of your own is written my_module:MyClass" if "." in type_name else ""
            raise LookupError(f"unknown type {type_name!r}{own or did_you_mean(type_name, modules)}")
        module_name = modules[type_name]
    found = getattr(_module(module_name, class_name), class_name, None)
    if found is None:
        raise LookupError(f"{module_name} has no class {class_name!r}")
    if not (isinstance(found, type) and issubclass(found, base)):
        raise LookupError(f"{type_name!r} is not a subclass of {base.__name__}")
    if missing := getattr(found, "__abstractmethods__", None):
        raise LookupError(f"{type_name!r} is not finished: it lacks {', '.join(sorted(missing))}")
    return found


def _module(name: str, class_name: str) -> ModuleType:
    """The module, imported. Whatever goes wrong with that is a LookupError: it may be a file of one's own."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if f"{name}.".startswith(f"{missing}."):
            raise LookupError(f"no module {name!r} beside main.py or in the working folder") from error
        raise LookupError(f"{class_name} needs {missing}: pip install {missing}") from error
    except Exception as error:
        file = f"{name.replace('.', '/')}.py"
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
        where = f"{file}, line {lines[-1]}" if lines else file
        what = str(error).partition("\n")[0]
        raise LookupError(f"{where}: {type(error).__name__}: {what}") from error


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """``; did you mean 'table'?``, or the list of valid names when nothing is near."""
    names = sorted(valid)
    near = difflib.get_close_matches(name, names, n=1) or [n for n in names if n.lower() == name.lower()]
    if near:
        return f"; did you mean {near[0]!r}?"
    return f"; valid: {', '.join(names)}" if names else ""
