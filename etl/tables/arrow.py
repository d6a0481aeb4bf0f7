"""Takes columns of a batch out of pandas as Arrow arrays, and puts them back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute

from etl.errors import DataError
from etl.steps import did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pandas import DataFrame, Index, Series

    from etl.ledger import Account

Values: TypeAlias = Any  # a pyarrow.Array
pc: Any = pyarrow.compute  # its stubs know neither all that it has nor all that it takes


def check_columns(batch: DataFrame, names: Iterable[str]) -> None:
    """Raise DataError, with the nearest valid name, for each of ``names`` that is not a column of the batch."""
    columns = [str(name) for name in batch.columns]
    missing = [f"there is no column {name!r}{did_you_mean(name, columns)}" for name in names if name not in columns]
    if missing:
        raise DataError("\n".join(missing))


def as_arrow(values: Series[Any]) -> Any:
    """The column as an Arrow array, or as several in a ChunkedArray: whichever it is, for columns that Arrow backs."""
    if isinstance(values.dtype, pd.ArrowDtype):
        return values.array.__arrow_array__()  # what pa.array would find in the end
    return pa.array(values, from_pandas=True)


def arrow_columns(batch: DataFrame) -> dict[Any, Any] | None:
    """All columns as ``as_arrow`` gives them, if Arrow backs every one, as nearly always; no two of one name."""
    columns = [values for _, values in batch.items()]
    if not batch.columns.is_unique or not all(isinstance(values.dtype, pd.ArrowDtype) for values in columns):
        return None
    return {values.name: as_arrow(values) for values in columns}


def array_of(values: Series[Any]) -> Values:
    """The column as one Arrow array. Python objects become text, nested ones JSON; categories become their values."""
    if values.dtype == object:
        return pa.array(
            [None if null else _described(v) for v, null in zip(values, values.isna(), strict=True)], pa.string()
        )
    found = as_arrow(values)
    array = _one_array(found) if isinstance(found, pa.ChunkedArray) else found
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(pa.string()) if is_text(array.type) else array


def _one_array(chunked: Any) -> Values:
    return chunked.chunk(0) if chunked.num_chunks == 1 else chunked.combine_chunks()  # which copies a single chunk too


def series_of(values: Values, like: Series[Any]) -> Series[Any]:
    """A column that holds ``values``, with the index and the name of ``like``."""
    return pd.Series(_as_pandas(values), index=like.index, name=like.name)


def with_columns(batch: DataFrame, columns: Mapping[str, Values | Series[Any]]) -> DataFrame:
    """The batch with these columns, as Arrow arrays or as Series, in place of those of the same names, or behind."""
    if not columns:
        return batch
    result = batch.copy(deep=False)
    for name, values in columns.items():  # assign, which takes them as keywords, knows no column called self
        result[name] = values if isinstance(values, pd.Series) else _as_pandas(values)
    return result


def _as_pandas(values: Values) -> pd.arrays.ArrowExtensionArray:
    return pd.arrays.ArrowExtensionArray(pa.chunked_array([values]))


def rows_kept(batch: DataFrame, mask: NDArray[np.bool_]) -> DataFrame:
    """The rows for which ``mask`` is true. Columns that Arrow backs are filtered by Arrow, in half of pandas' time."""
    columns = arrow_columns(batch)
    if columns is None:
        return batch[mask]
    chosen: Any = pa.array(mask)
    kept = {name: pd.arrays.ArrowExtensionArray(values.filter(chosen)) for name, values in columns.items()}
    return pd.DataFrame(kept, index=batch.index[mask], columns=batch.columns, copy=False)


def reported(account: Account, rule: str, before: Values, after: Values, like: Series[Any]) -> Values:
    """Report as repairs what differs; gives back ``after``. ``like``: has the rows' labels."""
    if after is not before and not after.equals(before):
        account.repair(rule, series_of(before, like), series_of(after, like))
    return after


def rows_where(mask: Values, index: Index[Any]) -> Index[Any]:
    """The labels of the rows for which ``mask`` is true."""
    chosen: NDArray[np.bool_] = pc.fill_null(mask, False).to_numpy(zero_copy_only=False)
    return index[chosen]


def python_values(values: Series[Any]) -> list[Any]:
    """The values in Python's types, None for null; as text, if one of them is beyond these, as is the year 10000."""
    try:
        return [None if missing else value for value, missing in zip(values.tolist(), values.isna(), strict=True)]
    except (OverflowError, ValueError):
        return as_text(array_of(values)).to_pylist()  # type: ignore[no-any-return]


def extremes(values: Values) -> tuple[Any, Any]:
    """The least and the greatest value, in Python's types; None if there is none, or no such type holds them."""
    try:
        found = pc.min_max(values)
        least, most = found["min"].as_py(), found["max"].as_py()
    except (OverflowError, ValueError, NotImplementedError):  # the year 10000; half floats, which Arrow cannot compare
        return None, None
    return (None, None) if least != least else (least, most)  # NaN, if there is nothing else


def key_text(batch: DataFrame, names: Sequence[str]) -> Series[Any]:
    """The values of one or several columns as evidence: ``7`` or ``7, NL``."""
    texts = [as_text(array_of(batch[name])) for name in names]
    joined = pc.binary_join_element_wise(*texts, ", ", null_handling="replace", null_replacement="null")
    return series_of(joined if len(texts) > 1 else texts[0], batch[names[0]])


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def is_date_or_time(kind: pa.DataType) -> bool:
    return pa.types.is_date(kind) or pa.types.is_timestamp(kind)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the same values, however a batch or a file packs them: in no dictionary, and in no views."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.string()
    return pa.binary() if pa.types.is_binary_view(kind) else kind


def as_text(values: Values) -> Values:
    """The values as text, each in one way only: 67, 0.5, 2024-01-31, true; nested ones as JSON."""
    if pa.types.is_string(values.type):
        return values
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), None, values)
    kind = values.type
    if pa.types.is_nested(kind) or is_bytes(kind) or isinstance(kind, pa.BaseExtensionType):
        return pa.array([None if value is None else _described(value) for value in values.to_pylist()], pa.string())
    return values.cast(pa.string())


def _described(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
