"""Holds a source without a schema to one that was learned from its first run."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PrivateAttr

from etl.base import Extractor, Transformer
from etl.errors import DataError
from etl.ledger import Account
from etl.redact import redact

if TYPE_CHECKING:
    from pandas import DataFrame

    from etl.learned.file import SchemaFile
    from etl.learned.inference import ColumnFacts
    from etl.transformers.contract import Contract

log = logging.getLogger(__name__)


class LearnedSchema(Transformer):
    """Casts what the extractor gives to the schema in a file, which the first run writes, and notices drift.

    The first run reads the source twice: once to learn, and once to cast. With ``on_drift = "accept"`` each run does.
    """

    file: Path = Field(
        default=Path(),
        exclude=True,  # what counts is what it holds
        description="The schema, beside the pipeline file. Default: NAME.schema.toml.",
    )
    on_drift: Literal["error", "warn", "accept"] = Field(
        default="error",
        description="What becomes of new and lost columns and of values that do not fit. error: the run stops. warn: "
        "new columns are left out, lost ones null, rows that do not fit rejected. accept: the file is widened first.",
    )

    _schema: Any = PrivateAttr(default=None)
    _contract: Any = PrivateAttr(default=None)

    def learn(self, extractor: Extractor, uri: str) -> None:
        """Write the file from all that ``extractor`` reads, if there is none, or if it is to follow the source.

        ``uri``: what the file calls the source.
        """
        from etl.learned.file import read_schema, write_schema

        known = read_schema(self.file) if self.file.exists() else None
        if known is not None and self.on_drift != "accept":
            return
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
        found = _found(facts, known)
        if found == known:
            return
        notes = {name: fact.note for name, fact in facts.items()}
        write_schema(self.file, found, notes, redact(uri), account.rows_out, datetime.now(UTC).date())
        done = "widened" if known else "learned"
        log.warning("%s was %s from the source; please review it", self.file, done, extra={"step": self.name})

    def ingredients(self) -> tuple[str, ...]:
        """Stands for the file in the recipe of a run."""
        return (hashlib.sha256(self.file.read_bytes()).hexdigest(),) if self.file.exists() else ()

    def describes(self) -> Mapping[str, Mapping[str, str]]:
        from etl.learned.file import read_schema

        return {name: column.facts for name, column in read_schema(self.file).columns.items()}

    def start(self) -> Any:
        from etl.learned.file import read_schema
        from etl.transformers.contract import Contract

        self._schema = read_schema(self.file)
        self._contract = Contract(columns=self._schema.columns, extra="keep")
        return self._contract.start()

    def apply(self, batch: DataFrame, account: Account) -> DataFrame:
        known = [*self._schema.columns, *self._schema.as_is]
        new = [str(name) for name in batch.columns if name not in known]
        lost = [name for name in known if name not in batch.columns]
        if new or lost:
            self._report(new, lost, account)
        before = account.rejected.total()
        result = self._contract_without(lost).apply(batch.drop(columns=new), account)
        if self.on_drift == "error" and account.rejected.total() > before:
            rules = ", ".join(f"{rule} ({count:,} rows)" for rule, count in account.rejected.items())
            raise DataError(f"the source has drifted from {self.file.name}: {rules}; {_REMEDY}")
        return self._with_nulls(result, lost)

    def _report(self, new: Sequence[str], lost: Sequence[str], account: Account) -> None:
        news = [f"{what} {', '.join(names)}" for what, names in (("new columns", new), ("lost columns", lost)) if names]
        message = f"the source has drifted from {self.file.name}: {'; '.join(news)}"
        if self.on_drift == "error":
            raise DataError(f"{message}; {_REMEDY}")
        account.warn(message)

    def _contract_without(self, lost: Sequence[str]) -> Contract:
        contract: Contract = self._contract
        if not lost:
            return contract
        columns = {name: column for name, column in self._schema.columns.items() if name not in lost}
        return contract.model_copy(update={"columns": columns})

    def _with_nulls(self, batch: DataFrame, lost: Sequence[str]) -> DataFrame:
        """The columns of the file, in its order: those that were lost without any value."""
        if not lost:
            return batch
        import pandas as pd

        columns = self._schema.columns
        nulls = {name: pd.Series(None, batch.index, columns[name].dtype) for name in lost if name in columns}
        return batch.assign(**nulls)[
            [name for name in (*columns, *self._schema.as_is) if name not in lost or name in nulls]
        ]


def _found(facts: Mapping[str, ColumnFacts], known: SchemaFile | None) -> SchemaFile:
    """What was seen, after the columns that are known already; these stay even if they were lost."""
    from etl.learned.file import SchemaFile
    from etl.tables.schema import Column

    old = known.columns if known else {}
    as_is = [*(known.as_is if known else ()), *(name for name, fact in facts.items() if fact.type is None)]
    columns: dict[str, Column] = {}
    for name in dict.fromkeys((*old, *facts)):
        if name in as_is:
            continue
        column, fact = old.get(name), facts.get(name)
        required = fact is not None and not fact.has_nulls and (column.required if column else fact.has_values)
        if column and (fact is None or fact.type == column.type):
            columns[name] = column.model_copy(update={"required": required})
        elif fact and fact.type:
            columns[name] = Column(name=name, type=fact.type, required=required)
    if not columns:
        raise DataError("no column has a type that a schema could declare; leave [schema] out")
    return SchemaFile(columns=columns, as_is=tuple(dict.fromkeys(as_is)))


_REMEDY = 'edit that file, or set on_drift = "warn" or "accept"'
