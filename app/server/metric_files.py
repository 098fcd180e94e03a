"""The files in which prometheus_client keeps the metrics of each worker, when a worker has ended.

Each scrape reads all files. So what a dead worker counted is added to one file for all the dead,
and its own files go: 200 restarts later a scrape reads as many files as after the first. What it
only showed (its gauges) goes with it.

The folder is locked meanwhile, exclusively here and shared by a scrape (app/observability/
metrics_page.py), or a scrape could see a count twice, or not at all.
"""

import logging
import os
from collections import Counter
from contextlib import suppress
from pathlib import Path

from app.observability import folders
from app.observability.metric_file import read, whole

log = logging.getLogger("hokusai.metrics")

#: Seconds that the master waits for a scrape to end. One takes some ten milliseconds; a worker that
#: is stopped in the middle of one must not stop the master. The next dead worker brings the rest.
LOCK_TIMEOUT = 0.5

#: What stands for the process id in the name of the file for all the dead.
DEAD = "dead"


def merge_dead(folder: Path) -> None:
    """Merges the files of all processes that are no more. On a full file system they stay as they
    are until the next time: a scrape reads them too."""
    lock = folders.locked(folder, shared=False, timeout=LOCK_TIMEOUT)
    with suppress(FileNotFoundError), lock as is_locked:
        if not is_locked:
            return
        dead = [file for file in sorted(folder.glob("*.db")) if _is_of_the_dead(file)]
        for file in dead:
            if file.name.startswith("gauge"):  # first: it makes room
                file.unlink()
        for kind in ("counter", "histogram", "summary"):
            _merge([file for file in dead if file.name.startswith(f"{kind}_")], kind)


def _is_of_the_dead(file: Path) -> bool:
    process = file.stem.rpartition("_")[2]
    return process.isdigit() and not _lives(int(process))


def _lives(process: int) -> bool:
    """Whether there is such a process. Another master's workers may be among them (SIGUSR2)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's, who got the number since: its turn comes when that one has ended
    return True


def _merge(files: list[Path], kind: str) -> None:
    """Adds the counts in these files to those of the dead, as a whole or not at all; both counters
    and the parts of histograms are sums."""
    if not files:
        return
    total = files[0].with_name(f"{kind}_{DEAD}.db")
    sums: Counter[str] = Counter()
    for file in (total, *files):
        for key, (count, _) in _counts(file).items():
            sums[key] += count  # type: ignore[assignment]
    try:
        _replace(total, sums)
    except OSError as why:
        log.warning("the metrics of %d dead workers cannot be merged yet: %s", len(files), why)
        return
    for file in files:
        file.unlink(missing_ok=True)


def _counts(file: Path) -> dict[str, tuple[float, float]]:
    try:
        return read(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as why:  # of a worker that was killed while it wrote, say
        log.warning("the metrics of a dead worker are lost: %s", why)
        return {}


def _replace(total: Path, sums: Counter[str]) -> None:
    """Puts a new file in the place of the old one. A scrape sees the one or the other."""
    draft = total.with_suffix(".new")
    try:
        draft.write_bytes(whole(sums))
        draft.rename(total)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
