"""Whether settings are read at the start of an instance, or again in one that runs."""

import os

#: Set by the master of an instance to its own process id (app/server/instance.py).
PREPARED = "HOKUSAI_INSTANCE_PREPARED"


def is_running() -> bool:
    """Whether this process is the master of an instance that has started, or one of its workers. A
    file that is missing then must neither end a master that reloads nor prevent a new worker: the
    code that needs the file reports it."""
    return os.environ.get(PREPARED) in (str(os.getpid()), str(os.getppid()))
