"""Uploads that are under way: so many at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Generic, TypeVar

from etl.engine import in_thread
from etl.s3.store import Store

T = TypeVar("T")

_CANCEL_WAIT_S = 5


class InFlight(Generic[T]):
    """At most ``most`` calls of ``store`` at a time, in threads that do not keep a stopped run alive.

    As a context it cancels them if an error leaves the block.
    """

    def __init__(self, store: Store, most: int) -> None:
        self._store = store
        self._most = most
        self._begun: list[Future[T]] = []

    def add(self, call: Callable[..., T], *arguments: Any) -> None:
        """Begin a call. Waits while enough are under way, and raises what the oldest of them met."""
        if len(self._begun) >= self._most:
            self._begun[-self._most].result()
        self._begun.append(in_thread(call, *arguments))

    def results(self) -> list[T]:
        """Of all calls, in the order in which they began. Raises what one of them met."""
        return [future.result() for future in self._begun]

    def cancel(self) -> None:
        """Send nothing more, and wait a little for what is under way, so that an abort finds none of it."""
        self._store.stop()
        wait(self._begun, timeout=_CANCEL_WAIT_S)

    def __len__(self) -> int:
        """How many have begun."""
        return len(self._begun)

    def __enter__(self) -> InFlight[T]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self.cancel()
