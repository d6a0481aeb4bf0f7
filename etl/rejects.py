"""Shows the rejected rows of a run, grouped by the rule that they broke."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from etl.errors import ConfigError
from etl.history import print_table
from etl.ledger import quoted
from etl.quarantine import read_rejects

if TYPE_CHECKING:
    from etl.base import Loader

Entry = dict[str, Any]

LATEST = "latest"
FOLDER = "_rejects/"

_RUN_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{6}")
_ENDING = ".jsonl"
_SAMPLES = 3
_WIDEST_VALUE = 60


def show_rejects(loader: Loader, pipeline: str, wanted: str, *, as_json: bool) -> int:
    """Print what a run of this pipeline rejected. ``wanted``: its id, the beginning of that, or "latest"."""
    with loader.blamed():
        run_id, content = find_rejects(loader, pipeline, wanted)
    if as_json:
        sys.stdout.buffer.write(content)
        return 0
    rows, broken = _by_rule(read_rejects(content))
    print(f"run {run_id}: {len(rows):,} rejected rows of {_some(sorted({source for source, _ in rows}))}\n")
    most_first = sorted(broken.items(), key=lambda found: (-found[1].count, found[0]))
    lines = [(*key, f"{found.count:,}", _some(found.samples, found.count)) for key, found in most_first]
    print_table([("step", "column", "rule", "rows", "such as"), *lines], right=(3,))
    print("\nThe same command with `--json` prints all of them; `replay` takes them through the steps again.")
    return 0


def find_rejects(loader: Loader, pipeline: str, wanted: str) -> tuple[str, bytes]:
    """The id of the run, and the file that holds its rejects. Raises ConfigError if there is none, or more than one."""
    if _RUN_ID.fullmatch(wanted):
        content = loader.kept(f"{FOLDER}{wanted}{_ENDING}")
        if content is None:
            raise ConfigError(_nothing_kept(loader, wanted))
        return wanted, content
    found = [name.removesuffix(_ENDING) for name in loader.kept_names(FOLDER) if name.endswith(_ENDING)]
    matching = sorted(run_id for run_id in found if wanted == LATEST or run_id.startswith(wanted))
    ours = ((run_id, loader.kept(f"{FOLDER}{run_id}{_ENDING}")) for run_id in reversed(matching))
    of_pipeline = ((run_id, content) for run_id, content in ours if content and _is_of(pipeline, content))
    first = next(of_pipeline, None)
    if first is None:
        raise ConfigError(_nothing_kept(loader, wanted))
    if wanted != LATEST and (second := next(of_pipeline, None)):
        raise ConfigError(f"several runs begin with {wanted}, such as {second[0]} and {first[0]}; give more of the id")
    return first


def _is_of(pipeline: str, content: bytes) -> bool:
    """Pipelines that publish side by side share the folder."""
    first: Entry = next(iter(read_rejects(content)), {})
    return bool(first.get("pipeline", pipeline) == pipeline)


def _nothing_kept(loader: Loader, wanted: str) -> str:
    if wanted != LATEST and loader.kept(f"_runs/{wanted}.json") is not None:
        return f"run {wanted} rejected no rows"
    which = "no rejected rows are kept" if wanted == LATEST else f"no rejected rows of a run {wanted} are kept"
    return f"{which} beside what {loader.name} publishes; a run that rejects rows says so, with its id, in its log"


@dataclass
class _Broken:
    """A rule that was broken: how many times, and by which rows first."""

    count: int = 0
    samples: list[str] = field(default_factory=list)

    def add(self, entry: Entry) -> None:
        self.count += 1
        if len(self.samples) < _SAMPLES:
            self.samples.append(f"row {entry['row']:,}: {_evidence(entry)}")


def _by_rule(entries: Iterable[Entry]) -> tuple[set[tuple[str, int]], dict[tuple[str, str, str], _Broken]]:
    """The rows, by source and number, and what they broke, by step, column and rule. There may be very many entries."""
    rows: set[tuple[str, int]] = set()
    broken: dict[tuple[str, str, str], _Broken] = {}
    for entry in entries:
        rows.add((entry["source"], entry["row"]))
        broken.setdefault((entry["step"], entry["column"] or "", entry["rule"]), _Broken()).add(entry)
    return rows, broken


def _some(texts: Sequence[str], count: int = 0) -> str:
    """The first few of ``count``, or of them all."""
    more = ", ..." if max(count, len(texts)) > _SAMPLES else ""
    return ", ".join(texts[:_SAMPLES]) + more


def _evidence(entry: Mapping[str, Any]) -> str:
    """The offending value, or the text of a line that never became a row."""
    raw = entry["raw"]
    value = raw if entry["value"] is None and isinstance(raw, str) else entry["value"]
    text = quoted(value)
    return text if len(text) <= _WIDEST_VALUE else f"{text[:_WIDEST_VALUE]}..."
