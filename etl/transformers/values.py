"""Transformers that clean, fill and replace values."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from etl.base import Transformer
from etl.errors import ConfigError
from etl.options import DifferentColumns

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.ledger import Account
    from etl.tables.arrow import Values

_Scalar = bool | int | float | str


class CleanText(Transformer):
    """Tidies text: one way to write each character, no needless white space, one case, null for what means nothing."""

    columns: DifferentColumns | None = Field(
        default=None, description="The columns to clean. Default: all that hold text."
    )
    unicode: Literal["NFC", "NFKC", "keep"] = Field(
        default="NFC", description="How characters are composed; NFKC also replaces look-alikes such as ﬁ and ①."
    )
    trim: bool = Field(default=True, description="Remove white space at both ends.")
    collapse: bool = Field(default=True, description="Make each run of white space one blank.")
    case: Literal["lower", "upper", "title", "keep"] = Field(default="keep", description="The case of all letters.")
    null_words: tuple[str, ...] = Field(default=(), description='Texts that mean null, such as "N/A", once cleaned.')
    empty_to_null: bool = Field(default=True, description="Make empty text null.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, as_text, check_columns, reported, with_columns

        names = _text_columns(batch) if self.columns is None else self.columns
        check_columns(batch, names)
        rules = list(self._rules())
        cleaned = {}
        for name in names:
            text = as_text(array_of(batch[name]))
            for rule, change in rules:
                text = reported(account, f"{name}: {rule}", text, change(text), batch[name])
            cleaned[name] = text
        return with_columns(batch, cleaned)

    def _rules(self) -> Iterator[tuple[str, Callable[[Values], Values]]]:
        from etl.tables import text
        from etl.tables.arrow import pc

        if self.unicode != "keep":
            yield "unicode", partial(text.normalised, form=self.unicode)
        if self.trim or self.collapse:
            yield "white space", partial(text.tidied, ends=self.trim, runs=self.collapse)
        if self.case != "keep":
            yield "case", getattr(pc, f"utf8_{self.case}")
        if self.null_words:
            yield "null word", partial(text.without_words, words=self.null_words)
        if self.empty_to_null:
            yield "empty", text.without_empty


class FillMissing(Transformer):
    """Puts a value in the place of each null of a column."""

    values: dict[str, _Scalar] = Field(min_length=1, description="Column -> the value to put in.")

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, check_columns, pc, reported, with_columns

        check_columns(batch, self.values)
        filled = {}
        for name, value in self.values.items():
            before = array_of(batch[name])
            after = pc.fill_null(before, _as_type_of(before, [value], f"values.{name}")[0])
            filled[name] = reported(account, f"{name}: filled", before, after, batch[name])
        return with_columns(batch, filled)


class ReplaceValues(Transformer):
    """Replaces whole values of columns by others: one spelling for each thing."""

    values: dict[str, dict[str, _Scalar]] = Field(
        min_length=1, description="Column -> the values to replace, each with its replacement."
    )

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import array_of, check_columns, reported, with_columns

        check_columns(batch, self.values)
        replaced = {}
        for name, spellings in self.values.items():
            before = array_of(batch[name])
            after = _replaced(before, spellings, f"values.{name}")
            replaced[name] = reported(account, f"{name}: replaced", before, after, batch[name])
        return with_columns(batch, replaced)


def _replaced(values: Values, spellings: dict[str, Any], place: str) -> Values:
    from etl.tables.arrow import pc

    old = _as_type_of(values, list(spellings), place)
    new = _as_type_of(values, list(spellings.values()), place)
    which = pc.index_in(values, value_set=old)
    return values if which.null_count == len(which) else pc.coalesce(new.take(which), values)


def _as_type_of(values: Values, options: list[Any], place: str) -> Values:
    """Values of the pipeline file in the type of the column. Raises ConfigError if one does not fit."""
    import pyarrow as pa

    from etl.tables.casting import cast

    texts = [str(option).lower() if isinstance(option, bool) else str(option) for option in options]
    typed = cast(pa.array(texts, pa.string()), values.type)
    for option, fitted in zip(options, typed.is_valid().to_pylist(), strict=True):
        if not fitted:
            raise ConfigError(f"{place}: {option!r} does not fit a column of type {values.type}")
    return typed


def _text_columns(batch: DataFrame) -> list[str]:
    from pandas.api.types import is_object_dtype, is_string_dtype

    return [str(name) for name, kind in batch.dtypes.items() if is_string_dtype(kind) and not is_object_dtype(kind)]
