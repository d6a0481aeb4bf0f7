"""The veil: what a step hides is hidden everywhere else that values are shown, back to the source's own columns."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etl.base import Transformer
    from etl.ledger import Account

HIDDEN = "***"


class Veil:
    """Knows which columns must not be shown before and after each step, once it has seen rows go through them.

    ``accounts``: of the extractor, then of each transformer. Until it has seen the columns of all steps, or if nobody
    ever hid anything, it hides all or nothing.
    """

    def __init__(self, accounts: Sequence[Account], transformers: Sequence[Transformer]) -> None:
        self._accounts = accounts
        self._names = [account.step for account in accounts]
        self._transformers = transformers
        self._hides = any(transformer.hides() for transformer in transformers)
        self._columns: list[list[str]] = []
        self._hidden: list[set[str]] = []

    def see(self, stages: Iterable[Iterable[Any]]) -> None:
        """Note the columns that rows have before each transformer, and behind the last one."""
        if self._hides and not self._hidden:
            self._columns = [[str(name) for name in columns] for columns in stages]
            self._hidden = self._traced_back()

    def _traced_back(self) -> list[set[str]]:
        """The hidden columns before each transformer, and behind the last one: none."""
        hidden: list[set[str]] = [set()]
        for step, columns in reversed(list(zip(self._transformers, self._columns, strict=False))):
            sources = (step.made_from(column, columns) for column in hidden[0])
            hidden.insert(0, set(step.hides()).union(*sources))
        return hidden

    # -- what is shown -----------------------------------------------------------------------------------------

    def hidden(self, step: str) -> Collection[str] | None:
        """The hidden columns of the rows that the step of this name was given or gave; None: all of them."""
        if not self._hides:
            return ()
        if not self._hidden or step not in self._names:
            return None
        number = self._names.index(step)
        return self._hidden[max(number - 1, 0)] | self._hidden[number]

    def before(self, step: int) -> set[str] | None:
        """The hidden columns before the transformer of this number, or behind the last one; None: all of them."""
        if not self._hides:
            return set()
        return self._hidden[step] if self._hidden else None

    def value(self, step: str, column: str | None, value: str | None) -> str | None:
        """The offending value of a reject. ``column``: several have commas between them."""
        hidden = self.hidden(step)
        if value is None or (hidden is not None and not hidden):
            return value
        tells = hidden is None or column is None or any(name in hidden for name in (column, *column.split(", ")))
        return HIDDEN if tells else value

    def raw(self, raw: Any) -> tuple[Any, list[str]]:
        """The whole row as it was read, with the names of the columns whose values were replaced."""
        hidden = self.hidden(self._names[0])
        if hidden is not None and not hidden:
            return raw, []
        if not isinstance(raw, dict):
            return None if raw is None else HIDDEN, [HIDDEN]
        gone = [name for name, value in raw.items() if value is not None and (hidden is None or name in hidden)]
        return {**raw, **dict.fromkeys(gone, HIDDEN)}, gone

    def cover(self) -> None:
        """Replace the samples of repairs that would tell. Their rules begin with the name of a column, else all do."""
        for account in self._accounts:
            hidden = self.hidden(account.step)
            if hidden is not None and not hidden:
                continue
            for rule, repair in account.repaired.items():
                column = rule.partition(": ")[0]
                if hidden is None or column not in self._shown(account.step, hidden):
                    repair.samples = [_covered(sample) for sample in repair.samples]

    def _shown(self, step: str, hidden: Collection[str]) -> set[str]:
        number = self._names.index(step)
        return {*self._columns[max(number - 1, 0)], *self._columns[number]} - set(hidden)


def _covered(sample: dict[str, Any]) -> dict[str, Any]:
    """Row numbers stay, and null is no secret."""
    return {name: value if name == "row" or value is None else HIDDEN for name, value in sample.items()}
