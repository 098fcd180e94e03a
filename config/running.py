"""Whether settings are read at the start of an instance, or again in one that runs."""

import os

#: Set by the master of an instance to its own process id (app/server/instance.py).
PREPARED = "HOKUSAI_INSTANCE_PREPARED"


def is_running() -> bool:
    """Whether this process is the master of an instance that has started, or a worker of it. Then a
    file that has vanished since must neither end a master that reloads nor keep a new worker from
    starting: what needs the file says so itself."""
    return os.environ.get(PREPARED) in (str(os.getpid()), str(os.getppid()))
