"""A transformer that makes several rows of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from etl.base import Transformer
from etl.errors import ConfigError
from etl.ledger import PART_BITS, source_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pandas import DataFrame, Index

    from etl.ledger import Account

Fields = tuple[str | None, ...]

_ITSELF = "."


class ExplodeJson(Transformer):
    """Makes a row of each element of a JSON list, beside the other columns of its row; an object is a list of one.

    The new columns are text: numbers as they are written, lists and objects as JSON, so that CastTypes and another
    ExplodeJson can go on from there. What is neither a list nor an object is rejected.
    """

    column: str = Field(description="The column that holds JSON. It is left out.")
    take: dict[str, Annotated[str, Field(min_length=1)]] = Field(
        min_length=1,
        description='Column -> the field of an element to put there: "price", "buyer.name", or "." for all of it.',
    )
    empty: Literal["keep", "drop"] = Field(
        default="keep", description="What becomes of a row without elements: it stays, with nulls, or leaves."
    )

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        return [self.column] if column in self.take else [column]

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        import numpy as np

        from etl.tables.arrow import array_of, as_text, check_columns

        check_columns(batch, [self.column])
        others = batch.drop(columns=self.column)
        taken = [name for name in self.take if name in others.columns]
        if taken:
            raise ConfigError(f"take: there is a column {', '.join(taken)} already; set other names")
        lists = [self._taken(text) for text in as_text(array_of(batch[self.column])).to_pylist()]
        counts = np.array([len(elements or (None,)) for elements in lists], np.intp)
        rows = others.take(np.repeat(np.arange(len(batch)), counts)).set_axis(_labels(batch.index, counts))
        account.add(f"elements of {self.column}", len(rows) - len(batch))
        firsts = rows.index[np.cumsum(counts) - counts]
        broken = np.array([elements is None for elements in lists], bool)
        values = batch[self.column].set_axis(firsts)
        account.reject(firsts[broken], "not a JSON list or object", column=self.column, values=values)
        if self.empty == "drop":
            account.drop(
                firsts[np.array([elements == [] for elements in lists], bool)], f"no elements in {self.column}"
            )
        nothing = (None,) * len(self.take)
        return self._with_fields(rows, [fields for elements in lists for fields in elements or (nothing,)])

    def _taken(self, text: str | None) -> list[Fields] | None:
        """What to take of each element of a JSON list, or of an object; none for null; None if it is neither."""
        if text is None:
            return []
        try:
            value = json.loads(text, parse_float=Decimal, parse_constant=_no_constant)
            elements = [value] if isinstance(value, dict) else value
            if not isinstance(elements, list):
                return None
            return [tuple(_text(_field(element, path)) for path in self.take.values()) for element in elements]
        except (ValueError, RecursionError, InvalidOperation):  # the last: an exponent of more than 18 digits
            return None

    def _with_fields(self, rows: DataFrame, elements: list[Fields]) -> DataFrame:
        import pyarrow as pa

        from etl.tables.arrow import with_columns

        fields = {}
        for number, name in enumerate(self.take):
            fields[name] = pa.array([element[number] for element in elements], pa.string())
        return with_columns(rows, fields)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _field(element: Any, path: str) -> Any:
    if path == _ITSELF:
        return element
    for key in path.split("."):
        element = element.get(key) if isinstance(element, dict) else None
    return element


def _text(value: Any) -> str | None:
    """Raises ValueError for half a surrogate pair, which JSON can escape and no text can hold."""
    if value is None:
        return None
    if isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, dict | list):
        from etl.files.json_types import json_text  # only here: to import is slower than to write a number

        value = json_text(value)
    text = str(value)
    text.encode()
    return text


def _labels(index: Index[Any], counts: NDArray[np.intp]) -> NDArray[np.int64]:
    """A label of its own for each part: the number of the source row, and above it which part of that row it is."""
    import numpy as np
    import pandas as pd

    sources = np.repeat(source_rows(index), counts)
    parts = pd.Series(sources).groupby(sources).cumcount().to_numpy(np.int64)
    return sources | parts << PART_BITS
