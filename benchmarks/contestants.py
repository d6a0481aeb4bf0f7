"""Who is measured: this project, and each peer that is installed, as a command line."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from etl.paths import PROJECT

OURS = "this project"
PEERS = {
    "naive": "naive.py",
    "polars": "polars_streaming.py",
    "duckdb": "duckdb_sql.py",
    "dlt": "dlt_pipeline.py",
    "awswrangler": "awswrangler_chunked.py",
}
_SCRIPTS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Contestant:
    """``publishes``: whether there is a table to check afterwards. ``reports``: whether it prints a run report.

    ``again``: what is measured is the second of two runs, which should find that nothing changed.
    """

    name: str
    command: tuple[str, ...]
    publishes: bool = True
    reports: bool = False
    again: bool = False


_MAIN = (sys.executable, str(PROJECT / "main.py"))
_RUN = (*_MAIN, "run", str(PROJECT / "pipelines" / "lego.toml"), "--json", "--env-file", os.devnull)
PROJECT_RUN = Contestant(OURS, _RUN, reports=True)
PROJECT_RERUN = Contestant("this project, unchanged", _RUN, reports=True, again=True)
PROJECT_HELP = Contestant("main.py --help", (*_MAIN, "--help"), publishes=False)


def peer(name: str, cache: Path) -> Contestant | None:
    """The peer of that name, or None if it is not installed."""
    python = _python(name, cache)
    return Contestant(name, (str(python), str(_SCRIPTS / PEERS[name]))) if python.exists() else None


def install(name: str, cache: Path) -> None:
    """Give the peer an environment of its own: what one peer pins another forbids."""
    requirements = _requirements(name)
    if not requirements.exists():
        return
    python = _python(name, cache)
    subprocess.run([sys.executable, "-m", "venv", python.parent.parent], check=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "-r", requirements], check=True)


def pinned(name: str) -> str:
    """The tool and its version, such as ``polars==2.1.0``; nothing for a peer that uses this environment."""
    requirements = _requirements(name)
    return requirements.read_text(encoding="utf-8").splitlines()[0] if requirements.exists() else ""


def _python(name: str, cache: Path) -> Path:
    """A peer without requirements of its own uses this environment."""
    return cache / "venvs" / name / "bin" / "python" if _requirements(name).exists() else Path(sys.executable)


def _requirements(name: str) -> Path:
    return (_SCRIPTS / PEERS[name]).with_suffix(".txt")
