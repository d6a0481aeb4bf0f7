"""What every transformer of the library must do beside the contract of all transformers: never mind how rows arrive."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas import DataFrame, Series
from pandas.testing import assert_frame_equal

from etl.ledger import Account
from etl.tables.arrow import array_of, as_text
from tests.contracts import TransformerContract

TEXT = pd.ArrowDtype(pa.string())


def table(types: dict[str, Any] | None = None, **columns: list[Any]) -> DataFrame:
    """A frame of Arrow-backed columns, text unless ``types`` says otherwise, numbered from 1."""
    typed = {
        name: Series(values, dtype=pd.ArrowDtype((types or {}).get(name, pa.string())))
        for name, values in columns.items()
    }
    frame = DataFrame(typed)
    return frame.set_axis(range(1, len(frame) + 1), axis="index")


def listed(values: Series) -> list[Any]:
    """The values as Python objects, None for null."""
    return array_of(values).to_pylist()  # type: ignore[no-any-return]


def repairs(account: Account) -> dict[str, int]:
    return {rule: repair.count for rule, repair in account.repaired.items()}


def rejects(account: Account) -> list[tuple[int, str | None, str | None, str]]:
    return [(reject.row, reject.column, reject.value, reject.rule) for reject in account.take_rejects()]


class AnySplitContract(TransformerContract):
    """MUST write: ``make`` and ``frame``, as for every transformer; rows are drawn from that frame."""

    # One test function serves many classes, which is what the health check is about.
    @settings(max_examples=20, suppress_health_check=[HealthCheck.differing_executors])
    @given(st.data())
    def test_any_split_gives_the_same(self, data: st.DataObject) -> None:
        pool = self.frame()
        picks = data.draw(st.lists(st.integers(0, len(pool) - 1), max_size=12), label="rows")
        frame = pool.iloc[picks].set_axis(range(1, len(picks) + 1), axis="index")
        cuts = sorted(data.draw(st.lists(st.integers(0, len(picks)), max_size=5), label="cuts"))
        bounds = [0, *cuts, len(picks)]
        parts = [frame.iloc[start:end] for start, end in pairwise(bounds)]
        whole_rows, whole_account = self.outcome(frame)
        rows, account = self.outcome(*parts)
        assert_frame_equal(rows, whole_rows, check_index_type=False)
        assert account == whole_account

    @pytest.mark.parametrize("kind", ["object", "str"])
    def test_columns_that_numpy_or_pandas_holds_give_the_same(self, kind: str) -> None:
        frame = self.frame()
        texts = [name for name, dtype in frame.dtypes.items() if dtype == TEXT]
        rows, account = self.outcome(frame)
        other_rows, other_account = self.outcome(frame.astype(dict.fromkeys(texts, kind)))
        assert_frame_equal(_as_text(other_rows), _as_text(rows))
        assert other_account == account

    def test_the_index_may_be_any_numbers(self) -> None:
        frame = self.frame()
        numbers = range(1_000_003, 1_000_003 + 7 * len(frame), 7)
        rows, _ = self.outcome(frame.set_axis(numbers, axis="index"))
        expected, _ = self.outcome(frame)
        assert rows.index.tolist() == [numbers[row - 1] for row in expected.index]


def _as_text(frame: DataFrame) -> DataFrame:
    return DataFrame(
        {name: Series(as_text(array_of(values)).to_pylist(), dtype=object) for name, values in frame.items()}
    )
