"""The recipe of a run: one hash over source, configuration and code. An equal recipe gives equal bytes."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from etl.base import Step, Transformer
from etl.run import Source

_LIBRARIES = ("pandas", "pyarrow", "zlib-ng")  # they make the bytes


def recipe_of(source: Source, steps: Sequence[Step]) -> str | None:
    """A hash that changes when the result might. None if the source, or the code, cannot tell whether it changed."""
    if source.fingerprint is None or (code := _code_hash(steps)) is None:
        return None
    ingredients = {
        "source": source.fingerprint,
        "steps": [[step.name, step.model_dump(mode="json")] for step in steps],
        "ingredients": [_ingredients(step) for step in steps if isinstance(step, Transformer)],
        "code": code,
        "libraries": [version(name) for name in _LIBRARIES],
        "python": sys.version_info[:2],
    }
    return _sha256(json.dumps(ingredients, sort_keys=True).encode())


def _ingredients(step: Transformer) -> tuple[str, ...]:
    with step.blamed():
        return step.ingredients()


def _code_hash(steps: Iterable[Step]) -> str | None:
    """Over every file of this package, and those beside a step that lives elsewhere, which may import them.

    None if a step is in no file, as one that was typed into a notebook.
    """
    package = Path(__file__).parent
    files = {package.parent / "main.py", *package.rglob("*.py")}
    for step in steps:
        try:
            file = Path(inspect.getfile(type(step)))
        except (OSError, TypeError):
            return None
        if not file.exists():
            return None
        files.update((file, *file.parent.glob("*.py")))
    # Emacs keeps its locks beside a file that is being edited, as links such as .#run.py that lead nowhere.
    return _sha256(b"".join(_sha256(file.read_bytes()).encode() for file in sorted(files) if file.is_file()))


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
