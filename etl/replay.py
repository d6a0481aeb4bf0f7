"""Takes the rejected rows of a run through the steps again, once those were mended, and adds the good ones."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import time
from itertools import groupby
from typing import TYPE_CHECKING, Any

from pydantic import Field, PrivateAttr

from etl.base import Extractor, Loader, Transformer
from etl.errors import ConfigError, DataError
from etl.guard import Guard
from etl.incremental.options import NO_CURSOR
from etl.ledger import Account
from etl.quarantine import read_rejects
from etl.rejects import find_rejects
from etl.run import Source

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.history import Replays
    from etl.report import RunReport
    from main import Pipeline

Entry = dict[str, Any]
Rows = dict[tuple[str, int], Entry]  # by source and number
Key = tuple[str, ...]

_UNREAD = "could not be read by the extractor"
_HIDDEN = "have values that a step hides"
_IN_PART = "were published in part"
_UNDATED = "have nothing that tells whether they are new"
_AGAIN = "run the pipeline: it reads the source again"

log = logging.getLogger("etl.pipeline")


def replay(pipeline: Pipeline, wanted: str) -> RunReport | None:
    """Run the rejected rows of a run again; None if that was done before.

    A dataset gets the good ones beside the rows that the run published. What is replaced whole (one object, one file)
    is made anew from the source, which comes to the same. Raises ConfigError unless what the run published is live.
    """
    loader = pipeline.loader
    with loader.blamed():
        run_id, rows = _rejected_rows(pipeline, wanted)
        replays = loader.replays()
        done = replays.check(run_id) if replays else _made_anew_by(loader, run_id)
    if done:
        log.info("run %s was replayed by run %s already; what was rejected again: replay %s", run_id, done, done)
        return None
    if replays is None:
        log.info("%s replaces the whole table: the source is read again", loader.name)
        return pipeline.run(replays=run_id)
    return _of_rejects(pipeline, replays, run_id, rows).run(replays=run_id)


def _rejected_rows(pipeline: Pipeline, wanted: str) -> tuple[str, Rows]:
    """The id of the run, and the rows that it has rejected: of each, what was written of the last rule that it broke.

    Raises ConfigError if another pipeline, which publishes to the same place, has rejected them.
    """
    run_id, content = find_rejects(pipeline.loader, pipeline.name, wanted)
    rows: Rows = {}
    for entry in read_rejects(content):
        name = entry.get("pipeline", pipeline.name)
        if name != pipeline.name:
            raise ConfigError(f"run {run_id} is one of the pipeline {name!r}; replay it with that one's file")
        rows[entry["source"], entry["row"]] = entry
    return run_id, rows


def _made_anew_by(loader: Loader, run_id: str) -> str | None:
    """The run that has made the table anew because of ``run_id``, if it is live."""
    if loader.adds_rows():
        raise ConfigError(f"{loader.name} cannot add rows to those of an earlier run without doubling them; {_AGAIN}")
    live = loader.live()
    if live is None or live.run_id is None:
        raise ConfigError("nothing is published: there is nothing to add rows to; run the pipeline")
    if live.run_id == run_id:
        return None
    if _report_of(loader, live.run_id).get("replays") != run_id:
        raise ConfigError(f"run {run_id} is not what is live at {live.uri}, that is run {live.run_id}; {_AGAIN}")
    return live.run_id


def _report_of(loader: Loader, run_id: str) -> dict[str, Any]:
    """The report of a run; empty if none was kept."""
    report: dict[str, Any] = json.loads(loader.kept(f"_runs/{run_id}.json") or b"{}")
    return report


def _of_rejects(pipeline: Pipeline, replays: Replays, run_id: str, rows: Rows) -> Pipeline:
    """The pipeline that reads rejected rows in place of its source, and leaves out what is published already."""
    with pipeline.loader.blamed():
        published = replays.columns()
        report = _report_of(pipeline.loader, run_id)
    extractor = RejectedRows(run_id=run_id)
    extractor._rows = _replayable(run_id, rows)
    extractor._arrow_schema = (report.get("rejects") or {}).get("arrow_schema")
    unpublished = Unpublished(run_id=run_id, keys=_keys(pipeline.transformers, published))
    unpublished._replays = replays
    return replace(
        pipeline,
        extractor=extractor,
        transformers=(*pipeline.transformers, unpublished),
        max_rejects="100%",
        guard=Guard(enabled=False),
        schema=None,  # of rejected rows there is nothing to learn
    )


def _keys(transformers: Sequence[Transformer], published: Sequence[str]) -> dict[Key, bool]:
    """By which published columns a row that comes later is compared with those, and whether null equals null there."""
    keys: dict[Key, bool] = {}
    for step in transformers:
        key = step.keyed_by()
        if key is None or not set(key) <= set(published):
            what = "remembers whole rows, or several keys" if key is None else f"tells rows apart by {', '.join(key)}"
            raise ConfigError(f"{step.name} {what}, and what is published cannot tell which came before; {_AGAIN}")
        if key:
            keys[key] = keys.get(key, False) or step.null_is_key()
    return keys


def _replayable(run_id: str, rows: Rows) -> list[Entry]:
    """An entry for each row that can be taken through the steps as it was read, in the order of reading.

    The others are counted in the log.
    """
    left = Counter(filter(None, map(_obstacle, rows.values())))
    for obstacle, count in left.items():
        log.warning("%s of the %s rejected rows %s and stay out; %s", f"{count:,}", f"{len(rows):,}", obstacle, _AGAIN)
    good = [entry for entry in rows.values() if _obstacle(entry) is None]
    if not good:
        reasons = ", ".join(f"{count:,} {obstacle}" for obstacle, count in left.items())
        raise DataError(f"none of the {len(rows):,} rejected rows of run {run_id} can be replayed: {reasons}; {_AGAIN}")
    sources = {source: place for place, source in enumerate(dict.fromkeys(source for source, _ in rows))}
    return sorted(good, key=lambda entry: (sources[entry["source"]], entry["row"]))  # they were kept rule by rule


def _obstacle(entry: Entry) -> str | None:
    if entry.get("hidden"):
        return _HIDDEN
    if not isinstance(entry["raw"], dict):
        return _UNREAD
    if entry["rule"].startswith(NO_CURSOR):  # what follows is advice, and older rejects have none
        return _UNDATED
    return _IN_PART if entry.get("in_part") else None


class RejectedRows(Extractor):
    """Reads the rows that a run has rejected, as they were read then and with their numbers."""

    run_id: str = Field(description="The run.")

    _rows: list[Entry] = PrivateAttr(default_factory=list)
    _arrow_schema: str | None = PrivateAttr(default=None)

    def inspect(self) -> Source:
        content = json.dumps([[entry["source"], entry["row"], entry["raw"]] for entry in self._rows])
        return Source(f"rejects of run {self.run_id}", hashlib.sha256(content.encode()).hexdigest())

    def read(self, account: Account) -> Iterator[DataFrame]:
        for source, entries in groupby(self._rows, key=lambda entry: entry["source"]):
            rows = list(entries)
            for start in range(0, len(rows), self.batch_rows):
                yield self._frame(source, rows[start : start + self.batch_rows])

    def _frame(self, source: str, rows: Sequence[Entry]) -> DataFrame:
        import pandas as pd
        import pyarrow as pa

        schema: Any = ()
        if self._arrow_schema:
            schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(self._arrow_schema)))
        types = {field.name: field.type for field in schema}
        names = list(types) or list(rows[0]["raw"])
        arrays = [_array(name, [row["raw"].get(name) for row in rows], types.get(name, pa.string())) for name in names]
        frame: DataFrame = pa.table(arrays, names=names).to_pandas(types_mapper=pd.ArrowDtype)
        frame.index = pd.Index([row["row"] for row in rows], dtype="int64")
        frame.attrs["source"] = source
        return frame


def _array(name: str, values: list[Any], kind: Any) -> Any:
    """The values in the type that they had. JSON has none for decimals and times, which are text there."""
    import pyarrow as pa

    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        raise DataError(f"{name} was {kind}, which the rejects cannot give back; {_AGAIN}")
    if pa.types.is_time(kind):
        values = [None if value is None else time.fromisoformat(value) for value in values]
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    try:
        return texts.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{name} was {kind}, which the rejects cannot give back ({error}); {_AGAIN}") from error


class Unpublished(Transformer):
    """Rejects rows whose key is published already, by the run whose rejects these are or by one that replayed them."""

    run_id: str = Field(description="The run.")
    keys: dict[Key, bool] = Field(description="What tells rows apart: columns -> whether null equals null in these.")

    _replays: Any = PrivateAttr(default=None)

    def start(self) -> _Published:
        return _Published(self._replays, self.run_id, self.keys)

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        from etl.tables.arrow import check_columns, key_text

        published: _Published = account.state
        for key, null_is_key in self.keys.items():
            check_columns(batch, key)
            known = published.among(batch, key)
            if not null_is_key:
                known &= batch[list(key)].notna().all(axis="columns").to_numpy(dtype=bool)
            if known.any():
                rows = batch[known]
                account.reject(rows.index, "published already", column=", ".join(key), values=key_text(rows, key))
        return batch


class _Published:
    """The keys of the rows that are live."""

    def __init__(self, replays: Replays, run_id: str, keys: Iterable[Key]) -> None:
        from etl.tables.keys import KeyIndex

        self._indexes = {key: KeyIndex() for key in keys}
        for key, index in self._indexes.items():
            for frame in replays.rows(run_id, key):
                index.check(*_marked(frame, key, "published"))

    def among(self, batch: DataFrame, key: Key) -> Any:
        """Mask of the rows whose key is live. Rows of the batch may share a key, as the parts of one row do."""
        _, conflicts = self._indexes[key].check(*_marked(batch, key, "replayed"))
        return conflicts

    def close(self) -> None:
        for index in self._indexes.values():
            index.close()


def _marked(frame: DataFrame, key: Sequence[str], mark: str) -> tuple[DataFrame, list[str]]:
    """The key as text, as what is equal is equal in whatever type it was stored, beside a mark; and the key's columns.

    To an index, a row is in conflict with the first of its key if that has another mark.
    """
    import pandas as pd
    import pyarrow as pa

    from etl.tables.arrow import array_of, as_text

    columns = [as_text(array_of(frame[name])) for name in key]
    names = list(map(str, range(len(key))))
    table = pa.table([*columns, pa.repeat(mark, len(frame))], names=[*names, "mark"])
    return table.to_pandas(types_mapper=pd.ArrowDtype), names
