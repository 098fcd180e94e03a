"""A worker's heartbeat file, in memory instead of a folder.

gunicorn's master makes this file in a folder, for each new worker. If that fails (no inode is left,
the folder is missing or read-only) the master exits, and the instance with it. A file in anonymous
memory (memfd_create(2), Linux) needs no folder, and a busy disk cannot block the worker's loop when
it writes.
"""

import os
from typing import Any

from gunicorn.workers import base
from gunicorn.workers.workertmp import WorkerTmp


class Heartbeat(WorkerTmp):  # type: ignore[misc]
    """gunicorn's heartbeat file, in anonymous memory."""

    def __init__(self, cfg: Any) -> None:
        self._tmp = os.fdopen(os.memfd_create("heartbeat"), "w+b", 0)


def install() -> None:
    """Make workers use Heartbeat, if the platform has memfd_create."""
    if hasattr(os, "memfd_create"):
        base.WorkerTmp = Heartbeat
