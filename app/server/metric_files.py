"""Merge prometheus_client's metric files of workers that have ended.

Each scrape reads all files. So the counts of a dead worker are added to one file for all the dead,
and its own files are deleted: after 200 restarts a scrape reads as many files as after the first.
Its gauges are dropped.

The folder is locked meanwhile, exclusively here and shared by a scrape (app/observability/
metrics_page.py). Otherwise a scrape could see a count twice, or not at all.
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
#: is stopped in the middle of one must not block the master. The next merge includes the rest.
LOCK_TIMEOUT = 0.5

#: Replaces the process id in the name of the file for all the dead.
DEAD = "dead"


def merge_dead(folder: Path) -> None:
    """Merge the files of all dead processes. On a full file system they stay until the next merge:
    a scrape reads them, too."""
    lock = folders.locked(folder, shared=False, timeout=LOCK_TIMEOUT)
    with suppress(FileNotFoundError), lock as is_locked:
        if not is_locked:
            return
        dead = [file for file in sorted(folder.glob("*.db")) if _is_of_the_dead(file)]
        for file in dead:
            if file.name.startswith("gauge"):  # first: it frees space
                file.unlink()
        for kind in ("counter", "histogram", "summary"):
            _merge([file for file in dead if file.name.startswith(f"{kind}_")], kind)


def _is_of_the_dead(file: Path) -> bool:
    process = file.stem.rpartition("_")[2]
    return process.isdigit() and not _lives(int(process))


def _lives(process: int) -> bool:
    """Whether the process exists. It may be another master's worker (SIGUSR2)."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's process reuses the number: merge after its end
    return True


def _merge(files: list[Path], kind: str) -> None:
    """Add the counts in these files to those of the dead, completely or not at all; both counters
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
    except (OSError, ValueError) as why:  # of a worker killed while it wrote, say
        log.warning("the metrics of a dead worker are lost: %s", why)
        return {}


def _replace(total: Path, sums: Counter[str]) -> None:
    """Replace the old file by a new one. A scrape sees either of them, complete."""
    draft = total.with_suffix(".new")
    try:
        draft.write_bytes(whole(sums))
        draft.rename(total)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
