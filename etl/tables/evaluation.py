"""Computes checked expressions over the columns of a batch, with Arrow."""

from __future__ import annotations

import ast
from collections.abc import Callable
from decimal import Decimal
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from etl.errors import ConfigError, DataError
from etl.tables.arrow import Values, array_of, as_text, check_columns, is_date_or_time, is_number, pc
from etl.tables.casting import cast, finite
from etl.tables.expressions import Parsed, literal_of, parse

if TYPE_CHECKING:
    from pandas import DataFrame

_COMPARE: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: pc.equal,
    ast.NotEq: pc.not_equal,
    ast.Lt: pc.less,
    ast.LtE: pc.less_equal,
    ast.Gt: pc.greater,
    ast.GtE: pc.greater_equal,
}
_COMPUTE: dict[type[ast.operator], tuple[Callable[[Any, Any], Any], Callable[[Any, Any], Any]]] = {
    ast.Add: (pc.add_checked, pc.add),
    ast.Sub: (pc.subtract_checked, pc.subtract),
    ast.Mult: (pc.multiply_checked, pc.multiply),
    ast.Div: (pc.divide_checked, pc.divide),
}
_TWO_TO_53 = float(2**53)
_TWO_TO_62 = float(2**62)


def evaluate(expression: str, batch: DataFrame, place: str) -> Values:
    """The value of ``expression`` for each row, of a type that depends on the types of the columns only.

    ``place``: the option that holds the expression, for errors. Raises DataError if a column is not there, and
    ConfigError if a value is of a kind that cannot be used like this.
    """
    parsed = parse(expression)
    try:
        result = _Evaluation(parsed, batch).value(parsed.tree)
    except (ConfigError, DataError) as error:
        raise type(error)(f"{place}: {error.message}") from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise ConfigError(f"{place}: {expression!r}: {error}") from error
    return result if isinstance(result, pa.Array) else pa.repeat(result, len(batch))


def condition(expression: str, batch: DataFrame, place: str) -> Values:
    """Whether ``expression`` is true for each row; null where it cannot be told."""
    values = evaluate(expression, batch, place)
    if not pa.types.is_boolean(values.type):
        raise ConfigError(
            f"{place}: {expression!r} is {_kind(values)}; it should be true or false, such as a comparison"
        )
    return values


class _Evaluation:
    """Walks over one expression for one batch. Every value is an Arrow array, or a scalar."""

    def __init__(self, parsed: Parsed, batch: DataFrame) -> None:
        self._parsed = parsed
        self._batch = batch

    def value(self, node: ast.expr) -> Values:
        match node:
            case ast.Name():
                return self._column(self._parsed.columns[node.id])
            case ast.Constant():
                return pa.scalar(literal_of(node, self._parsed))
            case ast.BoolOp():
                return self._all_or_any(node)
            case ast.UnaryOp(op=ast.Not()):
                return pc.invert(self._truth(node.operand))
            case ast.UnaryOp():
                number = self._of_kind("a number", node.operand, node)
                return number if isinstance(node.op, ast.UAdd) else _negative(number)
            case ast.BinOp():
                return self._arithmetic(node)
            case ast.Compare():
                return self._comparison(node)
            case ast.IfExp():
                chosen, other = self._alike([self.value(node.body), self.value(node.orelse)], node)
                return pc.if_else(pc.fill_null(self._truth(node.test), False), chosen, other)
            case ast.Call():
                return self._call(node)
        raise AssertionError("the parser lets no other node pass")

    def _column(self, name: str) -> Values:
        check_columns(self._batch, [name])
        values = array_of(self._batch[name])
        return values.cast(pa.decimal128(20, 0)) if pa.types.is_uint64(values.type) else values

    def _all_or_any(self, node: ast.BoolOp) -> Values:
        combine = pc.and_kleene if isinstance(node.op, ast.And) else pc.or_kleene
        return reduce(combine, map(self._truth, node.values))

    def _truth(self, node: ast.expr) -> Values:
        value = self.value(node)
        if _kind(value) not in ("true or false", "null"):
            raise self._problem(node, f"is {_kind(value)}; it should be true or false, such as a comparison")
        return value.cast(pa.bool_())

    def _of_kind(self, kind: str, node: ast.expr, whole: ast.expr) -> Values:
        value = self.value(node)
        if _kind(value) not in (kind, "null"):
            raise self._problem(whole, f"needs {kind}, and {self._parsed.shown(node)} is {_kind(value)}")
        return _widest([value])[0]

    def _problem(self, node: ast.expr, what: str) -> ConfigError:
        return ConfigError(f"{self._parsed.shown(node)}: {what}")

    # -- comparisons ------------------------------------------------------------------------------------

    def _comparison(self, node: ast.Compare) -> Values:
        """``a < b < c`` is ``a < b and b < c``."""
        result, left = None, self.value(node.left)
        for operator, right_node in zip(node.ops, node.comparators, strict=True):
            if isinstance(operator, ast.In | ast.NotIn):
                found = self._among(left, right_node, node)
                answer, left = (found if isinstance(operator, ast.In) else pc.invert(found)), None
            else:
                right = self.value(right_node)
                answer, left = _COMPARE[type(operator)](*self._alike([left, right], node)), right
            result = answer if result is None else pc.and_kleene(result, answer)
        return result

    def _among(self, value: Values, choices: Any, node: ast.expr) -> Values:
        literals = [pa.scalar(literal_of(element, self._parsed)) for element in choices.elts]
        return reduce(pc.or_kleene, (pc.equal(*self._alike([value, literal], node)) for literal in literals))

    def _alike(self, values: list[Values], node: ast.expr) -> list[Values]:
        """The values in one type that Arrow can compare or mix."""
        kinds = {_kind(value) for value in values} - {"null"}
        times = [value for value in values if _kind(value).startswith("a time") or _kind(value) == "a date"]
        if times and kinds == {_kind(times[0]), "text"}:
            return [value if value in times else self._as_time(value, times[0].type, node) for value in values]
        if kinds == {"a date", "a time without a zone"}:
            return [value.cast(pa.timestamp("us"), safe=False) for value in values]
        if len(kinds) > 1:
            raise self._problem(node, f"mixes {' and '.join(sorted(kinds))}; text(), number() and date() convert")
        return _widest(values)

    def _as_time(self, text: Values, kind: pa.DataType, node: ast.expr) -> Values:
        if not isinstance(text, pa.Scalar):
            raise self._problem(node, "compares a date with a column of text; ParseDates makes dates of text")
        time = _converted(text, kind)
        if not time.is_valid:
            raise self._problem(node, f"{text.as_py()!r} is not a date or time such as 2024-01-31 or 2024-01-31T12:00")
        return time

    # -- arithmetic -------------------------------------------------------------------------------------

    def _arithmetic(self, node: ast.BinOp) -> Values:
        left, right = self._alike([self.value(node.left), self.value(node.right)], node)
        kinds = {_kind(left), _kind(right)} - {"null"}
        if kinds == {"text"} and isinstance(node.op, ast.Add):
            return pc.binary_join_element_wise(left, right, "")
        if kinds - {"a number"}:
            raise self._problem(node, f"cannot be computed with {' and '.join(sorted(kinds))}")
        return self._computed(node.op, left, right, node)

    def _computed(self, operator: ast.operator, left: Values, right: Values, node: ast.expr) -> Values:
        if isinstance(operator, ast.Div):
            if not any(pa.types.is_decimal(value.type) for value in (left, right)):
                left, right = (value.cast(pa.float64(), safe=False) for value in (left, right))
            right = pc.if_else(pc.equal(right, 0), None, right)
        try:
            result = _computed(operator, left, right)
        except pa.ArrowInvalid as error:
            raise self._problem(node, f"{error}; number() makes floats of decimals") from error
        return finite(result)

    # -- functions --------------------------------------------------------------------------------------

    def _call(self, node: ast.Call) -> Values:
        name: str = node.func.id  # type: ignore[attr-defined]
        if name in _OF_TEXT:
            text = self._of_kind("text", node.args[0], node)
            literals = [literal_of(argument, self._parsed) for argument in node.args[1:]]
            return _OF_TEXT[name](text.cast(pa.string()), *literals)
        if name in _OF_DATES:
            return _OF_DATES[name](*(self._date(argument, node) for argument in node.args))
        if name in _OF_NUMBERS:
            number = self._of_kind("a number", node.args[0], node)
            return _OF_NUMBERS[name](number, *(literal_of(argument, self._parsed) for argument in node.args[1:]))
        if name == "coalesce":
            return pc.coalesce(*self._alike([self.value(argument) for argument in node.args], node))
        return _CONVERSIONS[name](self.value(node.args[0]))

    def _date(self, node: ast.expr, whole: ast.expr) -> Values:
        value = self.value(node)
        if not (is_date_or_time(value.type) or pa.types.is_null(value.type)):
            what = f"needs a date, and {self._parsed.shown(node)} is {_kind(value)}; date() makes one"
            raise self._problem(whole, what)
        return _converted(value, pa.date32())


def _kind(value: Values) -> str:
    """What a person would call a value of this type."""
    kind, types = value.type, pa.types
    if types.is_null(kind):
        return "null"
    if types.is_boolean(kind):
        return "true or false"
    if is_number(kind):
        return "a number"
    if types.is_string(kind):
        return "text"
    if types.is_date(kind):
        return "a date"
    if types.is_timestamp(kind):
        return "a time in a zone" if kind.tz else "a time without a zone"
    return f"of type {kind}"


def _widest(numbers: list[Values]) -> list[Values]:
    """All numbers as the widest kind among them: whole numbers, decimals, floats. Other values as they are."""
    types = pa.types
    if any(types.is_floating(number.type) for number in numbers):
        return [number.cast(pa.float64(), safe=False) for number in numbers]
    if any(types.is_decimal(number.type) for number in numbers):
        return [_as_decimal(number) if types.is_integer(number.type) else number for number in numbers]
    return [number.cast(pa.int64()) if types.is_integer(number.type) else number for number in numbers]


def _as_decimal(number: Values) -> Values:
    """Whole numbers as decimals of no more digits than their type can hold: Arrow multiplies those of 38 in all."""
    if isinstance(number, pa.Scalar) and number.is_valid:
        return pa.scalar(Decimal(number.as_py()))
    digits = {8: 3, 16: 5, 32: 10, 64: 19}[number.type.bit_width]
    return number.cast(pa.decimal128(19, 0)).cast(pa.decimal128(digits, 0))


def _computed(operator: ast.operator, left: Values, right: Values) -> Values:
    """The result of one operation; null where a whole number does not fit into 64 bits."""
    checked, unchecked = _COMPUTE[type(operator)]
    try:
        return checked(left, right)
    except pa.ArrowInvalid:
        if not all(pa.types.is_integer(value.type) for value in (left, right)):
            raise
    wrapped = unchecked(left, right)
    near = unchecked(left.cast(pa.float64(), safe=False), right.cast(pa.float64(), safe=False))
    error = pc.abs(pc.subtract(near, wrapped.cast(pa.float64(), safe=False)))
    return pc.if_else(pc.less(error, _TWO_TO_62), wrapped, None)  # a result that has wrapped is far off


def _negative(number: Values) -> Values:
    return _computed(ast.Sub(), pa.scalar(0), number) if pa.types.is_integer(number.type) else pc.negate(number)


def _absolute(number: Values) -> Values:
    return pc.if_else(pc.less(number, 0), _negative(number), number)


def _rounded(number: Values, digits: int = 0) -> Values:
    """To this many digits after the point; halves go to the even neighbour, as in Python."""
    kind = number.type
    if pa.types.is_decimal(kind):
        return pc.round(number.cast(pa.decimal128(min(kind.precision + 1, 38), kind.scale)), digits)
    if not pa.types.is_floating(kind):
        return number
    has_fraction = pc.less(pc.abs(number), _TWO_TO_53)
    return pc.if_else(has_fraction, pc.round(pc.if_else(has_fraction, number, 0.0), digits), number)


def _converted(value: Values, kind: pa.DataType) -> Values:
    if isinstance(value, pa.Scalar):
        return cast(pa.array([value.as_py()], value.type), kind)[0]
    return cast(value, kind)


_CONVERSIONS: dict[str, Callable[[Values], Values]] = {
    "is_null": pc.is_null,
    "text": lambda value: as_text(value) if isinstance(value, pa.Array) else value.cast(pa.string()),
    "number": partial(_converted, kind=pa.float64()),
    "date": partial(_converted, kind=pa.date32()),
}
_OF_NUMBERS: dict[str, Callable[..., Values]] = {"abs": _absolute, "round": _rounded}
_OF_TEXT: dict[str, Callable[..., Values]] = {
    "lower": pc.utf8_lower,
    "upper": pc.utf8_upper,
    "trim": pc.utf8_trim_whitespace,
    "length": lambda text: pc.utf8_length(text).cast(pa.int64()),
    "contains": pc.match_substring,
    "starts_with": pc.starts_with,
    "ends_with": pc.ends_with,
    "matches": lambda text, pattern: pc.match_substring_regex(text, f"^(?:{pattern})$"),
}
_OF_DATES: dict[str, Callable[..., Values]] = {
    "year": pc.year,
    "month": pc.month,
    "day": pc.day,
    "days_between": pc.days_between,
}
