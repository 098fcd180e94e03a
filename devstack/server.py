"""A server as a child process: with a log file, a wait until it is ready, and a certain end."""

import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self, TypeVar

from devstack.environments import ROOT

GRACE_SECONDS = 10.0
TAIL_LINES = 25

#: Waits until its owner is gone, whatever ended it, and ends the process group $0. Unlike
#: PR_SET_PDEATHSIG, this works for the children of children, and on every Unix.
GUARD = """
read -r line
kill -TERM -$0 && sleep 3 && kill -KILL -$0
"""
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerFailed(Exception):
    """A server died or was not ready in time; the message ends with the tail of its log."""


class Server:
    """One child process, the leader of its own session and process group.

    A subclass gives the command, and `url` or `is_ready`. A Ctrl-C in the terminal does not reach
    the child: its owner ends it, or its guard does when the owner is gone.
    """

    name = "server"
    timeout = 30.0  # seconds to become ready
    in_repository = False  # where it runs: at the repository's top, or in its folder
    url = ""

    def __init__(
        self, command: Sequence[str], folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """`folder` gets the log and other output; `environment` is added to this process's."""
        self.command = list(command)
        self.folder = folder
        self.environment = dict(environment or {})
        self.log = folder / f"{self.name.replace(' ', '-')}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._began = 0.0

    def is_ready(self) -> bool:
        """Whether the server works; called often, so it must be fast."""
        return answers(f"{self.url}/health")

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError before `start`."""
        if self._process is None:
            raise RuntimeError(f"{self.name} was not started")
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since `start`."""
        return time.monotonic() - self._began

    def start(self) -> None:
        """Start the process with an empty log, without waiting for it."""
        self._end_guard()  # of a process that ended by itself
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log.parent.mkdir(exist_ok=True)
        self._began = time.monotonic()
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                self.command,
                cwd=ROOT if self.in_repository else self.folder,
                env=os.environ | self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._guard = subprocess.Popen(
            ["sh", "-c", GUARD, str(self._process.pid)],
            stdin=subprocess.PIPE,  # closed when this process ends
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def check(self) -> bool:
        """Whether it is ready by now. Raises ServerFailed if it has died, or is too late."""
        if not self.is_running():
            raise self.failure(f"ended with status {self.exit_status()}")
        if self.is_ready():
            return True
        if self.age > self.timeout:
            raise self.failure(f"was not ready after {self.timeout:.0f} s")
        return False

    def wait_until_ready(self) -> None:
        """Return as soon as it is ready; raise as `check` does."""
        while not self.check():
            time.sleep(max(0.05, self.age / 20))  # a look costs CPU that others may need to start

    def is_running(self) -> bool:
        """Whether the process was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def exit_status(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._process.poll() if self._process else None

    def ask_to_stop(self) -> None:
        """Send SIGTERM to the whole group, without waiting."""
        self._signal(signal.SIGTERM)

    def stop(self, grace: float = GRACE_SECONDS) -> None:
        """End the whole group: SIGTERM, and SIGKILL for what is left after `grace` seconds.

        A server that was stopped can be started again.
        """
        self.ask_to_stop()
        deadline = time.monotonic() + grace
        while self._signal(0) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.kill()

    def kill(self) -> None:
        """End the whole group at once, by SIGKILL."""
        self._signal(signal.SIGKILL)
        if self._process:
            self._process.wait()
        self._end_guard()
        self._process = None

    def _end_guard(self) -> None:
        if self._guard:
            self._guard.kill()
            self._guard.communicate()
        self._guard = None

    def __del__(self) -> None:
        """Let the guard end a server that nobody stopped."""
        if self._guard:
            self._guard.communicate()

    def _signal(self, signum: int) -> bool:
        """Send a signal to the group (0: none); return whether there is such a group."""
        if self._process is None:
            return False
        self._process.poll()  # a group stays until its parent has reaped its children
        try:
            os.killpg(self._process.pid, signum)
        except (ProcessLookupError, PermissionError):  # the latter on macOS, for zombies
            return False
        return True

    def failure(self, what: str) -> ServerFailed:
        """Return an exception with the log's tail. `what` completes the sentence "<name> …"."""
        return ServerFailed(f"{self.name} {what}. The end of {self.log}:\n{self.tail()}")

    def tail(self) -> str:
        """Return the last lines of the log, indented."""
        lines = self.log.read_text(errors="replace").splitlines()[-TAIL_LINES:]
        return "\n".join(f"    {line}" for line in lines) or "    (it is empty)"


S = TypeVar("S", bound=Server)


class Running:
    """Servers that end together: `with Running() as running: redis = running.start(Redis(…))`.

    With `kill` they are killed, which is faster than a graceful end."""

    def __init__(self, kill: bool = False) -> None:
        self._kill = kill
        self._servers: list[Server] = []

    def __enter__(self) -> Self:
        return self

    def start(self, server: S, *others: Server) -> S:
        """Start servers side by side; return the first once all are ready. Raises ServerFailed."""
        together: tuple[Server, ...] = (server, *others)
        self.begin(*together)
        for each in together:
            each.wait_until_ready()
        return server

    def begin(self, *servers: Server) -> None:
        """Start servers without waiting for them."""
        for server in servers:
            self._servers.append(server)
            server.start()

    def __exit__(self, *_: object) -> None:
        for server in self._servers:
            server.kill() if self._kill else server.ask_to_stop()
        for server in self._servers:
            server.stop()


def answers(url: str, timeout: float = 2.0) -> bool:
    """Whether a GET, sent past any configured proxy, gets a 2xx within `timeout` seconds."""
    try:
        with _opener.open(url, timeout=timeout) as answer:
            return bool(200 <= answer.status < 300)
    except (OSError, ValueError):  # refused, reset, 4xx, 5xx, or not HTTP
        return False
