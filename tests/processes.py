"""Runs functions in processes of their own, which may be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.process import BaseProcess
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_NEEDED = ["main", "tests.warm"]


def started(function: Callable[..., None], *arguments: Any) -> BaseProcess:
    """The process, which is forked from one that has imported what a run needs and nothing of a running test."""
    _CONTEXT.set_forkserver_preload([function.__module__, *_NEEDED])
    process = _CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def pool_of(count: int) -> ProcessPoolExecutor:
    """As many processes, forked from the same one, that stay to run one function after another."""
    _CONTEXT.set_forkserver_preload(_NEEDED)
    return ProcessPoolExecutor(count, mp_context=_CONTEXT)


def exit_code_of(function: Callable[..., None], *arguments: Any) -> int | None:
    """0, or 1 if it raised, or minus the signal that killed it."""
    process = started(function, *arguments)
    process.join(timeout=60)
    return process.exitcode
