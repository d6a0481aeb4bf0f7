"""What an extractor gives, all of it: as a frame, as rows, with what it rejects; or in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from typing import Any

import pandas as pd
from pandas import DataFrame

from etl.base import Extractor
from etl.ledger import Account, Reject
from etl.paths import PROJECT


def frame_of(extractor: Extractor, account: Account | None = None) -> DataFrame:
    return pd.concat(extractor.extract(account))


def rows_of(extractor: Extractor) -> list[tuple[Any, ...]]:
    """The rows, with None for null."""
    found = frame_of(extractor)
    return [tuple(row) for row in found.astype(object).where(found.notna(), None).itertuples(index=False)]


def rejects_of(extractor: Extractor) -> tuple[DataFrame, list[Reject]]:
    account = Account("test")
    frame = frame_of(extractor, account)
    assert account.balances()
    return frame, account.take_rejects()


def types_of(frame: DataFrame) -> dict[str, str]:
    return {str(name): str(dtype).removesuffix("[pyarrow]") for name, dtype in frame.dtypes.items()}


def said_by(code: str) -> str:
    """What a fresh process prints that runs this code."""
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def peak_of_reading(kind: type[Extractor], rows: int, **options: Any) -> int:
    """Bytes of memory that a fresh process has at most when it reads so many rows."""
    code = f"""
        import resource
        from {kind.__module__} import {kind.__name__}
        extractor = {kind.__name__}.model_validate({options!r})
        extractor.inspect()
        assert sum(len(batch) for batch in extractor.extract()) == {rows}
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    """
    return int(said_by(code))
