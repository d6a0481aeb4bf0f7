"""The run is killed before and after every call that it makes to S3: readers see the old data or the new, always."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from itertools import count
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet

from etl.s3.client import shared_clients
from tests.conftest import PROJECT, Bucket
from tests.processes import started
from tests.s3_front import Call, Front
from tests.s3_runs import Proof, run_command

CHANGE = ["load.parquet.row_group_rows=1000"]  # of files that are CSV


def kill(proof: Proof, place: str, front: Front, point: int, *, after: bool, more: Sequence[str] = ()) -> None:
    """Run in a process that dies with the call number ``point``: before the S3 server hears of it, or after."""
    number = count(1)
    pid: Future[int] = Future()

    def strike(_: Call) -> bool:
        if next(number) != point:
            return False
        os.kill(pid.result(timeout=60), signal.SIGKILL)
        return True

    (front.lose_reply_if if after else front.reset_if)(strike)
    environment = {name: value for name, value in os.environ.items() if name.startswith(("AWS_", "ETL_"))}
    process = started(run_command, proof.command(place, more=more), environment)
    assert process.pid is not None
    pid.set_result(process.pid)
    process.join(60)
    front.forget_refusals()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["multipart", "dataset"])
def test_a_stop_does_not_wait_for_a_silent_server(tmp_path: Path, bucket: Bucket, front: Front, layout: str) -> None:
    proof = Proof(tmp_path, bucket, layout)
    waits, over = threading.Event(), threading.Event()

    def gets_no_answer(call: Call) -> bool:
        if call.method == "PUT" and ("partNumber" in call.query or "/data/" in call.key):
            waits.set()
            return over.wait(50)
        return False

    front.reset_if(gets_no_answer)
    process = subprocess.Popen([sys.executable, PROJECT / "main.py", *proof.command("stopped")])
    assert waits.wait(60)
    process.send_signal(signal.SIGTERM)
    try:
        assert process.wait(30) == 128 + signal.SIGTERM
    finally:
        over.set()


def slow(*values: object) -> ParameterSet:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("layout", "before"),
    [
        ("object", "old"),
        slow("object", None),
        slow("multipart", "old"),
        slow("dataset", "old"),
        slow("dataset", None),
    ],
)
def test_a_kill_at_any_call_harms_nobody(
    tmp_path: Path, bucket: Bucket, front: Front, layout: str, before: str | None
) -> None:
    proof = Proof(tmp_path, bucket, layout)
    with shared_clients():
        if before:
            proof.run("unharmed", before)
        front.calls.clear()
        assert proof.run("unharmed").status == "published"
        calls, new = len(front.calls), proof.seen("unharmed")
        assert calls >= 6
        for point in range(1, calls + 1):
            for after in (False, True):
                place = f"{'after' if after else 'before'}-{point}"
                if before:
                    proof.run(place, before)
                old = proof.seen(place)
                kill(proof, place, front, point, after=after)
                assert proof.seen(place) in (old, new)
                check_repair(proof, place, front, new)


def check_repair(proof: Proof, place: str, front: Front, new: str | None) -> None:
    """The next run finishes what the killed one began, sends nothing twice, and leaves nothing for a third."""
    there = proof.data_files(place)
    front.calls.clear()
    assert proof.run(place).exit_code == 0
    assert proof.seen(place) == new
    assert proof.bucket.open_uploads() == []
    assert not there & {call.key for call in front.calls if call.writes}

    front.calls.clear()
    assert proof.run(place).status == "unchanged"
    assert not any(call.writes for call in front.calls)


@pytest.mark.parametrize(
    ("layout", "entry"), [slow("object", "table.csv"), slow("dataset", "_current.json")], ids=["object", "dataset"]
)
def test_a_kill_costs_a_change_that_changes_no_row_one_more_run(
    tmp_path: Path, bucket: Bucket, front: Front, layout: str, entry: str
) -> None:
    proof = Proof(tmp_path, bucket, layout)
    with shared_clients():
        proof.run("unharmed")
        front.calls.clear()
        assert proof.run("unharmed", more=CHANGE).status == "unchanged"
        calls = len(front.calls)
        for point in range(1, calls + 1):
            for after in (False, True):
                place = f"{'after' if after else 'before'}-{point}"
                proof.run(place)
                kill(proof, place, front, point, after=after, more=CHANGE)
                assert proof.run(place, more=CHANGE).status == "unchanged"
                assert proof.run(place, more=CHANGE).steps == []
                assert len(bucket.versions(f"{place}/{entry}")) == 1
