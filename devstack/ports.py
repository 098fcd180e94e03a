"""Free ports on this machine.

No two processes of a user get the same port: each locks the byte of its port's number in a shared
file. The kernel releases the locks when the process ends.
"""

import fcntl
import os
import random
import socket
import tempfile
from functools import cache
from pathlib import Path

HOST = "127.0.0.1"
_RANGE = range(20_000, 32_000)
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a port of `HOST` without a listener. Raises RuntimeError after a hundred tries.

    It lies below the range of outgoing connections (from 32768 on Linux), so that no client of this
    machine has it by chance.
    """
    for port in random.sample(_RANGE, 100):
        if port not in _handed_out and _is_ours(port) and _is_free(port):
            _handed_out.add(port)
            return port
    raise RuntimeError(f"no free port found on {HOST}")


def reserve(preferred: int) -> socket.socket:
    """Return a socket that holds the preferred port of `HOST`, or a free one if that is taken.

    Close it right before the server starts: until then a concurrent run takes another port. It
    listens, because another process could bind to a port that is only bound.
    """
    try:
        return socket.create_server((HOST, preferred))
    except OSError:
        return socket.create_server((HOST, free_port()))


def _is_ours(port: int) -> bool:
    """Lock the port for this process; False if another process has it."""
    try:
        fcntl.lockf(_claims(os.getpid()), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _claims(pid: int) -> int:
    """The file of the locks, opened once in each process: closing it would drop them all."""
    path = Path(tempfile.gettempdir()) / f"hokusai-ports-{os.getuid()}"
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _is_free(port: int) -> bool:
    """Whether a server could listen there; lingering old connections do not count."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
