"""Turns Ctrl-C, SIGTERM and SIGHUP into an error that unwinds the run, but never in the middle of a commit."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from etl.errors import Stopped

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_held = False
_put_off: list[int] | None = None  # the stops that wait for the end of a block, while there is one


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise Stopped in the main thread at the first of the signals; later ones cannot disturb the cleaning up.

    One that whoever started this had set to be ignored, as ``nohup`` does with SIGHUP, still is.
    """
    heeded = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, _stop) for number in heeded}
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


@contextmanager
def signals_put_off() -> Iterator[None]:
    """Let a stop wait for the end of the block: for a short request whose answer says what there is to clean up."""
    global _put_off
    waiting = _put_off = []
    try:
        yield
    finally:
        _put_off = None
    if waiting:
        _stop(waiting[0], None)


def _stop(number: int, _frame: FrameType | None) -> None:
    if _held:
        return
    if _put_off is not None:
        _put_off.append(number)
        return
    for each in _SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise Stopped(number)
