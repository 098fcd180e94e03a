"""End the servers of an owner that is gone, whatever ended it: SIGKILL and crashes included.

The owner starts one guard and holds a pipe to it. It writes the process groups that it has started
("+123") and those that it has ended itself ("-123"). When the pipe closes, the owner is gone, and
the guard ends the rest. Unlike PR_SET_PDEATHSIG, this works for the children of children, on every
Unix, and whichever thread of the owner started the server.
"""

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable

GRACE_SECONDS = 10.0


class Guard:
    """The owner's end. The guard process starts with the first group that is watched."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()

    def watch(self, group: int) -> None:
        """End the process group when this process ends."""
        self._send(f"+{group}")

    def forget(self, group: int) -> None:
        """Stop watching a group that has ended: its number may soon be reused."""
        self._send(f"-{group}")

    def _send(self, line: str) -> None:
        with self._lock:
            if self._process is None:
                self._process = _begin()
                # At exit, close its pipe and wait for its end.
                atexit.register(self._process.communicate)
            print(line, file=self._process.stdin, flush=True)


def _begin() -> subprocess.Popen[str]:
    """Start a guard in its own session: a Ctrl-C for the owner must not reach it."""
    return subprocess.Popen(
        [sys.executable, "-I", __file__],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def end_groups(
    groups: Iterable[int], grace: float, reap: Callable[[], object] = lambda: None
) -> None:
    """End the process groups: SIGTERM, and SIGKILL after `grace` seconds. `reap` is called often: a
    group stays until the parent has reaped its children."""
    left = set(groups)
    for group in left:
        signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace
    while left and time.monotonic() < deadline:
        time.sleep(0.02)
        reap()
        left = {group for group in left if signal_group(group, 0)}
    for group in left:
        signal_group(group, signal.SIGKILL)


def signal_group(group: int, signum: int) -> bool:
    """Send a signal to a process group (0: none); return whether there is such a group."""
    try:
        os.killpg(group, signum)
    except (ProcessLookupError, PermissionError):  # the latter on macOS, for a group of zombies
        return False
    return True


def main() -> None:
    """Run the guard: read the pipe to its end, then end what the owner left."""
    groups: set[int] = set()
    with contextlib.suppress(ValueError):  # half a line: the owner died while writing
        for line in sys.stdin:
            (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    end_groups(groups, grace=3.0)


if __name__ == "__main__":
    main()
