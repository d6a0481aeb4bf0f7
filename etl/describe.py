"""Describes steps and their options: as a table for people, as JSON Schema for editors."""

from __future__ import annotations

import inspect
import json
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from etl.base import Extractor, Loader, Step, Transformer
from etl.errors import ConfigError
from etl.steps import available, did_you_mean, load_class

_KINDS: dict[str, type[Step]] = {"extractors": Extractor, "transformers": Transformer, "loaders": Loader}
_KIND_OF = {"extract": "extractors", "transform": "transformers", "load": "loaders"}
_WIDEST = 120
_NARROWEST = 70
_GAP = "  "
_FORMATS = {"path": "path", "password": "secret", "date": "date", "date-time": "time", "column type": "type of column"}
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}

Schema = dict[str, Any]


def described(class_name: str | None = None, *, as_json: bool = False) -> str:
    """What the ``schema`` command prints: all steps, or one; for people, or as JSON Schema.

    Raises ConfigError if there is no such class, or a library that it needs is missing.
    """
    if as_json:
        schema = pipeline_schema() if class_name is None else _find(class_name).model_json_schema()
        return json.dumps(schema, ensure_ascii=False, indent=2)
    lines = _list_of_steps() if class_name is None else _options_of(_find(class_name))
    return "\n".join(lines)


# -- finding classes ------------------------------------------------------------------------------------


def _find(class_name: str) -> type[Step]:
    kinds = {name: kind for kind in _KINDS for name in available(kind)}
    if ":" not in class_name and class_name not in kinds:
        raise ConfigError(f"there is no step {class_name!r}{did_you_mean(class_name, kinds)}")
    try:
        return load_class(class_name, kinds.get(class_name, ""), Step)
    except LookupError as error:
        raise ConfigError(str(error)) from error


def _steps(kind: str) -> Iterator[tuple[str, type[Step] | str]]:
    """Yield the name of each step of a kind with its class, or with what it takes to load it."""
    for name in available(kind):
        try:
            yield name, load_class(name, kind, _KINDS[kind])
        except LookupError as error:
            yield name, str(error)


def _summary(found: type[Step] | str) -> str:
    return found if isinstance(found, str) else (inspect.getdoc(found) or "").partition("\n")[0]


# -- for people -----------------------------------------------------------------------------------------


def _list_of_steps() -> Iterator[str]:
    for kind in _KINDS:
        yield f"{kind}:"
        yield from _table([(name, _summary(found)) for name, found in _steps(kind)])
        yield ""
    yield "python main.py schema CLASS tells the options of one; --json is for editors."


def _options_of(found: type[Step]) -> Iterator[str]:
    schema = found.model_json_schema()
    yield found.__name__
    yield textwrap.indent(inspect.getdoc(found) or "", _GAP)
    yield ""
    yield from _table([("option", "type", "default", ""), *_rows(schema, schema.get("$defs", {}))])


def _rows(schema: Schema, definitions: Mapping[str, Schema], prefix: str = "") -> Iterator[tuple[str, ...]]:
    """Yield (option, type, default, description), the required ones first; for the options of options too."""
    required = schema.get("required", ())
    for name, option in sorted(schema.get("properties", {}).items(), key=lambda item: item[0] not in required):
        default = "required" if name in required else _default(option.get("default"))
        about = option.get("description") or (schema.get("description", "") if "const" in option else "")
        yield f"{prefix}{name}", _in_words(option), default, about
        for below, nested in _nested(option, definitions):
            yield from _rows(nested, definitions, f"{prefix}{name}.{below}")


def _default(value: Any) -> str:
    """A default as it would be written in a pipeline file; nothing for a table, whose options tell theirs."""
    return "" if value is None or isinstance(value, dict) else json.dumps(value, ensure_ascii=False)


def _nested(option: Schema, definitions: Mapping[str, Schema]) -> Iterator[tuple[str, Schema]]:
    """Yield the tables of options in an option, if any, with what comes before their names: nothing, or ``NAME.``."""
    inner, between = option.get("additionalProperties"), "NAME."
    if not isinstance(inner, dict):
        inner, between = option, ""
    if "$ref" in inner:
        yield between, definitions[inner["$ref"].rpartition("/")[2]]
    for choice in (*option.get("anyOf", ()), *option.get("oneOf", ())):
        yield from _nested(choice, definitions)


def _in_words(schema: Schema) -> str:
    """What a value may be, as a person would say it."""
    if schema.get("format") in _FORMATS:
        return _FORMATS[schema["format"]]
    if "enum" in schema or "const" in schema:
        return " | ".join(json.dumps(value, ensure_ascii=False) for value in schema.get("enum", [schema.get("const")]))
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_in_words(part) for part in schema["anyOf"] if part.get("type") != "null"))
    if schema.get("type") == "array":
        return f"list of {_in_words(schema.get('items', {}))}"
    if schema.get("type") == "object" or "$ref" in schema or "oneOf" in schema:
        values = schema.get("additionalProperties")
        return f"table of {_in_words(values)}" if isinstance(values, dict) else "table"
    return _WORDS.get(schema.get("type", ""), "anything")


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    """Lines of aligned cells; the last cell of a row, the longest, is wrapped to the width of the terminal."""
    total = min(max(shutil.get_terminal_size((_WIDEST, 24)).columns, _NARROWEST), _WIDEST)
    widths = [max(len(row[number]) for row in rows) for number in range(len(rows[0]) - 1)]
    widths = [min(width, total // 4) for width in widths]
    room = total - sum(widths) - len(_GAP) * (len(widths) + 1)
    for row in rows:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, (*widths, room), strict=True)]
        for number in range(max(map(len, cells))):
            line = [cell[number] if number < len(cell) else "" for cell in cells]
            padded = (f"{_GAP}{cell:<{width}}" for cell, width in zip(line, (*widths, 0), strict=True))
            yield "".join(padded).rstrip()


# -- for editors ----------------------------------------------------------------------------------------


def pipeline_schema() -> Schema:
    """The JSON Schema of pipeline files: an editor that has it completes and checks them."""
    from etl.bucket.posture import BucketPosture
    from etl.guard import Guard
    from etl.learned.step import LearnedSchema

    definitions: dict[str, Schema] = {
        "Variable": {"type": "string", "pattern": r"\$\{\w+(:-[^}]*)?\}", "description": "From the environment."}
    }
    choices = {section: _choices(kind, definitions) for section, kind in _KIND_OF.items()}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline: extract -> transform -> load",
        "type": "object",
        "additionalProperties": False,
        "required": ["extract", "load"],
        "properties": {
            "name": {"type": "string", "pattern": r"^[\w.-]+$", "description": "Of the lock, the logs and the report."},
            "max_rejects": {
                "anyOf": [{"type": "integer", "minimum": 0}, {"type": "string", "pattern": r"^\d+(\.\d+)?\s*%$"}],
                "default": "1%",
                "description": "More rejected rows than this stop the run: a number of rows, or a share.",
            },
            "extract": {"description": "Where the table comes from.", **choices["extract"]},
            "schema": {
                "description": "A schema to learn from the first run, and to hold the source to.",
                **_defined(LearnedSchema, "schema", definitions),
            },
            "transform": {
                "description": "What is done to it, in order.",
                "type": "array",
                "items": choices["transform"],
            },
            "load": {"description": "Where it goes.", **choices["load"]},
            "bucket": {"description": "What the bucket should be.", **_defined(BucketPosture, "bucket", definitions)},
            "guard": {"description": "How runs may differ.", **_defined(Guard, "guard", definitions)},
        },
        "definitions": definitions,
    }


def _choices(kind: str, definitions: dict[str, Schema]) -> Schema:
    """Any step of a kind, or a class of one's own. The schemas of the steps are put into ``definitions``."""
    own = {"type": "string", "pattern": r"^[\w.]+:\w+$", "description": "A class of your own: my_module:MyClass"}
    choices: list[Schema] = [{"type": "object", "required": ["type"], "properties": {"type": own}}]
    for name, found in _steps(kind):
        named = {"const": name, "description": _summary(found)}
        if isinstance(found, str):
            definitions[name] = {"type": "object", "required": ["type"], "properties": {"type": named}}
            choices.append({"$ref": f"#/definitions/{name}"})
        else:
            choices.append(_defined(found, name, definitions))
            definitions[name]["properties"] = {"type": named, **definitions[name]["properties"]}
            definitions[name]["required"] = ["type", *definitions[name].get("required", [])]
    return {"anyOf": choices}


def _defined(model: type[BaseModel], name: str, definitions: dict[str, Schema]) -> Schema:
    """A reference to the schema of a model, which is put into ``definitions`` with all that belongs to it."""
    schema = model.model_json_schema(ref_template=f"#/definitions/{name}.{{model}}")
    for inner, definition in schema.pop("$defs", {}).items():
        definitions[f"{name}.{inner}"] = _with_variables(definition)
    definitions[name] = _with_variables(schema)
    return {"$ref": f"#/definitions/{name}"}


def _with_variables(schema: Schema) -> Schema:
    """The schema of a table of options, with ``${NAME}`` allowed in the place of each value."""
    properties = {}
    for name, option in schema.get("properties", {}).items():
        about = {key: option[key] for key in ("description", "default") if key in option}
        value = {key: option[key] for key in option if key not in (*about, "title")}
        properties[name] = {**about, "anyOf": [value, {"$ref": "#/definitions/Variable"}]}
    return {**schema, "properties": properties}
