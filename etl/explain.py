"""Shows what becomes of one row: each step's changes, repairs, rejection or reason to drop it. Publishes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from etl.errors import ConfigError, DataError
from etl.incremental.options import incremental_of
from etl.ledger import Account, Reject, account_names, labels_of, source_row, source_rows
from etl.lock import locked
from etl.privacy import HIDDEN, Veil

if TYPE_CHECKING:
    from pandas import DataFrame, Index, Series

    from etl.base import Transformer
    from etl.ledger import Rows
    from main import Pipeline

Cells = dict[str, str | None]

_MOST_ROWS = 5
_INDENT = " " * 6


@dataclass
class Trace(Account):
    """An account that also remembers, for one batch, which rows it was told what about."""

    rejects: list[Reject] = field(default_factory=list)
    drops: list[tuple[int, str]] = field(default_factory=list)
    repairs: list[tuple[str, Series[Any], Series[Any]]] = field(default_factory=list)
    samples: list[tuple[str, int]] = field(default_factory=list)
    made_from: Callable[[str, Sequence[str]], Sequence[str]] = lambda _column, _columns: ()

    def begin(self) -> None:
        """A new batch."""
        self.rejects, self.drops, self.repairs, self.samples = [], [], [], []

    def drop(self, rows: Rows, reason: str) -> None:
        self.drops += [(label, reason) for label in labels_of(rows)]
        super().drop(rows, reason)

    def repair(self, rule: str, before: Series[Any], after: Series[Any]) -> None:
        self.repairs.append((rule, before, after))
        super().repair(rule, before, after)

    def count_repairs(self, rule: str, count: int, samples: list[dict[str, Any]] | None = None) -> None:
        self.samples += [(rule, sample["row"]) for sample in samples or ()]
        super().count_repairs(rule, count, samples)

    def rules(self, row: int) -> list[str]:
        """The rules by which values of a row were repaired."""
        rules = [rule for rule, of_row in self.samples if of_row == row]
        for rule, before, after in self.repairs:
            labels = _parts_of(row, before.index)
            if any(_text(before.loc[[label]]) != _text(after.loc[[label]]) for label in labels):
                rules.append(rule)
        return list(dict.fromkeys(rules))


class Wanted:
    """Which rows to show: ``12`` is a number in the source, ``set_id=75313-1`` a value before or after any step."""

    def __init__(self, text: str) -> None:
        column, equals, value = text.partition("=")
        if not equals and not text.isdecimal():
            raise ConfigError(f"--explain {text}: should be a row number, such as 12, or COLUMN=VALUE")
        self.row = None if equals else int(text)
        self.column, self.value = column.strip(), value
        self.words = f"has {self.column} = {value!r}" if equals else f"has number {int(text):,}"

    def among(self, stages: Sequence[DataFrame], lines: Sequence[Reject]) -> list[int]:
        """The wanted rows of a batch, given as it was before and after each step, and of what could not be read."""
        if self.row is not None:
            there = len(_parts_of(self.row, stages[0].index)) or any(line.row == self.row for line in lines)
            return [self.row] if there else []
        labels = [label for stage in stages for label in self._labels(stage)]
        unread = {line.row for line in lines if self.value and self.value in str(line.raw)}
        return sorted(unread.union(map(source_row, labels)))

    def _labels(self, stage: DataFrame) -> Iterable[int]:
        from etl.tables.arrow import array_of, as_text, pc, rows_where

        if self.column not in stage.columns:
            return []
        labels: list[int] = rows_where(
            pc.equal(as_text(array_of(stage[self.column])), self.value), stage.index
        ).tolist()
        return labels


def explain(pipeline: Pipeline, wanted: str) -> int:
    """Print the journey of the wanted rows, the first few. Raises DataError if there is none."""
    sought = Wanted(wanted)
    if sought.row is not None and incremental_of(pipeline.extractor):
        raise ConfigError(
            f"--explain {wanted}: each incremental run counts the rows that it reads anew; name a value, such as id=7"
        )
    shown = 0
    with locked(pipeline.name):
        for journey in _journeys(pipeline, sought):
            print("\n".join(journey))
            shown += 1
            if shown == _MOST_ROWS:
                print(f"There may be more; these are the first {_MOST_ROWS}.")
                break
    if not shown:
        raise DataError(f"no row {sought.words}, neither as it is read nor after any step")
    print("This is what a run does with a row that it reads; --explain publishes nothing.")
    return 0


def _journeys(pipeline: Pipeline, sought: Wanted) -> Iterator[Iterator[str]]:
    first, *names = account_names(step.name for step in (pipeline.extractor, *pipeline.transformers))
    reading = Trace(first)
    traces = [Trace(name, made_from=step.made_from) for name, step in zip(names, pipeline.transformers, strict=True)]
    veil = Veil((reading, *traces), pipeline.transformers)
    with pipeline.extractor.blamed():
        source = pipeline.extractor.inspect().uri
        splits = pipeline.extractor.splits()
    try:
        for split in splits:
            reading.begin()  # another may have rows of the same numbers
            for batch in split.extract(reading):
                stages = _stages(batch, pipeline.transformers, traces)
                veil.see(stage.columns for stage in stages)
                reading.rejects = reading.take_rejects()
                for row in sought.among(stages, reading.rejects):
                    place = f"row {row:,} of {batch.attrs.get('source', source)}"
                    yield _journey(place, row, stages, (reading, *traces), veil)
                    if row == sought.row and len(splits) == 1:
                        return
    finally:
        for trace in traces:
            trace.close()


def _stages(batch: DataFrame, transformers: Sequence[Transformer], traces: Sequence[Trace]) -> list[DataFrame]:
    """The batch before the first transformer and after each."""
    stages = [batch]
    for transformer, trace in zip(transformers, traces, strict=True):
        trace.begin()
        stages.append(transformer.transform(stages[-1], trace))
        trace.rejects = trace.take_rejects()
    return stages


def _journey(place: str, row: int, stages: Sequence[DataFrame], traces: Sequence[Trace], veil: Veil) -> Iterator[str]:
    yield place
    reading, *steps = traces
    unread = next((reject for reject in reading.rejects if reject.row == row), None)
    if unread is not None:
        yield from (f"  {reading.step}", f"{_INDENT}rejected: {unread.rule}: {veil.raw(unread.raw)[0]}")
        return
    yield f"  {reading.step}, as read"
    yield from (f"{_INDENT}repaired: {rule}" for rule in reading.rules(row))
    parts = [_cells(stage, row, veil.before(number)) for number, stage in enumerate(stages)]
    for cells in parts[0].values():
        yield from _aligned((name, repr(value)) for name, value in cells.items())
    for trace, (before, after) in zip(steps, pairwise(parts), strict=True):
        if not before:
            return
        yield f"  {trace.step}"
        told = list(_step(row, before, after, trace, veil))
        yield from told or [f"{_INDENT}nothing changes"]
    if parts[-1]:
        yield "  published" if len(parts[-1]) == 1 else f"  published, as {len(parts[-1]):,} rows"


def _step(row: int, before: dict[int, Cells], after: dict[int, Cells], trace: Trace, veil: Veil) -> Iterator[str]:
    for label, cells in after.items():
        if label not in before:
            yield f"{_INDENT}one more row of it:"
        origin = before.get(label) or before.get(row) or next(iter(before.values()))
        yield from _aligned(_changes(origin, cells, trace))
    yield from (f"{_INDENT}repaired: {rule}" for rule in trace.rules(row))
    for reject in (reject for reject in trace.rejects if reject.row == row):
        value = veil.value(trace.step, reject.column, reject.value)
        yield f"{_INDENT}rejected: {f'{reject.column} = {value!r}: ' if reject.column else ''}{reject.rule}"
    yield from (f"{_INDENT}dropped: {reason}" for label, reason in trace.drops if source_row(label) == row)


def _changes(before: Cells, after: Cells, trace: Trace) -> Iterator[tuple[str, str]]:
    """What differs. A column that is gone and one with its value, made from it, are one column with another name."""
    gone = {name: value for name, value in before.items() if name not in after}
    for name, value in after.items():
        if name in before:
            if before[name] != value:
                yield name, f"{before[name]!r} -> {value!r}"
            continue
        sources = [old for old in trace.made_from(name, list(before)) if old in gone]
        told = value is not None or len(sources) == 1  # of several that are null, nobody can tell which it was
        old = next((old for old in sources if gone[old] == value and told), None)
        if old is None:
            yield name, f"new: {value!r}"
        else:
            del gone[old]
            yield name, f"was {old}"
    yield from ((name, f"gone: {value!r}") for name, value in gone.items())


def _aligned(pairs: Iterable[tuple[str, str]]) -> Iterator[str]:
    lines = list(pairs)
    width = max((len(name) for name, _ in lines), default=0)
    return (f"{_INDENT}{name:<{width}}  {told}" for name, told in lines)


def _cells(frame: DataFrame, row: int, hidden: set[str] | None) -> dict[int, Cells]:
    """The texts of a row's cells, for each of its parts, by their labels."""
    found = {}
    for label in _parts_of(row, frame.index):
        part = frame.loc[[label]]
        cells = {str(name): _text(values) for name, values in part.items()}
        found[label] = {name: _veiled(value, hidden is None or name in hidden) for name, value in cells.items()}
    return found


def _veiled(value: str | None, hides: bool) -> str | None:
    return HIDDEN if hides and value is not None else value


def _parts_of(row: int, index: Index[Any]) -> list[int]:
    """The labels of a source row and of its parts."""
    return [int(label) for label in index[source_rows(index) == row]]


def _text(values: Series[Any]) -> str | None:
    """The one value of a column, as text."""
    from etl.tables.arrow import array_of, as_text

    text: str | None = as_text(array_of(values))[0].as_py()
    return text
