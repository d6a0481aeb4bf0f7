"""Runs the contestants in turn, whole processes, A B C A B C, and collects what each run cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.contestants import Contestant
from benchmarks.servers import BUCKET, objects_under, s3_client, s3_environment
from benchmarks.verify import digest_of

_MEASURE = Path(__file__).parent / "measure.py"
_KEPT_ENVIRONMENT = ("PATH", "LANG", "LD_LIBRARY_PATH")

Run = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One comparison: the same zip to a file of the same kind, by several contestants."""

    title: str
    zip_file: Path
    ending: str
    rows: int
    contestants: Sequence[Contestant]


class Failed(Exception):
    """A contestant ended with an error, or published another table than it should."""


class Runner:
    """Runs cases against one web server and one S3 server. ``scratch``: a folder for what the runs leave behind."""

    def __init__(self, web_address: str, s3_address: str, scratch: Path) -> None:
        self._web_address = web_address
        self._s3_address = s3_address
        self._scratch = scratch
        self._client = s3_client(s3_address)
        self._tables: dict[str, dict[str, Any]] = {}

    def warm_up(self, case: Case) -> None:
        """Run each contestant once, so that nothing is read from disk for the first time while the clock runs."""
        for contestant in case.contestants:
            with suppress(Failed):
                self.run_once(case, contestant)

    def run(self, case: Case, repetitions: int) -> Iterator[Run]:
        """Yield what each run cost. A contestant that fails is reported once and left out from then on."""
        failed: set[str] = set()
        for repetition in range(1, repetitions + 1):
            for contestant in case.contestants:
                if contestant.name in failed:
                    continue
                run: Run = {"case": case.title, "contestant": contestant.name, "repetition": repetition}
                try:
                    run |= self.run_once(case, contestant)
                except Failed as failure:
                    failed.add(contestant.name)
                    run["failure"] = str(failure)
                yield run

    def run_once(self, case: Case, contestant: Contestant) -> Run:
        """Run one contestant in an empty folder of its own and check what it published. Raises Failed."""
        key = f"{contestant.name.replace(' ', '-')}/lego_sets{case.ending}"
        with tempfile.TemporaryDirectory(dir=self._scratch) as folder:
            environment = self._environment(case, key, folder)
            if contestant.again:
                _measured(contestant, environment, Path(folder))
            run = _measured(contestant, environment, Path(folder))
        if contestant.again and run["report"]["steps"]:
            raise Failed("the second run should have found that nothing changed, but read the data again")
        if contestant.publishes:
            self._check(case, key)
        return run

    def _environment(self, case: Case, key: str, folder: str) -> Mapping[str, str]:
        return {
            **{name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ},
            **s3_environment(self._s3_address),
            "LEGO_URL": f"{self._web_address}/{case.zip_file.name}",
            "S3_KEY": key,
            "ETL_CACHE_DIR": folder,
            "HOME": folder,
            "TMPDIR": folder,
        }

    def _check(self, case: Case, key: str) -> None:
        """Compare with what was published first from the same zip, then make room for the next run."""
        digest = digest_of(self._client, key)
        for left_over in objects_under(self._client, f"{key.partition('/')[0]}/"):
            self._client.delete_object(Bucket=BUCKET, Key=left_over)
        if digest["rows"] != case.rows:
            raise Failed(f"published {digest['rows']:,} rows instead of {case.rows:,}")
        first = self._tables.setdefault(case.zip_file.name, digest)
        if digest != first:
            different = [name for name in digest if digest[name] != first[name]]
            raise Failed(f"published other values than the first contestant in {', '.join(different)}")


def _measured(contestant: Contestant, environment: Mapping[str, str], folder: Path) -> Run:
    os.sync()  # what the run before left to be written to disk is not this one's cost
    result_file = folder / "cost.json"
    command = [sys.executable, str(_MEASURE), str(result_file), *contestant.command]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        last_words = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[-3:]
        raise Failed(f"exit code {done.returncode}: {' / '.join(last_words)}")
    run: Run = json.loads(result_file.read_text(encoding="utf-8"))
    if contestant.reports:
        run["report"] = json.loads(done.stdout)
    return run
