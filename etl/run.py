"""The small facts that travel through a run: what was read, what was written, what is published."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Source:
    """Where the data came from. ``fingerprint`` changes when the content does; None means unknown."""

    uri: str
    fingerprint: str | None = None
    etag: str | None = None
    last_modified: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class Run:
    """One execution. ``id`` sorts by time; ``recipe`` identifies source, configuration and code
    together; ``force``: publish even what is live already; ``descriptions``: what the columns
    mean, as ``Transformer.describes`` gives it; ``replays``: the run whose rejected rows this one
    takes through the steps again, to add them to what that run published. ``state``: what the next
    run needs to know, of one that adds what is new to what the run ``after`` published, and to
    nothing else."""

    id: str
    pipeline: str
    source: Source
    recipe: str | None = None
    force: bool = False
    descriptions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    replays: str | None = None
    state: Mapping[str, Any] | None = None
    after: str | None = None


@dataclass(frozen=True)
class Receipt:
    """What ``Loader.write`` stored out of sight. ``detail`` is whatever its ``commit`` and ``abort`` need.

    ``figures``: of the rows, as ``etl.figures`` counts them; ``Loader.load`` fills it in.
    """

    rows: int
    bytes: int
    sha256: str
    schema: dict[str, str]
    detail: dict[str, Any] = field(default_factory=dict, repr=False)
    figures: dict[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Live:
    """What is published at a destination now, as far as it says.

    ``identity`` names exactly that: it is another as soon as anything else is published. ``etl/repeats.py`` needs it.
    """

    uri: str
    run_id: str | None = None
    recipe: str | None = None
    identity: str | None = None
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Published:
    """What a commit made visible. ``changed`` is False if the same bytes were live already and nothing was written.

    ``identity``: in that case, of what is live, as ``Live`` has it.
    """

    uri: str
    rows: int
    bytes: int
    sha256: str
    schema: dict[str, str]
    version_id: str | None = None
    changed: bool = True
    identity: str | None = None


def new_run_id() -> str:
    """An id such as ``20261123T004512Z-9f3a1c``: sorts by time, to 1/4096 of a second, and two runs differ."""
    now = datetime.now(UTC)
    return f"{now:%Y%m%dT%H%M%SZ}-{now.microsecond * 4096 // 1_000_000:03x}{secrets.randbelow(4096):03x}"
