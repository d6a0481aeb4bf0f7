"""The file that holds a learned schema: TOML, made to be read and edited."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from etl.errors import ConfigError
from etl.options import Options
from etl.tables.schema import Columns

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_HEADER = """\
# What the columns of {source} held on {day}, in {rows:,} rows. Please review, and keep it with the pipeline.
# Every run casts to these types; [schema] on_drift says what becomes of what does not fit. A column may have more
# rules, as those of Contract have: min, max, pattern, one_of, unique, description, ...
"""


class SchemaFile(Options):
    """What the file holds."""

    columns: Columns
    as_is: tuple[str, ...] = Field(
        default=(), description="Columns of types that cannot be declared, left as they are."
    )


def read_schema(file: Path) -> SchemaFile:
    """Raises ConfigError, with every mistake, if the file is no schema, or not there."""
    try:
        return SchemaFile.model_validate(tomllib.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise ConfigError(f"{file}: there is none yet; the first run learns it: run the pipeline") from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid TOML: {error}") from error
    except ValidationError as error:
        problems = (
            f"{'.'.join(map(str, detail['loc']))}: {detail['msg'].removeprefix('Value error, ')}"
            for detail in error.errors(include_url=False, include_input=False)
        )
        raise ConfigError(*(f"{file}: {problem}" for problem in problems)) from error


def schema_text(schema: SchemaFile, notes: Mapping[str, str], source: str, rows: int, day: date) -> str:
    """The content of the file. ``notes``: a remark on each column, such as its range."""
    return "\n".join(_lines(schema, notes, _HEADER.format(source=_toml(source)[1:-1], day=day, rows=rows)))


def write_schema(file: Path, text: str) -> None:
    draft = file.with_name(f".{file.name}.draft")
    draft.write_text(text, encoding="utf-8")
    draft.replace(file)


def _lines(schema: SchemaFile, notes: Mapping[str, str], header: str) -> Iterator[str]:
    yield header
    if schema.as_is:
        yield f"as_is = {_toml(schema.as_is)}  # types that cannot be declared\n"
    for name, column in schema.columns.items():
        yield f"[columns.{name if _BARE.fullmatch(name) else _toml(name)}]"
        yield f"type = {_toml(column.type)}" + (f"  # {note}" if (note := notes.get(name)) else "")
        for option, value in column.model_dump(exclude_defaults=True, exclude={"name", "type"}).items():
            yield f"{option} = {_toml(value)}"
        yield ""


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {_toml(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")  # all else is TOML, too
    return str(value)
