"""Says what is wrong with options: pydantic's errors, in the words and places of a pipeline file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from etl.steps import did_you_mean

PLAIN = ("name", "max_rejects")  # what a pipeline file says above its first table

_IN_TOML = {  # what should be there, in the words of TOML; pydantic's are Python's
    "string_type": "a text, in quotes",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "tuple_type": 'a list, as in ["a", "b"]',
    "list_type": 'a list, as in ["a", "b"]',
    "dict_type": "a table",
    "model_type": "a table of options",
    "model_attributes_type": "a table of options",
}


def explained(detail: Mapping[str, Any], place: str, model: type[BaseModel]) -> tuple[str, str]:
    """A pydantic error as (place, what is wrong), in the words of the pipeline file."""
    location, names, about = _written(model, tuple(str(part) for part in detail["loc"]))
    where = ".".join((place, *location))
    if detail["type"] == "extra_forbidden":
        if len(location) == 1 and location[0] in PLAIN:
            return where, "unknown here; write it above the first [table]"
        return where, f"unknown{did_you_mean(location[-1], names)}"
    if detail["type"] in _IN_TOML:
        return where, f"should be {_IN_TOML[detail['type']]}"
    if detail["type"] == "union_tag_invalid":
        tags = detail["ctx"]["expected_tags"].replace("'", "").split(", ")
        return f"{where}.type", f"unknown type {detail['ctx']['tag']!r}{did_you_mean(detail['ctx']['tag'], tags)}"
    if detail["type"] == "union_tag_not_found":
        return f"{where}.type", "missing; it says which kind is meant"
    if detail["type"] == "missing":
        return where, f"missing; {model.__name__} needs it"
    message = str(detail["msg"]).removeprefix("Value error, ")
    hint = f" ({about})" if about and detail["type"] == "string_pattern_mismatch" else ""
    return where, message[:1].lower() + message[1:] + hint


def _written(model: type[BaseModel], location: tuple[str, ...]) -> tuple[tuple[str, ...], Iterable[str], str | None]:
    """The location as it is in the pipeline file, the valid names where it ends, and what is said of the option there.

    It may lead through options of options, lists and tables of them, and choices: the ``type`` that makes a choice is
    no part of the place, but pydantic names it.
    """
    inner: Any = model
    names: Mapping[str, Any] = {}
    written: list[str] = []
    about = None
    for part in location:
        if chosen := _chosen(inner, part):
            inner = chosen
            continue
        written.append(part)
        names = getattr(inner, "model_fields", {})
        field = names.get(part)
        about = field.description if field else None
        inner = field.annotation if field else next(reversed(get_args(inner)), None)
        choices = [choice for choice in get_args(inner) if choice is not type(None)]
        inner = choices[0] if len(choices) == 1 and type(None) in get_args(inner) else inner  # it may be left out
    return tuple(written), names, about


def _chosen(annotation: Any, tag: str) -> Any:
    """The model among those of ``annotation`` whose option ``type`` must be ``tag``, if there is one."""
    for choice in get_args(annotation):
        field = getattr(choice, "model_fields", {}).get("type")
        found = choice if field and get_args(field.annotation) == (tag,) else _chosen(choice, tag)
        if found:
            return found
    return None
