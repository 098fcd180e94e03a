"""The check `instance`: the folder that the workers share, and the temporary folder, which takes
buffered request bodies.

Requests are served without either, so a fault here is "degraded", never "unhealthy".
"""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from app.health.diagnosis import DEGRADED, HEALTHY, Finding
from app.health.faults import Fault, fault
from app.health.results import SharedResults
from app.observability.metric_file import MetricFile
from app.observability.metrics import show_instance
from app.observability.periodic import Periodic
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
        if found := _look_at(self._folder, "The instance's folder"):
            yield f"{found[0]} {WITHOUT_FOLDER}", found[1]
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
    if found := _look_at(folder, "The temporary folder (TMPDIR)"):
        yield f"{found[0]} {WITHOUT_TMPDIR}", found[1]


def _look_at(folder: Path, name: str) -> tuple[Fault, str] | None:
    """A fault and a detail; None where all is well."""
    try:
        _try_to_write(folder / f"hokusai-trial-{secrets.token_hex(8)}")
        word, detail = _room_in(folder)
    except OSError as why:
        word, detail = WORDS.get(why.errno or 0, "unusable"), str(why)
    return (fault(f"folder.{word}", place=name), f"{folder}: {detail}") if word else None


def _room_in(folder: Path) -> tuple[str, str]:
    """("nearly full", why), or two empty texts."""
    room = os.statvfs(folder)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if size and free < min(NEARLY_FULL, size / 10):
        return "nearly full", f"{free // 1024} KiB of {size // 1024} KiB are free"
    if room.f_files and room.f_favail < FEW_FILES:
        return "nearly full", f"{room.f_favail} more files are possible"
    return "", ""


def _try_to_write(trial: Path) -> None:
    file = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(file, TRIAL) < len(TRIAL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)
        os.unlink(trial)


class InstanceWatch:
    """Runs the check in each worker even without health requests, so that the log and a metric
    show it; and writes metrics that could not be written before."""

    def __init__(self, results: SharedResults) -> None:
        self._results = results

    def start(self) -> None:
        """Looks from now on, until the process ends."""
        Periodic(name="instance", interval=INTERVAL, action=self.look).start()

    def look(self) -> None:
        """One look."""
        MetricFile.refresh_all()
        show_instance(self._results.of("instance")["instance"].status == HEALTHY)
