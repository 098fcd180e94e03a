"""Whether settings are read at the start of an instance, or re-read in a running one."""

import os

#: Set by the master of an instance to its own process id (app/server/instance.py).
PREPARED = "HOKUSAI_INSTANCE_PREPARED"


def is_running() -> bool:
    """Whether this process is the master of a started instance, or one of its workers. A missing
    file must then neither stop a reloading master nor prevent a new worker: the code that needs the
    file reports it."""
    return os.environ.get(PREPARED) in (str(os.getpid()), str(os.getppid()))
