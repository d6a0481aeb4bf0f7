"""Holds a source without a schema to one that was learned from its first run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr, ValidationError

from etl.base import Extractor, Transformer
from etl.errors import DataError
from etl.learned.file import SchemaFile, read_schema, schema_text, write_schema
from etl.ledger import Account
from etl.redact import redact
from etl.tables.schema import Column
from etl.transformers.contract import Contract

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.learned.inference import ColumnFacts

_RULES_OF_A_TYPE = {"min", "max", "min_length", "max_length", "pattern", "one_of"}

log = logging.getLogger(__name__)


class LearnedSchema(Transformer):
    """Casts what the extractor gives to the schema in a file, which the first run writes, and notices drift.

    The first run reads the source twice: once to learn, and once to cast. With ``on_drift = "accept"`` each run does.
    The file is written when a run publishes: not by a dry one, nor by one that is held back.
    """

    file: Path = Field(
        default=Path(),
        exclude=True,  # what counts is what it holds
        description="The schema, beside the pipeline file. Default: NAME.schema.toml.",
    )
    on_drift: Literal["error", "warn", "accept"] = Field(
        default="error",
        description="What becomes of new and lost columns and of values that do not fit. error: the run stops. warn: "
        "new columns are left out, lost ones null, rows that do not fit rejected. accept: the schema is widened first.",
    )

    _shows_values: bool = PrivateAttr(default=True)
    _learned: SchemaFile | None = PrivateAttr(default=None)
    _draft: str = PrivateAttr(default="")
    _schema: Any = PrivateAttr(default=None)
    _contract: Any = PrivateAttr(default=None)

    def without_values(self) -> LearnedSchema:
        """A copy that tells no values in the file, for pipelines that hide some."""
        copy = self.model_copy()
        copy._shows_values = False
        return copy

    def learn(self, extractor: Extractor, uri: str) -> None:
        """Learn the schema from all that ``extractor`` reads, if there is none, or if it is to follow the source.

        ``uri``: what the file calls the source.
        """
        self._learned = None
        known = read_schema(self.file) if self.file.exists() else None
        if known is not None and self.on_drift != "accept":
            return
        facts, rows = _facts_of(extractor, known)
        found = _found(facts, known)
        if found == known:
            return
        notes = {name: fact.note for name, fact in facts.items()} if self._shows_values else {}
        self._learned, self._draft = found, schema_text(found, notes, redact(uri), rows, datetime.now(UTC).date())

    def keep(self) -> None:
        """Write the file, if this run has learned what it does not hold."""
        if self._learned is None:
            return
        done = "widened" if self.file.exists() else "learned"
        write_schema(self.file, self._draft)
        self._learned = None
        log.warning("%s was %s from the source; please review it", self.file, done, extra={"step": self.name})

    def ingredients(self) -> tuple[str, ...]:
        """Stand in the recipe of a run for the file, as it will be, and for those that its rules refer to."""
        if not self._is_known():
            return ()
        content = self._draft.encode() if self._learned else self.file.read_bytes()
        return hashlib.sha256(content).hexdigest(), *self._declared().ingredients()

    def keyed_by(self) -> tuple[str, ...] | None:
        return self._declared().keyed_by() if self._is_known() else ()

    def null_is_key(self) -> bool:
        return self._declared().null_is_key()

    def describes(self) -> Mapping[str, Mapping[str, str]]:
        return self._declared().describes()

    def start(self) -> Any:
        self._schema = self._read()
        self._contract = self._declared()
        return self._contract.start()

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        known = [*self._schema.columns, *self._schema.as_is]
        new = [str(name) for name in batch.columns if name not in known]
        lost = [name for name in known if name not in batch.columns]
        if new or lost:
            self._report(new, lost, account)
        before = account.rejected.total()
        result = self._lenient(lost).apply(self._with_nulls(batch.drop(columns=new), lost), account)
        if self.on_drift == "error" and account.rejected.total() > before:
            rules = ", ".join(f"{rule} ({count:,} rows)" for rule, count in account.rejected.items())
            raise DataError(f"the source has drifted from {self.file.name}: {rules}; {_REMEDY}")
        return result

    def _is_known(self) -> bool:
        return self._learned is not None or self.file.exists()

    def _read(self) -> SchemaFile:
        return self._learned or read_schema(self.file)

    def _declared(self) -> Contract:
        return Contract(columns=self._read().columns, extra="keep")

    def _report(self, new: Sequence[str], lost: Sequence[str], account: Account) -> None:
        news = [f"{what} {', '.join(names)}" for what, names in (("new columns", new), ("lost columns", lost)) if names]
        message = f"the source has drifted from {self.file.name}: {'; '.join(news)}"
        if self.on_drift == "error":
            raise DataError(f"{message}; {_REMEDY}")
        account.warn(message)

    def _lenient(self, lost: Sequence[str]) -> Contract:
        """The contract of a source that has lost these columns: null is no fault of its rows."""
        contract: Contract = self._contract
        columns = {
            name: column.model_copy(update={"required": column.required and name not in lost})
            for name, column in contract.columns.items()
        }
        return contract.model_copy(update={"columns": columns}) if lost else contract

    def _with_nulls(self, batch: DataFrame, lost: Sequence[str]) -> DataFrame:
        import pyarrow as pa

        from etl.tables.arrow import with_columns

        columns = self._schema.columns
        nulls = {name: pa.nulls(len(batch), columns[name].arrow_type) for name in lost if name in columns}
        return with_columns(batch, nulls)


def _facts_of(extractor: Extractor, known: SchemaFile | None) -> tuple[Mapping[str, ColumnFacts], int]:
    """What is in each column of the source, and how many rows it has."""
    from etl.learned.inference import ColumnFacts
    from etl.tables.arrow import array_of

    declared = {name: column.type for name, column in known.columns.items()} if known else {}
    facts: dict[str, ColumnFacts] = {}
    account = Account("learn")
    for split in extractor.splits():
        for batch in split.extract(account):
            account.take_rejects()  # the run itself will meet them again
            for name in map(str, batch.columns):
                facts.setdefault(name, ColumnFacts(declared.get(name))).see(array_of(batch[name]))
    return facts, account.rows_out


def _found(facts: Mapping[str, ColumnFacts], known: SchemaFile | None) -> SchemaFile:
    """What was seen, after the columns that are known already; these stay even if they were lost."""
    old = known.columns if known else {}
    as_is = [*(known.as_is if known else ()), *(name for name, fact in facts.items() if fact.type is None)]
    columns: dict[str, Column] = {}
    for name in dict.fromkeys((*old, *facts)):
        column, fact = old.get(name, Column(name=name)), facts.get(name)
        kind = fact.type if fact else column.type
        if kind is None or name in as_is:
            continue
        required = fact is not None and not fact.has_nulls and (column.required if name in old else fact.has_values)
        columns[name] = _retyped(column, kind, required)
    if not columns:
        raise DataError("no column has a type that a schema could declare; leave [schema] out")
    return SchemaFile(columns=columns, as_is=tuple(dict.fromkeys(as_is)))


def _retyped(column: Column, kind: str, required: bool) -> Column:
    """The column with another type; what people have written about it stays, as far as the type has such rules."""
    declared = {**column.model_dump(exclude_defaults=True), "type": kind, "required": required}
    try:
        return Column.model_validate(declared)
    except ValidationError:
        return Column.model_validate({name: told for name, told in declared.items() if name not in _RULES_OF_A_TYPE})


_REMEDY = 'edit that file, or set on_drift = "warn" or "accept"'
