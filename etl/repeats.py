"""Tells whether a run would only repeat what is live, and what is noted so that nobody has to find that out twice.

The recipe of a run is one hash over source, configuration and code: an equal recipe gives equal bytes. After a change
of code, options or source that changes no row, a run has another recipe than what is live, and the same content: it
publishes nothing, and what is live keeps its recipe. A note beside the data, as ``_runs/_unchanged-<sha16>.json``,
holds the recipe of such a run and the identity of what it found live. Its name is made of both: it may be missing or
damaged, and then a run finds out again, but it cannot be out of date, nor about what another pipeline publishes there.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

from etl.base import Loader, Step, Transformer
from etl.errors import EtlError, RetryLater
from etl.run import Live, Source

_LIBRARIES = ("pandas", "pyarrow", "zlib-ng")  # they make the bytes

log = logging.getLogger("etl.pipeline")


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


def repeats(loader: Loader, live: Live, recipe: str) -> bool:
    """Whether a run with this recipe would publish what is live, as far as is known without running it."""
    return recipe == live.recipe or (live.identity is not None and _is_kept(loader, *note(recipe, live.identity)))


def note(recipe: str, identity: str) -> tuple[str, str]:
    """Name and content of the note that this recipe gives what has this identity."""
    content = json.dumps({"recipe": recipe, "gives": identity}, indent=2)
    return f"_runs/_unchanged-{_sha256(content.encode())[:16]}.json", content


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


def _is_kept(loader: Loader, name: str, content: str) -> bool:
    """Whatever is wrong with a note, a run can do without; but not if the store is out of reach."""
    try:
        with loader.blamed():
            return loader.kept(name) == content.encode()
    except RetryLater:
        raise
    except EtlError as error:
        log.debug("Going on as if there were no %s: %s", name, error)
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
