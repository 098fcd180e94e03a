"""The check `instance`: the folder that the workers share, and the temporary folder, which takes
buffered request bodies.

Requests are served without either, so a fault here is "degraded", never "unhealthy".
"""

import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.health.diagnosis import DEGRADED, HEALTHY, Finding
from app.health.faults import fault
from app.health.results import SharedResults
from app.observability.metric_file import MetricFile
from app.observability.metrics import show_instance
from app.state.instance_store import InstanceStore

#: A folder is nearly full below a tenth of its size, or below this many bytes, whichever is less;
#: or when it can take fewer files than this.
NEARLY_FULL, FEW_FILES = 16 * 1024 * 1024, 100

#: A page, written to see whether that works.
TRIAL = bytes(4096)

#: Seconds between two looks of a worker.
INTERVAL = 2.0

#: Keys of the catalogue without their `folder.`.
WORDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
}

WITHOUT_FOLDER = (
    "Until then, /metrics may be incomplete, and each worker counts limits on its own while Redis "
    "is unavailable."
)
WITHOUT_TMPDIR = "When it is full, request bodies that need buffering are refused."


class InstanceCheck:
    """`folder` is the instance's, None where one process keeps all in memory."""

    def __init__(self, folder: Path | None, store: InstanceStore) -> None:
        self._folder = folder
        self._store = store

    def ask(self) -> Finding:
        """What is wrong with a folder, or with what this worker keeps there."""
        found = [*self._of_folder(), *_of_temporary_folder()]
        if not found:
            well = "The instance's folder and the temporary folder can be written."
            return Finding(HEALTHY, well)
        messages, details = zip(*found, strict=True)
        return Finding(DEGRADED, " ".join(messages), "; ".join(details))

    def _of_folder(self) -> Iterator[tuple[str, str]]:
        if self._folder is None:
            return
        lost, trouble = MetricFile.refresh_all(), self._store.check()
        if found := _look_at(self._folder, "The instance's folder", WITHOUT_FOLDER):
            yield found
            return
        if trouble:
            yield str(fault("folder.store")), trouble
        if lost:
            yield str(fault("folder.metrics")), ", ".join(lost)


def _of_temporary_folder() -> Iterator[tuple[str, str]]:
    try:
        folder = Path(tempfile.gettempdir())
    except FileNotFoundError as why:  # Python tried all that there are
        yield str(fault("folder.no temporary folder")), str(why)
        return
    if found := _look_at(folder, "The temporary folder (TMPDIR)", WITHOUT_TMPDIR):
        yield found


def _look_at(folder: Path, name: str, consequence: str) -> tuple[str, str] | None:
    """A message and a detail; None where all is well."""
    try:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as trial:
            if trial.write(TRIAL) < len(TRIAL):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        word, detail = "nearly full", _lack_of_room(folder)
    except OSError as why:
        word, detail = WORDS.get(why.errno or 0, "unusable"), str(why)
    message = f"{fault(f'folder.{word}', place=name)} {consequence}"
    return (message, f"{folder}: {detail}") if detail else None


def _lack_of_room(folder: Path) -> str:
    """Why a folder is nearly full; "" where it is not."""
    room = os.statvfs(folder)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if size and free < min(NEARLY_FULL, size / 10):
        return f"{free // 1024} KiB of {size // 1024} KiB are free"
    if room.f_files and room.f_favail < FEW_FILES:
        return f"{room.f_favail} more files are possible"
    return ""


def watch(results: SharedResults) -> None:
    """Runs the check in a worker even without health requests, so that the log and a metric show
    it; and writes metrics that could not be written before."""
    MetricFile.refresh_all()
    show_instance(results.of("instance")["instance"].status == HEALTHY)
