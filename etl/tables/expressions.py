"""The language of conditions and formulas over columns: written like Python, read by Python's parser, and held to a
short list of what is allowed. Nothing of it is ever run by Python.

    pieces > 100 and theme in ["City", "Space"]         comparisons, and / or / not, lists
    price / pieces                                      + - * / on numbers, + on text
    `US price` * 1.21                                   backticks around names that are not plain words
    "free" if price == 0 else "paid"                    a choice
    is_null(price) or starts_with(lower(name), "mini")  the functions named below

Null: what is computed or compared with it is null. ``and`` and ``or`` answer where the other side decides (null or
true is true), ``is_null`` and ``coalesce`` take it for what it is, a choice takes a null condition for false. Dividing
by zero, and whole numbers beyond 64 bits, give null too. Numbers are divided as floats; a text is compared with a date
as the date that it says.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from pydantic import AfterValidator

from etl.steps import did_you_mean
from etl.tables.schema import check_pattern

_MOST_CHARACTERS = 10_000
_DEEPEST = 100
_MOST_DIGITS = 15
_LARGEST = 2**63
_QUOTED = re.compile(r"""'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*"|`([^`\n]+)`""")
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.In, ast.NotIn)
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div)
_ALLOWED = (
    "allowed are columns, numbers, texts, True, False, comparisons, and or not, + - * /, a if b else c, functions"
)


@dataclass(frozen=True)
class Function:
    """How a function may be called: with ``fewest`` to ``most`` values, then perhaps a ``literal`` of this type."""

    fewest: int = 1
    most: int = 1
    literal: type | None = None
    optional: bool = False


FUNCTIONS = {
    "is_null": Function(),
    "coalesce": Function(fewest=2, most=20),
    "lower": Function(),
    "upper": Function(),
    "trim": Function(),
    "length": Function(),
    "contains": Function(literal=str),
    "starts_with": Function(literal=str),
    "ends_with": Function(literal=str),
    "matches": Function(literal=str),
    "abs": Function(),
    "round": Function(literal=int, optional=True),
    "year": Function(),
    "month": Function(),
    "day": Function(),
    "days_between": Function(fewest=2, most=2),
    "text": Function(),
    "number": Function(),
    "date": Function(),
}


@dataclass(frozen=True)
class Parsed:
    """A checked expression. ``columns``: the name of the column that each name in the tree stands for."""

    tree: ast.expr
    columns: dict[str, str]

    def shown(self, node: ast.expr) -> str:
        """A part of the expression, as a person wrote it."""
        text = ast.unparse(node)
        for name, column in self.columns.items():
            if name != column:
                text = text.replace(name, f"`{column}`")
        return text


@cache
def parse(expression: str) -> Parsed:
    """Raise ValueError, with what is wrong and where, unless the expression keeps to the language."""
    if len(expression) > _MOST_CHARACTERS:
        raise ValueError(f"is longer than {_MOST_CHARACTERS:,} characters")
    source, quoted = _without_backticks(expression)
    try:
        tree = ast.parse(f"({source}\n)", mode="eval").body
    except SyntaxError as error:
        raise ValueError(f"cannot be read{_near(source, error)}: {error.msg}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"cannot be read: {error}") from error
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    parsed = Parsed(tree, {name: quoted.get(name, name) for name in names})
    _check(tree, parsed, depth=0)
    return parsed


def _checked(expression: str) -> str:
    parse(expression)
    return expression


Expression = Annotated[str, AfterValidator(_checked)]


def _without_backticks(expression: str) -> tuple[str, dict[str, str]]:
    """The expression with a plain name in place of each quoted one, and what those names stand for."""
    names: dict[str, str] = {}

    def plain(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0]
        name = f"__quoted_{len(names)}__"
        names[name] = match[1]
        return name

    return _QUOTED.sub(plain, expression), names


def _near(source: str, error: SyntaxError) -> str:
    lines = source.splitlines()
    line, column = (error.lineno or 1) - 1, (error.offset or 1) - (2 if error.lineno == 1 else 1)
    rest = lines[line][max(column, 0) :].strip() if line < len(lines) else ""
    return f" at {rest[:30]!r}" if rest else ""


def _check(node: ast.expr, parsed: Parsed, depth: int) -> None:
    if depth > _DEEPEST:
        raise ValueError("is nested too deeply")
    for child in _parts(node, parsed):
        _check(child, parsed, depth + 1)


def _parts(node: ast.expr, parsed: Parsed) -> Iterator[ast.expr]:
    """Yield the parts of an allowed node that are expressions themselves. Raises ValueError for any other node."""
    match node:
        case ast.Name():
            return
        case ast.Constant():
            _check_literal(node)
        case ast.BoolOp():
            yield from node.values
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd()):
            yield node.operand
        case ast.BinOp() if isinstance(node.op, _ARITHMETIC):
            yield from (node.left, node.right)
        case ast.BinOp(op=ast.BitAnd() | ast.BitOr()):
            raise ValueError(f"{parsed.shown(node)}: write 'and' or 'or' in place of & and |")
        case ast.IfExp():
            yield from (node.test, node.body, node.orelse)
        case ast.Compare():
            yield from _compared(node, parsed)
        case ast.Call(func=ast.Name()):
            yield from _arguments(node, parsed)
        case _:
            raise ValueError(f"{parsed.shown(node)}: not allowed here; {_ALLOWED}")


def _check_literal(node: ast.Constant) -> None:
    value = node.value
    if value is None:
        raise ValueError("None: nothing equals null; write is_null(column)")
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"{ast.unparse(node)}: not allowed; {_ALLOWED}")
    if isinstance(value, int | float) and not abs(value) < (_LARGEST if isinstance(value, int) else float("inf")):
        raise ValueError(f"{value}: too large")


def _compared(node: ast.Compare, parsed: Parsed) -> Iterator[ast.expr]:
    yield node.left
    for operator, right in zip(node.ops, node.comparators, strict=True):
        if not isinstance(operator, _COMPARISONS):
            raise ValueError(f"{parsed.shown(node)}: write == or !=, and is_null(column) for null")
        if not isinstance(operator, ast.In | ast.NotIn):
            yield right
        elif isinstance(right, ast.List | ast.Tuple | ast.Set) and right.elts:
            for element in right.elts:
                literal_of(element, parsed)
        else:
            raise ValueError(f"{parsed.shown(node)}: 'in' needs a list of values, such as in [1, 2, 3]")


def _arguments(node: ast.Call, parsed: Parsed) -> Iterator[ast.expr]:
    name = node.func.id  # type: ignore[attr-defined]
    function = FUNCTIONS.get(name)
    if function is None:
        raise ValueError(f"{name}(): there is no such function{did_you_mean(name, FUNCTIONS)}")
    values, literals = node.args[: function.most], node.args[function.most :]
    needed = 0 if function.literal is None or function.optional else 1
    wrong_count = len(values) < function.fewest or not needed <= len(literals) <= (function.literal is not None)
    if wrong_count or node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        raise ValueError(f"{parsed.shown(node)}: {_usage(name, function)}")
    for literal in literals:
        value = literal_of(literal, parsed)
        if function.literal and type(value) is not function.literal:
            raise ValueError(f"{parsed.shown(node)}: {_usage(name, function)}")
        if name == "matches":
            check_pattern(str(value))
        if name == "round" and not 0 <= int(value) <= _MOST_DIGITS:
            raise ValueError(f"{parsed.shown(node)}: rounds to 0 to {_MOST_DIGITS} digits after the point")
    yield from values


def _usage(name: str, function: Function) -> str:
    values = (
        "a value" if function.most == 1 else f"{function.fewest} values" + (" or more" if function.most > 2 else "")
    )
    kinds = {str: "a text", int: "a whole number"}
    literal = f"{' and perhaps' if function.optional else ' and'} {kinds[function.literal]}" if function.literal else ""
    return f"{name}() takes {values}{literal}"


def literal_of(node: ast.expr, parsed: Parsed) -> bool | int | float | str:
    """The value that is written there: a number, a text, True or False. Raises ValueError for anything else."""
    sign = 1
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        sign, node = -1, node.operand
    if not isinstance(node, ast.Constant):
        raise ValueError(f"{parsed.shown(node)}: only a number, a text, True or False can stand here")
    _check_literal(node)
    value: bool | int | float | str = node.value  # type: ignore[assignment]
    if sign == 1:
        return value
    if isinstance(value, bool | str):
        raise ValueError(f"-{value!r}: only numbers have a sign")
    return -value
