"""The health check of the instance's own places: the folder that its workers share, and the
temporary folder, where request bodies are put aside.

Requests are served without either, so what is wrong here is "degraded", never "unhealthy".
"""

import errno
import os
import secrets
import tempfile
from pathlib import Path

from app.health import messages
from app.health.diagnosis import DEGRADED, HEALTHY, Finding
from app.health.results import SharedResults
from app.observability.metric_file import MetricFile
from app.observability.metrics import show_instance
from app.observability.periodic import Periodic
from app.state.instance_store import InstanceStore

#: A place is nearly full below a tenth of its size, or below this many bytes, whichever is less;
#: or when it can take fewer files than this.
NEARLY_FULL, FEW_FILES = 16 * 1024 * 1024, 100

#: Bytes that are written to see whether that works: a page.
TRIAL = bytes(4096)

#: Seconds between two looks of a worker.
INTERVAL = 2.0

#: Words of messages.PLACES.
WORDS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "denied",
    errno.EPERM: "denied",
    errno.ENOENT: "missing",
    errno.ENOTDIR: "missing",
}


class InstanceCheck:
    """`folder` is the instance's, None where one process keeps all in memory."""

    def __init__(self, folder: Path | None, store: InstanceStore) -> None:
        self._folder = folder
        self._store = store

    def ask(self) -> Finding:
        """What is wrong with a place, or with what this worker keeps there."""
        found = [*self._of_folder(), *_of_temporary_folder()]
        if not found:
            return Finding(HEALTHY, messages.WELL["instance"])
        said, details = zip(*found, strict=True)
        return Finding(DEGRADED, " ".join(said), "; ".join(details))

    def _of_folder(self) -> list[tuple[str, str]]:
        if self._folder is None:
            return []
        lost, trouble = MetricFile.refresh_all(), self._store.check()
        if found := _look_at(self._folder):
            word, detail = found
            message = messages.PLACES[word].format(place="The instance's folder")
            return [(f"{message} {messages.WITHOUT_FOLDER}", f"{self._folder}: {detail}")]
        both = (("store", [trouble] if trouble else []), ("metrics", lost))
        return [(messages.INSTANCE[word], ", ".join(why)) for word, why in both if why]


def _of_temporary_folder() -> list[tuple[str, str]]:
    try:
        place = Path(tempfile.gettempdir())
    except FileNotFoundError as why:  # Python tried all that there are
        return [(messages.INSTANCE["no temporary folder"], str(why))]
    if found := _look_at(place):
        word, detail = found
        message = messages.PLACES[word].format(place="The temporary folder (TMPDIR)")
        return [(f"{message} {messages.WITHOUT_TMPDIR}", f"{place}: {detail}")]
    return []


def _look_at(place: Path) -> tuple[str, str] | None:
    """A word of messages.PLACES and a detail; None where all is well."""
    try:
        _try_to_write(place / f"hokusai-trial-{secrets.token_hex(8)}")
        room = os.statvfs(place)
    except OSError as why:
        return WORDS.get(why.errno or 0, "unusable"), str(why)
    free, size = room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize
    if size and free < min(NEARLY_FULL, size / 10):
        return "nearly full", f"{free // 1024} KiB of {size // 1024} KiB are free"
    if room.f_files and room.f_favail < FEW_FILES:
        return "nearly full", f"{room.f_favail} more files are possible"
    return None


def _try_to_write(trial: Path) -> None:
    file = os.open(trial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        if os.write(file, TRIAL) < len(TRIAL):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(file)
        os.unlink(trial)


class InstanceWatch:
    """Looks at the check in each worker, so that the log and a metric speak where nobody asks for
    health; and writes metrics that could not be written before."""

    def __init__(self, results: SharedResults) -> None:
        self._results = results

    def start(self) -> None:
        """Looks from now on, until the process ends."""
        Periodic(name="instance", interval=INTERVAL, action=self.look).start()

    def look(self) -> None:
        """One look."""
        MetricFile.refresh_all()
        show_instance(self._results.of("instance")["instance"].status == HEALTHY)
