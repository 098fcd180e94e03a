"""The file by which a gunicorn worker shows its master that it lives, without a file system.

gunicorn makes it in a folder, in the master, for each new worker. Where that fails (no inode is
left, the folder is gone or read-only) the master ends, and the instance with it. A file in
anonymous memory (memfd_create(2), Linux) needs no folder; and a busy disk cannot block the worker's
loop when it writes.
"""

import os
from typing import Any

from gunicorn.workers import base
from gunicorn.workers.workertmp import WorkerTmp


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """gunicorn's own, but for where the file is."""

    def __init__(self, cfg: Any) -> None:
        self._tmp = os.fdopen(os.memfd_create("heartbeat"), "w+b", 0)


def install() -> None:
    """From now on workers have this one, where the platform knows such files."""
    if hasattr(os, "memfd_create"):
        base.WorkerTmp = Heartbeat
