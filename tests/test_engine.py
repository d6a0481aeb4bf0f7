"""Stages in threads: order, errors, bounded queues, and threads that end."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from etl.engine import AHEAD, in_background, within
from etl.ledger import Account


def threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}


def test_items_come_in_order() -> None:
    with in_background(range(100), "count", Account("x")) as items:
        assert list(items) == list(range(100))
    assert "count" not in threads()


def test_errors_come_out_where_the_items_would() -> None:
    def failing() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with in_background(failing(), "fail", Account("x")) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


def test_the_producer_is_only_a_little_ahead() -> None:
    made: list[int] = []

    def counting() -> Iterator[int]:
        for number in range(1000):
            made.append(number)
            yield number

    with in_background(counting(), "ahead", Account("x")) as items:
        for _ in range(3):
            next(items)
        time.sleep(0.3)
        assert len(made) == 3 + AHEAD
    assert len(made) <= 3 + AHEAD + 1


def test_leaving_early_stops_the_thread_and_closes_the_source() -> None:
    closed = threading.Event()

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.set()

    with in_background(endless(), "endless", Account("x")) as items:
        next(items)
    assert closed.is_set()
    assert "endless" not in threads()


def test_an_error_in_the_consumer_stops_a_chain_of_stages() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 1

    def consume() -> None:
        with (
            in_background(endless(), "first", Account("x")) as first,
            in_background((n + 1 for n in first), "second", Account("y")) as second,
        ):
            assert next(second) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert threads().isdisjoint({"first", "second"})


def test_waiting_is_measured() -> None:
    def slow() -> Iterator[int]:
        time.sleep(0.2)
        yield 1

    account = Account("x")
    with in_background(slow(), "slow", account) as items:
        list(items)
    assert account.waited >= 0.1


def test_a_call_is_not_waited_for_longer_than_it_may_take() -> None:
    over = threading.Event()
    with pytest.raises(TimeoutError):
        within(0.01, over.wait)
    over.set()
    assert within(60, over.is_set)
    with pytest.raises(ValueError, match="broken"):
        within(60, lambda: int("broken"))
