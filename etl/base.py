"""The three abstract classes: Extractor, Transformer, Loader.

A batch is a pandas DataFrame of a bounded number of rows. Its index is the row's number in the source (1 is
the first data row) and it may be empty, but it always has its columns.

Each class has public methods that are final (they count, time, check, and say which step failed) around
a few small methods that a subclass writes. A step's options are its fields: one declaration is the
constructor, the validation, the keys in the pipeline file, the repr and the documentation. Steps are frozen,
can be pickled, hold no open connection, and do no I/O in their constructor.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from pydantic import Field

from etl.errors import ConfigError, EtlError, network_is_source, translated
from etl.figures import Figures
from etl.ledger import Account
from etl.options import Options
from etl.redact import redact
from etl.run import Live, Published, Receipt, Run, Source

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.history import Replays
    from etl.incremental.options import Cursor


class Step(Options, ABC):
    """What extractors, transformers and loaders share: declared options, a name, and blame for failures."""

    @property
    def name(self) -> str:
        return type(self).__name__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        for key, value in super().__repr_args__():
            yield key, redact(value) if isinstance(value, str) else value

    def blamed(self) -> AbstractContextManager[None]:
        """Name this step in whatever error leaves the block."""
        return translated(self.name)


class Extractor(Step):
    """Reads a table from one kind of source.

    MUST write  ``read(account)``: yield batches of at most ``batch_rows`` rows, and at least one, empty if need be.
                A frame with pandas' default index gets the next row numbers; set the index yourself if you
                leave rows out, and report those with ``account.reject_line``.
    MAY write   ``inspect()``: fetch what is needed and tell what the source is; a fingerprint makes re-runs free.
                ``check()``: is the source reachable? One line of good news, or an error.
                ``splits()``: independent smaller extractors that together read the same rows.
                ``since(value)``: a copy that reads the rows whose ``incremental.column`` is ``value`` or more, or null;
                a few more do no harm. It goes with an option ``incremental: IncrementalOption = None``.
    MUST NOT    override ``extract``.
    """

    batch_rows: int = Field(default=65_536, gt=0, description="Most rows in a batch. The result is the same.")

    @abstractmethod
    def read(self, account: Account) -> Iterator[DataFrame]: ...

    @contextmanager
    def blamed(self) -> Iterator[None]:
        with super().blamed(), network_is_source():
            yield

    def inspect(self) -> Source:
        return Source(uri=self.name)

    def check(self) -> str:
        return self.inspect().uri

    def splits(self) -> Sequence[Extractor]:
        return [self]

    def since(self, value: Cursor) -> Extractor:
        raise ConfigError(f"{self.name} cannot read from a value on")

    @final
    def extract(self, account: Account | None = None) -> Iterator[DataFrame]:
        """Yield numbered batches. Errors name this step; the account balances at their end."""
        account = account or Account(self.name)
        with self.blamed():
            batches = iter(self.read(account))
            empty: DataFrame | None = None
            rejected, before, from_zero = 0, account.rows_out, False
            while True:
                with account.timed():
                    batch = next(batches, None)
                if batch is None:
                    break
                rejected = account.rejected.total()
                empty = batch.take([]) if empty is None else empty
                empty.attrs = batch.attrs  # a batch may say which source it is from
                rows_before = account.rows_out - before
                from_zero = from_zero if rows_before else _is_unnumbered(batch)
                yield _numbered(batch, account, rows_before if from_zero else 0)
                del batch  # or it would stay in memory while the next is made
            account.rows_in = account.rows_out + account.rejected.total()
            if empty is not None and account.rejected.total() > rejected:
                yield empty  # rejects go with a batch of their own source, also those behind its last row


class Transformer(Step):
    """Changes batches: cleans, types, checks, filters or derives.

    MUST write  ``apply(batch, account)``: return the new batch, with the index kept. Mark rows that
                leave with ``account.reject`` or ``account.drop`` (the base takes them out) and report changed
                values with ``account.repair``. Vectorised, and the same result for any batch size.
    MAY write   ``start()``: what the step must remember through one run, given back as ``account.state``. If it has
                a ``close()``, that is called when the run ends.
                ``keyed_by()``: where rows may go, if it remembers earlier ones. () it remembers none: anywhere.
                Columns: rows that are equal in these must meet in one place. None: all rows must go through one place.
                ``null_is_key()``: whether null equals null in that, as it does by default.
                ``describes()``: what its columns mean: column -> {"description": ..., "unit": ...}.
                ``ingredients()``: what the result depends on besides the options, such as the hash of a file.
                ``hides()``: the columns that nobody may see as they come in: not in rejects, samples or reports.
                ``made_from(column, columns)``: which of its input's ``columns`` one of its output is made from.
    MUST NOT    override ``transform``; change the batch it is given in place.
    """

    @abstractmethod
    def apply(self, batch: DataFrame, account: Account) -> DataFrame: ...

    def start(self) -> Any:
        return None

    def keyed_by(self) -> tuple[str, ...] | None:
        return ()

    def null_is_key(self) -> bool:
        return True

    def describes(self) -> Mapping[str, Mapping[str, str]]:
        return {}

    def ingredients(self) -> tuple[str, ...]:
        return ()

    def hides(self) -> tuple[str, ...]:
        return ()

    def made_from(self, column: str, columns: Sequence[str]) -> Sequence[str]:
        """The one of the same name; if there is none, it could be any: hiding too much is better than too little."""
        return [column] if column in columns else columns

    @final
    def transform(self, batch: DataFrame, account: Account | None = None) -> DataFrame:
        """Return the transformed batch. A row that is gone without a reason is an error."""
        account = account or Account(self.name)
        with self.blamed(), account.timed():
            if account.state is None:
                account.state = self.start()
            result = self.apply(batch, account)
            if result is None:
                raise EtlError("apply returned nothing; it should return the batch")
            if len(result) and _is_unnumbered(result) and not _is_unnumbered(batch):
                raise EtlError("gave its rows new numbers, and nobody could find a rejected one again: keep the index")
            return account.settle(len(batch), result)


class Loader(Step):
    """Publishes batches at one kind of destination, in two halves.

    ``write`` may happen in any process and gives back a small receipt; nothing that it does can be seen by a reader.
    ``commit`` or ``abort`` happens once, in one place, with all the receipts.

    MUST write  ``write(batches, run)``: store the batches out of sight; clean up after itself when it fails.
                ``commit(receipts, run)``: make them visible, in one atomic act.
    MAY write   ``abort(receipts)``: take back what ``write`` stored; must not raise.
                ``live()``: what is published now, or None. With an ``identity``, which ``commit`` gives too where it
                changes nothing, re-runs become free again after a change of code that changes no row.
                ``check()``: may we write there? One line of good news, or an error.
                ``keep(name, path)``: store a small file (report, rejects) beside the data; its URI.
                ``figures(live)``: what ``Receipt.figures`` was when that was published; else its report tells.
                ``adds_rows()``: whether a run adds to what is published, instead of replacing it.
                ``keeps_state()``: whether it commits ``Run.state`` with the rows that it adds, for the next run.
                ``replays()``: how rows are added to what an earlier run published, if they can be.
                ``kept(name)``: the content of such a file, or None; ``kept_names(folder)``: which there are.
                ``connected()``: a context around a run, whose calls can share a connection that is not in a field.
    MUST NOT    override ``load``.
    """

    @abstractmethod
    def write(self, batches: Iterator[DataFrame], run: Run) -> Receipt: ...

    @abstractmethod
    def commit(self, receipts: Sequence[Receipt], run: Run) -> Published: ...

    def abort(self, receipts: Sequence[Receipt]) -> None:
        return None

    def live(self) -> Live | None:
        return None

    def check(self) -> str:
        return self.name

    def figures(self, live: Live) -> Mapping[str, Any] | None:
        report = self.kept(f"_runs/{live.run_id}.json") if live.run_id else None
        return json.loads(report).get("figures") if report else None

    def adds_rows(self) -> bool:
        return False

    def keeps_state(self) -> bool:
        return False

    def replays(self) -> Replays | None:
        return None

    def keep(self, name: str, path: Path) -> str | None:
        return None

    def kept(self, name: str) -> bytes | None:
        return None

    def kept_names(self, folder: str) -> list[str]:
        return []

    def connected(self) -> AbstractContextManager[None]:
        return nullcontext()

    @final
    def load(self, batches: Iterable[DataFrame], run: Run, account: Account | None = None) -> Receipt:
        """Write all the batches; the receipt must account for every row."""
        account = account or Account(self.name)
        with self.blamed():
            figures = Figures()
            with account.timed():
                receipt = self.write(_counted(batches, account, figures), run)
            account.seconds -= account.waited
            account.rows_out = receipt.rows
            if not account.balances():
                raise EtlError(f"was given {account.rows_in:,} rows and stored {receipt.rows:,}")
            return replace(receipt, figures=figures.as_dict(receipt.schema))


def _numbered(batch: DataFrame, account: Account, rows_before: int) -> DataFrame:
    """Replace pandas' default index by the next row numbers of the source.

    ``rows_before``: the rows behind which it may also go on, as it does through the chunks of ``pandas.read_csv``.
    """
    from pandas import RangeIndex

    if _is_unnumbered(batch) or _is_unnumbered(batch, rows_before):
        first = account.next_row
        batch = batch.set_axis(RangeIndex(first, first + len(batch)), axis="index")
    account.rows_out += len(batch)
    return batch


def _is_unnumbered(batch: DataFrame, rows_before: int = 0) -> bool:
    """Whether it has pandas' default index: rows are numbered from 1."""
    from pandas import RangeIndex

    return isinstance(batch.index, RangeIndex) and batch.index.start == rows_before


def _counted(batches: Iterable[DataFrame], account: Account, figures: Figures) -> Iterator[DataFrame]:
    for batch in batches:
        account.rows_in += len(batch)
        figures.add(batch)
        yield batch
        del batch
