"""Starts programs that serve on the loopback, each a process of its own."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.web import HOST

_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 3


@contextmanager
def running(command: Sequence[str], log: Path) -> Iterator[None]:
    """The program runs inside the block; what it prints goes to ``log``."""
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            yield
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        listeners = [stack.enter_context(socket.socket()) for _ in range(count)]
        for listener in listeners:
            listener.bind((HOST, 0))
        return [listener.getsockname()[1] for listener in listeners]


def wait_until(attempt: Callable[[], Any], failures: type[Exception] | tuple[type[Exception], ...]) -> None:
    """Try until it does not fail in one of these ways, for a minute."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            attempt()
            return
        except failures:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
