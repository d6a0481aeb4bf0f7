"""Four processes, as on four machines, publish the same dataset at once, again and again, while somebody reads it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import etl
from tests.conftest import Bucket
from tests.processes import pool_of
from tests.s3_front import Call, Front
from tests.s3_runs import Proof, exit_code_of_command

WRITERS = 4
ROUNDS = 50
ROWS = 6


@contextmanager
def watched(uri: str) -> Iterator[list[list[int]]]:
    """Read the dataset all the time; yields the list of the reads that were neither one version nor another."""
    torn: list[list[int]] = []
    reads: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            numbers = etl.read_dataset(uri)["number"].tolist()
            reads.append(numbers[0])
            if numbers != numbers[:1] * ROWS:
                torn.append(numbers)

    reader = threading.Thread(target=watch)
    reader.start()
    try:
        yield torn
    finally:
        over.set()
        reader.join()
    assert len(set(reads)) > 2  # it has seen versions come and go


@pytest.mark.slow
def test_one_wins_each_round_and_nobody_sees_a_mixture(tmp_path: Path, bucket: Bucket, front: Front) -> None:
    proof = Proof(tmp_path, bucket, "dataset")
    publish(proof, 0)
    meeting = threading.Barrier(WRITERS)

    def meets_the_others(call: Call) -> bool:
        """All of them have seen the same version, and found nothing wrong, when the first may replace it."""
        if call.method == "PUT" and call.key == "sales/_current.json":
            meeting.wait(timeout=60)
        return False

    front.reset_if(meets_the_others)
    uri = f"s3://{bucket.name}/sales/"
    environment = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    with pool_of(WRITERS) as pool, watched(uri) as torn:
        for round_number in range(1, ROUNDS + 1):
            numbers = [10 * round_number + writer for writer in range(WRITERS)]
            codes = race(proof, pool, numbers, environment)
            assert sorted(codes) == [0] + [75] * (WRITERS - 1)
            winner = numbers[codes.index(0)]
            assert etl.read_dataset(uri)["number"].tolist() == [winner] * ROWS
            front.calls.clear()
    assert torn == []


def race(proof: Proof, pool: ProcessPoolExecutor, numbers: list[int], environment: dict[str, str]) -> list[int]:
    """The exit codes of as many runs at once. Each has a cache of its own, and so a lock of its own."""
    runs = []
    for writer, number in enumerate(numbers):
        write_rows(proof, number)
        cache = {"ETL_CACHE_DIR": str(proof.folder / f"machine-{writer}")}
        runs.append(pool.submit(exit_code_of_command, proof.command("sales", str(number)), environment | cache))
    return [run.result(timeout=120) for run in runs]


def publish(proof: Proof, number: int) -> None:
    write_rows(proof, number)
    assert proof.run("sales", str(number)).status == "published"


def write_rows(proof: Proof, number: int) -> None:
    (proof.folder / f"{number}.csv").write_text("number,text\n" + f"{number},row\n" * ROWS, encoding="utf-8")
