"""Reads files back that ``encoders.py`` wrote, with the types they were written with."""

from __future__ import annotations

import base64
import gzip
import io
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from etl.formats.json_text import is_plain
from etl.formats.options import CsvStyle, Format
from etl.tables.arrow import is_bytes

_AS_THEY_ARE = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_string, pa.types.is_large_string)


def decode(content: bytes, file_format: Format, schema: pa.Schema, columns: Sequence[str], style: CsvStyle) -> pa.Table:
    """The given columns of one file that has ``schema``. ``style``: how it was written, if it is CSV.

    From CSV and JSON lines, nested values and durations come back as the JSON text that is there.
    """
    if not columns:
        return pa.table({})
    if file_format == "parquet":
        return pyarrow.parquet.read_table(io.BytesIO(content), columns=list(columns)).replace_schema_metadata(None)
    if file_format.endswith(".gz"):
        content = gzip.decompress(content)
    if file_format.startswith("csv"):
        texts = _csv_table(content, schema, columns, style)
        arrays = [_typed(texts.column(name), schema.field(name).type) for name in columns]
    else:
        rows = [json.loads(line) for line in content.split(b"\n") if line]
        arrays = [_json_column([row[name] for row in rows], schema.field(name).type) for name in columns]
    return pa.table(arrays, names=list(columns))


def _csv_table(content: bytes, schema: pa.Schema, columns: Sequence[str], style: CsvStyle) -> pa.Table:
    """Numbers, booleans, dates and times typed; the rest as text."""
    if not style.header and not content:
        return schema.empty_table()
    text = pa.large_string()
    types = {field.name: text if _stays_text(field.type) else field.type for field in schema}
    return pyarrow.csv.read_csv(
        io.BytesIO(content),
        pyarrow.csv.ReadOptions(column_names=schema.names, skip_rows=0, skip_rows_after_names=int(style.header)),
        pyarrow.csv.ParseOptions(delimiter=style.delimiter, newlines_in_values=True, ignore_empty_lines=False),
        pyarrow.csv.ConvertOptions(
            column_types=types,
            include_columns=list(columns),
            null_values=[style.null_word],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )


def _stays_text(kind: pa.DataType) -> bool:
    return not is_plain(kind) or is_bytes(kind)


def _json_column(values: list[Any], kind: pa.DataType) -> Any:
    if any(is_kind(kind) for is_kind in _AS_THEY_ARE):
        return pa.array(values, kind)
    if pa.types.is_floating(kind):  # "NaN" and "Infinity" are text there
        return pa.array([None if value is None else float(value) for value in values], kind)
    texts = (value if value is None or isinstance(value, str) else json.dumps(value) for value in values)
    return _typed(pa.array(texts, pa.large_string()), kind)


def _typed(column: Any, kind: pa.DataType) -> Any:
    if column.type == kind or not is_plain(kind):
        return column
    if is_bytes(kind):
        return pa.array((None if text is None else base64.b64decode(text) for text in column.to_pylist()), kind)
    return column.cast(kind)
