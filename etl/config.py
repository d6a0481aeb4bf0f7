"""Reads ``pipelines/NAME.toml`` and builds the steps; every mistake is reported at once."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, ValidationError

from etl.base import Extractor, Loader, Step, Transformer
from etl.errors import ConfigError
from etl.guard import Guard
from etl.incremental.options import NEEDS_APPEND, incremental_of
from etl.mistakes import PLAIN, explained
from etl.paths import PROJECT
from etl.steps import did_you_mean, load_class

if TYPE_CHECKING:
    from etl.bucket.posture import BucketPosture
    from etl.learned.step import LearnedSchema

_TABLES = ("extract", "schema", "load", "bucket", "guard")
_TOP_LEVEL = (*PLAIN, *_TABLES, "transform")
_EXAMPLES = {"extractors": "ZipUrlExtractor", "transformers": "LegoCleaner", "loaders": "S3Loader"}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
_NO_ENV_FILE = (
    "There is no .env beside main.py yet: copy .env.example to .env and edit it, or try `python main.py demo`, which "
    "needs none."
)

S = TypeVar("S", bound=Step)
M = TypeVar("M", bound=BaseModel)
Table = Mapping[str, Any]


def load_pipeline(path: Path, overrides: Iterable[str] = ()) -> dict[str, Any]:
    """What ``path`` describes, with its steps built: the arguments of ``main.Pipeline``.

    ``overrides``: ``load.key=value``, as given to --set. Raises ConfigError with every mistake found, each with its
    place in the file.
    """
    path = find_pipeline(path)
    table = _read_toml(path)
    problems = _Problems(path)
    for override in overrides:
        _override(table, override, problems)
    table = _interpolate(table, "", problems)
    return _build(table, path, problems)


def find_pipeline(path: Path) -> Path:
    """``path`` as given, or seen from the project's folder (cron starts elsewhere)."""
    for candidate in (path, PROJECT / path, PROJECT / "pipelines" / f"{path}.toml"):
        if candidate.is_file():
            return candidate
    files = (PROJECT / "pipelines").glob("*.toml")
    names = {file.stem for file in files if not file.name.endswith(".schema.toml")}
    guess = did_you_mean(path.name.removesuffix(".toml"), names)
    raise ConfigError(f"no pipeline file {path}{guess} (`python main.py --help` lists the commands)")


class _Problems(list[str]):
    """The mistakes found so far, each as ``place: what is wrong``."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.unset: set[str] = set()

    def add(self, place: str, what: str, *, of_value: bool = True) -> None:
        if not (of_value and place in self.unset):  # that is wrong with what stands in for the value
            self.append(f"{place}: {what}")

    def add_unset(self, place: str, name: str) -> None:
        self.append(f"{place}: the environment variable {name} is not set (in .env or the environment)")
        self.unset.add(place)

    def raise_any(self) -> None:
        if not self:
            return
        hint = [_NO_ENV_FILE] if not (PROJECT / ".env").exists() and self.unset else []
        count = "1 mistake" if len(self) == 1 else f"{len(self)} mistakes"
        raise ConfigError(f"{self.path} has {count}:", *(f"  {problem}" for problem in self), *hint)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error}") from error


def _override(table: dict[str, Any], override: str, problems: _Problems) -> None:
    """Apply ``a.b.0.c=value``; the value is read as TOML, or as plain text if it is not."""
    place, equals, text = override.partition("=")
    if not equals:
        problems.add("--set", f"{override!r} should be KEY=VALUE, such as load.key=lego/sets.parquet")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *parents, last = place.split(".")
    node: Any = table
    try:
        for part in parents:
            node = node[int(part)] if isinstance(node, list) else node.setdefault(part, {})
        node[int(last) if isinstance(node, list) else last] = value
    except (IndexError, ValueError, TypeError, AttributeError):
        problems.add("--set", f"there is no place {place!r} in the pipeline")


def _interpolate(value: Any, place: str, problems: _Problems) -> Any:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in every text by the environment's values."""
    if isinstance(value, dict):
        return {key: _interpolate(item, f"{place}.{key}".lstrip("."), problems) for key, item in value.items()}
    if isinstance(value, list):
        return [_interpolate(item, f"{place}.{number}", problems) for number, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = os.environ.get(name) or default
        if found is None:
            problems.add_unset(place, name)
            return f"unset-{name.lower().replace('_', '-')}"
        return found

    return _VARIABLE.sub(replacement, value)


def _build(table: Mapping[str, Any], path: Path, problems: _Problems) -> dict[str, Any]:
    for key in table:
        if key not in _TOP_LEVEL:
            problems.add(key, f"unknown{did_you_mean(key, _TOP_LEVEL)}")
        if key in _TABLES and not isinstance(table[key], dict):
            problems.add(key, f"should be a table, written [{key}]")
    for key in ("extract", "load"):
        if key not in table:
            problems.add(key, f"the table [{key}] is missing")
    tables = {key: table[key] for key in _TABLES if isinstance(table.get(key), dict)}
    transforms = table.get("transform", [])
    if not (isinstance(transforms, list) and all(isinstance(item, dict) for item in transforms)):
        problems.add("transform", "write each step as [[transform]], with two brackets")
        transforms = []
    name = table.get("name", path.stem)
    if not (isinstance(name, str) and re.fullmatch(r"[\w.-]+", name)):
        problems.add("name", "should be letters, digits, '-', '_' or '.', such as \"lego-sets\"")
    max_rejects = table.get("max_rejects", "1%")
    if not _is_count_or_share(max_rejects):
        problems.add("max_rejects", 'should be a number of rows, such as 100, or a share, such as "1%"')

    extractor = _build_step(tables.get("extract"), "extract", "extractors", Extractor, problems)
    transformers = [
        _build_step(item, f"transform.{number}", "transformers", Transformer, problems)
        for number, item in enumerate(transforms)
    ]
    loader = _build_step(tables.get("load"), "load", "loaders", Loader, problems)
    if incremental_of(extractor) and loader is not None and not loader.keeps_state():
        problems.add("extract.incremental", NEEDS_APPEND)
    posture = _build_posture(tables.get("bucket"), loader, problems)
    guard = _build_table(tables.get("guard", {}), "guard", Guard, problems)
    schema = _build_schema(tables.get("schema"), path, problems)
    if schema is not None and any(step.hides() for step in transformers if step):
        schema = schema.without_values()
    problems.raise_any()
    return {
        "name": name,
        "extractor": extractor,
        "transformers": tuple(step for step in (schema, *transformers) if step),
        "loader": loader,
        "max_rejects": max_rejects,
        "posture": posture,
        "guard": guard,
        "schema": schema,
    }


def _build_posture(table: Table | None, loader: Loader | None, problems: _Problems) -> BucketPosture | None:
    if table is None:
        return None
    from etl.bucket.posture import BucketPosture
    from etl.loaders.s3 import S3Loader

    posture = _build_table(table, "bucket", BucketPosture, problems)
    if posture is None:
        return None
    if isinstance(loader, S3Loader):
        for contradiction in posture.contradictions(loader):
            problems.add("bucket", contradiction)
    elif loader is not None:
        problems.add("bucket", f"{loader.name} has no bucket; this table is for S3Loader")
    return posture


def _build_schema(table: Table | None, path: Path, problems: _Problems) -> LearnedSchema | None:
    """The schema whose file lies beside the pipeline file. If there is one, it must be in order."""
    if table is None:
        return None
    from etl.learned.file import read_schema
    from etl.learned.step import LearnedSchema

    schema = _build_table({"file": f"{path.stem}.schema.toml", **table}, "schema", LearnedSchema, problems)
    if schema is None:
        return None
    schema = schema.model_copy(update={"file": path.parent / schema.file})
    if schema.file.exists():
        try:
            read_schema(schema.file)
        except ConfigError as error:
            for problem in error.problems:
                problems.add("schema", problem)
    return schema


def _is_count_or_share(value: Any) -> bool:
    if isinstance(value, str):
        return re.fullmatch(r"\d+(\.\d+)?\s*%", value) is not None
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _build_step(table: Table | None, place: str, kind: str, base: type[S], problems: _Problems) -> S | None:
    if table is None:
        return None
    options = dict(table)
    type_name = options.pop("type", None)
    if not isinstance(type_name, str):
        problems.add(f"{place}.type", f'missing; name the class, such as type = "{_EXAMPLES[kind]}"')
        return None
    try:
        step_class = load_class(type_name, kind, base)
    except LookupError as error:
        problems.add(f"{place}.type", str(error))
        return None
    return _build_table(options, place, step_class, problems)


def _build_table(table: Table, place: str, model: type[M], problems: _Problems) -> M | None:
    try:
        return model.model_validate(table)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_input=False):
            problems.add(*explained(detail, place, model), of_value=detail["type"] != "extra_forbidden")
        return None
