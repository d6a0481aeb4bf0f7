"""The run report: what a run did, for people (one line) and for machines (JSON)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

from etl.errors import EtlError, Stopped
from etl.ledger import Account, Repair, quoted
from etl.redact import redact
from etl.run import Published, Source

Status = Literal["published", "unchanged", "dry-run", "failed"]


@dataclass
class RunReport:
    """What a run did. ``steps`` are in the order in which the rows go through them."""

    run_id: str
    pipeline: str
    status: Status = "failed"
    started_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    duration_s: float = 0.0
    source: Source | None = None
    steps: list[Account] = field(default_factory=list)
    published: Published | None = None
    rejects: dict[str, Any] | None = None
    replays: str | None = None
    figures: dict[str, Any] = field(default_factory=dict)
    error: dict[str, Any] | None = None

    def fail(self, error: EtlError | Stopped) -> None:
        self.status = "failed"
        outcome = "; nothing was published" if isinstance(error, Stopped) and not self.published else ""
        self.error = {
            "type": type(error).__name__,
            "step": error.step,
            "message": redact(f"{error}{outcome}"),
            "exit_code": error.exit_code,
        }

    def check_ledger(self) -> None:
        """Raise EtlError unless each step accounts for each of its rows, and gave all it kept to the next step."""
        for account in self.steps:
            if not account.balances():
                raise EtlError("the ledger does not balance; nothing was published", step=account.step)
        for before, after in pairwise(self.steps):
            if before.rows_out != after.rows_in:
                rows = f"{before.rows_out:,} rows, and {after.step} was given {after.rows_in:,}"
                raise EtlError(f"gave out {rows}; nothing was published", step=before.step)

    @property
    def rows_rejected(self) -> int:
        return sum(account.rejected.total() for account in self.steps)

    @property
    def was_stopped(self) -> bool:
        return self.error is not None and self.error["type"] == Stopped.__name__

    @property
    def exit_code(self) -> int:
        return int(self.error["exit_code"]) if self.error else 0

    def as_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "duration_s": round(self.duration_s, 3),
            "source": asdict(self.source) if self.source else None,
            "steps": [account.as_dict() for account in self.steps],
            "published": asdict(self.published) if self.published else None,
        }

    def to_json(self) -> str:
        return json.dumps(self.as_dict(), ensure_ascii=False, indent=2, default=str)

    def summary(self) -> str:
        """One line: the outcome, and where every row went."""
        took = f"in {self.duration_s:.1f} s"
        if self.error:
            return f"{self.pipeline}: failed {took}: {self.error['message']}"
        if not self.steps:
            return f"{self.pipeline}: unchanged {took}: source, configuration and code give what is published"
        where = f" -> {self.published.uri}" if self.published else ""
        return f"{self.pipeline}: {self.status} {took}: {self.balance()}{where}"

    def balance(self) -> str:
        """``read 18,457 = published 18,450 + rejected 5 + dropped 2``."""
        dropped = sum(account.dropped.total() for account in self.steps)
        kept_as = "published" if self.status in ("published", "unchanged") else "good"
        read, kept = self.steps[0].rows_in, self.steps[-1].rows_out
        added = sum(account.added.total() for account in self.steps)
        read_and_added = f"read {read:,} + added {added:,}" if added else f"read {read:,}"
        return f"{read_and_added} = {kept_as} {kept:,} + rejected {self.rows_rejected:,} + dropped {dropped:,}"

    def details(self) -> Iterator[str]:
        """A line for each thing that happened to rows or values, by step."""
        for account in self.steps:
            for rule, repair in account.repaired.items():
                yield f"{account.step}: repaired {repair.count:,} x {rule}{_example(repair)}"
            for reason, count in account.added.items():
                yield f"{account.step}: added {count:,} x {reason}"
            for reason, count in account.dropped.items():
                yield f"{account.step}: dropped {count:,} x {reason}"
            for rule, count in account.rejected.items():
                yield f"{account.step}: rejected {count:,} x {rule}"
        if self.rejects:
            yield f"rejected rows, with their reasons: {self.rejects['uri'] or 'not kept in a dry run'}"


def _example(repair: Repair) -> str:
    if not repair.samples:
        return ""
    sample = repair.samples[0]
    return f" (row {sample['row']}: {quoted(sample['before'])} -> {quoted(sample['after'])})"
