"""Runs the stages of a pipeline side by side, joined by small queues, and imports beside other work."""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import closing, contextmanager, suppress
from typing import Generic, TypeVar

from etl.ledger import Account

T = TypeVar("T")

AHEAD = 2
_JOIN_S = 5.0


class _End:
    """Put last into a queue: the stage before is done, or failed with ``error``."""

    error: BaseException | None = None


class _Stage(Generic[T]):
    """Pulls ``source`` in a thread of its own, at most ``AHEAD`` items ahead of whoever iterates over it.

    The thread waits for room before it makes an item, not after: else there would always be one item more in memory.
    """

    def __init__(self, source: Iterable[T], name: str, waiting: Account) -> None:
        self._source = source
        self._waiting = waiting
        self._made: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
        self._room = threading.Semaphore(AHEAD)
        self._stopped = False
        self._thread = threading.Thread(target=self._produce, name=name, daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = self._made.get()
            self._waiting.waited += time.perf_counter() - started
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            self._room.release()
            yield item
            del item  # else it would live on here while the next one is awaited

    def close(self) -> None:
        """Make the thread stop at its next item, and wait for it a little."""
        self._stopped = True
        self._room.release()
        self._thread.join(timeout=_JOIN_S)

    def _produce(self) -> None:
        end = _End()
        try:
            items = iter(self._source)
            while self._may_go_on():
                item = next(items, end)
                if isinstance(item, _End):
                    break
                self._made.put(item)
                del item  # else the batch would live on here while the next one is made
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            end.error = error
        finally:
            if isinstance(self._source, Generator):
                self._source.close()
            self._made.put(end)

    def _may_go_on(self) -> bool:
        """Wait until there is room. False if nobody wants any more."""
        self._room.acquire()
        return not self._stopped


@contextmanager
def in_background(source: Iterable[T], name: str, waiting: Account) -> Iterator[Iterator[T]]:
    """Iterate over ``source`` in a thread, ``AHEAD`` items ahead. Errors come out where the items would.

    The time that the consumer spends waiting for items is added to ``waiting.waited``. On leaving, the
    thread is stopped at its next item.
    """
    with closing(_Stage(source, name, waiting)) as stage:
        yield iter(stage)


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return ``call()``, or raise TimeoutError.

    A call that takes longer is left behind in its thread, which ends with the call or with the program.
    """
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:  # noqa: BLE001  (raised again in the caller's thread)
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome.result(seconds)


def import_in_background(module: str) -> None:
    """Begin to import what will be needed soon, by somebody who has to wait for the network first.

    A failure is left for whoever needs it to meet.
    """

    def load() -> None:
        with suppress(Exception):
            importlib.import_module(module)

    threading.Thread(target=load, name="import").start()
