"""What MLflow keeps its rows in: SQLite, or a PostgreSQL of the tests' own, from Debian."""

import os
import shutil
import signal
import sqlite3
import subprocess
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Protocol

import psutil

from devstack.ports import HOST, free_port
from devstack.server import GRACE_SECONDS, Server

MISSING = "there is no PostgreSQL on this machine; on Debian: apt install postgresql"

#: PostgreSQL refuses to run as root.
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")

#: Nothing has to survive.
OPTIONS = ("fsync=off", "full_page_writes=off", "synchronous_commit=off")


class Database(Protocol):
    """Where MLflow's rows are."""

    def execute(self, statement: str) -> None:
        """Run a statement of SQL."""

    def rows(self) -> set[str]:
        """Every row of every table, as the statement that would insert it."""


class SQLite:
    """The file of an MLflow."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def execute(self, statement: str) -> None:
        """See Database."""
        with closing(sqlite3.connect(self._file, timeout=30)) as database, database:
            database.execute(statement)

    def rows(self) -> set[str]:
        """See Database."""
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            return {line for line in database.iterdump() if line.startswith("INSERT")}


class PostgreSQL(Server):
    """A server for one MLflow: `.uri`. Nothing is left of it when it has stopped."""

    name = "postgresql"

    def __init__(self, folder: Path) -> None:
        """`folder` gets the log. Raises FileNotFoundError where no PostgreSQL is installed."""
        self._programs = find_programs()
        self._port = free_port()
        self.uri = f"postgresql://postgres@{HOST}:{self._port}/postgres"
        self._data = Path(tempfile.mkdtemp(prefix="postgresql-"))  # where nobody may go
        self._as = AS_NOBODY if os.getuid() == 0 else ()
        settings = [*OPTIONS, f"listen_addresses={HOST}", "unix_socket_directories="]
        command = self._command("postgres", "-D", str(self._data), "-p", str(self._port))
        super().__init__([*command, *(word for s in settings for word in ("-c", s))], folder)

    def _command(self, program: str, *arguments: str) -> list[str]:
        return [*self._as, str(self._programs / program), *arguments]

    def start(self) -> None:
        """Make the tables of a new server, and start it."""
        if self._as:
            os.chown(self._data, 65534, 65534)
        options = ("-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8", "--locale=C")
        subprocess.run(
            self._command("initdb", "-D", str(self._data), *options),
            check=True,
            stdout=subprocess.DEVNULL,
            cwd="/",
        )
        super().start()

    def is_ready(self) -> bool:
        """Whether it takes connections."""
        return self._ask("pg_isready", "--quiet").returncode == 0

    def kill(self) -> None:
        """End it in order, whoever is connected, and remove its data."""
        if self.is_running():
            os.kill(self.pid, signal.SIGINT)
            psutil.wait_procs([psutil.Process(self.pid)], GRACE_SECONDS)
        super().kill()
        shutil.rmtree(self._data, ignore_errors=True)

    def execute(self, statement: str) -> None:
        """See Database."""
        self._ask("psql", "-v", "ON_ERROR_STOP=1", "-c", statement).check_returncode()

    def rows(self) -> set[str]:
        """See Database."""
        done = self._ask("pg_dump", "--data-only", "--inserts")
        done.check_returncode()
        return {line for line in done.stdout.splitlines() if line.startswith("INSERT")}

    def _ask(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a client's program."""
        return subprocess.run(
            [str(self._programs / program), "-d", self.uri, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )


def find_programs() -> Path:
    """The folder of PostgreSQL's programs; Debian keeps them off the PATH. Raises
    FileNotFoundError."""
    found = [Path(shutil.which("initdb") or "/none").resolve()]
    found += sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    for program in reversed(found):
        if program.exists():
            return program.parent
    raise FileNotFoundError(MISSING)
