"""Turns Ctrl-C and SIGTERM into an error that unwinds the run, but never in the middle of a commit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from etl.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_held = False


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise Stopped in the main thread at the first SIGINT or SIGTERM; later ones cannot disturb the cleaning up."""
    before = {number: signal.signal(number, _stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_signals() -> Iterator[None]:
    """Ignore stops inside the block: once a commit has begun, the only honest answer is its outcome."""
    global _held
    _held = True
    try:
        yield
    finally:
        _held = False


def _stop(number: int, _frame: FrameType | None) -> None:
    if _held:
        return
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
