"""Runs the stages of a pipeline side by side, joined by small queues, and imports beside other work."""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from etl.ledger import Account

T = TypeVar("T")

AHEAD = 2
_JOIN_S = 5.0


class _End:
    """Put last into a queue: the stage before is done, or failed with ``error``."""

    error: BaseException | None = None


@contextmanager
def in_background(source: Iterable[T], name: str, waiting: Account) -> Iterator[Iterator[T]]:
    """Iterate over ``source`` in a thread, ``AHEAD`` items ahead. Errors come out where the items would.

    The time that the consumer spends waiting for items is added to ``waiting.waited``. On leaving, the
    thread is stopped at its next item, and waited for a little.
    """
    made: queue.SimpleQueue[T | _End] = queue.SimpleQueue()
    room = threading.Semaphore(AHEAD)
    stopped = threading.Event()

    def produce() -> None:
        end = _End()
        try:
            items = iter(source)
            # It waits before it makes an item, not after: else there would always be one item more in memory.
            while room.acquire() and not stopped.is_set():
                item = next(items, end)
                if isinstance(item, _End):
                    break
                made.put(item)
                del item  # else the batch would live on here while the next one is made
        except BaseException as error:  # noqa: BLE001  (raised again by the consumer)
            end.error = error
        finally:
            if isinstance(source, Generator):
                source.close()
            made.put(end)

    def consume() -> Iterator[T]:
        while True:
            started = time.perf_counter()
            item = made.get()
            waiting.waited += time.perf_counter() - started
            if isinstance(item, _End):
                if item.error is not None:
                    raise item.error
                return
            room.release()
            yield item
            del item  # else it would live on here while the next one is awaited

    thread = threading.Thread(target=produce, name=name, daemon=True)
    thread.start()
    try:
        yield consume()
    finally:
        stopped.set()
        room.release()
        thread.join(timeout=_JOIN_S)


def in_thread(call: Callable[..., T], *arguments: Any) -> Future[T]:
    """Begin a call in a thread of its own, which ends with the program: for those of an executor, its exit waits."""
    outcome: Future[T] = Future()

    def work() -> None:
        try:
            outcome.set_result(call(*arguments))
        except BaseException as error:  # noqa: BLE001  (whoever asks for the result gets it)
            outcome.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return outcome


def within(seconds: float, call: Callable[[], T]) -> T:
    """Return ``call()``, or raise TimeoutError. A call that takes longer is left behind in its thread."""
    return in_thread(call).result(seconds)


def import_in_background(module: str) -> None:
    """Begin to import what will be needed soon, by somebody who has to wait for the network first.

    A failure is left for whoever needs it to meet.
    """

    def load() -> None:
        with suppress(Exception):
            importlib.import_module(module)

    threading.Thread(target=load, name="import").start()
