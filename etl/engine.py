"""Runs the stages of a pipeline side by side, joined by small bounded queues."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

from etl.ledger import Account

T = TypeVar("T")

QUEUE_DEPTH = 1
_POLL_S = 0.1
_JOIN_S = 5.0


class _End:
    """Put last into a queue: the stage before is done, or failed with ``error``."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error


class _Stage(Generic[T]):
    """Pulls ``source`` in a thread of its own, at most ``depth`` items ahead of whoever iterates over it."""

    def __init__(self, source: Iterable[T], name: str, waiting: Account, depth: int) -> None:
        self._source = source
        self._waiting = waiting
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=depth)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._produce, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = self._queue.get()
            self._waiting.waited += time.perf_counter() - started
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        """Make the thread stop at its next item, and wait for it a little."""
        self._stopped.set()
        self._thread.join(timeout=_JOIN_S)

    def _produce(self) -> None:
        end = _End()
        try:
            for item in self._source:
                self._put(item)
                del item  # else the batch would live on here while the next one is made
                if self._stopped.is_set():
                    break
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            end = _End(error)
        finally:
            if isinstance(self._source, Generator):
                self._source.close()
            self._put(end)

    def _put(self, item: T | _End) -> None:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
                return
            except queue.Full:
                continue


@contextmanager
def in_background(source: Iterable[T], name: str, waiting: Account, depth: int = QUEUE_DEPTH) -> Iterator[Iterator[T]]:
    """Iterate over ``source`` in a thread, ``depth`` items ahead. Errors come out where the items would.

    The time that the consumer spends waiting for items is added to ``waiting.waited``. On leaving, the
    thread is stopped at its next item.
    """
    stage = _Stage(source, name, waiting, depth)
    try:
        yield iter(stage)
    finally:
        stage.close()
