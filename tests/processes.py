"""Runs a function in a process that may be killed."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any


def exit_code_of(function: Callable[..., None], *arguments: Any) -> int | None:
    """0, or 1 if it raised, or minus the signal that killed it.

    The process is forked from one that has imported what the function needs and nothing of a running test.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__, "etl.formats.encoders"])
    process = context.Process(target=function, args=arguments)
    process.start()
    process.join(timeout=60)
    return process.exitcode
