"""Runs one command to its end and writes down what it cost: ``python measure.py RESULT_FILE COMMAND ...``.

Wall time from start to exit; CPU time (user and system) of the process and its children, as the kernel counted it; peak
memory: the larger of the kernel's high-water mark and the largest sum over the process tree seen while it ran.

This is a process of its own, and a small one: a child's high-water mark begins at that of whoever forked it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

_SAMPLE_S = 0.2
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024


def main(result_file: str, *command: str) -> int:
    started = time.perf_counter()
    process = subprocess.Popen(command)
    sampler = _Sampler(process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    exit_code = os.waitstatus_to_exitcode(status)
    peak = max(usage.ru_maxrss * _MAXRSS_BYTES, sampler.stop())
    cost = {
        "exit_code": exit_code,
        "wall_s": seconds,
        "user_s": usage.ru_utime,
        "system_s": usage.ru_stime,
        "peak_bytes": peak,
    }
    Path(result_file).write_text(json.dumps(cost), encoding="utf-8")
    return exit_code


class _Sampler:
    """Adds up, now and then, the resident memory of a process and all its descendants."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._largest = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def stop(self) -> int:
        self._done.set()
        self._thread.join()
        return self._largest

    def _sample(self) -> None:
        while not self._done.wait(_SAMPLE_S):
            try:
                tree = [self._process, *self._process.children(recursive=True)]
                self._largest = max(self._largest, sum(process.memory_info().rss for process in tree))
            except psutil.NoSuchProcess:
                continue


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
