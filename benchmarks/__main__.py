"""Measures this project beside its peers: ``python -m benchmarks --help``."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import platform
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.contestants import PEERS, PROJECT_HELP, PROJECT_RERUN, PROJECT_RUN, Contestant, install, peer, pinned
from benchmarks.data import SIZES, WITHOUT_REPEATS, distinct_rows, make_zip
from benchmarks.report import markdown, plot
from benchmarks.runner import Case, Runner
from benchmarks.servers import s3_server, web_server
from etl.paths import PROJECT

CACHE = PROJECT / ".cache" / "benchmarks"
DEFAULT_SIZES = ("S", "M", "L")


def main() -> int:
    options = _parser().parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # by way of every finally: the servers must end
    cache: Path = options.cache.resolve()
    if options.install:
        for name in options.peers:
            install(name, cache)
        return 0
    sizes = [size for size in SIZES if size in options.sizes]
    repetitions = options.repetitions
    if options.quick:
        sizes, repetitions = ["S", "M"], 1
    compileall.compile_dir(PROJECT / "etl", quiet=1)
    peers = _installed(options.peers, cache)
    cases = list(_cases(sizes, peers, cache / "data"))
    warm_up = next(_cases(["S"], peers, cache / "data"))
    results: dict[str, Any] = {"machine": _machine(peers), "rows": SIZES, "runs": []}
    try:
        _run_all(warm_up, cases, repetitions, cache, results)
    finally:
        _publish(results, options.output or cache / "results")
    return int(any("failure" in run for run in results["runs"]))


def _installed(names: Sequence[str], cache: Path) -> list[Contestant]:
    found = {name: peer(name, cache) for name in names}
    missing = [name for name, contestant in found.items() if contestant is None]
    if missing:
        print(f"not installed, and left out: {', '.join(missing)} (python -m benchmarks --install)")
    return [contestant for contestant in found.values() if contestant is not None]


def _cases(sizes: Sequence[str], peers: Sequence[Contestant], data: Path) -> Iterator[Case]:
    naive = [contestant for contestant in peers if contestant.name == "naive"]
    for size in sizes:
        repeats = size not in WITHOUT_REPEATS
        zip_file = make_zip(SIZES[size], data, repeats=repeats)
        rows = distinct_rows(SIZES[size], repeats=repeats)
        if size == "S":
            yield Case("S", zip_file, ".parquet", rows, [PROJECT_RUN, PROJECT_RERUN, *peers])
            yield Case("help", zip_file, ".parquet", rows, [PROJECT_HELP])
        else:
            yield Case(size, zip_file, ".parquet", rows, [PROJECT_RUN, *([] if size == "XL" else peers)])
        if size == "M":
            yield Case("M.csv.gz", zip_file, ".csv.gz", rows, [PROJECT_RUN, *naive])


def _run_all(warm_up: Case, cases: Sequence[Case], repetitions: int, cache: Path, results: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        folder = Path(scratch)
        with web_server(warm_up.zip_file.parent, folder) as web_address, s3_server(folder) as (kind, s3_address):
            results["machine"]["s3_server"] = kind
            runner = Runner(web_address, s3_address, folder)
            runner.warm_up(warm_up)
            for case in cases:
                for run in runner.run(case, repetitions):
                    results["runs"].append(run)
                    print(_line(run), flush=True)


def _line(run: dict[str, Any]) -> str:
    start = f"{run['case']:<8} {run['repetition']}  {run['contestant']:<24}"
    if "failure" in run:
        return f"{start} FAILED: {run['failure']}"
    cpu = run["user_s"] + run["system_s"]
    return f"{start} {run['wall_s']:7.2f} s {cpu:7.2f} s cpu {run['peak_bytes'] / 2**20:7.0f} MiB"


def _publish(results: dict[str, Any], output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    (output / "results.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    table = markdown(results)
    (output / "results.md").write_text(table, encoding="utf-8")
    plot(results, output / "results.svg")
    print(f"\n{table}\nin {output}: results.json, results.md, results.svg")


def _machine(peers: Sequence[Contestant]) -> dict[str, Any]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="minutes"),
        "system": platform.platform(terse=True),
        "processors": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "pandas": version("pandas"),
        "pyarrow": version("pyarrow"),
        "s3_server": "none",
        "peers": [pin for contestant in peers if (pin := pinned(contestant.name))],
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Measures this project beside the tools that people would use instead: whole processes, in turn.",
        epilog="First: pip install -r benchmarks/requirements.txt && python -m benchmarks --install",
    )
    some_sizes = ", ".join(f"{size} = {rows:,} rows" for size, rows in SIZES.items())
    parser.add_argument(
        "--sizes", nargs="+", choices=SIZES, default=DEFAULT_SIZES, help=f"{some_sizes}; default: S M L"
    )
    parser.add_argument(
        "--peers", nargs="*", choices=PEERS, default=list(PEERS), help="default: all that are installed"
    )
    parser.add_argument("--repetitions", type=int, default=5, metavar="N", help="runs of each contestant; default: 5")
    parser.add_argument("--quick", action="store_true", help="S and M once: does everything work?")
    parser.add_argument("--install", action="store_true", help="make an environment for each peer, and no more")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, metavar="FOLDER", help="data and environments; default: .cache/benchmarks"
    )
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="where to write; default: results in the cache")
    return parser


if __name__ == "__main__":
    sys.exit(main())
