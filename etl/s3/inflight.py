"""Uploads that are under way: so many at a time, in threads that do not keep a process alive."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_CANCEL_WAIT_S = 5


class InFlight(Generic[T]):
    """At most ``most`` calls at a time. For threads of an executor, a run that is stopped would wait at its exit."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: list[Future[T]] = []
        self._running: deque[Future[T]] = deque()

    def add(self, call: Callable[..., T], *arguments: Any) -> None:
        """Begin a call. Waits while enough are under way, and raises what the oldest of them met."""
        if len(self._running) == self._most:
            self._running.popleft().result()
        future: Future[T] = Future()
        self._begun.append(future)
        self._running.append(future)
        threading.Thread(target=_settle, args=(future, call, arguments), name="upload", daemon=True).start()

    def results(self) -> list[T]:
        """Of all calls, in the order in which they began. Raises what one of them met."""
        return [future.result() for future in self._begun]

    def wait_a_little(self) -> None:
        """For calls that have been told to stop."""
        wait(self._running, timeout=_CANCEL_WAIT_S)

    def __len__(self) -> int:
        """How many have begun."""
        return len(self._begun)


def _settle(future: Future[T], call: Callable[..., T], arguments: tuple[Any, ...]) -> None:
    try:
        future.set_result(call(*arguments))
    except BaseException as error:  # noqa: BLE001  (whoever asks for the result gets it)
        future.set_exception(error)
